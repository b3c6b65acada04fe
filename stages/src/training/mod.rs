//! From tokens and regions to trained models and their predictions: pretraining, training, evaluation, prediction, imported
//! checkpoints; and what these share: batches, their order, the learning rate, the logged loss, inference. It does not
//! know where tokens and regions come from, or what a report says of a run.

mod dataset;
mod evaluate;
pub(crate) mod import_model;
pub(crate) mod inference;
mod loss_meter;
mod predict;
mod prefetch;
mod pretrain;
mod sampler;
mod schedule;
mod train;

use stage_api::Registry;

use crate::models::{vilbert, visual_bert};

/// Adds the stages and tools of this room.
pub(crate) fn register(registry: Registry) -> Registry {
    registry
        .with(pretrain::Pretrain)
        .with(import_model::Import::<visual_bert::Config>::new())
        .with(import_model::Import::<vilbert::Config>::new())
        .with(import_model::ImportRun)
        .with(train::Train)
        .with(evaluate::Evaluate)
        .with(predict::Predict)
        .with_tool(predict::Predict)
}
