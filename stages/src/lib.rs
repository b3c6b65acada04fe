//! The paper's work as stages: data, image regions, VisualBERT, training, tables and curves.
//!
//! [`registry`] lists the stages in the order in which data meets them. A stage reads and writes
//! [`artifacts`]; what it computes with is in [`models`], [`nn`] and [`metrics`]. Nothing here knows the
//! pipeline, the cache or the terminal.

pub mod artifacts;
pub mod metrics;
pub mod models;
pub mod nn;

mod curves;
mod evaluate;
mod fetch;
mod figure;
mod import_visual_bert;
mod index_hmd;
mod index_mmhs;
mod learn_vocabulary;
mod make_detector;
mod parameters;
mod pretrain;
mod published;
mod regions;
mod report;
mod results;
mod synthesize;
mod table;
mod tokens;
mod train;

use stage_api::Registry;

/// The stages of the paper, in the order in which data meets them.
pub fn registry() -> Registry {
    Registry::new()
        .with(fetch::Fetch)
        .with(import_visual_bert::ImportVisualBert)
        .with(parameters::Parameters)
        .with(results::Results)
        .with(curves::Curves)
        .with(report::Report)
}
