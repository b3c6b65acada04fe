//! BERT's blocks, that the models consist of. They know no model: names and widths are handed in.

mod adapter;
pub mod checks;
mod classifier;
mod layer;
mod mlm_head;
pub mod shape_inference;
mod shapes;
mod text_embeddings;

pub use adapter::{Adapter, AdapterPlace};
pub use classifier::{Classifier, classifier_name};
pub use layer::{BertOutput, Layer, LayerSize, Rows, key_bias};
pub use mlm_head::MlmHead;
pub use shapes::Shapes;
pub use text_embeddings::{EmbeddingDims, TextEmbeddings};

/// BERT's constants, which small models share.
pub mod defaults {
    /// Of every LayerNorm.
    pub fn layer_norm_eps() -> f64 {
        1e-12
    }
    /// Everywhere.
    pub fn dropout() -> f64 {
        0.1
    }
    /// Of fresh weights.
    pub fn initializer_range() -> f64 {
        0.02
    }
    /// The paper's.
    pub fn adapter_divisor() -> usize {
        10
    }
}
