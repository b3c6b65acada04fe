//! From an empty folder to a result in a person's hands: `init`, the search for the pipeline file, `path` and `get`.

use std::fs;
use std::path::Path;

use super::process::{Run, finished};
use super::support::TestSpace;

/// An empty folder.
fn empty() -> TestSpace {
    let space = TestSpace::new("");
    fs::remove_file(space.path("pipeline.ron")).unwrap();
    space
}

fn run_in(space: &TestSpace, folder: &str, args: &[&str]) -> Run {
    fs::create_dir_all(space.path(folder)).unwrap();
    finished(space.command(args).current_dir(space.path(folder)).output().unwrap())
}

#[test]
fn an_empty_folder_is_two_commands_from_a_result() {
    let space = empty();
    let refused = space.make().expect(2);
    assert!(
        refused.err.contains("there is no pipeline.ron in this folder or in a folder above it"),
        "{}",
        refused.err
    );
    assert!(refused.err.contains("`repro init`"), "{}", refused.err);

    let written = space.run(&["init"]).expect(0);
    assert!(written.err.contains("wrote pipeline.ron, README.md"), "{}", written.err);
    space.make().expect(0);
    let table = space.read("reports/default/table/table.md");
    assert!(table.contains("| series | slope |"), "{table}");
    let list = space.run(&["list"]).expect(0).out;
    for part in [
        "profile default\n",
        "  all  the table of the paper\n       table\n",
        "  fit-2       command  the slope of series 2\n",
    ] {
        assert!(list.contains(part), "{part}: {list}");
    }
}

#[test]
fn init_overwrites_nothing_and_offers_what_this_program_can_run() {
    let space = empty();
    space.write("README.md", "mine");
    let refused = space.run(&["init", "commands"]).expect(2);
    assert!(refused.err.contains("README.md is here already; nothing was written"), "{}", refused.err);
    assert_eq!(space.read("README.md"), "mine");
    assert!(!space.path("pipeline.ron").exists());
    let refused = space.run(&["init", "memes"]).expect(2);
    assert!(refused.err.contains("this program lacks the stages of the template `memes`"), "{}", refused.err);
    let refused = space.run(&["init", "comand"]).expect(2);
    assert!(refused.err.contains("did you mean `commands`?"), "{}", refused.err);
}

const STEPS: &str = r#"
    (name: "words", stage: "command", about: "two files", publish: "words",
     params: (shell: "mkdir {out}/deep; echo one > {out}/a; echo two > {out}/deep/b; chmod +x {out}/deep/b")),
    (name: "failing", stage: "command", params: (run: ["false"])),
"#;

#[test]
fn a_subfolder_finds_the_pipeline_above_it() {
    let space = TestSpace::new(STEPS);
    let run = run_in(&space, "notes/today", &["make", "words"]).expect(0);
    let file = space.path("pipeline.ron").canonicalize().unwrap();
    assert_eq!(run.err.lines().next(), Some(format!("pipeline file: {}", file.display()).as_str()));
    assert_eq!(space.read("reports/mini/words/a"), "one\n");
    assert!(!space.path("notes/today/cache").exists());
    // The same request from both places.
    assert!(space.run(&["make", "words"]).expect(0).err.contains("nothing to do"));
    let again = run_in(&space, "notes", &["make", "words"]).expect(0);
    assert!(again.err.contains("nothing to do"), "{}", again.err);
    // A file that is named is not searched for, and paths mean what they say where the person is.
    run_in(&space, "notes", &["list", "-f", "pipeline.ron"]).expect(2);
    let named = run_in(&space, "notes", &["list", "-f", "../pipeline.ron"]).expect(0);
    assert!(named.err.is_empty(), "{}", named.err);
    run_in(&space, "notes", &["get", "words/a", "--to", "out"]).expect(0);
    assert_eq!(space.read("notes/out/a"), "one\n");
    // Whatever is here under that name is meant.
    space.write("notes/pipeline.ron", "(");
    run_in(&space, "notes", &["list"]).expect(2);
}

