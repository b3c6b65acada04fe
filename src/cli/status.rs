//! `repro status`.

use std::collections::BTreeSet;
use std::process::ExitCode;

use clap::Args;
use stage_api::Registry;

use super::context::Context;
use super::error::CliError;
use super::{Global, print, print_json, words};
use crate::explain::{Explanation, State, explain};

/// Shows for each step whether it is fresh, and if not, why.
#[derive(Args)]
pub struct Status {
    /// Targets or steps; `all` when none is given.
    targets: Vec<String>,
}

impl Status {
    pub fn run(&self, global: &Global, registry: &Registry) -> Result<ExitCode, CliError> {
        let context = Context::load(global, registry)?;
        let targets = context.targets(&self.targets)?;
        let workspace = context.workspace()?;
        let plan = context.judge(&workspace, targets, BTreeSet::new())?;
        let steps: Vec<Explanation> =
            plan.needed().map(|node| explain(&context.pipeline, &workspace, &plan, node)).collect();
        if global.json {
            print_json(&steps)?;
        } else {
            print(&table(&steps))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// A line per step: state, name, and the first reason.
pub fn table(steps: &[Explanation]) -> String {
    let width = steps.iter().map(|step| step.step.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for step in steps {
        let (state, remark) = match step.state {
            State::Fresh => ("fresh", String::new()),
            State::Stale => ("stale", first_cause(step)),
            State::Broken => ("broken", first_cause(step)),
            State::Unneeded => ("unneeded", String::new()),
            State::Waiting => {
                let on: Vec<&str> = step.waits_for.iter().map(|step| step.step.as_str()).collect();
                ("waiting", format!("for {}", on.join(", ")))
            }
        };
        text.push_str(format!("{state:8} {:width$}  {remark}", step.step).trim_end());
        text.push('\n');
    }
    let number = |state: State| steps.iter().filter(|step| step.state == state).count();
    let all = words::count(steps.len(), "step");
    let (fresh, stale, waiting) = (number(State::Fresh), number(State::Stale), number(State::Waiting));
    text.push_str(&format!("{all}: {fresh} fresh, {stale} stale, {waiting} waiting\n"));
    text
}

fn first_cause(step: &Explanation) -> String {
    let first = step.causes.first().map(words::cause).unwrap_or_default();
    match step.causes.len() {
        0 | 1 => first,
        more => format!("{first} (and {})", words::count(more - 1, "more reason")),
    }
}
