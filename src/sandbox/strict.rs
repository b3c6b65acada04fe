//! `strict`: Landlock denies a program and its children all undeclared files.

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

/// Access rights of the first Landlock version, which are required.
const REQUIRED_ABI: ABI = ABI::V1;
/// Access rights of later versions, used if the kernel supports them.
const NEWEST_ABI: ABI = ABI::V5;

/// The reason why a restriction failed.
type NotRestricted = Box<dyn std::error::Error>;

/// Runs under Landlock.
pub(super) fn strict(command: &mut Command, allowed: &Allowed) -> io::Result<Ended> {
    let mut allowed = allowed.clone();
    // A new `/dev/shm` would hide a project that is in it.
    let is_free = !allowed.read.iter().chain(&allowed.write).any(|path| path.starts_with(SHARED_MEMORY));
    if is_free && own_shared_memory() {
        allowed.write.push(SHARED_MEMORY.into());
    }
    strict_by(restrict, command, &allowed)
}

/// Runs the program after `restrict` on a new thread: a restriction applies to the calling thread and its children.
pub(super) fn strict_by(
    restrict: fn(&Allowed) -> Result<(), NotRestricted>,
    command: &mut Command,
    allowed: &Allowed,
) -> io::Result<Ended> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            restrict(allowed).map_err(|error| {
                io::Error::other(format!(
                    "cannot restrict the step with Landlock ({error}); \
                     `sandbox: \"report\"` needs no Landlock"
                ))
            })?;
            // Without ptrace, Landlock still denies undeclared files.
            let (status, watch) = watched(command, allowed, false)?;
            Ok(Ended { status, undeclared: watch.refused.into_iter().collect() })
        });
        thread.join().map_err(|_| io::Error::other("the thread that waits for it panicked"))?
    })
}

/// Root can read the memory and the environment of every process despite Landlock, and can mount. The children of
/// this thread lose these capabilities.
fn drop_capabilities() {
    let dropped = [
        CapabilitySet::SYS_ADMIN,
        CapabilitySet::SYS_PTRACE,
        CapabilitySet::PERFMON,
        CapabilitySet::SYS_RAWIO,
        CapabilitySet::SYS_MODULE,
        CapabilitySet::BPF,
        CapabilitySet::CHECKPOINT_RESTORE,
    ];
    for capability in dropped {
        // Other users have none of them.
        let _ = remove_capability_from_bounding_set(capability);
    }
}

fn restrict(allowed: &Allowed) -> Result<(), NotRestricted> {
    drop_capabilities();
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(REQUIRED_ABI))?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST_ABI))?
        // Denies signals to other processes, and sockets without a file.
        .scope(Scope::AbstractUnixSocket | Scope::Signal)?;
    let mut ruleset = ruleset.create()?;
    let system = |folders: &[&str]| folders.iter().map(PathBuf::from).collect::<Vec<_>>();
    let rules = [
        (system(&SYSTEM_FOLDERS), AccessFs::from_read(NEWEST_ABI)),
        (devices(), AccessFs::from_all(NEWEST_ABI)),
        (allowed.read.clone(), AccessFs::from_read(NEWEST_ABI)),
        (allowed.write.clone(), AccessFs::from_all(NEWEST_ABI)),
    ];
    for (paths, access) in rules {
        for path in paths {
            // A missing path cannot be opened either.
            let Ok(metadata) = fs::metadata(&path) else { continue };
            let access = if metadata.is_dir() { access } else { access & AccessFs::from_file(NEWEST_ABI) };
            ruleset = ruleset.add_rule(PathBeneath::new(PathFd::new(&path)?, access))?;
        }
    }
    match ruleset.restrict_self()?.ruleset {
        RulesetStatus::NotEnforced => Err("it is not enforced".into()),
        _ => Ok(()),
    }
}
