//! Prints the digest of a file, or of a folder as a tree: the engine's hashing alone, to be timed next to other programs.

use std::path::PathBuf;
use std::process::ExitCode;

use repro::digest::Digest;
use repro::tree::Manifest;

#[allow(clippy::print_stdout, clippy::print_stderr, reason = "it is a program of its own")]
fn main() -> ExitCode {
    let Some(path) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: hash FILE|FOLDER");
        return ExitCode::from(2);
    };
    let digest = if path.is_dir() {
        Manifest::of_folder(&path).map(|manifest| manifest.digest()).map_err(|error| error.to_string())
    } else {
        Digest::of_file(&path).map_err(|error| format!("{}: {error}", path.display()))
    };
    match digest {
        Ok(digest) => println!("{digest}"),
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
