//! A step's params: what the profile says for its stage and its name under the step's own, handed to the stage
//! and taken back in canonical form. It knows where each value stands in the file, not what it means.

use stage_api::{AnyStage, ParamsError};

use super::error::{PipelineError, Text};
use super::expand::{Vars, substitute_ron};
use super::file::{self, Fields, Raw};

/// The canonical params of a step.
///
/// `layers` hold what the profile says, later ones over earlier ones; `name` is where the step's name stands: what to point at when a param is missing.
pub(super) fn canonical<'a>(
    stage: &dyn AnyStage,
    layers: &[Raw<'a>],
    own: Option<Raw<'a>>,
    vars: &Vars,
    name: Raw<'a>,
    text: &Text<'a>,
) -> Result<String, PipelineError> {
    let mut merged = Fields::default();
    for raw in layers.iter().chain(own.as_ref()) {
        let layer = file::fields(*raw, text)?;
        merged.0.retain(|(field, _)| layer.0.iter().all(|(over, _)| over != field));
        merged.0.extend(layer.0);
    }

    let mut ron = String::from("(");
    let mut ends = Vec::with_capacity(merged.0.len());
    for (field, value) in &merged.0 {
        ron.push_str(&format!("{field}:{},", substitute_ron(value.0, vars)));
        ends.push(ron.len());
    }
    ron.push(')');
    stage.canonical_params(&ron).map_err(|error| {
        let at = place(&error, &ron, &ends, &merged).unwrap_or_else(|| own.unwrap_or(name));
        let message = match &error.unknown {
            Some(unknown) => format!("stage `{}` has no param or value `{unknown}`", stage.name()),
            None => format!("params of stage `{}`: {}", stage.name(), error.message),
        };
        let pointed = text.error(text.span(at.0), message);
        match &error.unknown {
            Some(unknown) => pointed.nearest(unknown, error.expected.iter().map(String::as_str)),
            None => pointed,
        }
    })
}

/// The value that an error of the stage is about, if it can be told.
fn place<'a>(error: &ParamsError, ron: &str, ends: &[usize], merged: &Fields<'a>) -> Option<Raw<'a>> {
    if let Some(unknown) = &error.unknown
        && let Some((_, value)) = merged.0.iter().find(|(field, _)| field == unknown)
    {
        return Some(*value);
    }
    if error.line != 1 || error.column <= 1 {
        return None;
    }
    let offset = ron.char_indices().nth(error.column - 1).map_or(ron.len(), |(at, _)| at);
    if offset + 1 >= ron.len() {
        return None; // at the closing bracket: something is missing, not wrong
    }
    // The parser stands behind the value it refused, that is at most at the comma that ends the field.
    let index = ends.iter().position(|&end| offset < end)?;
    merged.0.get(index).map(|(_, value)| *value)
}
