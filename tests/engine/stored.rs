//! Stored results: damaged bytes are never read, whichever user owns them. Modes, executable bits and names are
//! restored everywhere, and evidence is the old or the new one.

use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::process::{Run, finished};
use super::support::TestSpace;

const STEPS: &str = r#"
    (name: "base", stage: "join", params: (text: "0.71"), publish: "base"),
    (name: "next", stage: "join", inputs: {"in": ["base/text"]}, publish: "next"),
"#;

/// The same steps, but the first one does not publish.
fn first_unpublished() -> String {
    STEPS.replace(", publish: \"base\"", "")
}

fn built() -> TestSpace {
    let space = TestSpace::new(STEPS);
    space.make().expect(0);
    space
}

fn tree(space: &TestSpace, step: &str) -> PathBuf {
    space.path("cache/trees").join(space.record(step).tree.to_string())
}

/// Changes bytes of a result, as a bad disk or a person does.
fn damage(space: &TestSpace, step: &str) {
    let text = tree(space, step).join("text");
    fs::set_permissions(&text, Permissions::from_mode(0o644)).unwrap();
    fs::write(&text, "0.99").unwrap();
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn nothing_reads_a_damaged_result() {
    let space = built();
    damage(&space, "base");
    let is_named = |run: Run| {
        assert!(
            run.err.contains("text has another digest") && !run.out.contains("0.99"),
            "{} {}",
            run.out,
            run.err
        );
    };
    is_named(space.run(&["read", "base"]).expect(1));
    is_named(space.run(&["show", "base"]).expect(1));
    // Evidence holds what a published step reads if it is not published itself.
    space.steps(&first_unpublished());
    is_named(space.run(&["evidence"]).expect(1));
    assert!(!space.path("reports/evidence").exists());
    space.steps(STEPS);
    let store = space.path("store").display().to_string();
    is_named(space.run(&["push", "--remote", &store]).expect(1));
    assert!(!space.path("store/v1/records").join(space.record("base").key_text.key().to_string()).exists());
    let shown: serde_json::Value =
        serde_json::from_str(&space.run(&["show", "base", "--json"]).expect(1).out).unwrap();
    assert_eq!(shown["result"]["problem"], "it is damaged (text has another digest)");
    // Intact results are still read.
    assert_eq!(space.run(&["read", "next"]).expect(0).out, "next (0.71)\n");
    // A run builds it again.
    fs::remove_dir_all(space.path("reports")).unwrap();
    assert_eq!(space.make().expect(0).ran(), ["base"]);
    assert_eq!(space.read("reports/mini/base/text"), "0.71");
    assert_eq!(space.run(&["read", "base"]).expect(0).out, "base 0.71\n");
}

#[test]
fn a_result_damaged_in_its_own_run_is_neither_read_nor_published() {
    let edit = r#"
        (name: "base", stage: "command", params: (shell: "echo 0.71 > {out}/text"), publish: "base"),
        (name: "edit", stage: "command", inputs: {"d": "base"},
         params: (shell: "chmod -R u+w {input.d}; sleep 0.1; echo 0.99 > {input.d}/text; echo done > {out}/x")),
        (name: "last", stage: "command", inputs: {"d": "base/text", "after": "edit"},
         params: (shell: "cat {input.d} > {out}/seen"), publish: "last"),
    "#;
    let space = TestSpace::new(edit);
    space.make();
    for file in ["base/text", "last/seen"] {
        let found = fs::read_to_string(space.path("reports/mini").join(file)).unwrap_or_default();
        assert_ne!(found, "0.99\n", "{file}");
    }
}

#[test]
fn stored_and_published_files_have_the_modes_of_their_folder() {
    let steps = r#"(name: "a", stage: "command", publish: "a", params: (shell: "cd {out} && mkdir -p d/e && for f in
        private none open; do echo $f > $f; echo $f > d/e/$f; done && echo x > tool && chmod 600 private d/e/private &&
        chmod 000 none d/e/none && chmod 666 open && chmod 711 tool && chmod 700 d && chmod 000 d/e")),"#;
    for umask in [0o022, 0o002, 0o077] {
        let space = TestSpace::new(&steps.replace('\n', " "));
        let command = format!("umask {umask:03o}; exec \"$0\" make");
        let program = space.command(&[]).get_program().to_owned();
        let run = Command::new("sh").arg("-c").arg(command).arg(program).current_dir(space.path("")).output();
        finished(run.unwrap()).expect(0);
        let tree = tree(&space, "a");
        let file = 0o444 & !umask;
        for path in ["private", "none", "open", "d/e/private", "d/e/none"] {
            assert_eq!(mode(&tree.join(path)), file, "{path}, umask {umask:o}");
            assert_eq!(
                mode(&space.path("reports/mini/a").join(path)),
                0o666 & !umask,
                "{path}, umask {umask:o}"
            );
        }
        assert_eq!(mode(&tree.join("tool")), 0o555 & !umask);
        assert_eq!(mode(&space.path("reports/mini/a/tool")), 0o777 & !umask);
        for folder in ["", "d", "d/e"] {
            assert_eq!(mode(&tree.join(folder)), 0o555 & !umask, "{folder}, umask {umask:o}");
        }
        assert_eq!(mode(&space.path("cache/state")) & 0o777, 0o666 & !umask);
        space.run(&["verify"]).expect(0);
        // Read-only folders can still be removed.
        space.steps("");
        space.run(&["gc"]).expect(0);
        assert!(!tree.exists() && space.cached("work").is_empty());
    }
}

/// The program as another user, if this one may become another one.
fn as_other_user(space: &TestSpace, args: &[&str]) -> Option<Run> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let mut setpriv = Command::new("setpriv");
    setpriv.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(space.command(&[]).get_program());
    setpriv.args(args).current_dir(space.path("")).env("HOME", "/");
    Some(finished(setpriv.output().unwrap()))
}

