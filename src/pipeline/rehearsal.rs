//! What a profile says that rehearses another: which one, what of it is left out, and how much more work the real run has.
//! It does not know what any step does.

use std::collections::BTreeMap;

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a profile says of the one that it rehearses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rehearsal {
    /// The profile that is rehearsed: its sources and defaults are the rehearsal's too, where that gives none itself.
    pub profile: String,
    /// Steps that do not run in the rehearsal, each with the reason.
    #[serde(default)]
    pub leaves_out: BTreeMap<String, String>,
    /// What the rehearsal cannot show, a sentence each.
    #[serde(default)]
    pub cannot: Vec<String>,
    /// How the real run of steps differs in size, by name, where `*` matches any characters; the last match counts.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, Real>")]
    pub real: IndexMap<String, Real>,
}

/// The size of a step in the real run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Real {
    /// Units of work, as the step counts them.
    pub work: Option<u64>,
    /// Whether its output grows with its work.
    pub grows: bool,
    /// Bytes of its output, where they are known.
    pub bytes: Option<u64>,
    /// Floating-point operations of a unit, in units of 10¹²: what a GPU's speed is reckoned by.
    pub teraflop: Option<f64>,
}

impl Rehearsal {
    /// How the real run of a step differs, if anything is said of it.
    pub fn real(&self, step: &str) -> Option<&Real> {
        self.real.iter().rev().find(|(of, _)| super::fits(of, step)).map(|(_, real)| real)
    }
}
