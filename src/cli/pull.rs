//! `repro pull`.

use std::collections::BTreeSet;
use std::process::ExitCode;

use clap::Args;
use petgraph::graph::NodeIndex;
use serde_json::json;
use stage_api::Registry;

use super::error::CliError;
use super::sharing::{Sharing, tell_news};
use super::{Global, print_json, words};
use crate::pipeline::needs::bytes;
use crate::plan::Verdict;
use crate::remote::News;

/// Take results from a shared store
///
/// What it knows of the targets and of all that they read becomes known here, and the results of the targets come with
/// their bytes. `make --remote` does as much by itself, and no more than it needs. Ends with code 4 when a target is not
/// there.
#[derive(Args)]
pub struct Pull {
    /// Targets or steps; `all` when none is given.
    targets: Vec<String>,
    #[command(flatten)]
    sharing: Sharing,
    /// Where a target has another result here than there, take the one that is there.
    #[arg(long)]
    theirs: bool,
}

impl Pull {
    pub fn run(&self, global: &Global, registry: &Registry) -> Result<ExitCode, CliError> {
        let shared = self.sharing.open()?;
        let project = global.project(registry)?;
        let pipeline = project.pipeline()?;
        let targets = project.targets(&self.targets)?;
        let workspace = project.workspace()?;
        let writer = workspace
            .store()
            .lock(&mut |holder| tell!("waiting for {holder}, which has this cache to itself"))?;
        workspace.store().refresh()?;
        workspace.store().register(&pipeline.absolute_file())?;
        let mut plan = project.plan(&workspace, targets.clone(), BTreeSet::new())?;
        let (mut fetched, mut size, mut has_trouble) = (Vec::new(), 0, false);
        let mut tell = |news: News| {
            match news {
                News::Fetched { step, bytes } => {
                    fetched.push(step.to_owned());
                    size += bytes;
                }
                News::Trouble { .. } => has_trouble = true,
            }
            tell_news(news);
        };

        let all = || plan.needed().collect::<BTreeSet<NodeIndex>>();
        let nodes = all();
        shared.supply(pipeline, &workspace, &writer, &mut plan, nodes, &mut tell);
        let mut replaced = Vec::new();
        if self.theirs {
            replaced = shared.prefer(pipeline, &workspace, &writer, &mut plan, &targets, &mut tell)?;
            // What reads a replaced result has another key now.
            let nodes = plan.needed().collect();
            shared.supply(pipeline, &workspace, &writer, &mut plan, nodes, &mut tell);
        }
        let missing = shared.bring(pipeline, &workspace, &writer, &plan, &targets, &mut tell)?;
        writer.sync()?;
        let name = |node: &NodeIndex| pipeline.graph[*node].name.as_str();
        let fresh = plan.needed().filter(|node| *plan.verdict(*node) == Verdict::Fresh).count();
        if global.json {
            print_json(&json!({
                "fresh": fresh,
                "fetched": fetched,
                "bytes": size,
                "replaced": replaced.iter().map(name).collect::<Vec<_>>(),
                "missing": missing.iter().map(name).collect::<Vec<_>>(),
            }))?;
        }
        for node in &replaced {
            tell!("`{}`: the shared store's result stands for the one that was made here", name(node));
        }
        for node in &missing {
            tell!("`{}` is not in {}", name(node), shared.remote().place());
        }
        let came = words::count(fetched.len(), "result");
        tell!("{came} fetched, {}; {} known", bytes(size), words::count(fresh, "step"));
        Ok(match (has_trouble, missing.is_empty()) {
            (true, _) => ExitCode::FAILURE,
            (false, false) => ExitCode::from(4),
            (false, true) => ExitCode::SUCCESS,
        })
    }
}
