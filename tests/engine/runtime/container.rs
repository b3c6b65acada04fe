//! Container images: how they are named, what a command sees in one, and what an engine that is missing or fails means.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::super::process::{finished, wait_until};
use super::super::support::TestSpace;
use super::{has, make, output, tool, with_tools};

const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn step(image: &str) -> String {
    format!(
        r#"(name: "a", stage: "command", inputs: {{"text": "./source", "folder": "./folder"}},
            params: (run: ["copy", "{{input.text}}", "{{out}}/x"], outputs: ["x"], set_env: {{"MODE": "fast"}},
                     pass_env_uncounted: ["TOKEN"], container: "{image}")),"#
    )
}

fn space() -> TestSpace {
    let space = TestSpace::new(&step(&format!("example/tool@{DIGEST}")));
    space.write("source", "text\n");
    space.write("folder/file", "");
    space
}

#[test]
fn docker_gets_the_folders_the_inputs_and_the_variables_and_no_secret() {
    let space = space();
    // It has no image at first, and runs the command outside of a container.
    tool(
        &space,
        "docker",
        r#"here=$(dirname "$0"); echo "$@" >> "$here/../calls"
           case "$1 $2" in
               "image inspect") [ -e "$here/pulled" ] ;;
               "pull "*) touch "$here/pulled" ;;
               "run --rm") while [ "$1" != --entrypoint ]; do shift; done; cp "$4" "$5"; echo "$TOKEN" > "$here/../token" ;;
           esac"#,
    );
    let mut command = with_tools(&space, &["make"]);
    finished(command.env("TOKEN", "secret").env("REPRO_CONTAINER_ENGINE", "docker").output().unwrap())
        .expect(0);
    assert_eq!(output(&space, "a", "x"), "text\n");
    let calls = space.read("calls");
    let calls: Vec<&str> = calls.lines().collect();
    let image = format!("example/tool@{DIGEST}");
    assert_eq!(calls[..2], [format!("image inspect {image}"), format!("pull {image}")]);
    let run = calls[2];
    let mount = format!("type=bind,source={0},target={0},readonly ", space.path("folder").display());
    for part in [
        &mount,
        " --env MODE=fast ",
        " --env TOKEN ",
        " --entrypoint copy ",
        " --pull never ",
        "/cwd ",
        "/out ",
        &image,
    ] {
        assert!(run.contains(part), "{part}: {run}");
    }
    assert!(!run.contains("secret"), "{run}");
    assert_eq!(space.read("token"), "secret\n", "docker takes the value from its own environment");
}

#[test]
fn apptainer_converts_an_image_once() {
    let space = space();
    tool(
        &space,
        "apptainer",
        r#"here=$(dirname "$0"); echo "$@" >> "$here/../calls"
           case $1 in
               build) echo image > "$2" ;;
               exec) while [ "$1" != copy ]; do shift; done; cp "$2" "$3" ;;
           esac"#,
    );
    let run = |space: &TestSpace| {
        let mut command = with_tools(space, &["make"]);
        finished(command.env("REPRO_CONTAINER_ENGINE", "apptainer").output().unwrap())
    };
    run(&space).expect(0);
    space.write("source", "other\n");
    run(&space).expect(0);
    assert_eq!(output(&space, "a", "x"), "other\n");
    let calls = space.read("calls");
    let first: Vec<&str> = calls.lines().map(|call| call.split(' ').next().unwrap()).collect();
    assert_eq!(first, ["build", "exec", "exec"], "{calls}");
    assert!(calls.contains(&format!("docker://example/tool@{DIGEST}")), "{calls}");
    space.run(&["gc"]).expect(0);
    assert_eq!(space.cached("environments").len(), 2, "the image and its lock");
}

#[test]
fn an_engine_that_is_missing_or_fails_is_named_with_what_it_printed() {
    let space = space();
    fs::create_dir(space.path("bin")).unwrap();
    let mut command = with_tools(&space, &["make"]);
    let run = finished(command.env("PATH", space.path("bin")).output().unwrap()).expect(3);
    assert!(
        run.err
            .contains("there is no podman, docker or apptainer in PATH; install one: `apt install podman`"),
        "{}",
        run.err
    );
    tool(&space, "docker", "echo 'Cannot connect to the Docker daemon' >&2; exit 1");
    let mut command = with_tools(&space, &["make"]);
    let run = finished(command.env("REPRO_CONTAINER_ENGINE", "docker").output().unwrap()).expect(1);
    assert!(
        run.err
            .contains(&format!("cannot fetch the image example/tool@{DIGEST}: it ended with exit code 1:"))
            && run.err.contains("Cannot connect to the Docker daemon"),
        "{}",
        run.err
    );
    let mut command = with_tools(&space, &["make"]);
    let run = finished(command.env("REPRO_CONTAINER_ENGINE", "lxc").output().unwrap()).expect(3);
    assert!(
        run.err.contains("REPRO_CONTAINER_ENGINE is `lxc`; set it to podman, docker or apptainer"),
        "{}",
        run.err
    );
}

