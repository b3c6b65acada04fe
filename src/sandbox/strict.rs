//! `strict`: Landlock keeps a program, and whatever it starts, from opening what it may not.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::Command;

use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus,
};

use super::watch::watched;
use super::{Allowed, Ended, SYSTEM_FOLDERS, SYSTEM_WRITABLE};

/// Rights on files and folders that the first Landlock knew; without these there is no sandbox.
const LEAST: ABI = ABI::V1;
/// Rights that later ones added, taken where the kernel has them.
const MOST: ABI = ABI::V5;

/// Why a restriction was not taken.
type NotRestricted = Box<dyn std::error::Error>;

/// Runs under Landlock.
pub(super) fn strict(command: &mut Command, allowed: &Allowed) -> io::Result<Ended> {
    strict_by(restrict, command, allowed)
}

/// Runs under what `restrict` does to the calling thread. A restriction holds for the thread that takes it and for
/// what it starts, so a thread is made for it.
pub(super) fn strict_by(
    restrict: fn(&Allowed) -> Result<(), NotRestricted>,
    command: &mut Command,
    allowed: &Allowed,
) -> io::Result<Ended> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            restrict(allowed).map_err(|error| {
                io::Error::other(format!(
                    "`sandbox: strict` needs Landlock, which this kernel does not offer ({error}); \
                     `sandbox: report` may do"
                ))
            })?;
            // Where it may not be watched it is kept from what it may not open all the same.
            let (status, watch) = watched(command, allowed, false)?;
            Ok(Ended { status, undeclared: watch.refused.into_iter().collect() })
        });
        thread.join().map_err(|_| io::Error::other("the thread that waits for it broke off"))?
    })
}

fn restrict(allowed: &Allowed) -> Result<(), NotRestricted> {
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(LEAST))?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(MOST))?;
    let mut ruleset = ruleset.create()?;
    let system = |folders: &[&str]| folders.iter().map(PathBuf::from).collect::<Vec<_>>();
    let rules = [
        (system(&SYSTEM_FOLDERS), AccessFs::from_read(MOST)),
        (system(&SYSTEM_WRITABLE), AccessFs::from_all(MOST)),
        (allowed.read.clone(), AccessFs::from_read(MOST)),
        (allowed.write.clone(), AccessFs::from_all(MOST)),
    ];
    for (paths, access) in rules {
        for path in paths {
            // What is not there cannot be opened either.
            let Ok(metadata) = fs::metadata(&path) else { continue };
            let access = if metadata.is_dir() { access } else { access & AccessFs::from_file(MOST) };
            ruleset = ruleset.add_rule(PathBeneath::new(PathFd::new(&path)?, access))?;
        }
    }
    match ruleset.restrict_self()?.ruleset {
        RulesetStatus::NotEnforced => Err("it is not enforced".into()),
        _ => Ok(()),
    }
}
