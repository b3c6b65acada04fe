//! The oracle: after any series of edits, failures, kills, damage and disturbances, `repro make` either builds the
//! reports of a clean evaluation or reports an error. No fresh step runs, and a complete build has nothing to do. The
//! real program runs, as for a user; the clean evaluation is part of the test ([`clean`]). `PROPTEST_CASES` sets the
//! number of series; docs/trust.md lists what was run.

mod clean;
mod damage;
mod drawn;
mod project;
mod script;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use repro::command::Command;
use repro::make::{MakeOptions, MakeRequest, make};
use repro::project::Location;
use repro::run::{Backend, Event, Observer};

use clean::Outcome;
use drawn::{Disturbance, Drawn, Edit};
use project::{How, Project, RunResult};

use super::toy;

/// The same few series by default, those of a seed, so that a failure comes from the tested change; or as many random ones as
/// `PROPTEST_CASES` sets.
fn config(seed: u64) -> ProptestConfig {
    let number = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    let (cases, rng_seed) = number.map_or((150, RngSeed::Fixed(seed)), |cases| (cases, RngSeed::Random));
    ProptestConfig { cases, rng_seed, failure_persistence: None, ..ProptestConfig::default() }
}

/// All files below a folder with their bytes, including linked folders: a kept work directory may have one.
fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut found, mut folders) = (BTreeMap::new(), vec![folder.to_owned()]);
    while let Some(inner) = folders.pop() {
        for item in fs::read_dir(inner).into_iter().flatten().flatten() {
            if item.path().is_dir() {
                folders.push(item.path());
            } else {
                found.insert(
                    item.path().strip_prefix(folder).unwrap().to_owned(),
                    fs::read(item.path()).unwrap(),
                );
            }
        }
    }
    found
}

type Reports = BTreeMap<PathBuf, Vec<u8>>;

/// Checks the exit code of a run and the files it must leave.
fn check_run(project: &mut Project, how: &How, before: &Reports, run: &RunResult) -> Result<(), String> {
    let result = ended_well(project, how, before, run);
    match &run.changed {
        // The result may be right for the files as they are now.
        Some(files) => {
            project.files = files.clone();
            result.or_else(|_| ended_well(project, how, before, run))
        }
        None => result,
    }
}

fn ended_well(project: &mut Project, how: &How, before: &Reports, run: &RunResult) -> Result<(), String> {
    let target = how.target(&project.steps);
    let outcomes = clean::evaluate(&project.steps, &project.files);
    let needed = clean::needed(&project.steps, target);
    project.remember(&outcomes);
    let fails = needed.iter().any(|number| outcomes[number] == Outcome::Fails);
    let reports = clean::reports(&project.steps, &outcomes, &needed);
    let after = contents(&project.reports());
    // Reports of steps that are not requested may stay, and may conflict.
    let in_the_way = |path: &PathBuf| {
        let clashes = |other: &PathBuf| path.starts_with(other) != other.starts_with(path);
        target.is_some() && reports.iter().flat_map(BTreeMap::keys).any(clashes)
    };
    // A step that links a file of the project changes it for steps that read it at the same moment.
    let may_fail = run.disturbed || clean::links_project(&project.steps, &needed);
    let allowed: &[i32] = match (&reports, may_fail) {
        _ if clean::is_refused_pipeline(&project.steps) => &[2],
        _ if fails => &[1],
        (None, false) => &[2],
        (None, true) => &[1, 2],
        (Some(_), false) if before.keys().any(in_the_way) => &[0, 2],
        (Some(_), true) if before.keys().any(in_the_way) => &[0, 1, 2],
        (Some(_), false) => &[0],
        (Some(_), true) => &[0, 1],
    };
    if !run.code.is_some_and(|code| allowed.contains(&code)) {
        return Err(format!("it ended with {:?} instead of one of {allowed:?}", run.code));
    }
    if run.code != Some(0) {
        return if after == *before { Ok(()) } else { Err(format!("it left {after:?} of {before:?}")) };
    }
    let mut expected = reports.unwrap_or_default();
    expected.extend(project.by_others.clone());
    let may_stay = |path: &PathBuf| target.is_some() && after.get(path) == before.get(path);
    for path in before.keys().filter(|path| may_stay(path)) {
        expected.entry(path.clone()).or_insert_with(|| before[path].clone());
    }
    if after == expected { Ok(()) } else { Err(format!("it left {after:?} instead of {expected:?}")) }
}

