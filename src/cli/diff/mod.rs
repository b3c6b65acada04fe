//! `repro diff [OF [WITH]]`.

mod first;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};
use stage_api::Registry;

use super::error::CliError;
use super::{Global, format, print, print_json};
use crate::diff::{Certainty, Change, StepChange, ValueChange, steps, values};
use crate::git::Git;
use crate::pipeline::{Folder, Pipeline};
use crate::project::Project;

/// Values of one report that are shown; `--json` has them all.
const SHOWN: usize = 40;

/// Compare params and reported numbers of two revisions or profiles.
///
/// Params come from the pipeline file, numbers from every JSON file below `reports/PROFILE/`. Nothing is checked out: a
/// profile is read from the files on disk. `--first` compares results of steps with the committed ones instead.
#[derive(Args)]
pub struct Diff {
    /// A git revision or a profile.
    #[arg(default_value = "HEAD", value_name = "REV|PROFILE")]
    old: String,
    /// A newer revision or another profile. Default: the files on disk.
    #[arg(value_name = "REV|PROFILE")]
    new: Option<String>,
    /// Show the first steps whose results differ from the committed ones, and how they differ.
    #[arg(long, conflicts_with_all = ["old", "new"])]
    first: bool,
}

/// A project at one revision.
struct State {
    pipeline: Result<Pipeline, String>,
    /// By file, relative to the reports of the profile.
    reports: BTreeMap<String, Value>,
}

impl Diff {
    pub fn run(&self, global: &Global, registry: &Registry) -> Result<ExitCode, CliError> {
        // The pipeline file on disk also decides the profile and the project's folder.
        let project = global.project(registry)?;
        let pipeline = project.pipeline()?;
        if self.first {
            return first::run(global, &project);
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
        let files: BTreeSet<&String> = old.reports.keys().chain(new.reports.keys()).collect();
        let numbers: Vec<ValueChange> = files
            .into_iter()
            .flat_map(|file| values(file, old.reports.get(file), new.reports.get(file)))
            .collect();
        if global.json {
            let to = self.new.as_deref().unwrap_or("files");
            print_json(&json!({"from": self.old, "to": to, "steps": changes, "values": numbers}))?;
        } else {
            print(&text(&changes, &numbers))?;
        }
        Ok(ExitCode::SUCCESS)
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
    let below = format!("reports/{}", pipeline.profile);
    let mut reports = BTreeMap::new();
    for file in git.files(&revision, &below)?.into_iter().filter(|file| file.ends_with(".json")) {
        if let Some(bytes) = git.file(&revision, &file)? {
            keep(&mut reports, name, &file, file.strip_prefix(&format!("{below}/")), &bytes);
        }
    }
    Ok(State { pipeline: parsed, reports })
}

fn as_it_is(project: &Project) -> Result<State, CliError> {
    let pipeline = project.pipeline()?;
    let below = pipeline.root.join("reports").join(&pipeline.profile);
    let mut reports = BTreeMap::new();
    let mut folders = vec![below.clone()];
    while let Some(folder) = folders.pop() {
        for item in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = item.path();
            // A link may lead out of the reports, or round in a circle.
            let Ok(kind) = item.file_type() else { continue };
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() && path.extension().is_some_and(|extension| extension == "json") {
                let bytes = std::fs::read(&path).map_err(|error| {
                    CliError::usage(format!("{}: cannot be read: {error}", path.display()))
                })?;
                let name = path.strip_prefix(&below).ok().map(|name| name.to_string_lossy());
                keep(&mut reports, "now", &path.to_string_lossy(), name.as_deref(), &bytes);
            }
        }
    }
    Ok(State { pipeline: Ok(pipeline.clone()), reports })
}

/// Keeps a report under its name, relative to the profile's reports.
fn keep(reports: &mut BTreeMap<String, Value>, when: &str, file: &str, name: Option<&str>, bytes: &[u8]) {
    match serde_json::from_slice(bytes) {
        Ok(value) => drop(reports.insert(name.unwrap_or(file).to_owned(), value)),
        Err(error) => print_err!("warning: {file} ({when}) is no JSON and is left out: {error}"),
    }
}

fn text(changes: &[StepChange], numbers: &[ValueChange]) -> String {
    if changes.is_empty() && numbers.is_empty() {
        return "no params and no reported values differ\n".to_owned();
    }
    let mut text = String::new();
    for StepChange { step, change } in changes {
        match change {
            Change::Added => text.push_str(&format!("{step}: new\n")),
            Change::Removed => text.push_str(&format!("{step}: gone\n")),
            Change::Changed { stage, params, inputs_removed, inputs_added } => {
                text.push_str(&format!("{step}\n"));
                if let Some((old, new)) = stage {
                    text.push_str(&format!("  stage: {old} -> {new}\n"));
                }
                for change in params {
                    text.push_str(&format!("  {}\n", format::param(change)));
                }
                inputs_removed.iter().for_each(|input| text.push_str(&format!("  input gone: {input}\n")));
                inputs_added.iter().for_each(|input| text.push_str(&format!("  input new: {input}\n")));
            }
        }
    }
    let mut file = "";
    let mut of_file = 0;
    let total = |file: &str| numbers.iter().filter(|change| change.file == file).count();
    for change in numbers {
        if change.file != file {
            file = &change.file;
            of_file = 0;
            text.push_str(&format!("{file}\n"));
        }
        of_file += 1;
        match of_file {
            ..=SHOWN => text.push_str(&format!("  {}: {}\n", change.at, difference(change))),
            over if over == SHOWN + 1 => {
                text.push_str(&format!("  … and {} more; --json has them all\n", total(file) - SHOWN));
            }
            _ => {}
        }
    }
    text
}

fn difference(change: &ValueChange) -> String {
    let shown_value = |value: &Value| {
        let text = match value {
            Value::Array(items) => format!("[{}]", format::count(items.len(), "value")),
            other => other.to_string(),
        };
        console::truncate_str(&text, 60, "…").into_owned()
    };
    match (&change.old, &change.new) {
        (Some(old), Some(new)) => {
            let by = change.by.map(|by| match &change.certainty {
                None => format!(" ({by:+.4})"),
                Some(Certainty { low, high, significant }) => {
                    let verdict = if *significant { "significant" } else { "not significant" };
                    format!(" ({by:+.4}, 95% interval {low:+.4} to {high:+.4}: {verdict} from noise)")
                }
            });
            format!("{} -> {}{}", shown_value(old), shown_value(new), by.unwrap_or_default())
        }
        (None, Some(new)) => format!("new, {}", shown_value(new)),
        (Some(old), None) => format!("gone, was {}", shown_value(old)),
        (None, None) => String::new(),
    }
}
