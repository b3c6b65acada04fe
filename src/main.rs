//! The program: the engine with the paper's stages, or without stages if built that way.

use std::process::ExitCode;

fn main() -> ExitCode {
    repro::cli::run(registry())
}

#[cfg(feature = "paper")]
fn registry() -> stage_api::Registry {
    stages::registry()
}

#[cfg(not(feature = "paper"))]
fn registry() -> stage_api::Registry {
    stage_api::Registry::new()
}
