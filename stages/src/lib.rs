//! The paper's work as stages: data, image regions, VisualBERT and ViLBERT, training, tables and curves.
//!
//! [`registry`] lists the stages in the order in which data meets them. A stage reads and writes
//! [`artifacts`]; what it computes with is in [`models`], [`nn`] and [`metrics`]. Nothing here knows the
//! pipeline, the cache or the terminal.

pub mod artifacts;
pub mod metrics;
pub mod models;
pub mod nn;

mod archive;
mod claims;
mod cost;
mod curves;
mod data;
mod device;
mod evaluate;
mod evaluated;
mod export;
mod fetch;
mod figure;
mod file_kind;
mod http;
mod import_detector;
mod import_features;
mod import_model;
mod index_hmd;
mod index_mmhs;
mod indexing;
mod learn_vocabulary;
mod learning;
mod look;
mod make_detector;
mod parameters;
mod pictures;
mod predict;
mod pretrain;
mod profile;
mod published;
mod regions;
mod report;
mod results;
mod roc;
mod scalars;
mod shift;
mod space;
mod stand_in;
mod synthesize;
mod table;
mod table_tool;
mod tar_members;
mod tokens;
mod torch_file;
mod torch_writer;
mod train;
mod unpack;
mod zip_reader;

use stage_api::{HostCheck, Registry};

/// The stages of the paper, in the order in which data meets them.
pub fn registry() -> Registry {
    Registry::new()
        .with(synthesize::Synthesize)
        .with(stand_in::StandIn)
        .with(fetch::Fetch::default())
        .with(unpack::Unpack)
        .with(index_hmd::IndexHmd)
        .with(index_mmhs::IndexMmhs)
        .with(data::Data)
        .with(learn_vocabulary::LearnVocabulary)
        .with(tokens::Tokens)
        .with(make_detector::MakeDetector)
        .with(import_detector::ImportDetector)
        .with(regions::Regions)
        .with(import_features::ImportFeatures)
        .with(pretrain::Pretrain)
        .with(import_model::Import::<models::visual_bert::Config>::new())
        .with(import_model::Import::<models::vilbert::Config>::new())
        .with(import_model::ImportRun)
        .with(train::Train)
        .with(evaluate::Evaluate)
        .with(predict::Predict)
        .with(parameters::Parameters)
        .with(results::Results)
        .with(shift::Shift)
        .with(claims::Claims)
        .with(curves::Curves)
        .with(roc::Roc)
        .with(report::Report)
        .with_tool(table_tool::ShowTable)
        .with_tool(data::DataTool)
        .with_tool(claims::CheckClaims)
        .with_tool(report::ShowPage)
        .with_tool(predict::Predict)
        .with_tool(export::Export)
        .with_tool(regions::ShowRegions)
        .with_host_check(HostCheck { name: "CPU kernels", find: device::cpu_kernels })
}
