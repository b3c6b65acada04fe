//! `repro pull`.

use std::collections::BTreeSet;
use std::process::ExitCode;

use clap::Args;
use petgraph::graph::NodeIndex;
use serde_json::json;
use stage_api::Registry;

use super::error::CliError;
use super::remote_args::{RemoteArgs, print_remote_event};
use super::{Global, format, print_json};
use crate::pipeline::needs::bytes;
use crate::plan::Verdict;
use crate::remote::RemoteEvent;

/// Download results from the remote cache.
///
/// Downloads the records of the targets and of their dependencies, and the bytes of the targets. `make --remote` does the
/// same for what it needs. Exits with code 4 when a target is missing there.
#[derive(Args)]
pub struct Pull {
    /// Targets or steps. Default: `all`.
    targets: Vec<String>,
    #[command(flatten)]
    remote_args: RemoteArgs,
    /// Replace results that differ from those of the remote cache.
    #[arg(long)]
    theirs: bool,
}

impl Pull {
    pub fn run(&self, global: &Global, registry: &Registry) -> Result<ExitCode, CliError> {
        let remote_cache = self.remote_args.open()?;
        let project = global.project(registry)?;
        let pipeline = project.pipeline()?;
        let targets = project.targets(&self.targets)?;
        let workspace = project.workspace()?;
        let writer = workspace
            .store()
            .lock(&mut |owner| print_err!("waiting for {owner}, which has this cache to itself"))?;
        workspace.store().refresh()?;
        workspace.store().register(&pipeline.absolute_file())?;
        let mut plan = project.plan(&workspace, targets.clone(), BTreeSet::new())?;
        let (mut fetched, mut size, mut has_trouble) = (Vec::new(), 0, false);
        let mut on_event = |news: RemoteEvent| {
            match news {
                RemoteEvent::Fetched { step, bytes } => {
                    fetched.push(step.to_owned());
                    size += bytes;
                }
                RemoteEvent::Trouble { .. } => has_trouble = true,
            }
            print_remote_event(news);
        };

        let all = || plan.needed().collect::<BTreeSet<NodeIndex>>();
        let nodes = all();
        remote_cache.fetch_missing(pipeline, &workspace, &writer, &mut plan, nodes, &mut on_event);
        let mut replaced = Vec::new();
        if self.theirs {
            replaced =
                remote_cache.adopt(pipeline, &workspace, &writer, &mut plan, &targets, &mut on_event)?;
            // What reads a replaced result has another key now.
            let nodes = plan.needed().collect();
            remote_cache.fetch_missing(pipeline, &workspace, &writer, &mut plan, nodes, &mut on_event);
        }
        let missing =
            remote_cache.fetch_bytes(pipeline, &workspace, &writer, &plan, &targets, &mut on_event)?;
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
            print_err!("`{}`: the remote cache's result replaces the local one", name(node));
        }
        for node in &missing {
            print_err!("`{}` is not in {}", name(node), remote_cache.remote().place());
        }
        let came = format::count(fetched.len(), "result");
        print_err!("{came} fetched, {}; {} known", bytes(size), format::count(fresh, "step"));
        Ok(match (has_trouble, missing.is_empty()) {
            (true, _) => ExitCode::FAILURE,
            (false, false) => ExitCode::from(4),
            (false, true) => ExitCode::SUCCESS,
        })
    }
}
