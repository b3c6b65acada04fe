//! Dimensions read off the shapes of a checkpoint's tensors. It does not know which model they are of.

use std::collections::{BTreeMap, BTreeSet};

use super::bert::Classifier;
use super::checks::defaults;

/// The shapes of tensors by the names that they have here.
pub type TensorShapes = BTreeMap<String, Vec<usize>>;

/// Rows and columns of a matrix, [rows, columns].
///
/// # Errors
/// There is no such tensor, or it is not a matrix.
pub fn matrix(shapes: &TensorShapes, name: &str) -> Result<(usize, usize), String> {
    match shapes.get(name).map(Vec::as_slice) {
        Some(&[rows, columns]) => Ok((rows, columns)),
        Some(shape) => Err(format!("`{name}` has shape {shape:?}; expected a matrix")),
        None => Err(format!("`{name}` is missing")),
    }
}

/// How many layers there are whose tensors begin with `prefix` and a number.
pub fn layers(shapes: &TensorShapes, prefix: &str) -> usize {
    let number = |name: &String| name.strip_prefix(prefix)?.split_once('.')?.0.parse::<usize>().ok();
    shapes.keys().filter_map(number).collect::<BTreeSet<usize>>().len()
}

/// How many classes a run tells apart; nothing where it has no classifier.
///
/// # Errors
/// Its weights are no matrix.
pub fn labels(shapes: &TensorShapes) -> Result<Option<usize>, String> {
    let name = format!("{}.1.weight", Classifier::PATH);
    shapes.contains_key(&name).then(|| Ok(matrix(shapes, &name)?.0)).transpose()
}

/// Attention heads of a layer of width `hidden`: what is known, or as many as are `width` wide each, as in the paper's model.
///
/// # Errors
/// Nothing is known, and `hidden` is not a multiple of `width`.
pub fn heads(known: Option<usize>, name: &str, hidden: usize, width: usize) -> Result<usize, String> {
    match known {
        Some(heads) => Ok(heads),
        None if hidden > 0 && hidden.is_multiple_of(width) => Ok(hidden / width),
        None => Err(format!(
            "no shape tells the number of attention heads, and {hidden} is not a multiple of {width}, the width of a head \
             in the paper's model; set `config: ({name}: …)`"
        )),
    }
}

/// The divisor that gives adapters these widths: of each pair the stream's width and the adapter's. The paper's where it does.
///
/// # Errors
/// No divisor does.
pub fn adapter_divisor(widths: &[(usize, usize)]) -> Result<usize, String> {
    let fits = |divisor: usize| widths.iter().all(|&(hidden, narrow)| hidden / divisor == narrow);
    let max = widths.iter().map(|(hidden, _)| *hidden).max().unwrap_or(1);
    let paper = defaults::adapter_divisor();
    std::iter::once(paper).chain(1..=max).find(|&divisor| fits(divisor)).ok_or_else(|| {
        let widths: Vec<String> =
            widths.iter().map(|(hidden, narrow)| format!("{narrow} of {hidden}")).collect();
        format!("adapters are {} wide, which is the width divided by no whole number", widths.join(" and "))
    })
}