fn share_with_all(path: &Path) {
    if path.is_dir() {
        fs::set_permissions(path, Permissions::from_mode(mode(path) | 0o777)).unwrap();
        fs::read_dir(path).unwrap().for_each(|item| share_with_all(&item.unwrap().path()));
    } else if mode(path) & 0o200 != 0 {
        fs::set_permissions(path, Permissions::from_mode(mode(path) | 0o666)).unwrap();
    }
}

#[test]
fn a_result_that_a_second_user_cannot_read_is_reported_and_stays() {
    let space = built();
    share_with_all(&space.path(""));
    let text = tree(&space, "base").join("text");
    fs::set_permissions(&text, Permissions::from_mode(0o400)).unwrap();
    fs::remove_dir_all(space.path("reports")).unwrap();
    for args in [&["make"][..], &["verify"], &["show", "base"], &["read", "base"]] {
        let Some(run) = as_other_user(&space, args) else { return };
        let run = run.expect(1);
        assert!(
            run.err.contains("Permission denied") || run.out.contains("Permission denied"),
            "{args:?}: {}",
            run.err
        );
        assert!((run.err + &run.out).contains(text.to_str().unwrap()), "{args:?}");
        assert!(text.exists() && space.records() == 2, "{args:?}");
    }
    space.steps(&first_unpublished());
    let run = as_other_user(&space, &["evidence"]).unwrap().expect(1);
    assert!(run.err.contains("Permission denied"), "{}", run.err);
    space.steps(
        &STEPS.replace("{\"in\": [\"base/text\"]}", "{\"in\": [\"base/text\"]}, params: (text: \"new\")"),
    );
    let run = as_other_user(&space, &["make", "next"]).unwrap().expect(1);
    assert!(run.err.contains("Permission denied") && run.ran().is_empty(), "{}", run.err);
    // A user who may read them finds everything unchanged.
    fs::set_permissions(&text, Permissions::from_mode(0o444)).unwrap();
    assert_eq!(as_other_user(&space, &["make"]).unwrap().expect(0).ran(), ["next"]);
}

