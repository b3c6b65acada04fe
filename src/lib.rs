//! `repro`: a build system for the results of a paper.
//!
//! ```text
//! pipeline.ron ─parse→ Pipeline ─plan→ Plan ─schedule→ Executor ─commit→ ContentStore ─publish→ reports/
//!                         │              ▲                 │                  │
//!                      Registry          └──── records ────┼──────────────────┘
//!                    (from stages)                         └── Event ──→ console, JSON lines
//! ```
//!
//! The engine knows graphs, hashes and files, but no tensors. Each module uses only those before it: `escape` →
//! `sandbox` → `command` → `digest` → `tree` → `compare` → `pipeline` → `params` → `key` → `record` → `environment` →
//! `store` → `recorder` → `lockfile`, `evidence` → `plan` → `publish` → `workspace` → `project`, `up_to_date` → `remote` → `run` →
//! `explain`,
//! `estimate`, `rehearse`, `doctor`, `accept`, `diff`, `divergence` → `git`, `json_reports`, `committed` → `make` → `cli`.
//!
//! A program with its own stages calls [`cli::run`] with a registry of them, as `examples/toy.rs` does.

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
pub mod json_reports;
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
