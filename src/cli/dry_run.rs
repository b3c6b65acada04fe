//! What `repro make --dry-run` says: what would run, why, and how long it would take.

use std::process::ExitCode;

use serde_json::json;

use super::context::Context;
use super::error::CliError;
use super::{Global, format, print, print_json, status};
use crate::estimate::{Estimate, estimate};
use crate::explain::{Explanation, explain};
use crate::plan::{Plan, Verdict};
use crate::run::Resources;
use crate::workspace::Workspace;

/// Tells it; runs nothing.
pub fn dry_run(
    global: &Global,
    context: &Context,
    workspace: &Workspace,
    plan: &Plan,
    resources: &Resources,
) -> Result<ExitCode, CliError> {
    let not_fresh = plan.needed().filter(|node| *plan.verdict(*node) != Verdict::Fresh);
    let steps: Vec<Explanation> =
        not_fresh.map(|node| explain(&context.pipeline, workspace, plan, node)).collect();
    let guess = estimate(&context.pipeline, plan, workspace.history(), resources);
    if global.json {
        print_json(&json!({"steps": steps, "estimate": guess}))?;
    } else if steps.is_empty() {
        print_err!("nothing to do: {} fresh", format::count(plan.needed().count(), "step"));
    } else {
        print(&(status::table(&steps) + &describe(&guess, resources)))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// An estimate in words.
fn describe(guess: &Estimate, resources: &Resources) -> String {
    const SHOWN: usize = 8;
    if guess.unknown.len() == guess.steps.len() {
        return "no estimate: none of these steps has run before\n".to_owned();
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
