//! `repro push`.

use std::collections::BTreeSet;
use std::process::ExitCode;

use clap::Args;
use petgraph::graph::NodeIndex;
use serde_json::json;
use stage_api::Registry;

use super::error::CliError;
use super::remote_args::{RemoteArgs, print_push_summary};
use super::{Global, format, print_json};
use crate::plan::Verdict;

/// Upload results to the remote cache.
///
/// Uploads the up-to-date results of the targets and of their dependencies whose bytes are in this cache. Results that the
/// remote cache has are not sent again, and an interrupted push continues. A key that has another result there is
/// reported with exit code 3; neither result is replaced.
#[derive(Args)]
pub struct Push {
    /// Targets or steps. Default: `all`.
    targets: Vec<String>,
    #[command(flatten)]
    remote_args: RemoteArgs,
    /// Send every object again, which repairs damaged ones.
    #[arg(long)]
    again: bool,
}

impl Push {
    pub fn run(&self, global: &Global, registry: &Registry) -> Result<ExitCode, CliError> {
        let remote_cache = self.remote_args.open()?;
        let place = remote_cache.remote().place();
        if remote_cache.remote().is_readonly() {
            return Err(CliError::Usage {
                message: format!("{place} is only read from"),
                hint: Some("omit --remote-readonly; a web server accepts no uploads".to_owned()),
            });
        }
        let project = global.project(registry)?;
        let pipeline = project.pipeline()?;
        let targets = project.targets(&self.targets)?;
        let workspace = project.workspace()?;
        // Under this lock no process removes results.
        let _writer = workspace
            .store()
            .lock(&mut |owner| print_err!("waiting for {owner}, which has this cache to itself"))?;
        workspace.store().refresh()?;
        let plan = project.plan(&workspace, targets, BTreeSet::new())?;
        let (fresh, open): (Vec<NodeIndex>, Vec<NodeIndex>) =
            plan.needed().partition(|node| *plan.verdict(*node) == Verdict::Fresh);
        let offered = remote_cache.push(pipeline, &workspace, &plan, fresh.into_iter(), self.again);
        let name = |node: &NodeIndex| pipeline.graph[*node].name.as_str();
        if global.json {
            let conflicts: Vec<_> = offered
                .conflicts
                .iter()
                .map(|(step, theirs)| json!({"step": step, "there": theirs}))
                .collect();
            let troubles: Vec<_> = offered
                .troubles
                .iter()
                .map(|(step, e)| json!({"step": step, "problem": e.to_string()}))
                .collect();
            print_json(&json!({
                "pushed": offered.pushed,
                "sent": offered.sent,
                "known": offered.known,
                "conflicts": conflicts,
                "troubles": troubles,
                "not_fresh": open.iter().map(name).collect::<Vec<_>>(),
            }))?;
        }
        print_push_summary(place, &offered);
        let number = format::count(offered.known, "result");
        print_err!(
            "{number} {} there already, {} not up to date in this cache",
            if offered.known == 1 { "was" } else { "were" },
            format::count(open.len(), "step")
        );
        Ok(match (offered.troubles.is_empty(), offered.conflicts.is_empty()) {
            (false, _) => ExitCode::FAILURE,
            (true, false) => ExitCode::from(3),
            (true, true) => ExitCode::SUCCESS,
        })
    }
}
