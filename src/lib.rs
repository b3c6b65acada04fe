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
//! `digest` → `pipeline` → `key` → `record` → `store` → `plan` → `run` → `publish` → `cli`.

pub mod pipeline;