/// The right bytes replace a folder that only its owner may move, and its owner's `gc` removes it.
#[test]
fn a_damaged_result_of_another_user_is_replaced_in_a_cache_that_a_group_shares() {
    let space = built();
    share_with_all(&space.path(""));
    let base = tree(&space, "base");
    let text = base.join("text");
    let right = fs::read(&text).unwrap();
    fs::set_permissions(&text, Permissions::from_mode(0o644)).unwrap();
    fs::write(&text, "wrong").unwrap();
    fs::set_permissions(&text, Permissions::from_mode(0o444)).unwrap();
    fs::set_permissions(&base, Permissions::from_mode(0o555)).unwrap();
    fs::remove_dir_all(space.path("reports")).unwrap();
    let Some(run) = as_other_user(&space, &["make"]) else { return };
    assert_eq!(run.expect(0).ran(), ["base"]);
    assert_eq!(fs::read(&text).unwrap(), right);
    let old = |space: &TestSpace| space.cached("trees").iter().filter(|name| name.contains("-old-")).count();
    assert_eq!(old(&space), 1);
    space.run(&["verify"]).expect(0);
    space.run(&["gc"]).expect(0);
    assert!(old(&space) == 0 && base.exists());
}

/// A tool with that mode, and a step that shows whether it is executable.
fn tool(mode: &str) -> String {
    let steps = r#"
    (name: "tool", stage: "command", publish: "tool",
     params: (shell: "printf '#!/bin/sh\\necho built\\n' > {out}/tool; chmod MODE {out}/tool")),
    (name: "use", stage: "command", inputs: {"t": "tool/tool"}, publish: "use",
     params: (stdout: "said", shell: "test -x {input.t} && {input.t} || echo may not")),
    "#;
    steps.replace("MODE", mode)
}

#[test]
fn the_executable_bit_is_restored_everywhere_and_its_change_counts() {
    let space = TestSpace::new(&tool("755"));
    space.make().expect(0);
    assert_eq!(space.read("reports/mini/use/said"), "built\n");
    let (with, key) = (space.trees(), space.record("use").key_text.key());
    // Without the bit it is another tree, and its readers run again.
    space.steps(&tool("644"));
    assert_eq!(space.make().expect(0).ran(), ["tool", "use"]);
    assert_eq!(space.read("reports/mini/use/said"), "may not\n");
    assert_ne!(space.trees()["tool"], with["tool"]);
    assert_ne!(space.record("use").key_text.key(), key);
    assert_eq!(mode(&space.path("reports/mini/tool/tool")) & 0o111, 0);
    space.steps(&tool("755"));
    space.make().expect(0);
    assert_ne!(mode(&space.path("reports/mini/tool/tool")) & 0o100, 0);
    // From a remote cache.
    let store = space.path("store").display().to_string();
    space.run(&["push", "--remote", &store]).expect(0);
    let other = TestSpace::new(&tool("755"));
    assert_eq!(other.run(&["make", "--remote", &store]).expect(0).ran(), [""; 0]);
    assert_ne!(mode(&other.path("reports/mini/tool/tool")) & 0o100, 0);
    assert_eq!(other.trees(), with);
    other.run(&["verify"]).expect(0);
    // From evidence.
    space.run(&["evidence"]).expect(0);
    let clone = TestSpace::new(&tool("755"));
    Command::new("cp").arg("-r").arg(space.path("reports")).arg(clone.path("")).status().unwrap();
    assert!(
        clone.make().expect(0).err.contains("nothing to do")
            || clone.read("reports/mini/use/said") == "built\n"
    );
    // A lost bit is damage and is restored.
    let file = space.path(&format!("cache/trees/{}/tool", with["tool"]));
    fs::set_permissions(&file, Permissions::from_mode(0o444)).unwrap();
    let run = space.run(&["verify"]).expect(1);
    assert!(run.out.contains("tool is no longer executable"), "{}", run.out);
    assert!(!space.make().expect(0).err.contains("failed"));
}

