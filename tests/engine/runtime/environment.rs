//! Environments by lock file: when they are built, what a step sees of them, and what becomes of them.

use std::fs;
use std::time::Duration;

use super::super::process::{finished, wait_until};
use super::super::support::TestSpace;
use super::{has, make, output, tool, with_tools};

/// A lock file of a project without packages.
const LOCK: &str = "version = 1\nrevision = 3\nrequires-python = \">=3.9\"\n\n\
    [[package]]\nname = \"paper\"\nversion = \"0.1.0\"\nsource = { virtual = \".\" }\n";

/// Two steps in one environment, and one without.
const STEPS: &str = r#"
    (name: "a", stage: "command", params: (run: ["hello", "a"], stdout: "x", env: "uv.lock")),
    (name: "b", stage: "command", params: (run: ["hello", "b"], stdout: "x", env: "uv.lock")),
    (name: "c", stage: "command", params: (run: ["echo", "c"], stdout: "x")),
"#;

/// What stands for uv: notes each call in `built`, and installs a program `hello`.
const UV: &str = r#"echo "$@" >> "$(dirname "$0")/../built"
    echo "building $UV_PROJECT_ENVIRONMENT"
    mkdir -p "$UV_PROJECT_ENVIRONMENT/bin"
    printf '#!/bin/sh\necho "hello $1"; cat "$VIRTUAL_ENV/packages"\n' > "$UV_PROJECT_ENVIRONMENT/bin/hello"
    cat pyproject.toml uv.lock > "$UV_PROJECT_ENVIRONMENT/packages"
    chmod +x "$UV_PROJECT_ENVIRONMENT/bin/hello""#;

fn space() -> TestSpace {
    let space = TestSpace::new(STEPS);
    space.write("uv.lock", LOCK);
    tool(&space, "uv", UV);
    space
}

fn built(space: &TestSpace) -> usize {
    fs::read_to_string(space.path("built")).unwrap_or_default().lines().count()
}

/// The environments in the cache, without their locks.
fn environments(space: &TestSpace) -> Vec<String> {
    let mut names = space.cached("environments");
    names.retain(|name| !name.contains('.'));
    names
}

