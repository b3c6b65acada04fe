//! `repro diff [OF [WITH]]`.

mod first;
mod markdown;
mod text;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;
use stage_api::Registry;

use super::error::CliError;
use super::{Global, format, print, print_json, runs};
use crate::diff::{Change, ReportDiff, StepChange, ValueChange, steps};
use crate::git::Git;
use crate::json_reports::ReadReports;
use crate::params::changed_params;
use crate::pipeline::{Folder, Pipeline};
use crate::project::Project;
use crate::record::RunRecord;

/// Values of one report that are shown; `--json` has them all.
const SHOWN: usize = 40;

/// Compare params and reported numbers of two revisions, profiles or recorded runs.
///
/// Begins with the verdict: how many values with an interval were compared, and how many differ significantly. Params come
/// from the pipeline file, numbers from every JSON and CSV file below `reports/PROFILE/`. Nothing is checked out: a profile is read
/// from the files on disk. `--first` compares results of steps with the committed ones instead.
#[derive(Args)]
pub struct Diff {
    /// A git revision, a profile, or a run: a step, or the beginning of a key as `repro runs` prints it.
    #[arg(default_value = "HEAD", value_name = "REV|PROFILE|RUN")]
    old: String,
    /// A newer revision, another profile, or another run. Default: the files on disk.
    #[arg(value_name = "REV|PROFILE|RUN")]
    new: Option<String>,
    /// Show derived values too: ends of intervals, and columns that a table marks as derived.
    #[arg(long)]
    all: bool,
    /// Print Markdown, for a comment on a pull request.
    #[arg(long, conflicts_with_all = ["json", "first"])]
    md: bool,
    /// Show the first steps whose results differ from the committed ones, and how they differ.
    #[arg(long, conflicts_with_all = ["old", "new", "all"])]
    first: bool,
}

/// A project at one revision.
struct State {
    /// What it is, for people: `HEAD (b7c8b62)`, `the files in reports/mini`.
    name: String,
    pipeline: Result<Pipeline, String>,
    read: ReadReports,
}

/// What is printed.
struct Shown {
    verdict: String,
    /// What was compared, and how much of it differs.
    summary: String,
    steps: Vec<StepChange>,
    values: Vec<ValueChange>,
}

impl Diff {
    pub fn run(&self, global: &Global, registry: &Registry) -> Result<ExitCode, CliError> {
        // The pipeline file on disk also decides the profile and the project's folder.
        let project = global.project(registry)?;
        let pipeline = project.pipeline()?;
        if self.first {
            return first::run(global, &project);
        }
        if let Some(shown) = self.of_runs(global, &project)? {
            return Ok(shown);
        }
        let state = |name: &String| match pipeline.profiles.contains(name) {
            true => as_it_is(&project.with_profile(name)),
            false => at_revision(&Git::open(&pipeline.root)?, &project, name),
        };
        let old = state(&self.old)?;
        let new = self.new.as_ref().map_or_else(|| as_it_is(&project), state)?;
        let changes = match (&old.pipeline, &new.pipeline) {
            (Ok(old), Ok(new)) => steps(old, new),
            (Err(problem), _) | (_, Err(problem)) => {
                print_err!("warning: params are not compared: {problem}");
                Vec::new()
            }
        };
        for state in [&old, &new] {
            for problem in &state.read.problems {
                print_err!("warning: {problem}");
            }
            if state.read.reports.is_empty() {
                print_err!("note: no JSON or CSV report to compare in {}", state.name);
            }
        }
        let diff = ReportDiff::compare(&old.read.reports, &new.read.reports);
        self.print(global, (&old.name, &new.name), changes, diff)
    }

    /// Compares two recorded runs, if both names are names of runs and neither is one of a profile.
    fn of_runs(&self, global: &Global, project: &Project) -> Result<Option<ExitCode>, CliError> {
        let pipeline = project.pipeline()?;
        let Some(new) = &self.new else { return Ok(None) };
        if [&self.old, new].into_iter().any(|name| pipeline.profiles.contains(name)) {
            return Ok(None);
        }
        let workspace = project.workspace()?;
        let find = |name: &str| runs::find(&workspace, &pipeline.profile, name);
        let (Some(old), Some(new)) = (find(&self.old), find(new)) else { return Ok(None) };
        let reports = [old, new].map(|run| runs::all_reports(&workspace, run));
        for problem in reports.iter().flat_map(|read| &read.problems) {
            print_err!("warning: {problem}");
        }
        let name = |run: &RunRecord| format!("{} ({})", run.step, &run.key_text.key().to_string()[..8]);
        let inputs = |run: &RunRecord| -> Vec<String> {
            let inputs = run.inputs.iter();
            inputs.map(|i| format!("{} <- {} ({})", i.port, i.source, format::short(&i.digest))).collect()
        };
        let only = |some: &RunRecord, other: &RunRecord| -> Vec<String> {
            let other = inputs(other);
            inputs(some).into_iter().filter(|input| !other.contains(input)).collect()
        };
        let stages = [old, new].map(|run| run.key_text.stage());
        let shown = stages.map(|(stage, version)| format!("{stage} {version}"));
        let change = Change::Changed {
            stage: (stages[0] != stages[1]).then(|| shown.into()),
            params: changed_params(old.key_text.params(), new.key_text.params()),
            inputs_removed: only(old, new),
            inputs_added: only(new, old),
        };
        let step =
            if old.step == new.step { old.step.clone() } else { format!("{} -> {}", old.step, new.step) };
        let changes = if old.key_text == new.key_text { vec![] } else { vec![StepChange { step, change }] };
        let diff = ReportDiff::compare(&reports[0].reports, &reports[1].reports);
        self.print(global, (&name(old), &name(new)), changes, diff).map(Some)
    }

