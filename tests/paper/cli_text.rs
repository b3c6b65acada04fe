//! The help of the subcommands that come with the paper's stages, kept word for word in `tests/snapshots`. `tests/engine` has that
//! of the engine's own.

use std::process::Command;

use super::process::finished;
use super::snapshot::{compare, in_plain_surroundings, subcommands};

#[test]
fn the_help_of_every_tool_is_as_kept() {
    let help = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_repro"));
        in_plain_surroundings(command.args(args));
        let run = finished(command.output().unwrap()).expect(0);
        format!("$ repro {}\n{}\n", args.join(" "), run.out)
    };
    let engine = include_str!("../snapshots/help.snap");
    let all = help(&["--help"]);
    let is_tool = |name: &&str| !engine.contains(&format!("$ repro {name} --help\n"));
    let tools: String =
        subcommands(&all).into_iter().filter(is_tool).map(|name| help(&[name, "--help"])).collect();
    compare("tools-help", &tools);
}
