//! A program of its own stages on this engine: that is all it takes. The engine's tests run it.

use std::process::ExitCode;

#[path = "../tests/engine/toy.rs"]
mod toy;

fn main() -> ExitCode {
    repro::cli::run(toy::registry())
}