#[test]
fn files_of_any_name_are_stored_published_and_fetched_or_an_error() {
    let names = [
        "end\r",
        "a\rb",
        "line\nbreak",
        "\u{1b}[31mred",
        "tab\t",
        " ",
        "back\\slash",
        "quote\"",
        "-n",
        "\u{e4}",
    ];
    let space = TestSpace::new(
        r#"(name: "a", stage: "command", inputs: {"f": "./names"}, publish: "a",
        params: (shell: "cp -r {input.f}/. {out}")),"#,
    );
    fs::create_dir(space.path("names")).unwrap();
    for name in names {
        fs::write(space.path("names").join(name), name).unwrap();
    }
    space.make().expect(0);
    let all =
        |folder: PathBuf| names.iter().all(|name| fs::read_to_string(folder.join(name)).unwrap() == *name);
    assert!(all(space.path("reports/mini/a")));
    assert!(space.make().expect(0).err.starts_with("nothing to do"));
    space.run(&["verify"]).expect(0);
    let shown = space.run(&["show", "a"]).expect(0).out;
    assert!(
        shown.contains("end\\r") && shown.contains("line\\nbreak") && !shown.contains('\u{1b}'),
        "{shown}"
    );
    fs::remove_dir_all(space.path("reports")).unwrap();
    assert_eq!(space.make().expect(0).ran(), [""; 0], "it is not damaged");
    let store = space.path("store").display().to_string();
    space.run(&["push", "--remote", &store]).expect(0);
    space.run(&["evidence"]).expect(0);
    fs::remove_dir_all(space.path("cache")).unwrap();
    fs::remove_dir_all(space.path("reports")).unwrap();
    assert_eq!(space.run(&["make", "--remote", &store]).expect(0).ran(), [""; 0]);
    assert!(all(space.path("reports/mini/a")));
    // A name that is not Unicode.
    space.steps(r#"(name: "a", stage: "command", params: (shell: "touch {out}/$(printf 'caf\\351\\r')")),"#);
    let run = space.make().expect(1);
    assert!(
        run.err.contains("step `a` failed") && run.err.contains("caf\\xe9\\r: its name is not UTF-8"),
        "{}",
        run.err
    );
    assert!(!space.path("names").join(std::ffi::OsStr::from_bytes(b"caf\xe9\r")).exists());
}

#[test]
fn an_unreadable_newer_record_does_not_hide_an_older_one() {
    let space = built();
    let state = space.read("cache/state");
    let line = state.lines().find(|line| line.contains("\"step\":\"next\"")).unwrap();
    let text = line.split_once(' ').unwrap().1.replace("\"seconds\":", "\"took\":");
    let line = format!("{:016x} {text}\n", xxhash_rust::xxh3::xxh3_64(text.as_bytes()));
    fs::write(space.path("cache/state"), format!("{state}{line}")).unwrap();
    assert_eq!(space.records(), 2);
    assert_eq!(space.make().expect(0).ran(), [""; 0]);
    assert!(space.run(&["show", "next"]).expect(0).out.contains("fresh"));
    // Also after a rewrite of the log.
    let log = space.read("cache/state");
    fs::write(space.path("cache/state"), log.repeat(1_500_000 / log.len())).unwrap();
    space.run(&["make", "--force", "base"]).expect(0);
    assert_eq!(space.records(), 2);
}

