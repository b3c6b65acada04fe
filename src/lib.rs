//! `repro`: a build system for the results of a paper.
//!
//! ```text
//! pipeline.ron ─parse→ Pipeline ─judge→ Plan ─schedule→ Executor ─commit→ ContentStore ─publish→ reports/
//!                         │               ▲                 │                  │
//!                      Registry           └──── records ────┼──────────────────┘
//!                    (from stages)                          └── Event ──→ console, JSON lines
//! ```
//!
//! The engine knows graphs, hashes and files; no tensors. Each module uses only those before it:
//! `escape` → `sandbox` → `command` → `digest` → `tree` → `compare` → `pipeline` → `params` → `key` → `record` → `versions` →
//! `store` → `recorder` → `lockfile`, `evidence` → `plan` → `publish` → `workspace` → `project`, `up_to_date` → `remote` → `run` →
//! `explain`, `estimate`, `rehearse`, `doctor`, `accept`, `attest`, `diff`, `divergence` → `git`, `committed` → `make` → `cli`.
//!
//! A program of its own stages is [`cli::run`] with a registry of them; `examples/toy.rs` is one.

pub mod accept;
pub mod cli;
pub mod command;
pub mod committed;
pub mod compare;
pub mod diff;
pub mod digest;
pub mod divergence;
pub mod doctor;
pub mod environment;
pub mod escape;
pub mod estimate;
pub mod evidence;
pub mod explain;
pub mod git;
pub mod key;
pub mod lockfile;
pub mod make;
pub mod params;
pub mod pipeline;
pub mod plan;
pub mod project;
pub mod publish;
pub mod record;
pub mod recorder;
pub mod rehearse;
pub mod remote;
pub mod run;
pub mod sandbox;
pub mod store;
pub mod tree;
pub mod up_to_date;
pub mod workspace;
