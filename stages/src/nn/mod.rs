//! The numeric core: layers with their backward passes, the optimiser, dropout and seeded randomness.
//!
//! It computes on tensors and knows no model, no artifact and no stage. Every source of randomness is a seed
//! handed in; no result depends on how many threads computed it.

mod activation;
mod adamw;
mod allocator;
mod attention;
mod dropout;
pub mod init;
mod layer_norm;
mod linear;
mod loss;
mod params;
pub mod rng;

pub use activation::gelu;
pub use adamw::{AdamW, AdamWConfig, AdamWState, decays};
pub use allocator::tune_allocator;
pub use attention::attention;
pub use dropout::{Dropout, DropoutAt, Mask};
pub use layer_norm::LayerNorm;
pub use linear::Linear;
pub use loss::cross_entropy;
pub use params::{Param, Params};
