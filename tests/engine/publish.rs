//! The content of `reports/`.

use super::support::TestSpace;

#[test]
fn reports_follow_the_trees_and_only_published_files_are_removed() {
    let two = r#"(name: "a", stage: "join", inputs: {"in": ["./x", "./y"]}, publish: "tables"),"#;
    let space = TestSpace::new(two);
    space.write("x", "1");
    space.write("y", "2");
    let run = space.make().expect(0);
    assert!(run.err.contains("published 3 files in"), "{}", run.err);
    assert_eq!(space.read("reports/mini/tables/text"), "(1)(2)");
    space.write("reports/mini/tables/notes", "by hand");
    space.steps(&two.replace(", \"./y\"", ""));
    space.make().expect(0);
    assert_eq!(space.read("reports/mini/tables/text"), "(1)");
    assert!(!space.path("reports/mini/tables/parts/1").exists(), "no step writes it any more");
    assert_eq!(space.read("reports/mini/tables/notes"), "by hand");
}

#[test]
fn a_lost_or_edited_report_is_restored_without_running() {
    let space = TestSpace::new(r#"(name: "a", stage: "join", params: (text: "t"), publish: "."),"#);
    space.make().expect(0);
    assert_eq!(space.make().expect(0).err, "nothing to do: 1 step fresh\n");
    space.write("reports/mini/text", "edited");
    assert_eq!(space.make().expect(0).ran(), [""; 0]);
    assert_eq!(space.read("reports/mini/text"), "t");
    std::fs::remove_dir_all(space.path("reports")).unwrap();
    assert_eq!(space.make().expect(0).ran(), [""; 0]);
    assert_eq!(space.read("reports/mini/text"), "t");
}

#[test]
fn the_reports_of_a_removed_step_are_removed() {
    let a = r#"(name: "a", stage: "join", params: (text: "a"), publish: "a"),"#;
    let b = r#"(name: "b", stage: "join", params: (text: "b"), publish: "b"),"#;
    let space = TestSpace::new(&format!("{a}{b}"));
    space.make().expect(0);
    assert!(space.path("reports/mini/a/text").exists());
    space.steps(&b.replace("text: \"b\"", "text: \"c\""));
    space.make().expect(0);
    assert!(!space.path("reports/mini/a").exists());
    assert_eq!(space.read("reports/mini/b/text"), "c");
}

#[test]
fn two_steps_that_publish_one_file_are_an_error_and_nothing_is_written() {
    let space = TestSpace::new(
        r#"(name: "a", stage: "join", publish: "."), (name: "b", stage: "join", params: (text: "b"), publish: "."),"#,
    );
    let run = space.make().expect(2);
    assert!(run.err.contains("both publish text"), "{}", run.err);
    assert!(!space.path("reports/mini/text").exists());
}

#[test]
fn a_published_tree_without_bytes_runs_again_only_if_the_reports_lack_it() {
    let space = TestSpace::new(r#"(name: "a", stage: "join", params: (text: "t"), publish: "."),"#);
    space.make().expect(0);
    let tree = format!("cache/trees/{}", space.record("a").tree);
    std::fs::remove_dir_all(space.path(&tree)).unwrap();
    assert_eq!(space.make().expect(0).ran(), [""; 0]);
    std::fs::remove_file(space.path("reports/mini/text")).unwrap();
    let why = space.run(&["why", "a"]).expect(0).out;
    assert!(why.contains("no longer in the cache, and `reports` needs it"), "{why}");
    assert_eq!(space.make().expect(0).ran(), ["a"]);
    assert_eq!(space.read("reports/mini/text"), "t");
}

/// The existing reports, relative to `reports`, sorted.
fn reports(space: &TestSpace) -> Vec<String> {
    let (root, mut found, mut folders) = (space.path("reports"), Vec::new(), vec![space.path("reports")]);
    while let Some(folder) = folders.pop() {
        for item in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            if item.path().is_dir() {
                folders.push(item.path());
            } else {
                let path = item.path();
                found.push(path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found.sort_unstable();
    found
}

const A: &str = r#"(name: "a", stage: "join", params: (text: "a"), publish: "a"),"#;
const B: &str = r#"(name: "b", stage: "join", params: (text: "b"), publish: "b"),"#;

#[test]
fn reports_that_are_no_longer_published_are_removed_even_if_nothing_runs() {
    let both = format!("{A}{B}");
    for without in [
        A.to_owned(),
        format!("{A}{}", B.replace(", publish: \"b\"", "")),
        format!("{A}{}", B.replace("publish: \"b\"", "publish: \"c\"")),
        format!("{A}{}", B.replace("name: \"b\"", "name: \"c\"").replace("publish: \"b\"", "publish: \"c\"")),
    ] {
        // Any target is enough.
        for target in [&["make"][..], &["make", "a"]] {
            let space = TestSpace::new(&both);
            space.make().expect(0);
            for _ in 0..2 {
                assert!(space.make().expect(0).err.starts_with("nothing to do"));
            }
            space.steps(&without);
            let check = space.run(&["make", "a", "--check"]).expect(4);
            assert!(check.err.contains("b/text"), "{}", check.err);
            assert_eq!(reports(&space), ["mini/a/text", "mini/b/text"], "--check changes nothing");
            let run = space.run(target).expect(0);
            assert!(run.err.contains("removed 1 report"), "{}", run.err);
            assert!(!space.path("reports/mini/b").exists(), "{without}");
            assert!(space.path("reports/mini/a/text").exists(), "{without}");
            space.run(&["make", "a", "--check"]).expect(0);
            assert!(space.run(target).expect(0).err.starts_with("nothing to do"));
            // And back: the earlier dependency snapshot must not be valid.
            space.steps(&both);
            space.make().expect(0);
            assert_eq!(reports(&space), ["mini/a/text", "mini/b/text"]);
            space.steps(&without);
            space.run(target).expect(0);
            assert!(!space.path("reports/mini/b").exists());
        }
    }
}

#[test]
fn reports_of_a_removed_profile_are_removed_and_those_of_another_stay() {
    let space = TestSpace::new(A);
    let profile = |name: &str| format!("(name: \"{name}\", about: \"toys\", sources: [], defaults: {{}})");
    let text = space.read("pipeline.ron");
    let two = text.replace("defaults: {})]", &format!("defaults: {{}}), {}]", profile("large")));
    space.write("pipeline.ron", &two);
    space.make().expect(0);
    space.run(&["make", "--profile", "large"]).expect(0);
    space.make().expect(0);
    assert_eq!(reports(&space), ["large/a/text", "mini/a/text"]);
    space.write("pipeline.ron", &text);
    space.run(&["make", "--check"]).expect(4);
    space.make().expect(0);
    assert_eq!(reports(&space), ["mini/a/text"]);
    assert!(!space.path("reports/large").exists());
}

#[test]
fn an_edited_report_stays_when_nothing_publishes_it_any_longer() {
    let space = TestSpace::new(&format!("{A}{B}"));
    space.make().expect(0);
    space.write("reports/mini/b/text", "by hand");
    space.steps(A);
    let run = space.make().expect(0);
    assert!(run.err.contains("b/text was edited") && !run.err.contains("removed"), "{}", run.err);
    assert_eq!(space.read("reports/mini/b/text"), "by hand");
    assert!(space.make().expect(0).err.starts_with("nothing to do"), "it is said once");
    space.run(&["make", "--check"]).expect(0);
}

#[test]
fn two_pipelines_in_a_folder_do_not_touch_each_others_reports() {
    let space = TestSpace::new(A);
    let first = space.read("pipeline.ron");
    space.write("other.ron", &first.replace("\"a\"", "\"b\""));
    for _ in 0..2 {
        space.make().expect(0);
        space.run(&["make", "-f", "other.ron"]).expect(0);
        assert_eq!(reports(&space), ["mini/a/text", "mini/b/text"]);
    }
    // The second pipeline cannot publish a file of the first, whatever its content.
    for text in ["a", "b"] {
        space.write("other.ron", &first.replace("text: \"a\"", &format!("text: \"{text}\"")));
        let run = space.run(&["make", "-f", "other.ron"]).expect(2);
        assert!(run.err.contains("other.ron:3: `a` publishes a/text, which `a` of "), "{}", run.err);
        assert_eq!(space.read("reports/mini/a/text"), "a");
        space.make().expect(0);
    }
    // The reports of a removed pipeline are removed.
    std::fs::rename(space.path("pipeline.ron"), space.path("renamed.ron")).unwrap();
    space.write("renamed.ron", &first.replace("publish: \"a\"", "publish: \"c\""));
    std::fs::remove_file(space.path("other.ron")).unwrap();
    space.run(&["make", "-f", "renamed.ron"]).expect(0);
    assert_eq!(reports(&space), ["mini/c/text"]);
}

#[test]
fn a_project_that_was_moved_knows_its_reports() {
    let space = TestSpace::new("");
    let moved = |from: &str, to: &str| std::fs::rename(space.path(from), space.path(to)).unwrap();
    let inner = |args: &[&str], folder: &str| {
        let mut command = space.command(args);
        super::process::finished(command.current_dir(space.path(folder)).output().unwrap()).expect(0)
    };
    let text = |steps: &str| space.read("pipeline.ron").replace("steps: [\n", &format!("steps: [\n{steps}"));
    space.write("old/pipeline.ron", &text(&format!("{A}{B}")));
    inner(&["make"], "old");
    moved("old", "new");
    space.write("new/pipeline.ron", &text(A));
    inner(&["make"], "new");
    assert!(!space.path("new/reports/mini/b").exists() && space.path("new/reports/mini/a/text").exists());
}

#[test]
fn any_name_can_be_published_and_a_file_may_become_a_folder() {
    let names = [".b.part", "b", ".text.part", "text", "with space", "caf\u{e9}"];
    let write = |names: &[&str]| {
        let files: Vec<String> =
            names.iter().map(|name| format!("echo '{name}' > {{out}}/'{name}'")).collect();
        format!(r#"(name: "a", stage: "command", params: (shell: "{}"), publish: "."),"#, files.join("; "))
    };
    let space = TestSpace::new(&write(&names));
    space.make().expect(0);
    for name in names {
        std::fs::remove_file(space.path("reports/mini").join(name)).unwrap();
        space.make().expect(0);
        for name in names {
            assert_eq!(space.read(&format!("reports/mini/{name}")), format!("{name}\n"));
        }
    }
    space.steps(
        r#"(name: "a", stage: "command", params: (shell: "mkdir {out}/b; echo x > {out}/b/c"), publish: "."),"#,
    );
    space.make().expect(0);
    assert_eq!(reports(&space), ["mini/b/c"]);
    space.steps(&write(&["b"]));
    space.make().expect(0);
    assert_eq!(reports(&space), ["mini/b"]);
}

#[test]
fn a_file_and_a_folder_of_one_name_are_refused_before_anything_is_written() {
    let step = |name: &str, shell: &str, more: &str, publish: &str| {
        format!(
            "(name: \"{name}\", stage: \"command\", params: (shell: \"{shell}\"{more}), publish: \"{publish}\"),\n"
        )
    };
    let refused = |one: String, two: String, place: &str| {
        let space = TestSpace::new(&format!("{one}{two}"));
        let run = space.make().expect(2);
        assert!(run.err.contains(&format!("pipeline.ron:{place}")), "{}", run.err);
        assert_eq!(reports(&space), [""; 0]);
        (space.records(), run.err)
    };
    let file = "echo 1 > {out}/b";
    // Found by the check of the pipeline.
    for (one, two) in [
        (step("a", file, "", "a"), step("b", file, "", "a/b")),
        (step("a", file, "", "a"), step("b", file, "", "a/x/y")),
        (step("a", file, "", "A"), step("b", file, "", "a")),
        (step("a", file, ", outputs: [\"b\"]", "."), step("b", file, "", "b")),
        (step("a", "echo 1", ", stdout: \"b\"", "."), step("b", file, "", "B/c")),
        (step("a", "echo 1", ", stdout: \"b\"", "t"), step("b", "echo 2", ", stdout: \"b\"", "t")),
    ] {
        for (one, two) in [(one.clone(), two.clone()), (two, one)] {
            assert_eq!(refused(one, two, "").0, 0, "nothing ran");
        }
    }
    // Found when they have run, before the first report is written.
    let (ran, text) = refused(step("a", file, "", "."), step("b", "echo 2 > {out}/b", "", "b"), "4");
    assert!(ran == 2 && text.contains("one as a file and one as a folder"), "{text}");
    let (_, text) = refused(step("a", file, "", "t"), step("b", "echo 1 > {out}/B", "", "t"), "4");
    assert!(text.contains("with different capitalization"), "{text}");
    let text = refused(
        step("a", "mkdir {out}/.unfinished; echo 1 > {out}/.unfinished/b", "", "."),
        String::new(),
        "3",
    )
    .1;
    assert!(text.contains("is reserved"), "{text}");
    refused(step("a", file, "", ".Unfinished/a"), String::new(), "3");
}

#[test]
fn a_crafted_ledger_removes_nothing_outside_the_reports() {
    let space = TestSpace::new(&format!("{A}{B}"));
    space.make().expect(0);
    let ledger = format!("cache/published/{}", space.cached("published")[0]);
    let text = space.read(&ledger);
    space.write("mine", "b");
    for path in ["../../mine", "/mine", "b/../../../mine", "", ".."] {
        space.write(&ledger, &text.replace("\"b/text\"", &format!("{path:?}")));
        space.steps(A);
        space.make().expect(0);
        assert_eq!(space.read("mine"), "b", "{path}");
    }
    // A link inside the reports does not lead out either.
    space.steps(&format!("{A}{B}"));
    space.make().expect(0);
    std::fs::remove_dir_all(space.path("reports/mini/b")).unwrap();
    space.write("elsewhere/text", "b");
    std::os::unix::fs::symlink(space.path("elsewhere"), space.path("reports/mini/b")).unwrap();
    space.steps(A);
    space.make().expect(0);
    assert_eq!(space.read("elsewhere/text"), "b");
}

#[test]
fn reports_of_a_clone_count_as_published() {
    let space = TestSpace::new(&format!("{A}{B}"));
    space.make().expect(0);
    std::fs::remove_dir_all(space.path("cache")).unwrap();
    space.make().expect(0);
    space.steps(A);
    space.make().expect(0);
    assert_eq!(reports(&space), ["mini/a/text"]);
}
