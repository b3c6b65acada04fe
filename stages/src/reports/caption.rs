//! Which profile a table or a figure is of, as every caption says it. It knows no profile.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The params of a stage that only needs to name the profile in its captions.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// The profile's name: `mini`.
    profile: String,
    /// What it is: `synthetic memes, small models`.
    #[serde(default)]
    about: String,
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
}
