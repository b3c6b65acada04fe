//! What a stage may know of the machine and the person it works for, in addition to its inputs: credentials, passwords, the
//! folder of downloads. It reaches the running stage only: never a key, a job file, a record or a log.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

/// The variables of the environment that a stage asked for in [`crate::Stage::OUTSIDE`].
#[derive(Clone, Default)]
pub struct AllowedEnv(BTreeMap<String, OsString>);

impl AllowedEnv {
    /// Those of `variables` that `patterns` name; a pattern that ends in `*` matches all names with that beginning. A variable
    /// that is set to nothing counts as not set.
    pub fn select(patterns: &[&str], variables: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let is_wanted = |name: &str| {
            patterns.iter().any(|pattern| match pattern.strip_suffix('*') {
                Some(start) => name.starts_with(start),
                None => name == *pattern,
            })
        };
        let named = variables.into_iter().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
        Self(named.filter(|(name, value)| !value.is_empty() && is_wanted(name)).collect())
    }

    /// The text of a variable; `None` when it is not set, not allowed, or not UTF-8.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.to_str()
    }

    /// A variable as a path.
    pub fn path(&self, name: &str) -> Option<PathBuf> {
        self.0.get(name).map(PathBuf::from)
    }

    /// A secret: the variable `name`, or the first line of the file that the variable `<name>_FILE` names.
    ///
    /// # Errors
    /// A sentence that names the file that cannot be read.
    pub fn secret(&self, name: &str) -> Result<Option<String>, String> {
        if let Some(secret) = self.text(name) {
            return Ok(Some(secret.to_owned()));
        }
        let file = format!("{name}_FILE");
        let Some(path) = self.path(&file) else { return Ok(None) };
        let text =
            read(&path).map_err(|problem| format!("{}, which {file} names: {problem}", path.display()))?;
        Ok(text.lines().next().map(ToOwned::to_owned).filter(|line| !line.is_empty()))
    }
}

fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("cannot be read: {error}"))
}

/// Names only: a value may be a secret.
impl fmt::Debug for AllowedEnv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Outside").field(&self.0.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed_env(patterns: &[&str]) -> AllowedEnv {
        let all = [("REPRO_A", "s3cret"), ("REPRO_B", ""), ("HOME", "/home/me"), ("PATH", "/bin")];
        AllowedEnv::select(patterns, all.map(|(name, value)| (name.into(), value.into())))
    }

    #[test]
    fn only_what_was_asked_for_comes_in() {
        let some = allowed_env(&["REPRO_*", "HOME"]);
        assert_eq!((some.text("REPRO_A"), some.text("REPRO_B")), (Some("s3cret"), None));
        assert_eq!((some.path("HOME"), some.text("PATH")), (Some(PathBuf::from("/home/me")), None));
        assert!(allowed_env(&[]).text("REPRO_A").is_none());
    }

    #[test]
    fn a_secret_may_lie_in_a_file_and_is_never_shown() {
        let file = std::env::temp_dir().join(format!("repro-secret-{}", std::process::id()));
        std::fs::write(&file, "pass word\nmore").unwrap();
        let variables = [("REPRO_X_FILE".into(), file.clone().into())];
        let secret = AllowedEnv::select(&["REPRO_*"], variables).secret("REPRO_X");
        std::fs::remove_file(&file).unwrap();
        assert_eq!(secret.unwrap().as_deref(), Some("pass word"));
        let missing = AllowedEnv::select(&["REPRO_*"], [("REPRO_X_FILE".into(), "/nowhere/x".into())]);
        assert!(missing.secret("REPRO_X").unwrap_err().starts_with("/nowhere/x, which REPRO_X_FILE names: "));
        assert_eq!(allowed_env(&["REPRO_*"]).secret("REPRO_X"), Ok(None));
        let shown = format!("{:?}", allowed_env(&["REPRO_*"]));
        assert!(shown.contains("REPRO_A") && !shown.contains("s3cret"), "{shown}");
    }
}
