//! What `repro make --dry-run` prints: what would run, why, and how long it would take.

use std::process::ExitCode;

use serde_json::json;

use super::error::CliError;
use super::make_summary::print_error;
use super::{Global, format, print_json, status};
use crate::estimate::{Estimate, estimate};
use crate::explain::{Explanation, explain};
use crate::make::{MakeOptions, MakeRequest, admit, plan};
use crate::plan::Verdict;
use crate::project::Project;
use crate::run::Resources;

/// Prints it; runs nothing.
pub fn dry_run(
    global: &Global,
    project: &Project,
    request: &MakeRequest,
    options: &MakeOptions,
) -> Result<ExitCode, CliError> {
    let pipeline = project.pipeline()?;
    project.registry().check_host()?;
    options.limits.check_pools(pipeline)?;
    let workspace = &project.workspace()?;
    let plan = plan(project, workspace, request)?;
    let resources = &match admit(project, workspace, &plan, options) {
        Ok(resources) => resources,
        Err(error) => return print_error(global, request, error),
    };
    let not_fresh = plan.needed().filter(|node| *plan.verdict(*node) != Verdict::Fresh);
    let steps: Vec<Explanation> = not_fresh.map(|node| explain(pipeline, workspace, &plan, node)).collect();
    let guess = estimate(pipeline, &plan, workspace.history(), resources);
    if global.json {
        print_json(&json!({"steps": steps, "estimate": guess}))?;
    } else if steps.is_empty() {
        print_err!("nothing to do: {} fresh", format::count(plan.needed().count(), "step"));
    } else {
        let mut text = status::table(&steps, true);
        text.push(&estimate_text(&guess, resources));
        text.print()?;
    }
    Ok(ExitCode::SUCCESS)
}

/// An estimate in words.
fn estimate_text(guess: &Estimate, resources: &Resources) -> String {
    const SHOWN: usize = 8;
    if guess.unknown.len() == guess.steps.len() {
        return "no estimate: no earlier run of these steps is recorded\n".to_owned();
    }
    let room = match &resources.cluster {
        Some(cluster) => format!("up to {} at a time", format::count(cluster.jobs, "job")),
        None => format::count(resources.cpus, "thread"),
    };
    let mut text = format!("by earlier runs about {} with {room}", format::duration(guess.seconds));
    if guess.steps.iter().any(|step| !step.must) {
        let least = format::duration(guess.at_least_seconds);
        text.push_str(&format!(", {least} if what waits turns out fresh"));
    }
    text.push_str(&format!(
        "\nthe longest chain takes {}: {}\n",
        format::duration(guess.critical_seconds),
        guess.critical_path.join(" -> ")
    ));
    if !guess.unknown.is_empty() {
        let shown = guess.unknown.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
        let more = match guess.unknown.len().saturating_sub(SHOWN) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        text.push_str(&format!("not counted, as no earlier run is known: {shown}{more}\n"));
    }
    text
}
