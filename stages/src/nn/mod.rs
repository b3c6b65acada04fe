//! The numeric core: layers with their backward passes, the optimiser, dropout and seeded randomness.
//!
//! It computes on tensors and knows no model, no artifact and no stage. Every source of randomness is a seed
//! handed in; no result depends on how many threads computed it.

mod activation;
mod adamw;
mod add_rows;
mod allocator;
mod attention;
pub mod conv;
pub mod cpu;
pub mod cpu_tensor;
#[cfg(feature = "cuda")]
mod cuda;
mod dropout;
pub mod frozen_batch_norm;
mod fused;
mod gemm;
mod grouped;
pub mod init;
mod kernels;
mod layer_norm;
mod linear;
mod loader;
mod loss;
mod mlp;
mod params;
pub mod rng;
pub mod roi_align;
mod winograd;

pub use activation::Activation;
pub use adamw::{AdamW, AdamWConfig, Momentum, decays};
pub use allocator::tune_allocator;
pub use attention::Attention;
pub use dropout::{Dropout, DropoutAt, Mask, Site};
pub use kernels::Kernels;
pub use layer_norm::LayerNorm;
pub use linear::Linear;
pub use loader::{Listing, Loader, list};
pub use loss::cross_entropy;
pub use mlp::Mlp;
pub use params::{Param, ParamStore};

#[cfg(test)]
mod tests;
