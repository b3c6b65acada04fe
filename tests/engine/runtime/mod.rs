//! The software of a command: environments by lock file and container images.

mod container;
mod environment;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use super::process::{Run, finished};
use super::support::TestSpace;

/// Whether there is a program of this name in `PATH`.
pub fn has(program: &str) -> bool {
    Command::new("sh").args(["-c", &format!("command -v {program}")]).output().unwrap().status.success()
}

/// A program of the project in `bin/`: a shell script.
fn tool(space: &TestSpace, name: &str, script: &str) {
    let path = format!("bin/{name}");
    space.write(&path, &format!("#!/bin/sh\n{script}\n"));
    fs::set_permissions(space.path(&path), fs::Permissions::from_mode(0o755)).unwrap();
}

/// A command that finds those programs, and of the others only those of the system.
fn with_tools(space: &TestSpace, args: &[&str]) -> Command {
    let mut command = space.command(args);
    command.env("PATH", format!("{}:/usr/bin:/bin", space.path("bin").display()));
    command.env_remove("REPRO_CONTAINER_ENGINE");
    command
}

fn make(space: &TestSpace) -> Run {
    finished(with_tools(space, &["make"]).output().unwrap())
}

fn output(space: &TestSpace, step: &str, file: &str) -> String {
    space.read(&format!("cache/trees/{}/{file}", space.record(step).tree))
}
