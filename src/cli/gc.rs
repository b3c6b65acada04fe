//! `repro gc`: what of the cache nobody needs any more, with sizes, and its removal.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use stage_api::Registry;

use super::context::Context;
use super::error::CliError;
use super::{Global, print, print_json, words};
use crate::pipeline::needs::{bytes, size};
use crate::plan::{Known, Request, Verdict, judge};
use crate::store::{Kind, Limits, Roots, Sweep};

/// Remove results that the pipeline names no more, and what dead runs left
///
/// What the pipeline names, in any of its profiles, stays, and so does what a step that cannot be judged now wrote
/// last. Records stay as well: a result that is wanted again is made again. Waits for runs that are under way.
#[derive(Args)]
pub struct Gc {
    /// Only say what would go, with sizes.
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Keep more: results of that age (`30m`, `12h`, `7d`, `2w`), or the newest N of each step (`3`).
    #[arg(long, value_name = "DURATION|N", value_parser = keep)]
    keep: Option<Keep>,
    /// Remove no more than needed to bring the results down to this size (`500MB`, `20GiB`), the oldest first.
    #[arg(long, value_name = "SIZE", value_parser = size)]
    max_size: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Keep {
    Young(Duration),
    Newest(usize),
}

fn keep(text: &str) -> Result<Keep, String> {
    let wrong = || "a duration like `12h` or `7d`, or a number of results for each step, like `3`".to_owned();
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    let seconds = match &text[digits.len()..] {
        "" => return usize::try_from(number).map(Keep::Newest).map_err(|_| wrong()),
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        "w" => 7 * 86_400,
        _ => return Err(wrong()),
    };
    number.checked_mul(seconds).map(|seconds| Keep::Young(Duration::from_secs(seconds))).ok_or_else(wrong)
}

impl Gc {
    pub fn run(&self, global: &Global, registry: &Registry) -> Result<std::process::ExitCode, CliError> {
        let context = Context::load(global, registry)?;
        let store = context.workspace()?.store().clone();
        if self.dry_run || !store.root().exists() {
            let sweep = store.sweep(&roots(&context, registry)?, &self.limits())?;
            self.tell(global, &sweep)?;
            return Ok(std::process::ExitCode::SUCCESS);
        }
        let mut tell = |holder: &str| tell!("waiting for {holder}, which uses this cache");
        let sweeper = store.alone(&mut tell)?;
        // Judged with nobody else at work: what a run has just made is known.
        let sweep = sweeper.store().sweep(&roots(&context, registry)?, &self.limits())?;
        self.tell(global, &sweep)?;
        sweeper.remove(&sweep.garbage, &mut |_| {})?;
        Ok(std::process::ExitCode::SUCCESS)
    }

    fn limits(&self) -> Limits {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut limits = Limits { max_bytes: self.max_size, ..Limits::default() };
        match self.keep {
            Some(Keep::Newest(number)) => limits.newest = number,
            Some(Keep::Young(age)) => limits.since_ms = Some(now.saturating_sub(age).as_millis() as u64),
            None => {}
        }
        limits
    }

    fn tell(&self, global: &Global, sweep: &Sweep) -> Result<(), CliError> {
        if global.json {
            return print_json(sweep);
        }
        let mut text = String::new();
        for garbage in &sweep.garbage {
            let what = match (garbage.kind, &garbage.step) {
                (Kind::Tree, Some((step, profile))) => format!("result of {step} ({profile})"),
                (Kind::Tree, None) => "result that no record names".to_owned(),
                (Kind::Scratch, _) => "scratch of an attempt".to_owned(),
                (Kind::Work, _) => "folder of a dead run".to_owned(),
                (Kind::Log, _) => "log without a record".to_owned(),
            };
            let name: String = garbage.name.chars().take(12).collect();
            let age = words::ago(garbage.made_ms);
            text.push_str(&format!("{:>10}  {name}  {what}, {age}\n", bytes(garbage.bytes)));
        }
        print(&text)?;
        let verb = if self.dry_run { "would go" } else { "go" };
        tell!(
            "{} {verb} with {}; {} with {}",
            words::count(sweep.garbage.len(), "item"),
            bytes(sweep.bytes()),
            words::count(sweep.kept, "result") + if sweep.kept == 1 { " stays" } else { " stay" },
            bytes(sweep.kept_bytes),
        );
        if let Some(max) = self.max_size
            && sweep.kept_bytes > max
        {
            tell!("what the pipeline names is larger than {}; nothing of that goes", bytes(max));
        }
        Ok(())
    }
}

/// What the pipeline names, in every profile.
fn roots(context: &Context, registry: &Registry) -> Result<Roots, CliError> {
    let mut roots = Roots::default();
    for profile in &context.pipeline.profiles {
        let context = context.of_profile(profile, registry)?;
        let workspace = context.workspace()?;
        let targets = context.pipeline.graph.node_indices().collect();
        let plan = judge(&context.pipeline, &workspace, &Request { targets, ..Request::default() });
        for node in plan.needed() {
            let judgement = plan.of(node);
            roots.keys.extend(judgement.key_text.as_ref().map(|text| text.key()));
            roots.trees.extend(judgement.tree);
            if matches!(judgement.verdict, Verdict::Waiting { .. } | Verdict::Broken(_)) {
                // What it would run on is not known now, so what it made last may be what it would make.
                let last = workspace.last(&context.pipeline.graph[node]);
                roots.trees.extend(last.as_ref().map(|record| record.tree));
                roots.keys.extend(last.map(|record| record.key_text.key()));
            }
        }
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_numbers_are_read() {
        assert_eq!(keep("3"), Ok(Keep::Newest(3)));
        assert_eq!(keep("7d"), Ok(Keep::Young(Duration::from_secs(7 * 86_400))));
        assert!(keep("").is_err() && keep("d").is_err() && keep("7y").is_err() && keep("-1").is_err());
        assert!(keep("99999999999999999w").is_err());
    }
}
