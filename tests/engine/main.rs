//! The engine end to end, with toy stages: one file per topic. Most tests run the real program (`examples/toy.rs`) in
//! a new folder and check what a person would see.

mod accept;
mod cli_text;
mod command;
mod committed;
mod evidence;
mod examples;
mod experiments;
mod explain;
mod faces;
mod failure;
mod faults;
mod first_steps;
mod gc;
mod inputs;
mod interrupt;
mod library;
mod noop;
mod oracle;
mod outputs;
#[path = "../support/process.rs"]
mod process;
mod publish;
mod rehearse;
mod remote;
mod rerun;
mod resources;
mod runtime;
mod secrets;
mod serve;
#[path = "../support/snapshot.rs"]
mod snapshot;
mod store;
mod stored;
mod strict;
mod support;
mod terminal;
mod tool;
#[allow(dead_code, reason = "the program uses the rest")]
mod toy;
mod walkthrough;
mod watch;