#[test]
fn evidence_is_the_old_or_the_new_one_after_a_kill() {
    let steps = |text: &str| {
        format!(
            r#"(name: "data", stage: "fill", params: (seed: 1, kilobytes: 1, files: 60)),
            (name: "train", stage: "join", params: (text: "{text}"), inputs: {{"in": ["data/file0"]}}),
            (name: "table", stage: "join", inputs: {{"in": ["train", "data"]}}, publish: "t"),"#
        )
    };
    let space = TestSpace::new(&steps("one"));
    let mut versions: Vec<Vec<u8>> = Vec::new();
    let records = space.path("reports/evidence/mini/records.jsonl");
    for text in ["one", "two"] {
        space.steps(&steps(text));
        space.make().expect(0);
        space.run(&["evidence"]).expect(0);
        versions.push(fs::read(&records).unwrap());
    }
    for round in 0..60 {
        space.steps(&steps(["one", "two"][round % 2]));
        let mut child = space.spawn(&["evidence"]);
        std::thread::sleep(Duration::from_micros(round as u64 * 700));
        let _ = child.kill();
        child.wait().unwrap();
        let found = fs::read(&records).expect("there is evidence");
        assert!(versions.contains(&found), "round {round}");
        let names = fs::read_dir(space.path("reports/evidence")).unwrap();
        let names: Vec<_> = names.map(|item| item.unwrap().file_name()).collect();
        assert_eq!(names, ["mini"], "round {round}");
        let trees = fs::read_dir(space.path("reports/evidence/mini/trees/data")).unwrap().count();
        assert_eq!(trees, 60, "round {round}");
    }
    space.make().expect(0);
    space.run(&["evidence"]).expect(0);
    assert!(space.cached("work").is_empty());
}

#[test]
fn no_path_in_a_stored_file_leads_out_of_its_folder() {
    // The log in a record.
    let space = built();
    space.write("secret", "secret words");
    let secret = space.path("secret").display().to_string();
    let state = space.read("cache/state");
    let log = space.record("base").log;
    let lines = state.lines().map(|line| {
        let text = line.split_once(' ').unwrap().1.replace(&log, &secret);
        format!("{:016x} {text}\n", xxhash_rust::xxh3::xxh3_64(text.as_bytes()))
    });
    fs::write(space.path("cache/state"), lines.collect::<String>()).unwrap();
    fs::remove_file(space.path("cache").join(&log)).unwrap();
    let run = space.run(&["log", "base"]);
    assert!(!(run.out + &run.err).contains("secret words"));

    // The ledger of published files.
    let space = built();
    let outside = tempfile::tempdir().unwrap();
    for name in ["absolute", "above", "linked"] {
        fs::write(outside.path().join(name), "keep").unwrap();
    }
    std::os::unix::fs::symlink(outside.path(), space.path("reports/mini/link")).unwrap();
    space.write("above", "keep");
    let absolute = outside.path().join("absolute").display().to_string();
    let names = [absolute.as_str(), "../../above", "link/linked", "base/../../../above", "./base/text"];
    let list = serde_json::json!({"gone": names});
    for item in fs::read_dir(space.path("cache/published")).unwrap().flatten() {
        fs::write(item.path(), list.to_string()).unwrap();
    }
    space.steps(&STEPS.replace("0.71", "0.72"));
    space.make().expect(0);
    assert!(space.path("above").exists());
    for name in ["absolute", "above", "linked"] {
        assert!(outside.path().join(name).exists(), "{name}");
    }

    // Steps and paths in evidence; a pipe in place of a file.
    let space = built();
    space.run(&["evidence"]).expect(0);
    let records = space.path("reports/evidence/mini/records.jsonl");
    let text = fs::read_to_string(&records).unwrap();
    for step in ["../../../../x", "/etc", "..", "a/b"] {
        fs::write(&records, text.replace("\"step\":\"base\"", &format!("\"step\":\"{step}\""))).unwrap();
        assert_eq!(space.run(&["make"]).code, Some(0), "{step}");
    }
    fs::remove_file(&records).unwrap();
    Command::new("mkfifo").arg(&records).status().unwrap();
    let run = space.run(&["status"]).expect(1);
    assert!(run.err.contains("it is not a regular file"), "{}", run.err);
}
