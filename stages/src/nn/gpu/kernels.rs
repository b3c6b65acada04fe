//! The kernels' text, as the compiler reads it on the machine with the GPU, and the names of what it holds.

/// A file's text with what all files share before it, and its kernels.
#[derive(Debug)]
pub struct Source {
    /// Its name, for messages.
    pub file: &'static str,
    /// CUDA C++.
    pub text: &'static str,
    /// Kernels that the passes launch.
    pub kernels: &'static [&'static str],
}

macro_rules! source {
    ($file:literal, [$($kernel:literal),* $(,)?]) => {
        Source {
            file: $file,
            text: concat!(include_str!("kernels/common.cuh"), include_str!(concat!("kernels/", $file))),
            kernels: &[$($kernel),*],
        }
    };
}

/// All files.
pub const SOURCES: [Source; 11] = [
    source!("activation.cu", ["activate", "activate_backward"]),
    source!("adamw.cu", ["adamw"]),
    source!(
        "attention.cu",
        [
            "attention_forward_16",
            "attention_forward_32",
            "attention_forward_64",
            "attention_forward_128",
            "attention_delta",
            "attention_backward_queries_16",
            "attention_backward_queries_32",
            "attention_backward_queries_64",
            "attention_backward_queries_128",
            "attention_backward_keys_16",
            "attention_backward_keys_32",
            "attention_backward_keys_64",
            "attention_backward_keys_128",
        ]
    ),
    source!(
        "conv.cu",
        [
            "conv_8",
            "conv_16",
            "conv_32",
            "conv_64",
            "conv_128",
            "winograd_input",
            "winograd_output",
            "max_pool",
        ]
    ),
    source!("dropout.cu", ["dropout"]),
    source!(
        "embeddings.cu",
        [
            "embed_text",
            "embed_gradient",
            "concat",
            "split_concat",
            "first_rows",
            "add_first_rows",
            "select_rows",
            "scatter_rows",
        ]
    ),
    source!("factors.cu", ["split_factor", "round_factor"]),
    source!("layer_norm.cu", ["norm_forward", "norm_output", "norm_backward", "norm_parameter_sums"]),
    source!("loss.cu", ["binary_cross_entropy", "cross_entropy", "mean_loss"]),
    source!("regions.cu", ["canvas", "roi_align", "softmax"]),
    source!("sums.cu", ["add_parts", "add_gradients", "column_sums", "add_rows", "multiply", "scale_by"]),
];
