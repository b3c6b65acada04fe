//! What the base's tensors are called in checkpoints of others. It knows names, not values.

use super::super::Origin;

/// The name in this model of the tensor `name` of a checkpoint of `origin`; nothing for what is not of the base.
pub fn own(origin: Origin, name: &str) -> Option<String> {
    let (prefixes, parts): (&[&str], &[&str]) = match origin {
        // MMF's spellings now and before.
        Origin::Itself => (
            &["model.bert.", "bert.bert."],
            &["embeddings.", "v_embeddings.", "encoder.", "t_pooler.", "v_pooler."],
        ),
        // Its pooler has another shape than the text's here.
        Origin::Bert => (&["bert.", ""], &["embeddings.", "encoder."]),
    };
    let part = prefixes.iter().find_map(|prefix| name.strip_prefix(prefix))?;
    let is_base = parts.iter().any(|start| part.starts_with(start));
    is_base.then(|| format!("model.bert.{part}"))
}

/// Whether checkpoints of `origin` have nothing for this model's tensor `name`.
pub fn is_fresh(origin: Origin, name: &str) -> bool {
    let is_text = name.starts_with("model.bert.embeddings.") || name.starts_with("model.bert.encoder.layer.");
    origin == Origin::Bert && !is_text
}