    fn print(
        &self,
        global: &Global,
        names: (&str, &str),
        changes: Vec<StepChange>,
        diff: ReportDiff,
    ) -> Result<ExitCode, CliError> {
        if global.json {
            let to = self.new.as_deref().unwrap_or("files");
            print_json(&json!({
                "from": self.old, "to": to, "verdict": diff.verdict(), "intervals": diff.intervals,
                "significant": diff.significant().count(), "steps": changes, "values": diff.values,
            }))?;
            return Ok(ExitCode::SUCCESS);
        }
        let shown = self.shown(names, changes, diff);
        print(&if self.md { markdown::render(&shown) } else { text::render(&shown) })?;
        Ok(ExitCode::SUCCESS)
    }

    fn shown(&self, (old, new): (&str, &str), steps: Vec<StepChange>, diff: ReportDiff) -> Shown {
        let verdict = diff.verdict();
        let all = diff.values.len();
        let mut values = diff.values;
        values.retain(|change| self.all || !change.derived || change.is_significant());
        // Reports with significant differences first, and in each report these first.
        let significant: BTreeSet<String> = values
            .iter()
            .filter(|change| change.is_significant())
            .map(|change| change.file.clone())
            .collect();
        let order = |change: &ValueChange| {
            (!significant.contains(&change.file), change.file.clone(), !change.is_significant())
        };
        values.sort_by_cached_key(order);
        let differ = match (steps.len(), all) {
            (0, 0) => "no params and no reported values differ".to_owned(),
            (0, 1) => "1 value differs".to_owned(),
            (0, values) => format!("{values} values differ"),
            (1, 0) => "1 step differs".to_owned(),
            (steps, 0) => format!("{steps} steps differ"),
            (steps, values) => {
                format!("{} and {} differ", format::count(steps, "step"), format::count(values, "value"))
            }
        };
        let hidden = match all - values.len() {
            0 => String::new(),
            number => format!("; {} not shown (`--all` shows them)", format::count(number, "derived value")),
        };
        let summary = format!("{old} -> {new}: {differ}{hidden}");
        Shown { verdict, summary, steps, values }
    }
}

/// The folder of the project at a revision.
struct Then<'a> {
    git: &'a Git,
    revision: &'a str,
    root: &'a Path,
}

impl Folder for Then<'_> {
    /// Git does not have files that a person may place by hand: for them the folder on disk counts.
    fn has(&self, path: &Path) -> bool {
        self.git.has(self.revision, path) || !self.git.tracks(path) && self.root.join(path).exists()
    }

    fn read(&self, path: &Path) -> Result<String, String> {
        let found =
            self.git.file(self.revision, &path.to_string_lossy()).map_err(|error| error.to_string())?;
        let bytes = found.ok_or_else(|| "is not in this revision".to_owned())?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

fn at_revision(git: &Git, project: &Project, name: &str) -> Result<State, CliError> {
    let pipeline = project.pipeline()?;
    let revision = git.revision(name)?;
    let file = pipeline.file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let path = pipeline.root.join(&file);
    let parsed = match git.file(&revision, &file)? {
        Some(bytes) => {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let text = text.trim_start_matches('\u{feff}');
            let folder = Then { git, revision: &revision, root: &pipeline.root };
            Pipeline::parse_in(&folder, &path, text, Some(&pipeline.profile), project.registry())
                .map_err(|error| format!("at {name}, {error}"))
        }
        None => Err(format!("at {name} there is no {file}")),
    };
    let read = ReadReports::at_revision(git, &revision, &pipeline.profile)?;
    let short = revision.get(..7).unwrap_or_default();
    let name = if name.starts_with(short) { short.to_owned() } else { format!("{name} ({short})") };
    Ok(State { name, pipeline: parsed, read })
}

fn as_it_is(project: &Project) -> Result<State, CliError> {
    let pipeline = project.pipeline()?;
    Ok(State {
        name: format!("the files in reports/{}", pipeline.profile),
        pipeline: Ok(pipeline.clone()),
        read: ReadReports::on_disk(&pipeline.root, &pipeline.profile),
    })
}
