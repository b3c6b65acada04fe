//! External faults: a kill at any instant, a full disk, a read-only disk, flipped bits, many processes at a time.
//! Whatever happens, no wrong result is used, no finished one is lost, and the user gets a message. Each test does a
//! few cases by default and many with `FAULTS=full`; docs/trust.md lists what was run.

#![allow(clippy::print_stdout, reason = "a test that cannot do its work says so, and says how much it did")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::process::{finished, step_processes, wait_until};
use super::support::TestSpace;

fn full() -> bool {
    std::env::var("FAULTS").is_ok_and(|value| value == "full")
}

/// `everyday` cases, or `thorough` ones with `FAULTS=full`.
fn cases(everyday: usize, thorough: usize) -> usize {
    if full() { thorough } else { everyday }
}

/// Numbers between 0 and 1, the same each time.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() * end as f64) as usize
    }
}

/// A lattice of `count` steps, each reading the two before it.
fn lattice(count: usize, ms: usize) -> String {
    let step = |i: usize| {
        let reads = match i {
            0 => String::new(),
            1 => ", inputs: {\"in\": [\"s0/text\"]}".to_owned(),
            _ => format!(", inputs: {{\"in\": [\"s{}/text\", \"s{}\"]}}", i - 1, i - 2),
        };
        // Only a prefix is passed on, because texts would double otherwise.
        format!(
            "(name: \"s{i}\", stage: \"join\", params: (text: \"s{i}\", ms: {ms}){}, publish: \"{i}\"),\n",
            if i % 3 == 2 { format!(", inputs: {{\"in\": [\"h{i}\"]}}") } else { reads.clone() }
        ) + &if i % 3 == 2 {
            format!("(name: \"h{i}\", stage: \"head\", params: (chars: 9){reads}),\n")
        } else {
            String::new()
        }
    };
    (0..count).map(step).collect()
}

/// How often each step ran, by the log that the steps keep themselves.
fn log(space: &TestSpace) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for line in fs::read_to_string(space.path("ran.log")).unwrap_or_default().lines() {
        *counts.entry(line.to_owned()).or_default() += 1;
    }
    counts
}

fn logged(space: &TestSpace, args: &[&str]) -> Command {
    let mut command = space.command(args);
    command.env("TOY_LOG", space.path("ran.log"));
    command
}

fn make(space: &TestSpace) -> super::process::Run {
    finished(logged(space, &["make"]).output().unwrap())
}

/// All files below a folder with their bytes.
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

/// Another project with the same steps, built without a fault.
fn undisturbed(steps: &str) -> TestSpace {
    let space = TestSpace::new(steps);
    space.make().expect(0);
    space
}

#[track_caller]
fn assert_equal(space: &TestSpace, clean: &TestSpace, when: &str) {
    assert_eq!(space.trees(), clean.trees(), "{when}");
    let (here, there) = (contents(&space.path("reports")), contents(&clean.path("reports")));
    assert_eq!(here.keys().collect::<Vec<_>>(), there.keys().collect::<Vec<_>>(), "{when}");
    assert!(here == there, "{when}: the reports differ");
}

#[test]
fn kill_9_at_any_instant_loses_nothing_that_was_finished() {
    let steps = lattice(12, 4);
    let since = Instant::now();
    let clean = undisturbed(&steps);
    let whole = since.elapsed();
    let (mut dice, mut disturbed, count) = (Dice(7), 0, cases(12, 200));
    for attempt in 0..count {
        let space = TestSpace::new(&steps);
        // Sometimes the repair is killed too.
        for _ in 0..1 + attempt % 2 {
            let mut child = logged(&space, &["make"]).spawn().unwrap();
            std::thread::sleep(whole.mul_f64(dice.next()));
            child.kill().unwrap();
            child.wait().unwrap();
            wait_until("no step outlives the run", || step_processes(&space.path("cache")).is_empty());
        }
        let kept: BTreeSet<String> = space.trees().into_keys().collect();
        disturbed += usize::from(kept.len() < clean.trees().len());
        fs::remove_file(space.path("ran.log")).unwrap_or_default();
        make(&space).expect(0);
        let again: Vec<String> = log(&space).into_keys().filter(|step| kept.contains(step)).collect();
        assert_eq!(again, [""; 0], "attempt {attempt}: finished before the kill, and run again");
        assert_equal(&space, &clean, &format!("attempt {attempt}"));
        assert!(make(&space).expect(0).err.contains("nothing to do"), "attempt {attempt}");
        assert!(space.cached("work").is_empty(), "attempt {attempt}");
    }
    println!("killed {count} times, {disturbed} of them before the end");
    assert!(disturbed * 3 > count, "the kills came too late to mean anything: {disturbed} of {count}");
}

