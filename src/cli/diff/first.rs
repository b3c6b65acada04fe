//! `repro diff --first`: where the results of now part from the committed ones.

use std::collections::BTreeSet;
use std::process::ExitCode;

use petgraph::graph::NodeIndex;
use serde_json::json;

use crate::cli::error::CliError;
use crate::cli::{Global, format, print, print_json};
use crate::committed::Committed;
use crate::divergence::{Divergence, Execution};
use crate::plan::{Request, plan};
use crate::project::Project;

/// Files of one step that are shown; `--json` has them all.
const SHOWN: usize = 20;

pub fn run(global: &Global, project: &Project) -> Result<ExitCode, CliError> {
    let pipeline = project.pipeline()?;
    let workspace = project.workspace()?;
    let committed = Committed::load(pipeline)?;
    if committed.is_empty() {
        let profile = &pipeline.profile;
        return Err(CliError::Usage {
            message: format!(
                "no result of the profile `{profile}` is committed: there is neither evidence nor a report"
            ),
            hint: Some(
                "`repro evidence` writes evidence where the results are; commit it with the reports"
                    .to_owned(),
            ),
        });
    }
    let everything = pipeline.graph.node_indices().collect();
    let plan = plan(pipeline, &workspace, &Request { targets: everything, forced: BTreeSet::new() });
    let compared = committed.compare(pipeline, &workspace, &plan);
    let first = committed.first(pipeline, &workspace, &plan, &compared);
    let names = |nodes: &[NodeIndex]| -> Vec<&str> {
        nodes.iter().map(|node| pipeline.graph[*node].name.as_str()).collect()
    };
    let steps = &compared.steps;
    let (same, differing, unknown) = (names(&steps.same), names(&steps.differing), names(&steps.unknown));
    if global.json {
        print_json(&json!({"first": first, "same": same, "differing": differing, "not_compared": unknown}))?;
    } else {
        print(&text(&first, same.len(), differing.len()))?;
    }
    if !unknown.is_empty() {
        print_err!(
            "{} not compared: without a result here, or not committed",
            format::count(unknown.len(), "step")
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn text(first: &[Divergence], same: usize, differing: usize) -> String {
    if first.is_empty() {
        return format!("no step differs from what is committed; {} compared\n", format::count(same, "step"));
    }
    let mut text = String::new();
    for divergence in first {
        text.push_str(&one(divergence));
    }
    let below = differing - first.len();
    if below > 0 {
        let (steps, verb) = (format::count(below, "step"), if below == 1 { "differs" } else { "differ" });
        text.push_str(&format!("{steps} below {verb} too\n"));
    }
    text
}

fn one(divergence: &Divergence) -> String {
    let Divergence { step, committed, now, causes, files } = divergence;
    let mut text = match (committed, causes.is_empty()) {
        (None, _) => format!("{step}: other reports than committed\n"),
        (Some(_), true) => format!("{step}: the same key, other bytes\n"),
        (Some(_), false) => format!("{step}: another key than committed\n"),
    };
    format::causes(causes, 2, &mut text);
    for (when, execution) in [("committed", committed), ("now", now)] {
        if let Some(execution) = execution {
            text.push_str(&format!("  {when:9}  {}\n", ran(execution)));
        }
    }
    for file in files.iter().take(SHOWN) {
        text.push_str(&format!("  {} {}\n", file.path, file.how));
    }
    if files.len() > SHOWN {
        text.push_str(&format!("  and {} more\n", format::count(files.len() - SHOWN, "file")));
    }
    text
}

fn ran(Execution { key, tree, started_ms, machine, .. }: &Execution) -> String {
    let threads = format::count(machine.threads, "thread");
    let (when, host, device) = (format::ago(*started_ms), &machine.name, &machine.device);
    format!("key {}, tree {}, on {host} ({device}, {threads}), {when}", key.0.short(), tree.short())
}
