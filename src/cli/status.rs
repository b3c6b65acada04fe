//! `repro status`.

use std::collections::BTreeSet;
use std::process::ExitCode;

use clap::Args;
use stage_api::Registry;

use super::error::CliError;
use super::{Global, format, print, print_json};
use crate::explain::{Explanation, State, explain};

/// Show which steps are fresh, which must run, and why.
#[derive(Args)]
pub struct Status {
    /// Targets or steps. Default: `all`.
    targets: Vec<String>,
    /// Exit with code 4 when a step is not fresh.
    #[arg(long)]
    check: bool,
}

impl Status {
    pub fn run(&self, global: &Global, registry: &Registry) -> Result<ExitCode, CliError> {
        let project = global.project(registry)?;
        let pipeline = project.pipeline()?;
        let targets = project.targets(&self.targets)?;
        let workspace = project.workspace()?;
        let plan = project.plan(&workspace, targets, BTreeSet::new())?;
        let steps: Vec<Explanation> =
            plan.needed().map(|node| explain(pipeline, &workspace, &plan, node)).collect();
        if global.json {
            print_json(&steps)?;
        } else {
            print(&table(&steps))?;
        }
        let is_fresh = steps.iter().all(|step| step.state == State::Fresh);
        Ok(if self.check && !is_fresh { ExitCode::from(4) } else { ExitCode::SUCCESS })
    }
}

/// A line per step: state, name, and the first reason.
pub fn table(steps: &[Explanation]) -> String {
    let width = steps.iter().map(|step| step.step.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for step in steps {
        let state = format::state(step.state);
        let remark = match step.state {
            State::Fresh => origin(step),
            State::Unneeded => String::new(),
            State::Stale | State::Broken | State::Waiting => reason(step),
        };
        text.push_str(format!("{state:8} {:width$}  {remark}", step.step).trim_end());
        text.push('\n');
    }
    let number = |state: State| steps.iter().filter(|step| step.state == state).count();
    let all = format::count(steps.len(), "step");
    let (fresh, stale, waiting) = (number(State::Fresh), number(State::Stale), number(State::Waiting));
    let is_from_evidence = |step: &&Explanation| step.state == State::Fresh && step.from_evidence;
    let of_these = [
        (steps.iter().filter(|step| accepted(step).is_some()).count(), "accepted"),
        (steps.iter().filter(is_from_evidence).count(), "from evidence"),
    ];
    let of_these: Vec<String> = of_these
        .iter()
        .filter(|(number, _)| *number > 0)
        .map(|(number, how)| format!("{number} {how}"))
        .collect();
    let by_word = if of_these.is_empty() { String::new() } else { format!(" ({})", of_these.join(", ")) };
    text.push_str(&format!("{all}: {fresh} fresh{by_word}, {stale} stale, {waiting} waiting"));
    match number(State::Broken) {
        0 => text.push('\n'),
        broken => text.push_str(&format!(", {broken} broken\n")),
    }
    text
}

/// How the result of a fresh step came to be here, if it was not built here.
fn origin(step: &Explanation) -> String {
    let from_evidence = step.from_evidence.then(|| "from evidence".to_owned());
    from_evidence.into_iter().chain(accepted(step)).collect::<Vec<_>>().join(", ")
}

/// The note that the result of a fresh step was accepted, not built.
fn accepted(step: &Explanation) -> Option<String> {
    if step.state != State::Fresh {
        return None;
    }
    format::accepted(step.result.as_ref()?)
}

/// Why a step is not fresh, in a line.
pub fn reason(step: &Explanation) -> String {
    match step.state {
        State::Waiting => {
            let on: Vec<&str> = step.waits_for.iter().map(|step| step.step.as_str()).collect();
            format!("for {}", on.join(", "))
        }
        _ => step.failed.as_ref().map_or_else(|| first_cause(step), format::failed),
    }
}

/// Why a step is not fresh, down to the step above that must run.
pub fn root_reason(step: &Explanation) -> String {
    match step.waits_for.first() {
        Some(root) => format!("it waits for `{}`: {}", root.step, reason(root)),
        None => reason(step),
    }
}

fn first_cause(step: &Explanation) -> String {
    let first = step.causes.first().map(format::cause).unwrap_or_default();
    match step.causes.len() {
        0 | 1 => first,
        more => format!("{first} (and {})", format::count(more - 1, "more reason")),
    }
}
