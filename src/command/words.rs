//! The words of a command line and the values of variables. In the pipeline file each is a string, a number or a
//! boolean; a command gets text. A number stays as it is written, so `1e-3` is not `0.001`.

use std::borrow::Cow;
use std::collections::BTreeMap;

use ron::value::RawValue;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error;
use serde::{Deserialize, Deserializer};

/// One word.
pub(super) struct Word(String);

impl<'de> Deserialize<'de> for Word {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let written = <&RawValue>::deserialize(deserializer)?.trim().get_ron();
        let refused =
            || D::Error::custom(format!("`{written}` is neither a string nor a number, `true` or `false`"));
        match ron::from_str(written) {
            Ok(ron::Value::String(text)) => Ok(Self(text)),
            Ok(ron::Value::Bool(_)) => Ok(Self(written.to_owned())),
            // RON groups digits by `_`, which no other program reads.
            Ok(ron::Value::Number(number)) if number.into_f64().is_finite() => {
                Ok(Self(written.replace('_', "")))
            }
            _ => Err(refused()),
        }
    }
}

impl JsonSchema for Word {
    fn schema_name() -> Cow<'static, str> {
        "Word".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": ["string", "number", "boolean"]})
    }
}

/// Reads a list of words.
pub(super) fn list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(Vec::<Word>::deserialize(deserializer)?.into_iter().map(|word| word.0).collect())
}

/// Reads the values of variables.
pub(super) fn map<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    let words = BTreeMap::<String, Word>::deserialize(deserializer)?;
    Ok(words.into_iter().map(|(name, word)| (name, word.0)).collect())
}

#[cfg(test)]
mod tests {
    use stage_api::AnyStage;

    use crate::command::Command;

    /// The canonical params of a text.
    fn canonical(params: &str) -> Result<String, String> {
        let loaded = Command.load(params).map_err(|error| error.message)?;
        Ok(loaded.canonical_params().to_owned())
    }

    #[test]
    fn numbers_and_booleans_are_words_as_they_are_written() {
        assert_eq!(
            canonical(r#"(run: ["head", "-n", 5, 1e-3, -0.50, 1_000, true], set_env: {"A": 1, "B": false})"#),
            Ok(r#"(run:["head","-n","5","1e-3","-0.50","1000","true"],set_env:{"A":"1","B":"false"})"#
                .to_owned())
        );
        // The key is that of the strings.
        assert_eq!(canonical(r#"(run: ["seq", 5])"#), canonical(r#"(run: ["seq", "5"])"#));
        assert_eq!(canonical(r##"(run: ["a", r#""1""#])"##), Ok(r#"(run:["a","\"1\""])"#.to_owned()));
    }

    #[test]
    fn anything_else_is_refused() {
        for wrong in ["()", "[1]", "inf", "NaN", "'a'", "Some(1)", "five"] {
            let error = canonical(&format!("(run: [\"seq\", {wrong}])")).unwrap_err();
            assert!(error.contains("neither a string nor a number"), "{wrong}: {error}");
        }
    }
}
