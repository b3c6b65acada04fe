//! What the kernel says of this process's memory (Linux), for tests of size. It knows no stage.

#![allow(dead_code, reason = "each test of size wants another part")]

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The most memory in MiB that `work` took while it ran: of this process's own, and of files mapped into it, which the
/// system takes back when it needs room.
pub fn peaks_of(work: impl FnOnce()) -> (u64, u64) {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let (mut own, mut mapped) = (0, 0);
            while !done.load(Ordering::Relaxed) {
                own = own.max(line("RssAnon:"));
                mapped = mapped.max(line("RssFile:"));
                std::thread::sleep(Duration::from_millis(5));
            }
            (own, mapped)
        });
        work();
        done.store(true, Ordering::Relaxed);
        watch.join().unwrap()
    })
}

/// A line of what the kernel says of this process's memory, in MiB.
pub fn line(name: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}
