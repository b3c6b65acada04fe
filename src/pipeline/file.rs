//! The form of a pipeline file: what RON says, with the place of each part, nothing resolved.
//! It does not know which stages exist nor what the names mean.

use std::fmt;

use ron::value::RawValue;
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, Error as _, MapAccess, Visitor};

use super::error::{PipelineError, Text};

/// A part of the file as it is written: a slice of the file's text without the white space around it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Raw<'a>(pub &'a str);

impl<'de: 'a, 'a> Deserialize<'de> for Raw<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(<&'de RawValue>::deserialize(deserializer)?.trim().get_ron()))
    }
}

impl<'a> Raw<'a> {
    /// The part as a value of type `T`.
    pub fn parse<T: DeserializeOwned>(&self, text: &Text) -> Result<T, PipelineError> {
        options().from_str(self.0).map_err(|error| text.error(text.span(self.0), error.code.to_string()))
    }

    /// The part as a string.
    pub fn string(&self, text: &Text) -> Result<String, PipelineError> {
        self.parse(text)
    }

    /// The part as a list of parts.
    pub fn list(&self, text: &Text) -> Result<Vec<Raw<'a>>, PipelineError> {
        let values: Vec<&'a RawValue> =
            ron::from_str(self.0).map_err(|error| text.error(text.span(self.0), error.code.to_string()))?;
        Ok(values.into_iter().map(|value| Raw(value.trim().get_ron())).collect())
    }
}

/// A map or a struct as the pairs it is written as, in order. Maps keep duplicates, so that they can be refused.
#[derive(Debug, Clone, Default)]
pub(super) struct Pairs<'a>(pub Vec<(Raw<'a>, Raw<'a>)>);

impl<'de: 'a, 'a> Deserialize<'de> for Pairs<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PairsVisitor;
        impl<'de> Visitor<'de> for PairsVisitor {
            type Value = Pairs<'de>;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a map `{\"name\": value}`")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(PairsVisitor)
    }
}

/// The fields of a struct `(a: 1, b: 2)` in order: params before a stage has seen them, needs.
#[derive(Debug, Clone, Default)]
pub(super) struct Fields<'a>(pub Vec<(String, Raw<'a>)>);

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldsVisitor;
        impl<'de> Visitor<'de> for FieldsVisitor {
            type Value = Fields<'de>;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("fields `(name: value)`")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields: Vec<(String, Raw)> = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, Raw>()? {
                    if fields.iter().any(|(other, _)| *other == name) {
                        return Err(A::Error::custom(format!("`{name}` is given twice")));
                    }
                    fields.push((name, value));
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_struct("", &[], FieldsVisitor)
    }
}

/// A step, a family of steps (`for`), or an alias (`from`).
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EntryForm<'a> {
    #[serde(rename = "for", borrow, default)]
    pub for_each: Pairs<'a>,
    #[serde(borrow)]
    pub name: Raw<'a>,
    #[serde(borrow, default)]
    pub about: Option<Raw<'a>>,
    #[serde(borrow, default)]
    pub stage: Option<Raw<'a>>,
    #[serde(borrow, default)]
    pub from: Option<Raw<'a>>,
    #[serde(borrow, default)]
    pub inputs: Pairs<'a>,
    #[serde(borrow, default)]
    pub params: Option<Raw<'a>>,
    #[serde(borrow, default)]
    pub needs: Option<Raw<'a>>,
    #[serde(borrow, default)]
    pub publish: Option<Raw<'a>>,
    #[serde(borrow, default)]
    pub tolerance: Option<Raw<'a>>,
}

/// A profile: where the sources come from, and defaults for the params of stages.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ProfileForm<'a> {
    #[serde(borrow)]
    pub name: Raw<'a>,
    #[serde(borrow)]
    pub about: Raw<'a>,
    #[serde(borrow, default)]
    pub rehearses: Option<Raw<'a>>,
    #[serde(borrow, default)]
    pub sources: Vec<EntryForm<'a>>,
    #[serde(borrow, default)]
    pub defaults: Pairs<'a>,
    #[serde(borrow, default)]
    pub seeds: Option<Raw<'a>>,
}

impl ProfileForm<'_> {
    /// The profile of a file that declares none.
    pub fn only() -> Self {
        Self {
            name: Raw("\"default\""),
            about: Raw("\"\""),
            rehearses: None,
            sources: Vec::new(),
            defaults: Pairs::default(),
            seeds: None,
        }
    }
}

/// A target with a sentence about it; without one, a target is its list of steps alone.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TargetForm<'a> {
    #[serde(borrow)]
    pub about: Raw<'a>,
    #[serde(borrow)]
    pub steps: Raw<'a>,
}

/// A whole pipeline file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileForm<'a> {
    /// By default the first of the profiles.
    #[serde(borrow, default)]
    pub default_profile: Option<Raw<'a>>,
    /// Each a [`ProfileForm`], or the path of a file that holds one. By default [`ProfileForm::only`].
    #[serde(borrow, default)]
    pub profiles: Vec<Raw<'a>>,
    #[serde(borrow, default)]
    pub pools: Pairs<'a>,
    #[serde(borrow, default)]
    pub defaults: Pairs<'a>,
    #[serde(borrow, default)]
    pub needs: Pairs<'a>,
    #[serde(borrow, default)]
    pub seeds: Option<Raw<'a>>,
    #[serde(borrow, default)]
    pub steps: Vec<EntryForm<'a>>,
    #[serde(borrow, default)]
    pub targets: Pairs<'a>,
}

/// Parses the whole of a file, or a part of it that is as large.
pub(super) fn parse<'a, T: Deserialize<'a>>(part: &'a str, text: &Text) -> Result<T, PipelineError> {
    options().from_str(part).map_err(|error| text.parse_error(part, &error))
}

/// Parses the fields of params or needs.
pub(super) fn fields<'a>(raw: Raw<'a>, text: &Text<'a>) -> Result<Fields<'a>, PipelineError> {
    options().from_str(raw.0).map_err(|error| text.error(text.span(raw.0), error.code.to_string()))
}

fn options() -> ron::Options {
    ron::Options::default().with_default_extension(ron::extensions::Extensions::IMPLICIT_SOME)
}
