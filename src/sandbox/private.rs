//! Private shared memory: in `sandbox: "strict"` a step gets its own `/dev/shm`, so that no step reads what another one
//! left there. Programs need one: for semaphores, and PyTorch for batches between processes.

use std::fs;
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use rustix::process::{getegid, geteuid};

/// The folder of shared memory.
pub(super) const SHARED_MEMORY: &str = "/dev/shm";

/// Mounts an empty folder at `/dev/shm` for this process and its children. Returns whether that was permitted. The
/// process must have one thread only.
pub(super) fn own_shared_memory() -> bool {
    let (user, group) = (geteuid().as_raw(), getegid().as_raw());
    let is_apart = unshare(CloneFlags::CLONE_NEWNS).is_ok()
        || unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS).is_ok_and(|()| {
            // Maps this user to itself. Without the first line the system permits no group map.
            let maps = [("setgroups", "deny".to_owned()), ("uid_map", map(user)), ("gid_map", map(group))];
            maps.iter().all(|(file, text)| fs::write(Path::new("/proc/self").join(file), text).is_ok())
        });
    let none = None::<&str>;
    is_apart
        // Keeps the mount invisible outside.
        && mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).is_ok()
        && mount(
            Some("tmpfs"),
            SHARED_MEMORY,
            Some("tmpfs"),
            MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
            Some("mode=1777"),
        )
        .is_ok()
}

fn map(number: u32) -> String {
    format!("{number} {number} 1")
}
