//! `repro gc`: what the cache no longer needs, with sizes, and its removal.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use stage_api::{Registry, Stage};

use super::error::CliError;
use super::{Global, format, print, print_json};
use crate::command::{Command, CommandParams, quoted, runtime};
use crate::pipeline::Step;
use crate::pipeline::needs::{bytes, size};
use crate::plan::{BuildState, Request, Verdict, plan};
use crate::project::Project;
use crate::store::{ContentStore, Kind, Limits, Roots, Sweep};
use crate::workspace::Workspace;

/// Remove results that no pipeline names, and leftovers of killed runs.
///
/// Keeps the results of every profile, the last result of each step whose key is unknown, and the results of other
/// pipelines that use this cache. Records stay: a step whose result is needed later runs again. Waits for other runs to end.
#[derive(Args)]
pub struct Gc {
    /// List what would be removed, with sizes, and remove nothing.
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Also keep results younger than this (`30m`, `12h`, `7d`, `2w`), or the newest N of each step (`3`).
    #[arg(long, value_name = "DURATION|N", value_parser = keep)]
    keep: Option<Keep>,
    /// Remove the oldest results until the rest fits into this size (`500MB`, `20GiB`).
    #[arg(long, value_name = "SIZE", value_parser = size)]
    max_size: Option<u64>,
    /// Ignore other pipelines of this cache that are missing or cannot be read. Results that only they name are removed.
    #[arg(long)]
    force: bool,
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
        global.refuse_experiment("gc")?;
        let project = global.project(registry)?;
        let store = project.workspace()?.store().clone();
        if self.dry_run || !store.root().exists() {
            let (roots, _) = self.roots(&project, &store)?;
            let sweep = store.sweep(&roots, &self.limits())?;
            self.print_sweep(global, &sweep)?;
            return Ok(std::process::ExitCode::SUCCESS);
        }
        let mut on_wait = |owner: &str| print_err!("waiting for {owner}, which uses this cache");
        let sweeper = store.alone(&mut on_wait)?;
        // Planned under the exclusive lock: the results of every run are known.
        let (roots, gone) = self.roots(&project, sweeper.store())?;
        let sweep = sweeper.store().sweep(&roots, &self.limits())?;
        self.print_sweep(global, &sweep)?;
        for user in gone {
            sweeper.store().unregister(&user)?;
        }
        sweeper.remove(&sweep.garbage, &mut |_| {})?;
        Ok(std::process::ExitCode::SUCCESS)
    }

    /// All that is named: by this pipeline, and by the others that have used the cache. Also the pipelines that have used the
    /// cache and cannot be asked, if that is not to stop it.
    fn roots(&self, project: &Project, store: &ContentStore) -> Result<(Roots, Vec<PathBuf>), CliError> {
        let (mut roots, mut gone) = (Roots::default(), Vec::new());
        name_all(&mut roots, project)?;
        for user in store.users()?.into_iter().filter(|user| *user != project.absolute_file()) {
            let other = project.with_file(user.clone());
            match name_all(&mut roots, &other) {
                Ok(()) => {}
                Err(_) if self.force => gone.push(user),
                Err(_) => {
                    let file = quoted(&user.to_string_lossy());
                    let user = user.display();
                    return Err(CliError::Usage {
                        message: format!("{user} has used this cache too, and its pipelines are unknown"),
                        hint: Some(format!(
                            "`repro status --file {file}` says why; if it is gone for good, `repro gc --force`"
                        )),
                    });
                }
            }
        }
        Ok((roots, gone))
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

    fn print_sweep(&self, global: &Global, sweep: &Sweep) -> Result<(), CliError> {
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
                (Kind::Job, _) => "left by a job on a cluster".to_owned(),
                (Kind::Log, _) => "log without a record".to_owned(),
                (Kind::Environment, _) => "environment of no step".to_owned(),
            };
            let name: String = garbage.name.chars().take(12).collect();
            let age = format::ago(garbage.made_ms);
            text.push_str(&format!("{:>10}  {name}  {what}, {age}\n", bytes(garbage.bytes)));
        }
        print(&text)?;
        let verb = if self.dry_run { "would go" } else { "go" };
        print_err!(
            "{} {verb} with {}; {} with {}",
            format::count(sweep.garbage.len(), "item"),
            bytes(sweep.bytes()),
            format::count(sweep.kept, "result") + if sweep.kept == 1 { " stays" } else { " stay" },
            bytes(sweep.kept_bytes),
        );
        if let Some(max) = self.max_size
            && sweep.kept_bytes > max
        {
            print_err!("what the pipeline names is larger than {}; nothing of that goes", bytes(max));
        }
        Ok(())
    }
}

/// Adds what a pipeline names, in every profile.
fn name_all(roots: &mut Roots, project: &Project) -> Result<(), CliError> {
    for profile in &project.pipeline()?.profiles {
        let project = project.with_profile(profile);
        let pipeline = project.pipeline()?;
        let workspace = project.workspace()?;
        let targets = pipeline.graph.node_indices().collect();
        let plan = plan(pipeline, &workspace, &Request { targets, ..Request::default() });
        for node in plan.needed() {
            let step_plan = plan.of(node);
            roots.environments.extend(environment(&workspace, &pipeline.graph[node]));
            roots.keys.extend(step_plan.key_text.as_ref().map(|text| text.key()));
            roots.trees.extend(step_plan.tree);
            if matches!(step_plan.verdict, Verdict::Waiting { .. } | Verdict::Broken(_)) {
                // Its key is unknown now, so its last result may be the result of that key.
                let last = workspace.last(&pipeline.graph[node]);
                roots.trees.extend(last.as_ref().map(|record| record.tree));
                roots.keys.extend(last.map(|record| record.key_text.key()));
            }
        }
    }
    Ok(())
}

/// What the environment of a step is called, if it has one.
fn environment(workspace: &Workspace, step: &Step) -> Option<String> {
    if step.stage != <Command as Stage>::NAME {
        return None;
    }
    let files = step.inputs.iter().filter(|input| input.port == runtime::PORT);
    let digests = files.filter_map(|input| workspace.file(input.source.file()?));
    runtime::environment(&CommandParams::parse(&step.params).ok()?, &digests.collect::<Vec<_>>())
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
