//! Inputs do not change while a step runs, or its result is not stored; and no step removes an input.

use std::fs;
use std::process::Child;
use std::time::Duration;

use super::process::{Run, finished, wait_until};
use super::support::TestSpace;

/// A step that waits for `./go` twice: before and after it reads `{input.f}`.
const READER: &str = r#"(name: "a", stage: "command", inputs: {"f": "./data/f"}, publish: "a",
    params: (shell: "W=PROJECT; touch $W/began; until [ -e $W/read ]; do sleep 0.01; done; find -L {input.f} -type f -exec cat {} + > {out}/x; touch $W/done; until [ -e $W/end ]; do sleep 0.01; done")),"#;

fn reader() -> TestSpace {
    let space = TestSpace::new("");
    space.write("data/other", "");
    space.steps(&READER.replace("PROJECT", &space.path("").display().to_string()));
    space
}

/// Runs the reader. The first action runs before it reads, the second one after.
fn run(space: &TestSpace, before: impl FnOnce(), after: impl FnOnce()) -> Run {
    let child: Child = space.spawn(&["make"]);
    wait_until("it began", || space.path("began").exists());
    // Longer than a tick of the file clock.
    std::thread::sleep(Duration::from_millis(25));
    before();
    space.write("read", "");
    wait_until("it has read", || space.path("done").exists());
    after();
    space.write("end", "");
    let run = finished(child.wait_with_output().unwrap());
    for name in ["began", "read", "done", "end"] {
        fs::remove_file(space.path(name)).unwrap();
    }
    run
}

#[track_caller]
fn is_refused(space: &TestSpace, run: Run, what: &str) {
    let run = run.expect(1);
    let expected = "step `a` failed: its input ./data/f changed while the step ran";
    assert!(run.err.contains(expected) && run.err.contains(what), "{what}: {}", run.err);
    assert!(run.err.contains("run `repro make` again"), "{}", run.err);
    assert_eq!(space.records(), 0, "{what}");
    assert!(!space.path("reports/mini/a/x").exists());
}

/// Each way to change an input and restore it. The next run has the right bytes.
#[test]
fn an_input_that_changed_and_was_restored_is_noticed() {
    let rename =
        |space: &TestSpace, from: &str, to: &str| fs::rename(space.path(from), space.path(to)).unwrap();
    type Act = fn(&TestSpace, &dyn Fn(&TestSpace, &str, &str));
    let roads: [(&str, Act, Act); 6] = [
        ("was written", |space, _| space.write("data/f", "NEW"), |space, _| space.write("data/f", "OLD")),
        (
            "was replaced",
            |space, rename| {
                space.write("g", "NEW");
                rename(space, "g", "data/f");
            },
            |space, rename| {
                space.write("g", "OLD");
                rename(space, "g", "data/f");
            },
        ),
        (
            "was moved and moved back",
            |space, rename| {
                rename(space, "data/f", "kept");
                space.write("data/f", "NEW");
            },
            |space, rename| rename(space, "kept", "data/f"),
        ),
        (
            "./data was moved and moved back",
            |space, rename| {
                rename(space, "data", "kept");
                space.write("data/f", "NEW");
            },
            |space, rename| {
                fs::remove_dir_all(space.path("data")).unwrap();
                rename(space, "kept", "data");
            },
        ),
        (
            "was written",
            |space, _| {
                let times = fs::metadata(space.path("data/f")).unwrap().modified().unwrap();
                space.write("data/f", "NEW");
                fs::File::options()
                    .write(true)
                    .open(space.path("data/f"))
                    .unwrap()
                    .set_modified(times)
                    .unwrap();
            },
            |space, _| space.write("data/f", "OLD"),
        ),
        // Not restored.
        ("was written", |space, _| space.write("data/f", "NEW"), |_, _| ()),
    ];
    for (what, before, after) in roads {
        let space = reader();
        space.write("data/f", "OLD");
        let ended = run(&space, || before(&space, &rename), || after(&space, &rename));
        is_refused(&space, ended, what);
        let now = space.read("data/f");
        run(&space, || (), || ()).expect(0);
        assert_eq!(space.read("reports/mini/a/x"), now, "{what}");
    }
}

#[test]
fn changes_in_an_input_folder_are_noticed_and_changes_next_to_it_are_not() {
    let space = reader();
    space.write("data/f/inner/one", "1");
    let added = || space.write("data/f/two", "2");
    let ended = run(&space, added, || fs::remove_file(space.path("data/f/two")).unwrap());
    is_refused(&space, ended, "./data/f had an entry added, removed or renamed");
    let space = reader();
    space.write("data/f/one", "1");
    let neighbor = || space.write("data/neighbor", "2");
    run(&space, neighbor, || fs::remove_file(space.path("data/neighbor")).unwrap()).expect(0);
    assert_eq!(space.read("reports/mini/a/x"), "1");
}

