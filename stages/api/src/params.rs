//! Params from RON and back. It knows the spelling of params, not their meaning.

use ron::error::SpannedError;
use ron::value::RawValue;
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer, Serialize};

use crate::ParamsError;

/// Parses params; `()` means "all defaults" whatever the type's fields are.
pub(crate) fn parse<T: DeserializeOwned>(text: &str) -> Result<T, ParamsError> {
    options().from_str(text).map_err(|error| from_ron(&error))
}

/// Writes params on one line.
pub(crate) fn write<T: Serialize>(params: &T) -> Result<String, ParamsError> {
    options().to_string(params).map_err(|error| rejected(format!("params cannot be written: {error}")))
}

/// The name of an enum's value in RON, with quotes or without: what `#[param(unquoted)]` of [`crate::ParamEnum`] reads.
///
/// # Errors
/// What is not a string or a name.
pub fn quoted_or_not<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let written = <&RawValue>::deserialize(deserializer)?.trim().get_ron();
    match written.starts_with('"') {
        true => ron::from_str(written).map_err(|error| D::Error::custom(error.code)),
        false => Ok(written.to_owned()),
    }
}

/// A value that parsed and was then refused by the stage's own check: no position within the text is known.
pub(crate) fn rejected(message: String) -> ParamsError {
    ParamsError { message, line: 1, column: 1, expected: Vec::new(), unknown: None }
}

fn options() -> ron::Options {
    // `Some(x)` is written as `x`: a person who sets an optional param writes the value.
    ron::Options::default().with_default_extension(ron::extensions::Extensions::IMPLICIT_SOME)
}

fn from_ron(error: &SpannedError) -> ParamsError {
    use ron::Error::{NoSuchEnumVariant, NoSuchStructField};
    let (expected, unknown) = match &error.code {
        NoSuchStructField { expected, found, .. } | NoSuchEnumVariant { expected, found, .. } => {
            (expected.iter().map(ToString::to_string).collect(), Some(found.clone()))
        }
        _ => (Vec::new(), None),
    };
    ParamsError {
        message: error.code.to_string(),
        line: error.span.start.line,
        column: error.span.start.col,
        expected,
        unknown,
    }
}
