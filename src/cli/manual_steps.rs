//! What `make` prints of steps that a person must do something for first, all on one screen.

use super::Global;
use super::console::Console;
use super::error::CliError;
use crate::run::{Event, Failure, Observer};

/// Tells all of it, and how to go on then.
pub fn print_all(global: &Global, targets: &[String], failures: &[Failure]) -> Result<(), CliError> {
    if global.json {
        let mut observer = Console::new(true);
        for failure in failures {
            observer.on(&Event::Failed { step: &failure.step, problem: &failure.problem, needs_human: true });
        }
    }
    failures.iter().for_each(print_one);
    print_next_command(targets);
    print_err!("hint: with -k, all that does not wait for you is done first");
    Ok(())
}

/// Tells what one step asks for.
pub fn print_one(failure: &Failure) {
    print_err!("error: step `{}` needs you: {}", failure.step, failure.problem.replace('\n', "\n  "));
}

/// Tells which command to go on with.
pub fn print_next_command(targets: &[String]) {
    let targets: String = targets.iter().map(|target| format!(" {target}")).collect();
    print_err!("hint: then go on with `repro make{targets}`");
}
