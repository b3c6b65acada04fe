//! A stored output belongs to the store: no process continues to write in it, its modes and links cause no errors,
//! and an altered output is neither read nor published.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use super::command::sleepers;
use super::process::{Run, finished, wait_until};
use super::support::TestSpace;

fn tree(space: &TestSpace, step: &str) -> std::path::PathBuf {
    space.path(&format!("cache/trees/{}", space.record(step).tree))
}

fn make_as_user(space: &TestSpace, args: &[&str]) -> Run {
    finished(space.command_as_user(args).output().unwrap())
}

#[test]
fn children_of_a_step_end_with_it_in_any_session() {
    let roads = [
        "setsid sleep 71.5 & sleep 0.1",
        "nohup sleep 71.5 > /dev/null 2>&1 & sleep 0.1",
        "(setsid sh -c 'sleep 71.5 & sleep 71.5' &) ; sleep 0.1",
        "setsid setsid -f setsid -f sleep 71.5; sleep 0.1",
        "setsid env -i /bin/sleep 71.5 & sleep 0.1; exit 3",
    ];
    for line in roads {
        for sandbox in ["", r#", sandbox: "report""#] {
            let steps =
                format!(r#"(name: "a", stage: "command", params: (shell: "cd /; {line}"{sandbox})),"#);
            let space = TestSpace::new(&steps);
            let since = std::time::Instant::now();
            space.make();
            assert_eq!(sleepers("71.5"), 0, "{line}{sandbox}");
            assert!(since.elapsed() < Duration::from_secs(20), "{line}");
        }
    }
}

/// A shell would continue with its next line when the program it waits for is killed, unless it is stopped first.
#[test]
fn children_of_a_step_write_nothing_while_they_are_ended() {
    let waiting = "setsid sh -c 'sleep 73.5; echo late >> $0' {out}/x &";
    let piped = "setsid sh -c 'sleep 73.5 | cat; echo late >> $0' {out}/x &";
    let line = format!("echo good > {{out}}/x; for i in $(seq 20); do {waiting} {piped} done; sleep 0.3");
    let steps = format!(r#"(name: "a", stage: "command", params: (shell: "{line}"), publish: "a"),"#);
    for _ in 0..5 {
        let space = TestSpace::new(&steps);
        space.run(&["make"]).expect(0);
        assert_eq!(space.read("reports/mini/a/x"), "good\n");
    }
}

#[test]
fn processes_that_left_their_group_end_with_a_killed_run() {
    let space = TestSpace::new(
        r#"(name: "a", stage: "command", params: (shell: "setsid sleep 72.5 & sleep 72.5")),"#,
    );
    let mut child = space.spawn(&["make"]);
    wait_until("both sleep", || sleepers("72.5") >= 2);
    std::thread::sleep(Duration::from_millis(100));
    child.kill().unwrap();
    child.wait().unwrap();
    wait_until("none of it is left", || sleepers("72.5") == 0);
}

#[test]
fn a_concurrent_step_is_not_ended() {
    let space = TestSpace::new(
        r#"(name: "a", stage: "command", params: (shell: "sleep 0.1")),
           (name: "b", stage: "command", params: (shell: "setsid sleep 0.7 & (wait; sleep 0.5); wait; echo $? > {out}/x"), publish: "b"),
           (name: "c", stage: "command", params: (shell: "setsid sh -c 'sleep 0.4; echo late > {out}/x'"), publish: "c"),"#,
    );
    space.run(&["make", "-j", "3"]).expect(0);
    assert_eq!(space.read("reports/mini/b/x"), "0\n");
    assert_eq!(space.read("reports/mini/c/x"), "late\n");
}

/// A process that no step has started and that holds an output file open.
#[test]
fn bytes_written_into_a_stored_result_are_neither_read_nor_published() {
    let space = TestSpace::new("");
    let here = space.path("").display().to_string();
    space.steps(&format!(
        r#"(name: "a", stage: "command", params: (shell: "echo good > {{out}}/x; echo {{out}}/x > {here}/where; until [ -e {here}/held ]; do sleep 0.01; done"), publish: "a"),
           (name: "slow", stage: "command", inputs: {{"i": "a/x"}}, params: (shell: "touch {here}/slow; until [ -e {here}/go ]; do sleep 0.01; done; cat {{input.i}} > {{out}}/y"), publish: "slow"),"#
    ));
    let child = space.spawn(&["make"]);
    wait_until("a has written", || space.path("where").exists() && space.read("where").ends_with('\n'));
    let mut held = fs::File::options().append(true).open(space.read("where").trim()).unwrap();
    space.write("held", "");
    wait_until("the next one runs", || space.path("slow").exists());
    std::thread::sleep(Duration::from_millis(25));
    std::io::Write::write_all(&mut held, b"EVIL\n").unwrap();
    space.write("go", "");
    let run = finished(child.wait_with_output().unwrap()).expect(1);
    assert!(run.err.contains("the result of `a` that it reads changed while the step ran"), "{}", run.err);
    assert!(!space.path("reports/mini/slow/y").exists());
    drop(held);
    let run = space.make().expect(0);
    assert_eq!(run.ran(), ["a", "slow"]);
    assert_eq!(space.read("reports/mini/a/x"), "good\n");
    assert_eq!(space.read("reports/mini/slow/y"), "good\n");
    space.run(&["verify"]).expect(0);
}

const IN_PLACE: &str = r#"
    (name: "base", stage: "command", publish: "base", params: (shell: "mkdir {out}/in; echo accuracy 0.71 | tee {out}/in/b > {out}/a")),
    (name: "sorted", stage: "command", publish: "sorted", inputs: {"d": "base"}, params: (shell: "ACT; cat {input.d}/a > {out}/x")),
    (name: "later", stage: "command", publish: "later", inputs: {"d": "base/a", "s": "sorted"}, params: (shell: "cat {input.d} > {out}/x")),
"#;

#[test]
fn a_step_that_alters_its_input_fails_and_is_not_published() {
    for act in [
        "sed -i s/0.71/0.99/ {input.d}/a",
        "chmod u+w {input.d}/a; sed -n p {input.d}/a > t; touch -r {input.d}/a t; echo accuracy 0.99 > {input.d}/a; touch -r t {input.d}/a",
        "chmod u+w {input.d}; rm -f {input.d}/a; echo accuracy 0.99 > {input.d}/a",
        "chmod -R u+w {input.d}; touch {input.d}/in/more",
        "chmod -R u+w {input.d}; rm -f {input.d}/in/b",
    ] {
        for as_user in [true, false] {
            let space = TestSpace::new(&IN_PLACE.replace("ACT", act));
            let run = match as_user {
                true => make_as_user(&space, &["make"]).expect(1),
                false => space.make().expect(1),
            };
            assert!(run.err.contains("step `sorted` failed: "), "{act}: {}", run.err);
            assert!(
                !space.path("reports/mini/sorted").exists() && !space.path("reports/mini/later").exists()
            );
            space.steps(&IN_PLACE.replace("ACT", "true"));
            let run = match as_user {
                true => make_as_user(&space, &["make"]).expect(0),
                false => space.make().expect(0),
            };
            for file in ["base/a", "base/in/b", "sorted/x", "later/x"] {
                assert_eq!(
                    space.read(&format!("reports/mini/{file}")),
                    "accuracy 0.71\n",
                    "{act}: {}",
                    run.err
                );
            }
            space.run(&["verify"]).expect(0);
        }
    }
}

/// The evidence holds the bytes of `base`, so they are not missing; but the step has read others.
#[test]
fn a_step_that_alters_a_result_in_the_evidence_fails_too() {
    // The evidence holds what published steps read, not what is published itself.
    let steps = |act: &str| IN_PLACE.replace("ACT", act).replace(r#"publish: "base", "#, "");
    let space = TestSpace::new(&steps("true"));
    space.make();
    space.run(&["evidence"]).expect(0);
    space.steps(&steps("sed -i s/0.71/0.99/ {input.d}/a"));
    let run = space.run(&["make"]).expect(1);
    assert!(
        run.err.contains("step `sorted` failed: the result of `base` that it reads changed"),
        "{}",
        run.err
    );
    assert_eq!(space.read("reports/mini/sorted/x"), "accuracy 0.71\n");
}

/// By an undeclared path, so that its own inputs are unchanged.
#[test]
fn a_result_that_is_altered_in_its_own_run_is_rebuilt_before_it_is_used() {
    let space = TestSpace::new("");
    let trees = space.path("cache/trees").display().to_string();
    let steps = format!(
        r#"(name: "base", stage: "command", publish: "base", params: (shell: "echo accuracy 0.71 > {{out}}/a")),
           (name: "spoils", stage: "command", inputs: {{"m": "base/a"}}, params: (shell: "sleep 0.05; cat {{input.m}} > {{out}}/m")),
           (name: "evil", stage: "command", inputs: {{"m": "spoils"}}, params: (shell: "chmod -R u+w {trees}; for f in {trees}/*/a; do echo accuracy 0.99 > $f; done; echo 1 > {{out}}/x")),
           (name: "later", stage: "command", publish: "later", inputs: {{"e": "evil", "d": "base/a"}}, params: (shell: "cat {{input.d}} > {{out}}/x")),"#
    );
    space.steps(&steps);
    let run = space.make().expect(0);
    assert_eq!(space.read("reports/mini/base/a"), "accuracy 0.71\n", "{}", run.err);
    assert_eq!(space.read("reports/mini/later/x"), "accuracy 0.71\n", "{}", run.err);
    // The last step of the run: no step reads the result after it.
    let space = TestSpace::new("");
    let trees = space.path("cache/trees").display().to_string();
    space.steps(&format!(
        r#"(name: "base", stage: "command", publish: "base", params: (shell: "echo accuracy 0.71 > {{out}}/a")),
           (name: "next", stage: "command", inputs: {{"m": "base/a"}}, params: (shell: "cat {{input.m}} > {{out}}/m")),
           (name: "evil", stage: "command", inputs: {{"m": "next"}}, params: (shell: "chmod -R u+w {trees}; for f in {trees}/*/a; do echo accuracy 0.99 > $f; done; echo 1 > {{out}}/x")),"#
    ));
    let run = space.make().expect(0);
    assert_eq!(space.read("reports/mini/base/a"), "accuracy 0.71\n", "{}", run.err);
    assert!(run.err.contains("warning: "), "{}", run.err);
}

#[test]
fn folders_and_files_of_a_result_become_read_only() {
    let space = TestSpace::new(
        r#"(name: "a", stage: "command", params: (shell: "umask 000; mkdir -p {out}/d/e; echo 1 > {out}/d/e/f; echo '#!/bin/sh' > {out}/p; chmod 755 {out}/p; echo 2 > {out}/d/none; chmod 000 {out}/d/none; chmod 000 {out}/d; chmod 100 {out}")),"#,
    );
    make_as_user(&space, &["make"]).expect(0);
    let tree = tree(&space, "a");
    let mode = |path: &str| fs::metadata(tree.join(path)).unwrap().mode() & 0o777;
    for (path, expected) in
        [("", 0o555), ("d", 0o555), ("d/e", 0o555), ("d/e/f", 0o444), ("p", 0o555), ("d/none", 0o444)]
    {
        assert_eq!(mode(path), expected, "{path}");
    }
    make_as_user(&space, &["verify"]).expect(0);
    space.steps("");
    make_as_user(&space, &["gc"]).expect(0);
    assert!(!tree.exists());
}

const PROTECTED: &str = r#"
    (name: "clean", stage: "command", inputs: {"raw": "./raw"}, params: (shell: "cp -r {input.raw} {out}/raw; cp -r {input.raw} copy; mkdir -p {scratch}; cp -r {input.raw} {scratch}/raw; chmod 555 {scratch} {out} .; echo no such column >&2; END")),
    (name: "other", stage: "command", publish: "other", params: (shell: "echo fine > {out}/f")),
"#;

#[test]
fn read_only_folders_of_a_step_stop_no_run() {
    for end in ["exit 3", "kill -9 $$"] {
        let space = TestSpace::new(&PROTECTED.replace("END", end));
        space.write("raw/2024/a.csv", "1,2");
        for folder in ["raw/2024", "raw"] {
            fs::set_permissions(space.path(folder), fs::Permissions::from_mode(0o555)).unwrap();
        }
        let run = make_as_user(&space, &["make", "clean"]).expect(1);
        assert!(run.err.contains("no such column") || run.err.contains("signal 9"), "{}", run.err);
        assert!(!run.err.contains("ermission"), "{}", run.err);
        assert!(space.cached("work").is_empty(), "{:?}", space.cached("work"));
        make_as_user(&space, &["make", "other"]).expect(0);
        space.steps(&PROTECTED.replace("END", "true"));
        make_as_user(&space, &["make"]).expect(0);
        assert_eq!(fs::read_to_string(tree(&space, "clean").join("raw/2024/a.csv")).unwrap(), "1,2");
        make_as_user(&space, &["make", "--force", "clean"]).expect(0);
        make_as_user(&space, &["verify", "--rerun", "clean"]).expect(0);
        space.steps(
            &PROTECTED
                .split_once("(name: \"other\"")
                .map(|(_, other)| format!("(name: \"other\"{other}"))
                .unwrap(),
        );
        make_as_user(&space, &["gc"]).expect(0);
        assert!(space.cached("work").is_empty() && space.cached("scratch").is_empty());
        assert_eq!(space.cached("trees").len(), 1);
        // So that the project can be removed.
        for folder in ["raw", "raw/2024"] {
            fs::set_permissions(space.path(folder), fs::Permissions::from_mode(0o755)).unwrap();
        }
    }
}

/// What killed runs left; this user cannot remove one of the folders at all.
#[test]
fn leftovers_that_cannot_be_removed_are_reported_once_and_stop_no_run() {
    let space = TestSpace::new(r#"(name: "a", stage: "command", params: (shell: "echo fine > {out}/f")),"#);
    make_as_user(&space, &["make"]).expect(0);
    for name in ["0-stuck", "0-closed-gone"] {
        space.write(&format!("cache/work/{name}/out/file"), "1");
    }
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let mut command = space.command_as_user(&["make", "--force", "a"]);
    for (folder, user) in [("0-stuck/out", 0), ("0-stuck", 0)] {
        std::os::unix::fs::chown(space.path(&format!("cache/work/{folder}")), Some(user), None).unwrap();
    }
    let run = finished(command.output().unwrap()).expect(0);
    assert!(run.err.matches("warning: cannot remove what an earlier run left: ").count() == 1, "{}", run.err);
    let left = space.cached("work");
    assert!(left.len() == 1 && left[0].starts_with("0-stuck"), "{left:?}");
    for _ in 0..3 {
        make_as_user(&space, &["make", "--force", "a"]);
    }
    assert!(space.cached("work").iter().all(|name| name.len() < 20), "{:?}", space.cached("work"));
}

#[test]
fn a_replaced_output_folder_is_an_error_and_its_link_target_stays() {
    for (line, found) in [
        ("rm -rf {out}; ln -s BIG {out}", "a symbolic link"),
        ("rmdir {out}; echo result > BIG/result; ln -s BIG {out}", "a symbolic link"),
        ("rmdir {out}; echo 1 > {out}", "a file"),
        ("rmdir {out}; mkfifo {out}", "a special file"),
        ("rmdir {out}", "missing"),
        ("ln -s BIG/notes {out}/notes", "a symbolic link"),
        ("ln -s BIG {out}/notes", "a symbolic link"),
    ] {
        let space = TestSpace::new("");
        let big = space.path("big").display().to_string();
        space.write("big/notes", "mine");
        space.steps(&format!(
            r#"(name: "a", stage: "command", params: (shell: "{}")),"#,
            line.replace("BIG", &big)
        ));
        let run = space.make().expect(1);
        assert!(run.err.contains("step `a` failed: ") && run.err.contains(found), "{line}: {}", run.err);
        assert_eq!(space.records(), 0);
        assert_eq!(space.read("big/notes"), "mine");
        assert_eq!(fs::metadata(space.path("big/notes")).unwrap().mode() & 0o222, 0o200, "{line}");
        assert!(space.cached("work").is_empty() && space.cached("trees").is_empty(), "{line}");
    }
}

#[test]
fn a_step_that_replaces_its_log_or_folder_affects_no_other_step() {
    let space = TestSpace::new("");
    space.write("secret", "secret");
    let secret = space.path("secret").display().to_string();
    space.steps(&format!(
        r#"(name: "a", stage: "command", params: (shell: "cd /; rmdir {{out}}/../cwd; ln -s /usr {{out}}/../cwd; rm {{out}}/../log; ln -s {secret} {{out}}/../log; echo 1 >> $REPRO_METRICS")),
           (name: "f", stage: "command", params: (shell: "rm {{out}}/../log; mkfifo {{out}}/../log; echo 1 >> $REPRO_METRICS; exit 3")),
           (name: "b", stage: "command", inputs: {{"a": "a"}}, params: (shell: "ls > {{out}}/x")),"#
    ));
    space.run(&["make", "-k", "-j", "1"]).expect(1);
    assert_eq!(fs::read_to_string(tree(&space, "b").join("x")).unwrap(), "");
    assert!(space.cached("logs").is_empty(), "{:?}", space.cached("logs"));
    assert_eq!(space.read("secret"), "secret");
}

fn links(path: &Path) -> u64 {
    fs::metadata(path).unwrap().nlink()
}

#[test]
fn a_hard_link_in_the_output_becomes_a_copy_and_the_other_name_stays() {
    let space = TestSpace::new(
        r#"(name: "copy", stage: "command", publish: "copy", inputs: {"d": "./data"}, params: (shell: "cp -rl {input.d}/. {out}; ln {out}/a {out}/twin; mkdir {out}/in; ln {out}/a {out}/in/third")),
           (name: "again", stage: "command", inputs: {"d": "copy"}, params: (shell: "cp -rl {input.d}/. {out} || cp -r {input.d}/. {out}")),"#,
    );
    space.write("data/a", "original");
    space.write("data/b", "other");
    let run = make_as_user(&space, &["make"]).expect(0);
    for name in ["data/a", "data/b"] {
        let metadata = fs::metadata(space.path(name)).unwrap();
        assert_eq!((metadata.nlink(), metadata.mode() & 0o200), (1, 0o200), "{name}: {}", run.err);
    }
    for step in ["copy", "again"] {
        for name in ["a", "twin", "in/third"] {
            let file = tree(&space, step).join(name);
            assert_eq!(
                (links(&file), fs::read_to_string(&file).unwrap().as_str()),
                (1, "original"),
                "{step} {name}"
            );
        }
    }
    // The user continues to write the file; the result stays.
    space.write("data/a", "changed");
    space.run(&["verify"]).expect(0);
    assert_eq!(space.read("reports/mini/copy/a"), "original");
}