/// Checks that the same run has nothing to do now.
fn is_done(project: &Project, how: &How) -> Result<(), String> {
    let again = project.run(&how.unforced(&project.steps));
    let done = again.code == Some(0) && again.err.starts_with("nothing to do");
    if !done {
        return Err(format!("the same run again is not done: {}", again.err));
    }
    is_done_for_the_library(project, how)
}

/// The runs are processes, as they are killed, belong to several users and must not share what a process remembers. That
/// nothing is left to do, the library must find too: by a plan, as this is another program than the one that ran.
fn is_done_for_the_library(project: &Project, how: &How) -> Result<(), String> {
    if project.has_users() {
        return Ok(());
    }
    let registry = Arc::new(toy::registry().with(Command));
    let options = MakeOptions { backend: Backend::Threads(registry.clone()), ..MakeOptions::default() };
    let request = MakeRequest { targets: how.targets(&project.steps), ..MakeRequest::default() };
    let location = Location::of(project.root().join("pipeline.ron"));
    let located = repro::project::Project::locate(&location, &registry).map_err(|error| error.to_string())?;
    match make(&located, &request, &options, &mut Silent) {
        Ok(summary) if summary.had_nothing_to_do => Ok(()),
        Ok(summary) => Err(format!("the library ran {:?}", summary.run.ran)),
        Err(error) => Err(format!("the library refuses: {error}")),
    }
}

/// An observer that ignores events.
struct Silent;

impl Observer for Silent {
    fn on(&mut self, _: &Event) {}
}

fn check(steps: Vec<Drawn>, edits: Vec<Edit>, users: bool) -> Result<(), TestCaseError> {
    let mut project = Project::new(steps, users);
    let damages = |edit: &Edit| matches!(edit, Edit::Flip(_) | Edit::During(_, Disturbance::InPlace));
    let is_damaged = edits.iter().any(damages);
    for edit in [Edit::KeepGoing].into_iter().chain(edits).chain([Edit::KeepGoing]) {
        drawn::apply(&mut project.steps, &edit);
        project.write_pipeline();
        damage::apply(&mut project, &edit);
        let how = How::of(&edit);
        project.remember(&clean::evaluate(&project.steps, &project.files));
        let (before, whole) = (contents(&project.reports()), project.whole_results());
        let run = project.make(&how, &edit);
        let holds = project
            .check_processes()
            .and_then(|()| project.check_runs(&run, &how, &whole))
            .and_then(|()| {
                if how.killed_at.is_none() { check_run(&mut project, &how, &before, &run) } else { Ok(()) }
            })
            .and_then(|()| project.check_files(&run))
            .and_then(|()| project.check_records())
            .and_then(|()| {
                if run.code == Some(0) && run.changed.is_none() { is_done(&project, &how) } else { Ok(()) }
            });
        prop_assert!(holds.is_ok(), "after {edit:?}: {}\n{run:?}", holds.unwrap_err());
    }
    let verified = project.run(&["verify".to_owned()]);
    let is_damaged = is_damaged || clean::is_refused_pipeline(&project.steps);
    prop_assert!(is_damaged || verified.code == Some(0), "verify: {}", verified.err);
    Ok(())
}

// Each series waits for processes most of the time, so two tests run side by side.
proptest! {
    #![proptest_config(config(1))]

    #[test]
    fn an_incremental_run_equals_a_clean_one(
        steps in drawn::steps(),
        edits in drawn::edits(),
        users in prop::bool::weighted(0.3),
    ) {
        check(steps, edits, users)?;
    }
}

proptest! {
    #![proptest_config(config(2))]

    #[test]
    fn an_incremental_run_equals_a_clean_one_in_other_series(
        steps in drawn::steps(),
        edits in drawn::edits(),
        users in prop::bool::weighted(0.3),
    ) {
        check(steps, edits, users)?;
    }
}
