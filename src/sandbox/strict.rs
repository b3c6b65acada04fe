//! `strict`: Landlock keeps a program, and whatever it starts, from opening what it may not.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::Command;

use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus, Scope,
};
use rustix::thread::{CapabilitySet, remove_capability_from_bounding_set};

use super::private::{SHARED_MEMORY, own_shared_memory};
use super::watch::watched;
use super::{Allowed, Ended, SYSTEM_FOLDERS, devices};

/// Rights on files and folders that the first Landlock knew; without these there is no sandbox.
const LEAST: ABI = ABI::V1;
/// Rights that later ones added, taken where the kernel has them.
const MOST: ABI = ABI::V5;

/// Why a restriction was not taken.
type NotRestricted = Box<dyn std::error::Error>;

/// Runs under Landlock.
pub(super) fn strict(command: &mut Command, allowed: &Allowed) -> io::Result<Ended> {
    let mut allowed = allowed.clone();
    // A project in memory would be hidden.
    let is_free = !allowed.read.iter().chain(&allowed.write).any(|path| path.starts_with(SHARED_MEMORY));
    if is_free && own_shared_memory() {
        allowed.write.push(SHARED_MEMORY.into());
    }
    strict_by(restrict, command, &allowed)
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
                    "`sandbox: \"strict\"` needs Landlock, which this kernel does not offer ({error}); \
                     `sandbox: \"report\"` may do"
                ))
            })?;
            // Where it may not be watched it is kept from what it may not open all the same.
            let (status, watch) = watched(command, allowed, false)?;
            Ok(Ended { status, undeclared: watch.refused.into_iter().collect() })
        });
        thread.join().map_err(|_| io::Error::other("the thread that waits for it broke off"))?
    })
}

/// Root reads the memory and the environment of every process, Landlock or not, and mounts what it likes; what this
/// thread starts does not.
fn give_up_capabilities() {
    let given_up = [
        CapabilitySet::SYS_ADMIN,
        CapabilitySet::SYS_PTRACE,
        CapabilitySet::PERFMON,
        CapabilitySet::SYS_RAWIO,
        CapabilitySet::SYS_MODULE,
        CapabilitySet::BPF,
        CapabilitySet::CHECKPOINT_RESTORE,
    ];
    for capability in given_up {
        // Who is not root has none of them.
        let _ = remove_capability_from_bounding_set(capability);
    }
}

fn restrict(allowed: &Allowed) -> Result<(), NotRestricted> {
    give_up_capabilities();
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(LEAST))?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(MOST))?
        // Other processes are neither ended nor spoken to by a name that is no file.
        .scope(Scope::AbstractUnixSocket | Scope::Signal)?;
    let mut ruleset = ruleset.create()?;
    let system = |folders: &[&str]| folders.iter().map(PathBuf::from).collect::<Vec<_>>();
    let rules = [
        (system(&SYSTEM_FOLDERS), AccessFs::from_read(MOST)),
        (devices(), AccessFs::from_all(MOST)),
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
