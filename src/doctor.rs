//! Checks the machine and the store before a run: a list of findings with advice. It creates and removes a folder
//! below the cache, changes nothing else, and knows no pipeline.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use stage_api::HostCheck;

use crate::pipeline::needs::bytes;
use crate::run::machine;
use crate::store::{ContentStore, StoreError};

/// The status of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// In order.
    Good,
    /// Information; everything works.
    Note,
    /// Something will not work until a person acts.
    Problem,
}

/// A finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Its subject.
    pub what: String,
    /// Its status.
    pub standing: Standing,
    /// The observation.
    pub found: String,
    /// The advice, if there is any.
    pub advice: Option<String>,
}

impl Finding {
    /// A subject that is in order.
    pub fn good(what: &str, found: impl Into<String>) -> Self {
        Self { what: what.to_owned(), standing: Standing::Good, found: found.into(), advice: None }
    }

    /// Information with advice.
    pub fn note(what: &str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { standing: Standing::Note, advice: Some(advice.into()), ..Self::good(what, found) }
    }

    /// A problem with advice.
    pub fn problem(what: &str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { standing: Standing::Problem, ..Self::note(what, found, advice) }
    }
}

/// Less free disk space than this is a problem.
const MIN_DISK: u64 = 5 << 30;
/// The small profiles of a project need this much memory.
const MIN_MEMORY: u64 = 2 << 30;
/// With a larger difference between two clocks, files seem older or newer than they are.
const MAX_CLOCK_OFFSET: Duration = Duration::from_secs(2);
/// The start of 2025: no result is older.
const EARLIEST_TIME: u64 = 1_735_689_600;

/// All findings about the machine, from the engine and from `checks` of the stages, and about the cache in `cache`,
/// which need not exist.
pub fn examine(cache: &Path, checks: &[HostCheck]) -> Vec<Finding> {
    let mut found = vec![disk(cache), memory(), cores()];
    found.extend(checks.iter().map(|check| match (check.find)() {
        Ok(what) => Finding::good(check.name, what),
        Err(error) => Finding::problem(check.name, error.message, error.hint),
    }));
    found.extend(gpus());
    found.push(store(cache));
    found.extend(file_system(cache));
    found
}

/// The folder itself, or the nearest existing one above it.
fn there(folder: &Path) -> PathBuf {
    let found = folder.ancestors().find(|folder| folder.is_dir());
    found.unwrap_or(Path::new("/")).to_owned()
}

fn disk(cache: &Path) -> Finding {
    let Ok(disk) = rustix::fs::statvfs(there(cache)) else {
        return Finding::note("disk", "the free space is unknown", "check it with `df`");
    };
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    let found = format!("{} free at {}", bytes(free), cache.display());
    match free {
        free if free < MIN_DISK => Finding::problem(
            "disk",
            found,
            "free some space (`repro gc` removes unused results), or choose another disk with --cache",
        ),
        _ => Finding::good("disk", found),
    }
}

fn memory() -> Finding {
    let memory = machine::memory();
    let found = format!("{} for this process", bytes(memory));
    match memory {
        memory if memory < MIN_MEMORY => Finding::problem(
            "memory",
            found,
            "raise the limit of the control group or container, or use a larger machine",
        ),
        _ => Finding::good("memory", found),
    }
}

fn cores() -> Finding {
    let cpus = machine::cpus();
    let threads = if cpus == 1 { "1 thread".to_owned() } else { format!("{cpus} threads") };
    #[cfg(target_arch = "x86_64")]
    if !std::arch::is_x86_feature_detected!("avx2") {
        return Finding::note(
            "cores",
            format!("{threads}, without AVX2"),
            "expect a quarter of the usual speed",
        );
    }
    Finding::good("cores", threads)
}

/// The GPUs that were found, and whether this build can use them.
fn gpus() -> Vec<Finding> {
    let computes = cfg!(any(feature = "cuda", feature = "metal"));
    let build = match computes {
        true => Finding::good("build", "computes on GPUs"),
        false => Finding::good("build", "computes on CPUs only"),
    };
    if cfg!(feature = "metal") {
        return vec![build];
    }
    let seen = machine::gpus();
    if seen.is_empty() {
        let gpu = match computes {
            true => Finding::problem(
                "gpu",
                "no GPU found: no driver lists one, or CUDA_VISIBLE_DEVICES hides all",
                "install the NVIDIA driver, give the container its GPUs, or build without `--features cuda`",
            ),
            false => Finding::note(
                "gpu",
                "no GPU found",
                "full-size models take weeks on a CPU; `repro rehearse` estimates the time",
            ),
        };
        return vec![build, gpu];
    }
    let gpu = match driver() {
        Some(names) => Finding::good("gpu", names),
        None => Finding::note(
            "gpu",
            format!("{} found, but `nvidia-smi` reported no details", seen.join(", ")),
            "install nvidia-smi, or put it on PATH: `needs: (gpu_memory: …)` needs it for the memory of a GPU",
        ),
    };
    let build = match computes {
        true => build,
        false => Finding::problem(
            "build",
            "computes on CPUs only, although there is a GPU",
            "build with `cargo install --path . --features cuda` (needs nvcc of CUDA 12 or newer)",
        ),
    };
    vec![build, gpu]
}

/// The report of `nvidia-smi` on each GPU: name, memory, driver, compute capability.
fn driver() -> Option<String> {
    let query = ["--query-gpu=name,memory.total,driver_version,compute_cap", "--format=csv,noheader"];
    let answer =
        Command::new("nvidia-smi").args(query).output().ok().filter(|answer| answer.status.success())?;
    let text = String::from_utf8_lossy(&answer.stdout).lines().map(str::trim).collect::<Vec<_>>().join("; ");
    Some(text).filter(|text| !text.is_empty())
}

