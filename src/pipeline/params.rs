//! A step's params: what the profile says for its stage and its name under the step's own, loaded into the stage.
//! It knows the position of each value in the file, not its meaning.

use stage_api::{AnyStage, LoadedStage, ParamsError};

use super::error::{PipelineError, Text};
use super::expand::{Vars, substitute_ron};
use super::file::{self, Fields, Raw};

/// The stage of a step with its params.
///
/// `layers` hold the defaults, later ones over earlier ones; `name` is where the step's name is: what to point at when a
/// param is missing.
pub(super) fn load<'r, 'a>(
    stage: &'r dyn AnyStage,
    layers: &[Raw<'a>],
    own: Option<Raw<'a>>,
    vars: &Vars,
    name: Raw<'a>,
    text: &Text<'a>,
) -> Result<Box<dyn LoadedStage + 'r>, PipelineError> {
    let merged = merged(layers.iter().copied().chain(own), text)?;
    let (ron, ends) = written(&merged, vars);
    stage.load(&ron).map_err(|error| {
        let refused = place(&error, &ron, &ends, &merged);
        let at = refused.map_or_else(|| own.unwrap_or(name), |index| merged.0[index].1);
        let message = match &error.unknown {
            Some(unknown) => format!("stage `{}` has no param or value `{unknown}`", stage.name()),
            None => format!("params of stage `{}`: {}", stage.name(), error.message),
        };
        let pointed = text.error(text.span(at.0), message);
        match &error.unknown {
            Some(unknown) => pointed.nearest(unknown, error.expected.iter().map(String::as_str)),
            None => match refused.and_then(|index| without(stage, merged, index, vars, text)) {
                Some(hint) => pointed.hint(hint),
                None => pointed,
            },
        }
    })
}

/// The fields of all layers; those of a later one replace those of an earlier one.
pub(super) fn merged<'a>(
    layers: impl Iterator<Item = Raw<'a>>,
    text: &Text<'a>,
) -> Result<Fields<'a>, PipelineError> {
    let mut merged = Fields::default();
    for raw in layers {
        let layer = file::fields(raw, text)?;
        merged.0.retain(|(field, _)| layer.0.iter().all(|(over, _)| over != field));
        merged.0.extend(layer.0);
    }
    Ok(merged)
}

/// The params as one line, and where in it each field ends.
fn written(fields: &Fields, vars: &Vars) -> (String, Vec<usize>) {
    let mut ron = String::from("(");
    let mut ends = Vec::with_capacity(fields.0.len());
    for (field, value) in &fields.0 {
        ron.push_str(&format!("{field}:{},", substitute_ron(value.0, vars)));
        ends.push(ron.len());
    }
    ron.push(')');
    (ron, ends)
}

/// What the stage takes in place of a refused param, as an example of what it may be.
fn without(
    stage: &dyn AnyStage,
    mut params: Fields,
    refused: usize,
    vars: &Vars,
    text: &Text,
) -> Option<String> {
    let (field, _) = params.0.remove(refused);
    let accepted = stage.load(&written(&params, vars).0).ok()?;
    let canonical = accepted.canonical_params();
    let accepted = file::fields(Raw(canonical), &Text::new(text.path(), canonical)).ok()?;
    let (_, value) = accepted.0.into_iter().find(|(name, _)| *name == field)?;
    Some(format!("by default of the stage, `{field}` is {}", value.0))
}

/// The field that an error of the stage is about, if that is known.
fn place(error: &ParamsError, ron: &str, ends: &[usize], merged: &Fields) -> Option<usize> {
    if let Some(unknown) = &error.unknown
        && let Some(index) = merged.0.iter().position(|(field, _)| field == unknown)
    {
        return Some(index);
    }
    if error.line != 1 || error.column <= 1 {
        // Refused by the stage's own check, which says in words what it is about.
        let words = error.message.split(|c: char| !c.is_alphanumeric() && c != '_');
        return words.filter_map(|word| merged.0.iter().position(|(field, _)| field == word)).next();
    }
    let offset = ron.char_indices().nth(error.column - 1).map_or(ron.len(), |(at, _)| at);
    if offset + 1 >= ron.len() {
        return None; // at the closing bracket: something is missing, not wrong
    }
    // The parser is behind the value it refused, that is at most at the comma that ends the field.
    ends.iter().position(|&end| offset < end)
}
