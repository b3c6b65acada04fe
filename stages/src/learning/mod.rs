//! What pretraining, training and evaluation have in common: memes as batches, their order, the learning rate,
//! the logged loss, and scoring a split. Not a stage: it knows artifacts and the model, but neither params nor
//! output folders.

pub(crate) mod ahead;
pub(crate) mod epochs;
pub(crate) mod finished;
pub(crate) mod memes;
pub(crate) mod meter;
pub(crate) mod schedule;
pub(crate) mod scoring;
