//! The numeric core: operations with their backward passes, the optimizer, dropout and seeded randomness.
//!
//! It computes on tensors and knows no model, no artifact and no stage. Every source of randomness is a seed
//! handed in; no result depends on how many threads computed it.

mod activation;
mod adamw;
mod allocator;
mod attention;
mod backend;
mod chain;
mod composed;
mod compute;
pub mod conv;
pub mod cpu;
pub mod cpu_tensor;
mod dropout;
mod embeddings;
mod epilogue;
mod feed_forward;
pub mod frozen_batch_norm;
mod gemm;
pub mod gpu;
mod graph;
mod grouped;
pub mod init;
mod layer;
mod layer_norm;
mod linear;
mod loader;
mod loss;
pub mod maps;
mod op;
mod packing;
mod param;
mod params;
mod precision;
pub mod rng;
pub mod roi_align;
mod stack;
mod winograd;

pub use activation::Activation;
pub use adamw::{AdamW, AdamWConfig, Momentum, decays};
pub use allocator::tune_allocator;
pub use attention::{Attention, Rows};
pub use backend::TextTables;
pub use compute::Compute;
pub use dropout::{Dropout, DropoutAt, Mask, Site};
pub use embeddings::{add_first_rows, concat, multiply, select_rows};
pub use feed_forward::FeedForward;
pub use layer::TransformerLayer;
pub use layer_norm::{Adapter, LayerNorm, ResidualNorm};
pub use linear::{Dense, Linear};
pub use loader::{Listing, Loader, list};
pub use loss::{binary_cross_entropy, cross_entropy};
pub use packing::Sequences;
pub use param::Param;
pub use params::ParamStore;
pub use precision::Precision;

#[cfg(test)]
mod tests;
