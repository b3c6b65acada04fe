//! Which lock file `env` means, which files belong to it, and what the environment that it describes is called.

use std::path::Path;

use stage_api::ProjectFile;

use crate::digest::Digest;

/// The port by which a step reads the files that describe its environment.
pub const PORT: &str = "env";
/// The lock of uv.
const UV: &str = "uv.lock";
/// The lock that `conda-lock` writes for `environment.yml` and micromamba reads.
const CONDA: &str = "conda-lock.yml";
/// The version of Python that uv takes, which its lock does not contain.
const PYTHON_VERSION: &str = ".python-version";

/// What builds an environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manager {
    /// uv, for Python.
    Uv,
    /// micromamba, for conda packages.
    Micromamba,
}

impl Manager {
    /// The variable that names an active environment.
    pub fn variable(self) -> &'static str {
        match self {
            Self::Uv => "VIRTUAL_ENV",
            Self::Micromamba => "CONDA_PREFIX",
        }
    }
}

/// A lock file of the project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockFile {
    /// What reads it.
    pub manager: Manager,
    /// Its path in the project.
    pub path: String,
}

impl LockFile {
    /// The lock file that the param `env` means.
    ///
    /// # Errors
    /// When its name is not that of a lock file.
    pub fn parse(env: &str) -> Result<Self, String> {
        let path = Path::new(env.strip_prefix("./").unwrap_or(env));
        let lock = |manager, name| {
            let path = path.with_file_name(name).to_string_lossy().into_owned();
            Ok(Self { manager, path })
        };
        match path.file_name().and_then(|name| name.to_str()) {
            Some(UV) => lock(Manager::Uv, UV),
            Some("environment.yml" | "environment.yaml" | CONDA) => lock(Manager::Micromamba, CONDA),
            _ => Err(format!(
                "env: `{env}` is neither a `{UV}` nor an `environment.yml` with its lock `{CONDA}` next to it"
            )),
        }
    }

    /// The files that describe the environment.
    pub fn project_files(&self) -> Vec<ProjectFile> {
        let file = |path: String, optional| ProjectFile { port: PORT, path, optional };
        let mut files = vec![file(self.path.clone(), false)];
        if self.manager == Manager::Uv {
            let version = Path::new(&self.path).with_file_name(PYTHON_VERSION);
            files.push(file(version.to_string_lossy().into_owned(), true));
        }
        files
    }

    /// What the environment is called, by the digests of its files. Its programs run on one kind of machine.
    pub fn environment(&self, digests: &[Digest]) -> String {
        let files = digests.iter().map(Digest::to_string).collect::<Vec<_>>().join(" ");
        let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
        let text = format!("{:?} {os} {arch} {files}", self.manager);
        Digest::of_kind("repro environment v1", text.as_bytes()).to_string()
    }
}

/// The command that writes a lock file of this name.
pub fn how_to_lock(path: &Path) -> Option<&'static str> {
    match path.file_name()?.to_str()? {
        UV => Some("`uv lock` writes it from `pyproject.toml`"),
        CONDA => Some("`conda-lock --file environment.yml` writes it"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn env_names_a_lock_file_or_what_it_locks() {
        let path = |env: &str| LockFile::parse(env).map(|lock| lock.path);
        assert_eq!(path("uv.lock").as_deref(), Ok("uv.lock"));
        assert_eq!(path("./code/uv.lock").as_deref(), Ok("code/uv.lock"));
        assert_eq!(path("environment.yml").as_deref(), Ok("conda-lock.yml"));
        assert_eq!(path("code/environment.yaml").as_deref(), Ok("code/conda-lock.yml"));
        assert_eq!(path("conda-lock.yml").as_deref(), Ok("conda-lock.yml"));
        for wrong in ["", "pyproject.toml", "poetry.lock", "code/", "uv.lock/x"] {
            assert!(path(wrong).unwrap_err().contains(&format!("env: `{wrong}`")), "{wrong}");
        }
    }

    #[test]
    fn an_environment_is_named_by_what_describes_it() {
        let digest = |text: &str| Digest::of_bytes(text.as_bytes());
        let (uv, conda) = (LockFile::parse("uv.lock").unwrap(), LockFile::parse("environment.yml").unwrap());
        let names = [
            uv.environment(&[digest("1")]),
            uv.environment(&[digest("2")]),
            uv.environment(&[digest("1"), digest("3.12")]),
            conda.environment(&[digest("1")]),
        ];
        for (at, name) in names.iter().enumerate() {
            assert_eq!(names.iter().position(|other| other == name), Some(at));
        }
        let elsewhere = LockFile::parse("code/uv.lock").unwrap();
        assert_eq!(elsewhere.environment(&[digest("1")]), names[0], "its path does not count");
    }
}