#[test]
fn a_tag_is_refused_with_the_digest_to_write() {
    let space = TestSpace::new(&step("example/tool:1"));
    space.write("source", "text\n");
    tool(&space, "podman", &format!("[ \"$1\" = image ] && echo docker.io/example/tool@{DIGEST}"));
    let run = make(&space).expect(2);
    assert!(
        run.err.contains(&format!("write `container: \"docker.io/example/tool@{DIGEST}\"`"))
            && run.err.contains("pipeline.ron:5:"),
        "{}",
        run.err
    );
    tool(&space, "podman", "exit 125");
    let run = make(&space).expect(2);
    assert!(run.err.contains("`podman pull example/tool:1`"), "{}", run.err);
    space.steps(&step(&format!("example/tool@{DIGEST}")).replace("set_env", "sandbox: \"strict\", set_env"));
    assert!(make(&space).expect(2).err.contains("remove `sandbox`"));
}

/// A program for an image without anything else: copies a file, or sleeps.
const PROGRAM: &str = r#"
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
int main(int count, char **words) {
    if (count == 2) { sleep(atoi(words[1])); return 0; }
    FILE *from = fopen(words[1], "r"), *to = fopen(words[2], "w");
    if (!from || !to) { perror(words[1]); return 1; }
    for (int c; (c = getc(from)) != EOF;) putc(c, to);
    fprintf(to, "%s %s %s\n", getenv("MODE"), getenv("TOKEN"), getenv("OTHER"));
    return fclose(to);
}
"#;

/// Builds an image of that program alone and returns its name with its digest. Needs podman and a C compiler.
fn image(space: &TestSpace) -> String {
    space.write("image/program.c", PROGRAM);
    space.write("image/Containerfile", "FROM scratch\nCOPY program /bin/copy\n");
    let done = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).current_dir(space.path("image")).output().unwrap();
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    done("cc", &["-static", "-o", "program", "program.c"]);
    done("podman", &["build", "--quiet", "--tag", "repro-test", "."]);
    let inspect =
        ["image", "inspect", "--format", "{{range .RepoDigests}}{{println .}}{{end}}", "repro-test"];
    done("podman", &inspect).lines().next().unwrap().to_owned()
}

/// Settings of podman for a machine whose user may not raise limits, as in many containers.
fn settings(space: &TestSpace) -> PathBuf {
    let runtime = if has("runc") { "runc" } else { "crun" };
    let limits = "default_ulimits = [\"nofile=1024:1024\", \"nproc=4096:4096\"]";
    space.write("containers.conf", &format!("[containers]\n{limits}\n[engine]\nruntime = \"{runtime}\"\n"));
    space.path("containers.conf")
}

/// With the real podman; where there is none, the step says so.
#[test]
fn podman_runs_a_command_in_an_image() {
    let space = space();
    let podman = |args: &[&str]| {
        let mut command = space.command(args);
        command.env("REPRO_CONTAINER_ENGINE", "podman").env("TOKEN", "secret").env("OTHER", "x");
        command.env("CONTAINERS_CONF", settings(&space));
        command
    };
    if !has("podman") {
        let run = finished(podman(&["make"]).output().unwrap()).expect(3);
        assert!(run.err.contains("there is no `podman` in PATH"), "{}", run.err);
        return;
    }
    let image = image(&space);
    space.steps(&step(&image));
    finished(podman(&["make"]).output().unwrap()).expect(0);
    assert_eq!(output(&space, "a", "x"), "text\nfast secret (null)\n");
    assert!(finished(podman(&["make"]).output().unwrap()).expect(0).err.contains("nothing to do"));

    // What is no input does not exist in it.
    let undeclared = step(&image).replace("{input.text}", space.path("pipeline.ron").to_str().unwrap());
    space.steps(&undeclared);
    let run = finished(podman(&["make"]).output().unwrap()).expect(1);
    assert!(run.err.contains("pipeline.ron: No such file or directory"), "{}", run.err);

    // A container ends with its run.
    for (seconds, signal) in [("3607", rustix::process::Signal::INT), ("3608", rustix::process::Signal::KILL)]
    {
        space.steps(&format!(
            r#"(name: "a", stage: "command", params: (run: ["copy", "{seconds}"], container: "{image}")),"#
        ));
        let mut child = podman(&["make"]).spawn().unwrap();
        let sleeping = || super::super::command::sleepers(seconds);
        // The process of podman, and the one in the container.
        wait_until("the container runs", || sleeping() >= 2);
        super::super::process::signal(&child, signal);
        child.wait().unwrap();
        wait_until("the container has ended", || sleeping() == 0);
        // A run that was killed leaves an entry of podman.
        if signal == rustix::process::Signal::INT {
            assert_eq!(containers(&image), [""; 0]);
        }
    }
    let left = containers(&image);
    Command::new("podman").args(["rm", "--force", "--time", "0"]).args(left).output().unwrap();
    Command::new("podman").args(["rmi", "--force", &image]).output().unwrap();
}

/// The containers of an image that podman knows.
fn containers(image: &str) -> Vec<String> {
    let listed =
        Command::new("podman").args(["ps", "--all", "--format", "{{.ID}} {{.Image}}"]).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let lines = listed.lines().filter_map(|line| line.split_once(' ')).filter(|(_, of)| *of == image);
    lines.map(|(id, _)| id.to_owned()).collect()
}
