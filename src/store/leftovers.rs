//! What runs that are dead left in the store: removed by the next run, whatever modes it has. What cannot be removed
//! keeps nobody from working, and what may be the only copy of an input is kept.

use std::fs;
use std::path::Path;

use super::desk;
use super::lock::Claimed;
use super::{StoreError, Writer};
use crate::digest::Digest;
use crate::key::StageKey;

impl Writer {
    /// Removes what belongs to no running step: whoever runs a key has its claim. What cannot be removed stays, and
    /// keeps nobody from working.
    pub(super) fn clear(&self) -> Result<(), StoreError> {
        self.desks.forget();
        self.claims.clear();
        for folder in ["work", "claims"] {
            let folder = self.store.root().join(folder);
            for item in fs::read_dir(&folder).map_err(StoreError::io(&folder, "list"))?.flatten() {
                let name = item.file_name();
                let key = name.to_str().and_then(|name| name.split('-').next()?.parse::<Digest>().ok());
                let claim = key.map(|key| self.claim(StageKey(key))).transpose()?;
                if matches!(claim, Some(Claimed::Theirs(_))) {
                    continue;
                }
                if folder.ends_with("work") {
                    self.clear_desk(&item.path(), key.map(StageKey));
                }
                if let Some(Claimed::Mine(claim)) = claim {
                    claim.remove();
                }
            }
        }
        Ok(())
    }

    fn clear_desk(&self, desk: &Path, key: Option<StageKey>) {
        let kept = key.map_or(Ok(()), |key| desk::keep_logs(&self.store, desk, &key));
        let warning = if desk::holds_older(desk) {
            desk::keep_aside(&self.store, desk).map(|kept| {
                Some(format!(
                    "a step of an earlier run moved files into its work directory, perhaps inputs; they are in {}",
                    kept.display()
                ))
            })
        } else {
            kept.and_then(|()| desk::remove(desk)).map(|()| None)
        };
        let warning = warning.unwrap_or_else(|error| Some(format!("what a dead run left stays: {error}")));
        if let Some(warning) = warning {
            self.warnings.borrow_mut().entry(desk::name_of(desk)).or_insert(Some(warning));
        }
    }

    /// What a person should know of the folders of dead runs, each once.
    pub fn take_warnings(&self) -> Vec<String> {
        self.warnings.borrow_mut().values_mut().filter_map(Option::take).collect()
    }
}
