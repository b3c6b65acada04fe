//! Which profile a table or a figure is of, as every caption says it, and what it calls things. It knows no profile.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::names::Names;
use crate::artifacts::labels::Classes;

/// The params of a stage that only needs to name things: the profile in its captions, data sets, modes and classes.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// The profile's name: `mini`.
    profile: String,
    /// What it is: `synthetic memes, small models`.
    #[serde(default)]
    about: String,
    /// What data sets, modes, classes and samples are called.
    #[serde(default, skip_serializing_if = "Names::is_empty")]
    pub names: Names,
}

impl Profile {
    /// `profile mini`, where there is no room for more.
    pub fn short(&self) -> String {
        format!("profile {}", self.profile)
    }

    /// `profile mini (synthetic memes, small models)`, for captions.
    pub fn in_words(&self) -> String {
        if self.about.is_empty() { self.short() } else { format!("{} ({})", self.short(), self.about) }
    }

    /// The same profile, with data sets and classes of runs where nothing is named.
    pub fn with_runs<'a>(
        &self,
        datasets: impl Iterator<Item = &'a str>,
        classes: impl Iterator<Item = &'a Classes>,
    ) -> Self {
        Self { names: self.names.with_runs(datasets, classes), ..self.clone() }
    }
}
