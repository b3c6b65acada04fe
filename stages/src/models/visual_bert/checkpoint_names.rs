//! What the base's tensors are called in checkpoints of others. It knows names, not values.

use super::super::Origin;

/// The name in this model of the tensor `name` of a checkpoint of `origin`; nothing for what is not of the base.
pub fn own(origin: Origin, name: &str) -> Option<String> {
    let part = match origin {
        // MMF's spellings now and before, then Hugging Face's.
        Origin::Itself => ["model.bert.", "bert.bert.", "visual_bert."]
            .iter()
            .find_map(|prefix| name.strip_prefix(prefix))?,
        Origin::Bert => name.strip_prefix("bert.").unwrap_or(name),
    };
    if !["embeddings.", "encoder.", "pooler."].iter().any(|start| part.starts_with(start)) {
        return None;
    }
    let part = part
        .replace(".visual_position_embeddings.", ".position_embeddings_visual.")
        .replace(".visual_token_type_embeddings.", ".token_type_embeddings_visual.")
        .replace(".visual_projection.", ".projection.");
    Some(format!("model.bert.{part}"))
}

/// Whether checkpoints of `origin` have nothing for this model's tensor `name`.
pub fn is_fresh(origin: Origin, name: &str) -> bool {
    origin == Origin::Bert && (name.contains("embeddings_visual") || name.contains("embeddings.projection"))
}
