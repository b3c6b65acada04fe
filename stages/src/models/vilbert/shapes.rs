//! Dimensions read off the shapes of a finished ViLBERT's tensors.

use super::super::bert::shape_inference::{self, TensorShapes};
use super::super::{AdapterPlace, Known};
use super::Config;

/// Widths of an attention head in the paper's model: of the text, and of the regions and of co-attention.
const HEAD_WIDTHS: (usize, usize) = (64, 128);

/// Sets every dimension that `shapes` tell; the others as `known` says.
///
/// # Errors
/// A tensor that is missing or is not a matrix; a dimension that neither tells.
pub fn set(config: &mut Config, shapes: &TensorShapes, known: &Known) -> Result<(), String> {
    let matrix = |name: &str| shape_inference::matrix(shapes, &format!("model.bert.{name}.weight"));
    let (hidden, wide, both);
    (config.vocab_size, hidden) = matrix("embeddings.word_embeddings")?;
    config.max_position_embeddings = matrix("embeddings.position_embeddings")?.0;
    config.type_vocab_size = matrix("embeddings.token_type_embeddings")?.0;
    (wide, config.v_feature_size) = matrix("v_embeddings.image_embeddings")?;
    config.intermediate_size = matrix("encoder.layer.0.intermediate.dense")?.0;
    config.v_intermediate_size = matrix("encoder.v_layer.0.intermediate.dense")?.0;
    (both, _) = matrix("encoder.c_layer.0.biattention.query1")?;
    (config.hidden_size, config.v_hidden_size, config.bi_hidden_size) = (hidden, wide, both);

    let layers = |kind: &str| shape_inference::layers(shapes, &format!("model.bert.encoder.{kind}."));
    config.num_hidden_layers = layers("layer");
    config.v_num_hidden_layers = layers("v_layer");
    let co_attention = layers("c_layer");
    let first_text = config.num_hidden_layers.saturating_sub(co_attention);
    let text = || (first_text..config.num_hidden_layers).collect();
    config.t_biattention_id = known.t_biattention_id.clone().unwrap_or_else(text);
    let regions = || (0..co_attention).collect();
    config.v_biattention_id = known.v_biattention_id.clone().unwrap_or_else(regions);

    let (narrow, broad) = HEAD_WIDTHS;
    config.num_attention_heads =
        shape_inference::heads(known.num_attention_heads, "num_attention_heads", hidden, narrow)?;
    config.v_num_attention_heads =
        shape_inference::heads(known.v_num_attention_heads, "v_num_attention_heads", wide, broad)?;
    config.bi_num_attention_heads =
        shape_inference::heads(known.bi_num_attention_heads, "bi_num_attention_heads", both, broad)?;

    let width = |name: &str| {
        let name = format!("model.bert.encoder.{name}1.weight");
        shapes.get(&name).and_then(|shape| shape.first().copied())
    };
    let adapters = [
        (hidden, width("layer.0.attention.output.AdaptText")),
        (hidden, width("layer.0.output.AdaptText")),
        (wide, width("v_layer.0.attention.output.AdaptImg")),
        (wide, width("v_layer.0.output.AdaptImg")),
        (wide, width("c_layer.0.v_output.AdaptImg")),
    ];
    let [(_, attention), (_, output), .., (_, co_attention)] = adapters;
    if let Some(place) = AdapterPlace::from_parts(attention.is_some(), output.is_some()) {
        config.adapter_place = if co_attention.is_some() { AdapterPlace::CoAttention } else { place };
        let widths: Vec<(usize, usize)> =
            adapters.into_iter().filter_map(|(hidden, narrow)| Some((hidden, narrow?))).collect();
        config.adapter_divisor = shape_inference::adapter_divisor(&widths)?;
    }
    Ok(())
}
