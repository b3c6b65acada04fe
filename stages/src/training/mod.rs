//! From tokens and regions to trained models and their predictions: pretraining, training, evaluation, prediction, imported
//! checkpoints; and what these share: batches, their order, the learning rate, the logged loss, inference. It does not
//! know where tokens and regions come from, or what a report says of a run.

mod dataset;
pub(crate) mod evaluate;
pub(crate) mod import_model;
pub(crate) mod inference;
mod loss_meter;
pub(crate) mod predict;
mod prefetch;
pub(crate) mod pretrain;
mod sampler;
mod schedule;
pub(crate) mod train;
