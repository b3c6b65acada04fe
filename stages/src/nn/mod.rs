//! Layers and kernels of general use. They know no model, no artifact and no stage.

pub mod conv;
pub mod frozen_batch_norm;
pub mod host_product;
pub mod roi_align;
