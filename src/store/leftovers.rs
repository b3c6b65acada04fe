//! What dead runs left in the store. The next run removes it, whatever its modes. A failure to remove it stops no
//! run, and a possible only copy of an input is kept.

use std::fs;
use std::path::Path;

use super::lock::TryClaim;
use super::work_dir;
use super::{StoreError, Writer};
use crate::digest::Digest;
use crate::key::StageKey;

impl Writer {
    /// Removes folders that belong to no running step, that is, whose key is not claimed. A folder that cannot be
    /// removed stays and stops no run.
    pub(super) fn clear(&self) -> Result<(), StoreError> {
        self.work_dirs.forget();
        self.claims.clear();
        for folder in ["work", "claims"] {
            let folder = self.store.root().join(folder);
            for item in fs::read_dir(&folder).map_err(StoreError::io(&folder, "list"))?.flatten() {
                let name = item.file_name();
                let key = name.to_str().and_then(|name| name.split('-').next()?.parse::<Digest>().ok());
                let claim = key.map(|key| self.claim(StageKey(key))).transpose()?;
                if matches!(claim, Some(TryClaim::HeldBy(_))) {
                    continue;
                }
                if folder.ends_with("work") {
                    self.clear_work_dir(&item.path(), key.map(StageKey));
                }
                if let Some(TryClaim::Acquired(claim)) = claim {
                    claim.remove();
                }
            }
        }
        Ok(())
    }

    fn clear_work_dir(&self, work_dir: &Path, key: Option<StageKey>) {
        let kept = key.map_or(Ok(()), |key| work_dir::keep_logs(&self.store, work_dir, &key));
        let warning = if work_dir::holds_older(work_dir) {
            work_dir::keep_aside(&self.store, work_dir).map(|kept| {
                Some(format!(
                    "a step of an earlier run moved files into its work directory, perhaps inputs; they are now in {}",
                    kept.display()
                ))
            })
        } else {
            kept.and_then(|()| work_dir::remove(work_dir)).map(|()| None)
        };
        let warning =
            warning.unwrap_or_else(|error| Some(format!("cannot remove what an earlier run left: {error}")));
        if let Some(warning) = warning {
            self.warnings.borrow_mut().entry(work_dir::name_of(work_dir)).or_insert(Some(warning));
        }
    }

    /// Warnings about the folders of dead runs; each is returned once.
    pub fn take_warnings(&self) -> Vec<String> {
        self.warnings.borrow_mut().values_mut().filter_map(Option::take).collect()
    }
}