/// A file system in memory of a given size, mounted at a future cache.
struct Disk(PathBuf);

impl Disk {
    /// `None` if this process may not mount.
    fn mount(at: PathBuf, kilobytes: usize) -> Option<Self> {
        fs::create_dir_all(&at).unwrap();
        let size = format!("size={kilobytes}k");
        let output = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&at).output();
        output.is_ok_and(|output| output.status.success()).then_some(Self(at))
    }

    fn again(&self, options: &str) {
        let options = format!("remount,{options}");
        assert!(
            Command::new("mount").args(["-o", &options]).arg(&self.0).status().unwrap().success(),
            "{options}"
        );
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn skipped(what: &str) {
    println!("skipped, as this process may not mount: {what}");
}

fn filling(count: usize) -> String {
    (0..count)
        .map(|i| {
            let reads = if i == 0 { String::new() } else { format!(", inputs: {{\"in\": [\"f{}\"]}}", i - 1) };
            format!("(name: \"f{i}\", stage: \"fill\", params: (seed: {i}, kilobytes: 40, files: 2){reads}, publish: \"{i}\"),\n")
        })
        .collect()
}

#[test]
fn a_full_disk_stops_the_run_with_a_message_and_loses_no_finished_result() {
    let steps = filling(8);
    let clean = undisturbed(&steps);
    let (mut stopped, count) = (0, cases(6, 60));
    for number in 0..count {
        let space = TestSpace::new(&steps);
        // Sizes between nearly nothing and enough, so that the disk is full at different points.
        let kilobytes = 8 + number * 1000 / count;
        let Some(disk) = Disk::mount(space.path("cache"), kilobytes) else { return skipped("a full disk") };
        let run = make(&space);
        if run.code != Some(0) {
            stopped += 1;
            assert_eq!(run.code, Some(1), "{kilobytes} kB: {}", run.err);
            assert!(run.err.to_lowercase().contains("no space left"), "{kilobytes} kB: {}", run.err);
        }
        let kept: BTreeSet<String> =
            space.trees().into_keys().map(|name| name.replace('f', "fill-")).collect();
        disk.again("size=64m");
        fs::remove_file(space.path("ran.log")).unwrap_or_default();
        make(&space).expect(0);
        let again: Vec<String> = log(&space).into_keys().filter(|step| kept.contains(step)).collect();
        assert_eq!(again, [""; 0], "{kilobytes} kB: finished before, and run again");
        assert_equal(&space, &clean, &format!("{kilobytes} kB"));
        assert!(make(&space).expect(0).err.contains("nothing to do"), "{kilobytes} kB");
    }
    println!("{count} sizes of disk, {stopped} of them too small");
    assert!(stopped > 1, "the disk was never full");
}

#[test]
fn a_read_only_cache_gives_its_results_and_a_message() {
    let steps = filling(3);
    let space = TestSpace::new(&steps);
    let Some(disk) = Disk::mount(space.path("cache"), 8000) else { return skipped("a read-only disk") };
    make(&space).expect(0);
    let trees = space.trees();
    disk.again("ro");
    for command in [&["status"][..], &["why", "f1"], &["list"]] {
        space.run(command).expect(0);
    }
    assert!(make(&space).expect(0).err.contains("nothing to do"));
    space.steps(&steps.replace("seed: 2", "seed: 9"));
    let run = make(&space).expect(1);
    assert!(run.err.contains("Read-only file system") && run.err.contains("hint: "), "{}", run.err);
    assert_eq!(space.trees(), trees);
    disk.again("rw");
    assert_eq!(make(&space).expect(0).ran(), ["f2"]);
}

/// Every file of the store's trees.
fn objects(space: &TestSpace) -> Vec<PathBuf> {
    let trees = space.path("cache/trees");
    contents(&trees).into_keys().map(|path| trees.join(path)).collect()
}

/// Flips a random bit of a read-only file.
fn flip(path: &Path, dice: &mut Dice) {
    let mut bytes = fs::read(path).unwrap();
    let at = dice.below(bytes.len());
    bytes[at] ^= 1 << dice.below(8);
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_flipped_bit_in_any_object_is_reported_and_repaired() {
    let steps = filling(cases(10, 50));
    let (space, clean, mut dice) = (TestSpace::new(&steps), undisturbed(&steps), Dice(11));
    make(&space).expect(0);
    assert!(space.run(&["verify"]).expect(0).err.contains("all are what they were"));
    for object in objects(&space) {
        flip(&object, &mut dice);
    }
    let count = space.trees().len();
    let run = space.run(&["verify"]).expect(1);
    let named = run.out.lines().filter(|line| line.starts_with("damaged ")).count();
    let files = run.out.lines().filter(|line| line.contains(" has another digest")).count();
    assert_eq!((named, files), (count, 2 * count), "{}", run.out);
    assert!((0..count).all(|i| run.out.contains(&format!(" f{i} (mini)\n"))), "{}", run.out);
    println!("{} objects with a flipped bit, all named", 2 * count);
    assert_eq!(make(&space).expect(0).ran().len(), count);
    assert_equal(&space, &clean, "built again");
    assert!(space.run(&["verify"]).expect(0).err.contains("all are what they were"));
}

#[test]
fn a_flipped_bit_is_never_read_by_a_step_and_never_published() {
    let (count, mut dice) = (cases(3, 25), Dice(13));
    for number in 0..count {
        let steps = filling(4);
        let space = TestSpace::new(&steps);
        make(&space).expect(0);
        let changed = steps.replace("seed: 3,", "seed: 99,");
        let object = space.path(&format!("cache/trees/{}/file{}", space.record("f2").tree, number % 2));
        flip(&object, &mut dice);
        let run = if number % 3 == 0 {
            fs::remove_dir_all(space.path("reports")).unwrap();
            make(&space).expect(0)
        } else {
            space.steps(&changed);
            make(&space).expect(0)
        };
        assert!(run.ran().contains(&"f2"), "{}", run.err);
        assert!(run.err.contains("what `f2` wrote is damaged; it runs again"), "{}", run.err);
        assert_equal(&space, &undisturbed(if number % 3 == 0 { &steps } else { &changed }), "built again");
    }
}

#[test]
fn a_flipped_bit_in_the_state_log_costs_a_run_and_is_reported() {
    let steps = lattice(6, 0);
    let (clean, mut dice, count) = (undisturbed(&steps), Dice(17), cases(10, 100));
    let space = TestSpace::new(&steps);
    make(&space).expect(0);
    let whole = fs::read(space.path("cache/state")).unwrap();
    for attempt in 0..count {
        let mut bytes = whole.clone();
        let at = dice.below(bytes.len());
        bytes[at] ^= 1 << dice.below(8);
        fs::write(space.path("cache/state"), &bytes).unwrap();
        let known: BTreeSet<String> = space.trees().into_keys().collect();
        fs::remove_file(space.path("ran.log")).unwrap_or_default();
        let run = make(&space).expect(0);
        let again: Vec<String> = log(&space).into_keys().filter(|step| known.contains(step)).collect();
        assert_eq!(again, [""; 0], "attempt {attempt}: still known, and run again");
        let lost = clean.trees().len() - known.len();
        assert!(
            lost == 0 || run.err.contains("is damaged") && run.err.contains("counts as absent"),
            "{}",
            run.err
        );
        assert!(lost <= 2, "attempt {attempt}: one bit cost {lost} records");
        assert_equal(&space, &clean, &format!("attempt {attempt}"));
    }
}

#[test]
fn eight_at_once_run_each_step_once() {
    for _ in 0..cases(1, 20) {
        let steps = lattice(24, 3);
        let space = TestSpace::new(&steps);
        let since = Instant::now();
        let children: Vec<_> = (0..8).map(|_| logged(&space, &["make"]).spawn().unwrap()).collect();
        for child in children {
            finished(child.wait_with_output().unwrap()).expect(0);
        }
        assert!(since.elapsed() < Duration::from_secs(60));
        let twice: Vec<_> = log(&space).into_iter().filter(|(_, count)| *count != 1).collect();
        assert_eq!(twice, [], "ran more than once");
        assert_equal(&space, &undisturbed(&steps), "eight at once");
    }
}
