//! `repro status`.

use std::collections::BTreeSet;
use std::process::ExitCode;

use clap::Args;
use stage_api::Registry;

use super::error::CliError;
use super::terminal_text::{Color, TerminalText};
use super::{Global, format, print_json};
use crate::explain::{Explanation, State, explain};

/// Show which steps must run, and why.
///
/// Steps that are fresh are counted.
#[derive(Args)]
pub struct Status {
    /// Targets or steps. Default: `all`.
    targets: Vec<String>,
    /// List the fresh steps too.
    #[arg(short, long)]
    verbose: bool,
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
            table(&steps, self.verbose).print()?;
        }
        let is_fresh = steps.iter().all(|step| step.state == State::Fresh);
        Ok(if self.check && !is_fresh { ExitCode::from(4) } else { ExitCode::SUCCESS })
    }
}

/// A line for each step that is not fresh, or for all: state, name, and the first reason. Then how many steps have which
/// state.
pub fn table(steps: &[Explanation], all: bool) -> TerminalText {
    let is_listed = |step: &&Explanation| all || step.state != State::Fresh;
    let width =
        |text: &dyn Fn(&Explanation) -> usize| steps.iter().filter(is_listed).map(text).max().unwrap_or(0);
    let state_width = width(&|step| format::state(step.state).len()).max(format::state(State::Waiting).len());
    let name_width = width(&|step| step.step.chars().count());
    let mut text = TerminalText::stdout();
    for step in steps.iter().filter(is_listed) {
        let remark = match step.state {
            State::Fresh => origin(step),
            State::Unneeded => String::new(),
            State::Stale | State::Broken | State::Waiting => reason(step),
        };
        let cells = [(format::state(step.state), state_width), (&step.step, name_width)];
        text.row(&cells, Some(Color::from(step.state)), &remark);
    }
    text.push(&format!("{}\n", counts(steps)));
    text
}

/// `14 steps: 12 fresh (1 accepted), 2 stale`.
fn counts(steps: &[Explanation]) -> String {
    let number = |state: State| steps.iter().filter(|step| step.state == state).count();
    let is_from_evidence = |step: &&Explanation| step.state == State::Fresh && step.from_evidence;
    let of_these = [
        (steps.iter().filter(|step| accepted(step).is_some()).count(), "accepted"),
        (steps.iter().filter(is_from_evidence).count(), "from evidence"),
    ];
    let some = |(number, what): &(usize, &str)| (*number > 0).then(|| format!("{number} {what}"));
    let of_these: Vec<String> = of_these.iter().filter_map(some).collect();
    let of_these = if of_these.is_empty() { String::new() } else { format!(" ({})", of_these.join(", ")) };
    let fresh = format!("{} fresh{of_these}", number(State::Fresh));
    let others =
        [State::Stale, State::Waiting, State::Broken].map(|state| (number(state), format::state(state)));
    let counts: Vec<String> = [fresh].into_iter().chain(others.iter().filter_map(some)).collect();
    format!("{}: {}", format::count(steps.len(), "step"), counts.join(", "))
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
