//! What the stages compute with on this machine, and settings of it that cannot be followed.

use std::fmt;

/// A look at this machine before any step runs. `repro doctor` prints what it finds, and an error ends a command before its
/// first step. What it finds changes no result, so it is part of no key.
#[derive(Debug, Clone, Copy)]
pub struct HostCheck {
    /// What is looked at: `CPU kernels`.
    pub name: &'static str,
    /// Says what was found in one line: `avx2 (of avx2, scalar)`.
    pub find: fn() -> Result<String, HostError>,
}

/// A setting that this machine cannot follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostError {
    /// Which setting, and why it cannot be followed.
    pub message: String,
    /// What to do.
    pub hint: String,
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for HostError {}
