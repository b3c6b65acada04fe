//! `repro push`.

use std::collections::BTreeSet;
use std::process::ExitCode;

use clap::Args;
use petgraph::graph::NodeIndex;
use serde_json::json;
use stage_api::Registry;

use super::error::CliError;
use super::sharing::{Sharing, tell_offered};
use super::{Global, print_json, words};
use crate::plan::Verdict;

/// Give a shared store the results that are here and not there
///
/// Of the targets and all that they read, what is up to date and has its bytes in the cache. What is there already is not
/// sent again; a push that broke off goes on. A key that has another result there is reported, with exit code 3, and
/// neither is replaced.
#[derive(Args)]
pub struct Push {
    /// Targets or steps; `all` when none is given.
    targets: Vec<String>,
    #[command(flatten)]
    sharing: Sharing,
    /// Send everything, whatever is there: mends objects that are damaged.
    #[arg(long)]
    again: bool,
}

impl Push {
    pub fn run(&self, global: &Global, registry: &Registry) -> Result<ExitCode, CliError> {
        let shared = self.sharing.open()?;
        let place = shared.remote().place();
        if shared.remote().is_readonly() {
            return Err(CliError::Usage {
                message: format!("{place} is only read from"),
                hint: Some("leave --remote-readonly away; a web server cannot be pushed to".to_owned()),
            });
        }
        let project = global.project(registry)?;
        let pipeline = project.pipeline()?;
        let targets = project.targets(&self.targets)?;
        let workspace = project.workspace()?;
        // Nobody removes results meanwhile.
        let _writer = workspace
            .store()
            .lock(&mut |holder| tell!("waiting for {holder}, which has this cache to itself"))?;
        workspace.store().refresh()?;
        let plan = project.plan(&workspace, targets, BTreeSet::new())?;
        let (fresh, open): (Vec<NodeIndex>, Vec<NodeIndex>) =
            plan.needed().partition(|node| *plan.verdict(*node) == Verdict::Fresh);
        let offered = shared.offer(pipeline, &workspace, &plan, fresh.into_iter(), self.again);
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
        tell_offered(place, &offered);
        let number = words::count(offered.known, "result");
        tell!(
            "{number} {} there already, {} not up to date here",
            if offered.known == 1 { "was" } else { "were" },
            words::count(open.len(), "step")
        );
        Ok(match (offered.troubles.is_empty(), offered.conflicts.is_empty()) {
            (false, _) => ExitCode::FAILURE,
            (true, false) => ExitCode::from(3),
            (true, true) => ExitCode::SUCCESS,
        })
    }
}
