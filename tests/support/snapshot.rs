//! Texts of the command line that are kept in `tests/snapshots`. `just golden` renews them.

use std::os::unix::process::CommandExt;
use std::process::Command;

/// Prepares the program for texts that depend on neither its file's name, nor the terminal, nor the user's settings.
pub fn in_plain_environment(command: &mut Command) {
    command.arg0("repro").env("COLUMNS", "100");
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"REPRO_")) {
        command.env_remove(name);
    }
}

/// Compares a text with the snapshot of that name.
pub fn compare(name: &str, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("../snapshots");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, text));
}

/// The names of the subcommands in the program's help.
pub fn subcommands(help: &str) -> Vec<&str> {
    let named = help.lines().filter_map(|line| line.strip_prefix("  ")?.split_once(' '));
    let names = named.map(|(name, _)| name).filter(|name| !name.is_empty() && *name != "help");
    names.filter(|name| name.bytes().all(|byte| byte.is_ascii_lowercase())).collect()
}
