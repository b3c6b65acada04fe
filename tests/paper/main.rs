//! The paper end to end: the real program, the real stages and the project's own `pipeline.ron`, with smaller
//! sizes so that the whole of it is made in seconds. What the engine promises in general is shown in
//! `tests/engine`, with toy stages; here is what it means for the paper.
#![cfg(feature = "paper")]

mod cli_text;
mod clone;
mod examples;
mod interrupt;
mod outside;
mod predict;
#[path = "../support/process.rs"]
mod process;
mod project;
mod rebuild;
mod schema;
#[path = "../support/snapshot.rs"]
mod snapshot;
mod wrong;