fn store(cache: &Path) -> Finding {
    if !cache.is_dir() {
        return Finding::good("cache", format!("no cache yet at {}", cache.display()));
    }
    match ContentStore::open(cache) {
        Err(StoreError::Foreign { .. }) => Finding::problem(
            "cache",
            format!("{} is not a cache of this version of the program", cache.display()),
            "choose another folder with --cache, or remove this one",
        ),
        Err(error) => Finding::problem(
            "cache",
            error.to_string(),
            "fix its permissions, or choose another folder with --cache",
        ),
        Ok(store) => {
            let (damaged, lost) = (store.damaged().len(), store.lost().len());
            let found = format!("{} results known", store.records().len());
            match damaged + lost {
                0 => Finding::good("cache", format!("{found}; `repro verify` hashes their bytes")),
                _ => Finding::note(
                    "cache",
                    format!("{found}, {damaged} entries damaged, {lost} results lost in a power cut"),
                    "no action needed: they count as missing, and steps that are needed run again",
                ),
            }
        }
    }
}

/// Tests the clock and the features of the cache's file system in a temporary folder.
fn file_system(cache: &Path) -> Vec<Finding> {
    let place = there(cache);
    let folder = match tempfile::Builder::new().prefix(".repro-doctor-").tempdir_in(&place) {
        Ok(folder) => folder,
        Err(error) => {
            let found = format!("cannot write to {}: {error}", place.display());
            return vec![Finding::problem(
                "file system",
                found,
                "fix its permissions, or choose another folder with --cache",
            )];
        }
    };
    let mut found = vec![clock(folder.path())];
    for (what, worked) in [("locks", locks(folder.path())), ("renames", renames(folder.path()))] {
        if let Err(error) = worked {
            found.push(Finding::problem(
                "file system",
                format!("{}: {what} do not work: {error}", place.display()),
                "put the cache on a local disk with --cache: the store needs locks and renames",
            ));
        }
    }
    if let Ok(false) = is_case_sensitive(folder.path()) {
        found.push(Finding::note(
            "file system",
            "it ignores capitalization",
            "it cannot store outputs whose names differ only in capitalization; put the cache on another disk",
        ));
    }
    if found.iter().all(|finding| finding.what != "file system") {
        let clones = if clones(folder.path()) { "shares blocks between copies" } else { "copies every byte" };
        found.push(Finding::good("file system", format!("locks and renames work, {clones}")));
    }
    found
}

fn clock(folder: &Path) -> Finding {
    let now = SystemTime::now();
    let seconds = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    if seconds < EARLIEST_TIME {
        return Finding::problem(
            "clock",
            "it shows a time before 2025",
            "set the clock: the engine compares file times",
        );
    }
    let file = folder.join("time");
    let written = File::create(&file).and_then(|_| fs::metadata(&file)).and_then(|file| file.modified());
    let Ok(written) = written else {
        return Finding::note("clock", "cannot read the time of a file", "put the cache on another disk");
    };
    let apart = written.duration_since(now).unwrap_or_else(|error| error.duration());
    match apart {
        apart if apart > MAX_CLOCK_OFFSET => Finding::problem(
            "clock",
            format!("the file system's clock is {:.0} s off this machine's", apart.as_secs_f64()),
            "synchronize both machines with a time server: the engine compares file times",
        ),
        _ => Finding::good("clock", "agrees with the file system's"),
    }
}

fn locks(folder: &Path) -> io::Result<()> {
    let path = folder.join("lock");
    let (first, second) = (File::create(&path)?, File::open(&path)?);
    first.lock()?;
    match second.try_lock_shared() {
        Ok(()) => Err(io::Error::other("a second process can take a held lock")),
        Err(fs::TryLockError::WouldBlock) => Ok(()),
        Err(fs::TryLockError::Error(error)) => Err(error),
    }
}

fn renames(folder: &Path) -> io::Result<()> {
    let (from, to) = (folder.join("from"), folder.join("to"));
    fs::create_dir(&from)?;
    fs::write(from.join("file"), "bytes")?;
    fs::rename(&from, &to)?;
    match fs::read(to.join("file"))?.as_slice() {
        b"bytes" => Ok(()),
        _ => Err(io::Error::other("a renamed folder lost its files")),
    }
}

fn is_case_sensitive(folder: &Path) -> io::Result<bool> {
    fs::write(folder.join("case"), "")?;
    Ok(!folder.join("CASE").exists())
}

/// Whether a copy shares blocks with its original.
#[cfg(target_os = "linux")]
fn clones(folder: &Path) -> bool {
    let cloned = || -> io::Result<()> {
        fs::write(folder.join("whole"), vec![1; 4096])?;
        let (from, to) = (File::open(folder.join("whole"))?, File::create(folder.join("clone"))?);
        Ok(rustix::fs::ioctl_ficlone(&to, &from)?)
    };
    cloned().is_ok()
}

#[cfg(not(target_os = "linux"))]
fn clones(_folder: &Path) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of<'a>(found: &'a [Finding], what: &str) -> Vec<&'a Finding> {
        found.iter().filter(|finding| finding.what == what).collect()
    }

    #[test]
    fn a_healthy_disk_gives_no_problem_and_no_file_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let found = examine(&folder.path().join("cache"), &[]);
        for what in ["clock", "file system", "cache"] {
            let [finding] = of(&found, what)[..] else { panic!("{what}: {found:?}") };
            assert_eq!(finding.standing, Standing::Good, "{finding:?}");
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_folder_that_is_not_a_cache_is_a_problem_with_advice() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("VERSION"), "99\n").unwrap();
        let found = store(folder.path());
        assert_eq!(found.standing, Standing::Problem, "{found:?}");
        assert!(found.advice.is_some());
    }
}
