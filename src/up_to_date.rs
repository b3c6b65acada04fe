//! Whether a request is up to date, without a plan: a plan that found nothing to do is kept with all that it read, and
//! holds as long as no step was executed since and every answer is the same.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::recorder::DependencySnapshot;
use crate::store::StoreError;
use crate::workspace::Workspace;

/// A plan that found nothing to do.
#[derive(Serialize, Deserialize)]
struct Note {
    /// How many steps were needed, all fresh.
    steps: usize,
    read: DependencySnapshot,
}

/// How many steps `request` needs, if it was found up to date and nothing of that has changed.
pub fn check(workspace: &Workspace, request: &Digest) -> Option<usize> {
    let note: Note = serde_json::from_str(&workspace.store().up_to_date(request)?).ok()?;
    workspace.recorder().still_holds(&note.read).then_some(note.steps)
}

/// Keeps that `request` is up to date by all that was read through `workspace`.
///
/// # Errors
/// When the store cannot be written.
pub fn remember(workspace: &Workspace, request: &Digest, steps: usize) -> Result<(), StoreError> {
    let Some(read) = workspace.recorder().snapshot() else { return Ok(()) };
    match serde_json::to_string(&Note { steps, read }) {
        Ok(note) => workspace.store().keep_up_to_date(request, &note),
        Err(_) => Ok(()),
    }
}