#[test]
fn path_prints_where_a_result_is() {
    let space = TestSpace::new(STEPS);
    let early = space.run(&["path", "words"]).expect(1);
    assert!(
        early.err.contains("step `words` is not up to date: no earlier run of it is known"),
        "{}",
        early.err
    );
    assert!(early.err.contains("`repro make words`") && early.out.is_empty(), "{}", early.err);
    space.run(&["make", "words"]).expect(0);

    let folder = space.run(&["path", "words"]).expect(0).out;
    assert_eq!(fs::read_to_string(Path::new(folder.trim_end()).join("a")).unwrap(), "one\n");
    assert!(folder.starts_with('/') && folder.ends_with('\n'), "{folder}");
    let file = run_in(&space, "notes", &["path", "words/deep/b"]).expect(0).out;
    assert_eq!(fs::read_to_string(file.trim_end()).unwrap(), "two\n");
    let json = space.run(&["path", "words/a", "--json"]).expect(0).out;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["path"], format!("{}/a", folder.trim_end()));

    let wrong = space.run(&["path", "words/deep/c"]).expect(1);
    assert!(
        wrong.err.contains("no file or folder `deep/c`") && wrong.err.contains("did you mean `deep/b`?"),
        "{}",
        wrong.err
    );
    assert!(space.run(&["path", "wrods"]).expect(2).err.contains("did you mean `words`?"));
    space.run(&["path", "words/../../x"]).expect(1);

    // Damaged bytes are not handed out.
    let file = Path::new(folder.trim_end()).join("a");
    fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    fs::write(&file, "One\n").unwrap();
    let damaged = space.run(&["path", "words"]).expect(1);
    assert!(damaged.err.contains("damaged") && damaged.out.is_empty(), "{}", damaged.err);
}

#[test]
fn get_copies_and_overwrites_only_by_force() {
    let space = TestSpace::new(STEPS);
    space.run(&["make", "words"]).expect(0);
    let got = space.run(&["get", "words", "--to", "out"]).expect(0);
    assert!(got.err.contains("copied 2 files to out"), "{}", got.err);
    assert_eq!((space.read("out/a").as_str(), space.read("out/deep/b").as_str()), ("one\n", "two\n"));
    let mode = |path: &str| {
        std::os::unix::fs::PermissionsExt::mode(&fs::metadata(space.path(path)).unwrap().permissions())
    };
    assert_eq!(
        (mode("out/a") & 0o700, mode("out/deep/b") & 0o700),
        (0o600, 0o700),
        "a copy is a person's to edit"
    );
    assert!(
        space
            .run(&["get", "words", "--to", "out"])
            .expect(0)
            .err
            .contains("copied 0 files to out, 2 were there")
    );

    space.write("out/a", "mine\n");
    fs::remove_file(space.path("out/deep/b")).unwrap();
    let refused = space.run(&["get", "words", "--to", "out"]).expect(2);
    assert!(refused.err.contains("out/a has other content; nothing was copied"), "{}", refused.err);
    assert!(space.read("out/a") == "mine\n" && !space.path("out/deep/b").exists());
    let forced = space.run(&["get", "words", "--to", "out", "--force", "--json"]).expect(0).out;
    let forced: serde_json::Value = serde_json::from_str(&forced).unwrap();
    assert_eq!(forced["copied"], serde_json::json!(["out/a", "out/deep/b"]));
    assert_eq!(space.read("out/a"), "one\n");

    // A folder of the output, and a place that cannot be written.
    space.run(&["get", "words/deep", "--to", "b"]).expect(0);
    assert_eq!(space.read("b/b"), "two\n");
    let refused = space.run(&["get", "words", "--to", "out/a"]).expect(1);
    assert!(refused.err.contains("out/a"), "{}", refused.err);
    let left: Vec<_> =
        fs::read_dir(space.path("out")).unwrap().flatten().map(|item| item.file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

#[test]
fn what_only_the_evidence_knows_is_named_so() {
    let space = TestSpace::new(STEPS);
    space.git(&["init", "-q"]);
    space.run(&["make", "words"]).expect(0);
    space.steps(
        &format!(
            "{STEPS}(name: \"last\", stage: \"join\", inputs: {{\"in\": [\"words/a\"]}}, publish: \"last\"),"
        )
        .replace(", publish: \"words\"", ""),
    );
    space.run(&["make", "last"]).expect(0);
    space.run(&["evidence", "last"]).expect(0);
    let cache = space.path("cache");
    let moved = space.path("elsewhere");
    fs::rename(&cache, &moved).unwrap();
    let whole = space.run(&["path", "words"]).expect(1);
    assert!(
        whole.err.contains(
            "step `words` is known from the evidence alone, which holds its record and not all of its output"
        ),
        "{}",
        whole.err
    );
    assert!(whole.err.contains("`repro make words --no-evidence`"), "{}", whole.err);
    let part = space.run(&["path", "words/a"]).expect(0).out;
    assert_eq!(fs::read_to_string(part.trim_end()).unwrap(), "one\n");
}
