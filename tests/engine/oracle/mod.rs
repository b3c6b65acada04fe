//! The engine's last word: after any series of edits, failures, kills, damage and disturbances, `repro make` either
//! leaves the reports that a clean evaluation gives, or says that it did not; no fresh step runs, and what was complete
//! is nothing to do. The program itself runs, as a user runs it; the clean evaluation is the test's own ([`clean`]).
//! `PROPTEST_CASES` says how many series; docs/trust.md says what was run.

mod clean;
mod damage;
mod drawn;
mod project;
mod script;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use clean::Outcome;
use drawn::{Disturbance, Drawn, Edit};
use project::{How, Made, Project};

/// The same few series every day, so that a failure is one of the change that is tested; or as many others as `PROPTEST_CASES` says.
fn config() -> ProptestConfig {
    let number = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    let (cases, rng_seed) = number.map_or((300, RngSeed::Fixed(1)), |cases| (cases, RngSeed::Random));
    ProptestConfig { cases, rng_seed, failure_persistence: None, ..ProptestConfig::default() }
}

/// All files below a folder with their bytes, also those of folders that links lead to: a kept work directory may have one.
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

/// Whether a run ended as it may, and left what it has to leave.
fn judge(project: &mut Project, how: &How, before: &Reports, made: &Made) -> Result<(), String> {
    let planned = ended_well(project, how, before, made);
    match &made.changed {
        // What is left may be right for what the files are now instead.
        Some(files) => {
            project.files = files.clone();
            planned.or_else(|_| ended_well(project, how, before, made))
        }
        None => planned,
    }
}

fn ended_well(project: &mut Project, how: &How, before: &Reports, made: &Made) -> Result<(), String> {
    let target = how.wanted(&project.steps);
    let outcomes = clean::evaluate(&project.steps, &project.files);
    let needed = clean::needed(&project.steps, target);
    project.remember(&outcomes);
    let fails = needed.iter().any(|number| outcomes[number] == Outcome::Fails);
    let reports = clean::reports(&project.steps, &outcomes, &needed);
    let after = contents(&project.reports());
    // What steps that are not asked for have published before may stay, and be in the way.
    let in_the_way = |path: &PathBuf| {
        let clashes = |other: &PathBuf| path.starts_with(other) != other.starts_with(path);
        target.is_some() && reports.iter().flat_map(BTreeMap::keys).any(clashes)
    };
    // A step that links a file of the project changes it for those that read it at the same moment.
    let may_fail = made.disturbed || clean::links_project(&project.steps, &needed);
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
    if !made.code.is_some_and(|code| allowed.contains(&code)) {
        return Err(format!("it ended with {:?} instead of one of {allowed:?}", made.code));
    }
    if made.code != Some(0) {
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

/// Whether the same run has nothing to do now.
fn is_done(project: &Project, how: &How) -> Result<(), String> {
    let again = project.run(&how.unforced(&project.steps));
    let done = again.code == Some(0) && again.err.starts_with("nothing to do");
    if done { Ok(()) } else { Err(format!("the same run again is not done: {}", again.err)) }
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
        let made = project.make(&how, &edit);
        let holds = project
            .check_processes()
            .and_then(|()| project.check_runs(&made, &how, &whole))
            .and_then(|()| {
                if how.killed_at.is_none() { judge(&mut project, &how, &before, &made) } else { Ok(()) }
            })
            .and_then(|()| project.check_files(&made))
            .and_then(|()| project.check_records())
            .and_then(|()| {
                if made.code == Some(0) && made.changed.is_none() { is_done(&project, &how) } else { Ok(()) }
            });
        prop_assert!(holds.is_ok(), "after {edit:?}: {}\n{made:?}", holds.unwrap_err());
    }
    let verified = project.run(&["verify".to_owned()]);
    let is_damaged = is_damaged || clean::is_refused_pipeline(&project.steps);
    prop_assert!(is_damaged || verified.code == Some(0), "verify: {}", verified.err);
    Ok(())
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn an_incremental_run_equals_a_clean_one(
        steps in drawn::steps(),
        edits in drawn::edits(),
        users in prop::bool::weighted(0.3),
    ) {
        check(steps, edits, users)?;
    }
}
