//! The paper's work as stages: data, image regions, VisualBERT and ViLBERT, training, tables and curves.
//!
//! Each folder is a room: those of stages, in the order in which data meets them, are `acquire`, `dataset`, `regions`, `training`,
//! `reports` and `export`. A stage reads and writes [`artifacts`]; it computes with [`models`], [`nn`] and [`metrics`]. Nothing
//! here knows the pipeline, the cache or the terminal. `tests/walls.rs` lists which room may use which.

pub mod artifacts;
pub mod formats;
pub mod metrics;
pub mod models;
pub mod nn;

mod acquire;
mod dataset;
mod export;
mod host;
mod regions;
mod reports;
mod training;

use stage_api::{HostCheck, Registry};

/// The stages and tools of the paper, room by room.
pub fn registry() -> Registry {
    let rooms =
        [acquire::register, dataset::register, regions::register, training::register, reports::register];
    rooms
        .into_iter()
        .fold(Registry::new(), |registry, register| register(registry))
        .with_tool(export::Export)
        .with_host_check(HostCheck { name: "CPU kernels", find: host::device::cpu_kernels })
}
