//! Finds out what this machine has: cores, memory and GPUs, as far as this process may use them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

/// What the machine is called.
pub fn name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// CPU threads that this process may use.
pub fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Memory in bytes that this process may use: the machine's, or less where a control group allows less.
pub fn memory() -> u64 {
    #[cfg(target_os = "linux")]
    let total = {
        let info = rustix::system::sysinfo();
        // The types of the fields differ between architectures.
        #[allow(clippy::useless_conversion, clippy::unnecessary_cast, reason = "differs by architecture")]
        (info.totalram as u64).saturating_mul(u64::from(info.mem_unit))
    };
    #[cfg(not(target_os = "linux"))]
    let total = u64::MAX;
    control_group_limit(Path::new("/sys/fs/cgroup"), Path::new("/proc/self/cgroup"))
        .map_or(total, |limit| limit.min(total))
}

/// The peak memory of this process, in bytes, where the system reports it.
pub fn peak_memory() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

/// The lowest memory limit of this process's control group and those around it (cgroup v2, then v1).
fn control_group_limit(mount: &Path, own: &Path) -> Option<u64> {
    let own = fs::read_to_string(own).unwrap_or_default();
    let below = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    let read = |path: &Path| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let group = mount.join(below);
    let around = group.ancestors().take_while(|folder| folder.starts_with(mount));
    let limits = around.filter_map(|folder| read(&folder.join("memory.max")));
    limits.chain(read(&mount.join("memory/memory.limit_in_bytes"))).min()
}

/// The GPUs that this process may use: those that `CUDA_VISIBLE_DEVICES` allows, else those the driver shows.
pub fn gpus() -> Vec<String> {
    if cfg!(feature = "metal") {
        return vec!["0".to_owned()];
    }
    match allowed_gpus() {
        Some(allowed) => allowed,
        None => {
            let driver = fs::read_dir("/proc/driver/nvidia/gpus");
            (0..driver.map_or(0, |gpus| gpus.flatten().count())).map(|number| number.to_string()).collect()
        }
    }
}

/// The memory in bytes of GPUs as `nvidia-smi` reports it, by number and by `GPU-…`; nothing where there is no such
/// tool, or of parts of a GPU (`MIG-…`).
pub fn gpu_memory() -> BTreeMap<String, u64> {
    let query = ["--query-gpu=index,uuid,memory.total", "--format=csv,noheader,nounits"];
    let answer = Command::new("nvidia-smi").args(query).output();
    let text = answer.ok().filter(|answer| answer.status.success()).map(|answer| answer.stdout);
    let text = text.unwrap_or_default();
    let mut memory = BTreeMap::new();
    for line in String::from_utf8_lossy(&text).lines() {
        let fields: Vec<&str> = line.split(',').map(str::trim).collect();
        if let [number, name, mebibytes] = fields[..]
            && let Ok(mebibytes) = mebibytes.parse::<u64>()
        {
            memory.extend([number, name].map(|id| (id.to_owned(), mebibytes << 20)));
        }
    }
    memory
}

/// What the environment restricts this process to; `None` when it does not.
pub fn allowed_gpus() -> Option<Vec<String>> {
    std::env::var("CUDA_VISIBLE_DEVICES").ok().map(|list| visible(&list))
}

/// A list of GPUs as CUDA reads it: numbers and names (`GPU-…`, `MIG-…`) up to the first thing that is neither,
/// which hides the rest (`-1` is how people hide all).
fn visible(list: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for id in list.split(',').map(str::trim).take_while(|id| is_gpu_id(id)) {
        if !found.iter().any(|other| other == id) {
            found.push(id.to_owned());
        }
    }
    found
}

/// Whether `CUDA_VISIBLE_DEVICES` can name a GPU so.
pub fn is_gpu_id(id: &str) -> bool {
    let is_named = |prefix: &str| id.strip_prefix(prefix).is_some_and(|rest| !rest.is_empty());
    (!id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit())) || is_named("GPU-") || is_named("MIG-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_gpus_is_read_as_cuda_reads_it() {
        assert_eq!(visible("0, 2"), ["0", "2"]);
        assert_eq!(visible("GPU-8932f937,MIG-GPU-1/0/0"), ["GPU-8932f937", "MIG-GPU-1/0/0"]);
        assert_eq!(visible("1,-1,0"), ["1"]);
        assert_eq!(visible("3,3"), ["3"]);
        for nothing in ["", "-1", "none", "NoDevFiles", "GPU-"] {
            assert_eq!(visible(nothing), Vec::<String>::new(), "{nothing}");
        }
    }

    #[test]
    fn the_lowest_limit_around_counts() {
        let mount = tempfile::tempdir().unwrap();
        let inner = mount.path().join("a/b");
        fs::create_dir_all(&inner).unwrap();
        fs::write(mount.path().join("own"), "0::/a/b\n").unwrap();
        fs::write(inner.join("memory.max"), "max\n").unwrap();
        let limit = || control_group_limit(mount.path(), &mount.path().join("own"));
        assert_eq!(limit(), None);
        fs::write(mount.path().join("a/memory.max"), "4096\n").unwrap();
        assert_eq!(limit(), Some(4096));
    }
}