#[test]
fn an_environment_is_built_once_and_its_programs_come_first() {
    let space = space();
    assert_eq!(make(&space).expect(0).ran(), ["a", "b", "c"]);
    assert_eq!(built(&space), 1, "two steps share it");
    let expected = format!("hello b\n[project]\nname = \"paper\"\nversion = \"0\"\n{LOCK}");
    assert_eq!(output(&space, "b", "x"), expected);
    let call = space.read("built");
    assert!(call.starts_with("sync --frozen --no-install-workspace --compile-bytecode"), "{call}");
    // Another step of the same environment, in another run.
    space.steps(&STEPS.replace(r#""a"], std"#, r#""d"], std"#));
    assert_eq!(make(&space).expect(0).ran(), ["a"]);
    assert_eq!(built(&space), 1);
    assert!(make(&space).expect(0).err.contains("nothing to do"));
}

#[test]
fn another_lock_reruns_the_steps_of_its_environment_and_why_names_it() {
    let space = space();
    make(&space).expect(0);
    let first = environments(&space);
    space.write("uv.lock", &LOCK.replace("0.1.0", "0.2.0"));
    let why = space.run(&["why", "a"]).expect(0).out;
    assert!(why.contains("./uv.lock"), "{why}");
    assert_eq!(make(&space).expect(0).ran(), ["a", "b"]);
    assert_eq!((built(&space), environments(&space).len()), (2, 2));
    // The version of Python that a person pins counts too, from the day on which there is one.
    space.write(".python-version", "3.11\n");
    assert_eq!(make(&space).expect(0).ran(), ["a", "b"]);
    fs::remove_file(space.path(".python-version")).unwrap();
    space.write("uv.lock", LOCK);
    assert!(make(&space).expect(0).err.contains("nothing to do"));
    // What no step names any more is removed, and built again if it is needed.
    let shown = space.run(&["gc", "--dry-run"]).expect(0).out;
    assert_eq!(shown.lines().filter(|line| line.contains("environment of no step")).count(), 2, "{shown}");
    space.run(&["gc"]).expect(0);
    assert_eq!(environments(&space), first);
    assert_eq!(space.cached("environments").len(), 2, "the environment and its lock");
    space.steps(
        STEPS.split("(name: \"c\"").nth(1).map(|rest| format!("(name: \"c\"{rest}")).unwrap().as_str(),
    );
    space.run(&["gc"]).expect(0);
    assert_eq!(space.cached("environments"), [""; 0]);
    space.steps(&STEPS.replace("\"a\"], std", "\"e\"], std"));
    assert_eq!(make(&space).expect(0).ran(), ["a"]);
    assert_eq!(built(&space), 4);
}

#[test]
fn an_environment_that_was_not_finished_is_built_again() {
    let space = space();
    tool(&space, "uv", &format!("{UV}\n[ -e \"$(dirname \"$0\")/../slow\" ] && exec sleep 63.25; true"));
    space.write("slow", "");
    let mut child = with_tools(&space, &["make"]).spawn().unwrap();
    wait_until("uv is building", || built(&space) == 1);
    child.kill().unwrap();
    child.wait().unwrap();
    wait_until("nothing of it is left", || super::super::command::sleepers("63.25") == 0);
    fs::remove_file(space.path("slow")).unwrap();
    assert_eq!(make(&space).expect(0).ran(), ["a", "b", "c"]);
    assert_eq!(built(&space), 2);
    // The interpreter that it links to may be gone later.
    let python = space.path("cache/environments").join(&environments(&space)[0]).join("prefix/bin/python");
    std::os::unix::fs::symlink("/no/such/python", python).unwrap();
    space.steps(&STEPS.replace("\"a\"], std", "\"e\"], std"));
    assert_eq!(make(&space).expect(0).ran(), ["a"]);
    assert_eq!(built(&space), 3);
}

#[test]
fn a_run_that_stops_ends_the_building_of_an_environment() {
    let space = space();
    tool(&space, "uv", "echo x >> \"$(dirname \"$0\")/../built\"; sleep 64.25");
    let mut child = with_tools(&space, &["make", "-j", "2"]).spawn().unwrap();
    wait_until("uv is building", || built(&space) == 1);
    // The other step waits for it.
    std::thread::sleep(Duration::from_millis(100));
    super::super::process::signal(&child, rustix::process::Signal::INT);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    wait_until("nothing of it is left", || super::super::command::sleepers("64.25") == 0);
    assert_eq!((built(&space), environments(&space)), (1, vec![]));
}

#[test]
fn what_is_missing_is_named_with_what_brings_it() {
    let space = space();
    fs::remove_file(space.path("bin/uv")).unwrap();
    let without_uv = |space: &TestSpace| {
        // Nothing but the programs that the other steps run.
        std::os::unix::fs::symlink("/bin/echo", space.path("bin/echo")).unwrap();
        let mut command = with_tools(space, &["make", "a"]);
        finished(command.env("PATH", space.path("bin")).output().unwrap())
    };
    let run = without_uv(&space).expect(3);
    assert!(
        run.err.contains("step `a` needs you: `uv` builds the environment of ./uv.lock")
            && run.err.contains("`pip install uv`"),
        "{}",
        run.err
    );
    assert_eq!(environments(&space), [""; 0]);

    let space = TestSpace::new(&STEPS.replace("uv.lock", "code/environment.yml"));
    fs::create_dir(space.path("bin")).unwrap();
    let run = without_uv(&space).expect(2);
    assert!(run.err.contains("step `a` reads ./code/conda-lock.yml: "), "{}", run.err);
    assert!(run.err.contains("hint: `conda-lock --file environment.yml` writes it"), "{}", run.err);
    space.write("code/conda-lock.yml", "version: 1\n");
    fs::remove_file(space.path("bin/echo")).unwrap();
    let run = without_uv(&space).expect(3);
    assert!(run.err.contains("`conda install --channel conda-forge micromamba`"), "{}", run.err);

    let space = TestSpace::new(STEPS);
    let run = make(&space).expect(2);
    assert!(run.err.contains("hint: `uv lock` writes it from `pyproject.toml`"), "{}", run.err);
}

#[test]
fn a_manager_that_fails_is_quoted_and_leaves_nothing() {
    let space = space();
    tool(
        &space,
        "uv",
        "echo 'error: Failed to parse the lock' >&2; mkdir -p \"$UV_PROJECT_ENVIRONMENT\"; exit 2",
    );
    let run = make(&space).expect(1);
    assert!(
        run.err.contains("cannot build the environment of ./uv.lock: it ended with exit code 2:")
            && run.err.contains("  error: Failed to parse the lock"),
        "{}",
        run.err
    );
    assert_eq!(environments(&space), [""; 0]);
    space.write("uv.lock", "no packages");
    let run = make(&space).expect(1);
    assert!(run.err.contains("./uv.lock does not name the project that it locks"), "{}", run.err);
}

#[test]
fn micromamba_gets_the_lock_and_the_prefix() {
    let space = TestSpace::new(
        r#"(name: "a", stage: "command", params: (run: ["hello"], stdout: "x", env: "environment.yml")),"#,
    );
    space.write("conda-lock.yml", "version: 1\n");
    tool(
        &space,
        "micromamba",
        r#"[ "$1 $2 $3 $5" = "create --yes --prefix --file" ] || exit 1
           mkdir -p "$4/bin"; cp "$6" "$4/lock"
           printf '#!/bin/sh\ncat "$CONDA_PREFIX/lock"\n' > "$4/bin/hello"; chmod +x "$4/bin/hello""#,
    );
    make(&space).expect(0);
    assert_eq!(output(&space, "a", "x"), "version: 1\n");
}

#[test]
fn wrong_environments_are_refused_with_their_place() {
    let refused = |params: &str, expected: &str| {
        let steps = format!(r#"(name: "a", stage: "command", params: (run: ["true"], {params})),"#);
        let space = TestSpace::new(&steps);
        let run = make(&space).expect(2);
        assert!(run.err.contains(expected) && run.err.contains("pipeline.ron:3:"), "{params}: {}", run.err);
    };
    refused(r#"env: "poetry.lock""#, "env: `poetry.lock` is neither a `uv.lock` nor an `environment.yml`");
    refused(r#"env: "../uv.lock""#, "env: `../uv.lock` is not a file of the project");
    refused(r#"env: "/uv.lock""#, "env: `/uv.lock` is not a file of the project");
    refused(r#"env: "uv.lock", container: "x""#, "it takes either `env` or `container`");
    let space = TestSpace::new(
        r#"(name: "a", stage: "command", inputs: {"env": "./uv.lock"}, params: (run: ["true"], env: "uv.lock")),"#,
    );
    assert!(make(&space).expect(2).err.contains("the input `env` is the file that the param `env` names"));
}

/// With the real uv; where there is none, the step says so.
#[test]
fn uv_builds_an_environment_of_python() {
    let space = TestSpace::new(
        r#"(name: "a", stage: "command", params: (run: ["python", "-c", "import sys; print(sys.prefix)"], stdout: "x", env: "uv.lock")),
           (name: "b", stage: "command", params: (run: ["python", "-c", "import sys; print(sys.prefix)"], stdout: "x", env: "uv.lock", sandbox: "strict")),"#,
    );
    space.write("uv.lock", LOCK);
    if !has("uv") {
        assert!(space.make().expect(3).err.contains("`pip install uv`"));
        return;
    }
    space.make().expect(0);
    let prefix = space.path("cache/environments").join(&environments(&space)[0]).join("prefix");
    for step in ["a", "b"] {
        assert_eq!(output(&space, step, "x").trim(), prefix.to_str().unwrap());
    }
    assert!(space.make().expect(0).err.contains("nothing to do"));
}
