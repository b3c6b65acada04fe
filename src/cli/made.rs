//! What `repro make` says when it has ended: the last JSON line, the summary for people, the exit code.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use petgraph::graph::NodeIndex;
use serde_json::json;

use super::committed::Reproduction;
use super::error::CliError;
use super::remote_args::tell_offered;
use super::{format, manual_steps, print_line};
use crate::key::KeyText;
use crate::plan::{Plan, Verdict};
use crate::publish::Published;
use crate::remote::PushSummary;
use crate::run::Summary;
use crate::workspace::Workspace;

/// What a run came to.
pub struct Made {
    /// What ran.
    pub summary: Summary,
    /// What was published; nothing where something is missing, and under `--check`.
    pub published: Option<Published>,
    /// Under `--check`, the reports that are not what is made now.
    pub differing: Vec<PathBuf>,
    /// What the shared store of that name was offered.
    pub offered: Option<(String, PushSummary)>,
    /// How it compares with what the project committed, where that was looked at.
    pub reproduction: Option<Reproduction>,
    /// How many steps are fresh now.
    pub fresh: usize,
    /// When the run began.
    pub since: Instant,
}

impl Made {
    /// A run that had nothing to do.
    pub fn nothing(fresh: usize, since: Instant) -> Self {
        let summary = Summary::default();
        Self {
            summary,
            published: None,
            differing: Vec::new(),
            offered: None,
            reproduction: None,
            fresh,
            since,
        }
    }

    /// The last JSON line of a run.
    pub fn print(&self) -> Result<(), CliError> {
        let Self { summary, published, differing, offered, reproduction, fresh, since } = self;
        let failed: Vec<&str> = summary.failures.iter().map(|failure| failure.step.as_str()).collect();
        let conflicts = offered.iter().flat_map(|(_, offered)| &offered.conflicts).map(|(step, _)| step);
        print_line(&json!({
            "event": "ended",
            "seconds": since.elapsed().as_secs_f64(),
            "ran": summary.ran.len(),
            "fresh": fresh,
            "failed": failed,
            "not_reached": summary.not_reached,
            "interrupted": summary.interrupted,
            "published": published.as_ref().map_or(0, |published| published.written.len()),
            "removed": published.as_ref().map_or(0, |published| published.removed.len()),
            "differing": differing,
            "pushed": offered.as_ref().map_or(0, |(_, offered)| offered.pushed.len()),
            "conflicts": conflicts.collect::<Vec<_>>(),
            "reproduction": reproduction.as_ref().map(Reproduction::json),
        }))
    }

    /// The summary for people; returns the exit code.
    pub fn tell(&self, targets: &[String], workspace: &Workspace, plan: &Plan) -> ExitCode {
        let summary = &self.summary;
        self.tell_failures(workspace);
        let ran = summary.ran.len();
        let time = format::duration(self.since.elapsed().as_secs_f64());
        let fresh = self.fresh.saturating_sub(ran);
        let mut line = format!("{} ran in {time}, {fresh} fresh", format::count(ran, "step"));
        match by_evidence(workspace, plan) {
            0 => {}
            number => line.push_str(&format!(" ({number} by the evidence; --no-evidence runs them here)")),
        }
        if !summary.failures.is_empty() {
            line.push_str(&format!(", {} failed", summary.failures.len()));
        }
        if !summary.not_reached.is_empty() {
            line.push_str(&format!(", {} not reached", summary.not_reached.len()));
        }
        print_err!("{line}");
        if let Some((place, offered)) = &self.offered {
            tell_offered(place, offered);
        }
        let folder = workspace.reports().folder().display();
        match &self.published {
            Some(published) => tell_published(published, &folder.to_string()),
            None if !self.differing.is_empty() => {
                let number = format::count(self.differing.len(), "file");
                print_err!("error: --check: {number} in {folder} not as made now");
                for file in &self.differing {
                    print_err!("  {}", file.display());
                }
                print_err!(
                    "hint: `repro make` with the same targets writes them; commit them with what changed them"
                );
                return ExitCode::from(4);
            }
            None => print_err!("the reports are as they were"),
        }
        for line in self.reproduction.iter().flat_map(Reproduction::lines) {
            print_err!("{line}");
        }
        if summary.failures.iter().any(|failure| failure.needs_human) {
            manual_steps::tell_how_to_go_on(targets);
        }
        self.exit_code()
    }

    fn tell_failures(&self, workspace: &Workspace) {
        for failure in &self.summary.failures {
            if failure.needs_human {
                manual_steps::tell_one(failure);
            } else {
                print_err!("error: step `{}` failed: {}", failure.step, failure.problem);
            }
            // One that said nothing left no log.
            if let Some(log) = failure.log.as_ref().filter(|log| log.exists()) {
                print_err!("hint: its log is {}", log.display());
            }
        }
        for (step, owner) in &self.summary.held_by_others {
            let owner = owner.as_ref().map_or_else(|| "another process".to_owned(), ToString::to_string);
            print_err!("error: step `{step}` is being run by {owner}");
            print_err!("hint: without --no-wait this waits for it");
        }
        if self.summary.interrupted {
            print_err!("stopped; what was finished is kept in {}", workspace.store().root().display());
        }
    }

    fn exit_code(&self) -> ExitCode {
        let summary = &self.summary;
        match summary {
            _ if summary.is_complete() => ExitCode::SUCCESS,
            _ if summary.interrupted => ExitCode::from(130),
            _ if !summary.failures.is_empty()
                && summary.failures.iter().all(|failure| failure.needs_human) =>
            {
                ExitCode::from(3)
            }
            _ => ExitCode::FAILURE,
        }
    }
}

fn tell_published(Published { written, removed, edited }: &Published, folder: &str) {
    if !written.is_empty() {
        print_err!("published {} in {folder}", format::count(written.len(), "file"));
    }
    if !removed.is_empty() {
        print_err!("removed {} that no step publishes any more", format::count(removed.len(), "report"));
    }
    for file in edited {
        print_err!("warning: {} was edited; no step publishes it any more, and it stays", file.display());
    }
}

/// How many fresh steps did not run with this cache: evidence tells of them.
pub fn by_evidence(workspace: &Workspace, plan: &Plan) -> usize {
    let is_elsewhere = |node: &NodeIndex| {
        let key = plan.of(*node).key_text.as_ref().map(KeyText::key);
        *plan.verdict(*node) == Verdict::Fresh
            && key.is_some_and(|key| workspace.store().tree_of(&key).is_none())
    };
    plan.needed().filter(is_elsewhere).count()
}
