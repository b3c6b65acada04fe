//! The paper's work as stages: data, image regions, VisualBERT and ViLBERT, training, tables and curves.
//!
//! [`registry`] lists the stages in the order in which data meets them. A stage reads and writes
//! [`artifacts`]; what it computes with is in [`models`], [`nn`] and [`metrics`]. Nothing here knows the
//! pipeline, the cache or the terminal.

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

/// The stages of the paper, in the order in which data meets them.
pub fn registry() -> Registry {
    Registry::new()
        .with(acquire::synthesize::Synthesize)
        .with(acquire::stand_in::StandIn)
        .with(acquire::fetch::Fetch::default())
        .with(acquire::unpack::Unpack)
        .with(dataset::index_hmd::IndexHmd)
        .with(dataset::index_mmhs::IndexMmhs)
        .with(reports::data_summary::Data)
        .with(dataset::learn_vocabulary::LearnVocabulary)
        .with(dataset::tokens::Tokens)
        .with(regions::make_detector::MakeDetector)
        .with(regions::import_detector::ImportDetector)
        .with(regions::extract::Regions)
        .with(regions::import_features::ImportFeatures)
        .with(training::pretrain::Pretrain)
        .with(training::import_model::Import::<models::visual_bert::Config>::new())
        .with(training::import_model::Import::<models::vilbert::Config>::new())
        .with(training::import_model::ImportRun)
        .with(training::train::Train)
        .with(training::evaluate::Evaluate)
        .with(training::predict::Predict)
        .with(reports::table_1::Parameters)
        .with(reports::table_2::Results)
        .with(reports::shift::Shift)
        .with(reports::claims::Claims)
        .with(reports::curves::Curves)
        .with(reports::roc::Roc)
        .with(reports::report::Report)
        .with_tool(reports::table_tool::ShowTable)
        .with_tool(reports::data_summary::DataTool)
        .with_tool(reports::claims::CheckClaims)
        .with_tool(reports::report::ShowPage)
        .with_tool(training::predict::Predict)
        .with_tool(export::Export)
        .with_tool(regions::extract::ShowRegions)
        .with_host_check(HostCheck { name: "CPU kernels", find: host::device::cpu_kernels })
}
