//! `repro why STEP`.

use std::collections::BTreeSet;
use std::process::ExitCode;

use clap::Args;
use stage_api::Registry;

use super::error::CliError;
use super::{Global, format, from_evidence, print, print_json};
use crate::explain::{Explanation, State, explain};
use crate::workspace::Workspace;

/// Show why a step must run: each change, old and new, and the step that caused it.
#[derive(Args)]
pub struct Why {
    /// The step.
    step: String,
}

impl Why {
    pub fn run(&self, global: &Global, registry: &Registry) -> Result<ExitCode, CliError> {
        let project = global.project(registry)?;
        let pipeline = project.pipeline()?;
        let node = project.step(&self.step)?;
        let workspace = project.workspace()?;
        let plan = project.plan(&workspace, vec![node], BTreeSet::new())?;
        let explanation = explain(pipeline, &workspace, &plan, node);
        if global.json {
            print_json(&explanation)?;
        } else {
            print(&text(&explanation, &workspace))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn text(explanation: &Explanation, workspace: &Workspace) -> String {
    let step = &explanation.step;
    let key = explanation.key.as_deref().map_or("", |key| &key[..12]);
    let mut text = match explanation.state {
        State::Fresh if explanation.from_evidence => {
            format!("{step} is fresh: the evidence records a result of key {key}\n")
        }
        State::Fresh => format!("{step} is fresh: key {key} has a result\n"),
        State::Stale => format!("{step} must run:\n"),
        State::Waiting => format!("{step} may have to run: it waits for steps above it\n"),
        State::Broken => format!("{step} cannot run:\n"),
        State::Unneeded => format!("{step} is not needed\n"),
    };
    match explanation.state {
        State::Fresh => {
            if let Some(accepted) = explanation.result.as_ref().and_then(format::accepted) {
                text.push_str(&format!("  {accepted}\n  it did not run though\n"));
            } else {
                if let Some(record) = &explanation.result {
                    text.push_str(&format!("  {}\n", from_evidence::ran(record)));
                }
                if !explanation.causes.is_empty() {
                    text.push_str("  it ran because\n");
                }
            }
            if let Some(record) = explanation.result.as_ref().filter(|_| explanation.from_evidence) {
                text.push_str(&format!("  {}\n", from_evidence::held(workspace, record)));
            }
            if let Some(verified) = &explanation.verified {
                text.push_str(&format!("  run again, it wrote {}\n", format::verdict(verified)));
            }
            format::causes(&explanation.causes, 4, &mut text);
        }
        State::Waiting if !explanation.causes.is_empty() => {
            text.push_str("  it must run in any case:\n");
            format::causes(&explanation.causes, 4, &mut text);
        }
        _ => format::causes(&explanation.causes, 2, &mut text),
    }
    if let Some(failed) = &explanation.failed {
        text.push_str(&format!("  it {}\n", format::failed(failed)));
    }
    for upstream in &explanation.waits_for {
        let verb = if upstream.state == State::Broken { "cannot run" } else { "must run first" };
        text.push_str(&format!("  `{}` {verb}:\n", upstream.step));
        format::causes(&upstream.causes, 4, &mut text);
    }
    text
}