#[test]
fn a_link_that_pointed_to_another_folder_is_noticed() {
    let space = reader();
    let link = |target: &str| {
        let _ = fs::remove_file(space.path("data/f"));
        std::os::unix::fs::symlink(space.path(target), space.path("data/f")).unwrap();
    };
    space.write("old", "OLD");
    space.write("new", "NEW");
    link("old");
    let ended = run(&space, || link("new"), || link("old"));
    is_refused(&space, ended, "(./data/f was ");
    let ended = run(&space, || space.write("old", "NEW"), || space.write("old", "OLD"));
    is_refused(&space, ended, "./old was written");
    run(&space, || (), || ()).expect(0);
    assert_eq!(space.read("reports/mini/a/x"), "OLD");
}

/// A step that waits in the queue must not start with other bytes than its key names.
#[test]
fn an_input_that_changed_before_its_step_started_is_an_error() {
    let space = TestSpace::new("");
    space.write("f", "OLD");
    let first = format!(
        "touch {}/began; until [ -e {}/go ]; do sleep 0.01; done; echo 1 > {{out}}/s",
        space.path("").display(),
        space.path("").display()
    );
    space.steps(&format!(
        r#"(name: "s", stage: "command", params: (shell: "{first}")),
           (name: "a", stage: "command", inputs: {{"s": "s", "f": "./f"}}, params: (shell: "cat {{input.f}} > {{out}}/x; touch {}/ran"), publish: "a"),"#,
        space.path("").display()
    ));
    let child = space.spawn(&["make"]);
    wait_until("the first began", || space.path("began").exists());
    space.write("f", "NEWER");
    space.write("go", "");
    let run = finished(child.wait_with_output().unwrap()).expect(1);
    assert!(run.err.contains("step `a` failed: its input ./f changed before the step began"), "{}", run.err);
    assert!(!space.path("ran").exists());
    space.make().expect(0);
    assert_eq!(space.read("reports/mini/a/x"), "NEWER");
}

/// A file that a command gets by its own path. It gets a copy of a smaller one.
fn precious() -> String {
    "precious".repeat(1 << 18)
}

/// Each way in which a step removes its only input, as an ordinary user and as this one.
#[test]
fn an_input_that_a_step_removes_is_put_back_or_its_rest_is_kept() {
    let roads = [
        ("mv {input.z} {out}/z", true),
        ("mkdir {out}/deep && mv {input.z} {out}/deep/other && exit 3", true),
        ("mv {input.z} .", true),
        ("mkdir -p {scratch} && mv {input.z} {scratch}/z", true),
        ("cp {input.z} {out}/copy && rm {input.z}", true),
        ("mv $(dirname {input.z}) {out}/raw", true),
        ("mv {input.z} {out}/z && kill -9 $$", true),
        ("tr a-z A-Z < {input.z} > {out}/loud && rm {input.z}", false),
    ];
    for (line, is_back) in roads {
        for as_user in [true, false] {
            let space = TestSpace::new(&format!(
                r#"(name: "a", stage: "command", inputs: {{"z": "./raw/z"}}, params: (shell: "{line}")),"#
            ));
            space.write("raw/z", &precious());
            let mut command =
                if as_user { space.command_as_user(&["make"]) } else { space.command(&["make"]) };
            let run = finished(command.output().unwrap()).expect(1);
            assert_eq!(space.records(), 0);
            assert!(space.cached("work").is_empty(), "{line}");
            if is_back {
                assert!(space.read("raw/z") == precious(), "{line}: {}", run.err);
                assert!(run.err.contains("was taken away; it is back in its place"), "{line}: {}", run.err);
                assert!(space.cached("recovered").is_empty(), "{line}");
            } else {
                assert!(run.err.contains("its input ./raw/z is not there any more"), "{line}: {}", run.err);
                let [kept] = &space.cached("recovered")[..] else { panic!("{line}: {}", run.err) };
                assert!(run.err.contains(&format!("recovered/{kept}")), "{}", run.err);
                let loud = space.read(&format!("cache/recovered/{kept}/out/loud"));
                assert!(loud == precious().to_uppercase());
                // Only a person removes it.
                space.run(&["gc", "--force"]).expect(0);
                assert_eq!(space.cached("recovered").len(), 1);
            }
        }
    }
}

/// A kill of a run while the only copy is in its work directory.
#[test]
fn an_input_in_the_work_directory_of_a_killed_run_is_kept() {
    let space = TestSpace::new(
        r#"(name: "a", stage: "command", inputs: {"z": "./z"}, params: (shell: "mv {input.z} {out}/z; sleep 60")),
           (name: "b", stage: "command", params: (shell: "echo 1 > {out}/x")),"#,
    );
    space.write("z", &precious());
    std::thread::sleep(Duration::from_millis(25));
    let mut child = space.spawn(&["make", "a"]);
    wait_until("it is moved", || !space.path("z").exists());
    child.kill().unwrap();
    child.wait().unwrap();
    let run = space.run(&["make", "b"]).expect(0);
    let [kept] = &space.cached("recovered")[..] else { panic!("{}", run.err) };
    assert!(
        run.err.contains("moved files into its work directory") && run.err.contains(kept.as_str()),
        "{}",
        run.err
    );
    assert!(space.read(&format!("cache/recovered/{kept}/out/z")) == precious());
}
