//! A folder with a pipeline, and runs of the program in it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::process::{Run, finished};

/// A project in a new folder.
pub struct TestSpace {
    folder: TempDir,
}

impl TestSpace {
    /// A project whose pipeline has these steps (RON, without the enclosing list).
    pub fn new(steps: &str) -> Self {
        let space = Self { folder: tempfile::tempdir().unwrap() };
        space.steps(steps);
        space
    }

    /// Replaces the steps.
    pub fn steps(&self, steps: &str) {
        self.write(
            "pipeline.ron",
            &format!(
                "(default_profile: \"mini\", profiles: [(name: \"mini\", about: \"toys\", sources: [], defaults: {{}})],\n\
                 steps: [\n{steps}\n], targets: {{}})"
            ),
        );
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    pub fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// A command that runs the program in this project.
    pub fn command(&self, args: &[&str]) -> Command {
        let here = std::env::current_exe().unwrap();
        let program = here.parent().and_then(Path::parent).unwrap().join("examples/toy");
        assert!(program.exists(), "run `cargo build --release --examples` first: {}", program.display());
        let mut command = Command::new(program);
        command.args(args).current_dir(self.folder.path()).env_remove("REPRO_PROFILE").env("NO_COLOR", "1");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Like [`TestSpace::command`], as a user who is not root and gets all files of the project.
    pub fn command_as_user(&self, args: &[&str]) -> Command {
        const USER: u32 = 1000;
        let mut command = self.command(args);
        if rustix::process::geteuid().is_root() {
            let owner = format!("{USER}:{USER}");
            let done = Command::new("chown").args(["-Rh", &owner]).arg(self.folder.path()).status().unwrap();
            assert!(done.success());
            command.uid(USER).gid(USER);
        }
        command
    }

    pub fn run(&self, args: &[&str]) -> Run {
        finished(self.command(args).output().unwrap())
    }

    #[track_caller]
    pub fn git(&self, args: &[&str]) -> String {
        let mut git = Command::new("git");
        git.args(["-c", "user.name=t", "-c", "user.email=t@t", "-c", "init.defaultBranch=main"]).args(args);
        let done = git.current_dir(self.folder.path()).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8_lossy(&done.stdout).into_owned()
    }

    pub fn make(&self) -> Run {
        self.run(&["make"])
    }

    pub fn spawn(&self, args: &[&str]) -> Child {
        self.command(args).spawn().unwrap()
    }

    /// The tree digest of every step, by name, from the newest records.
    pub fn trees(&self) -> BTreeMap<String, String> {
        let store = repro::store::ContentStore::open(&self.path("cache")).unwrap();
        store.records().into_iter().map(|record| (record.step, record.tree.to_string())).collect()
    }

    /// The number of executions in the cache; also while it is being written.
    pub fn records(&self) -> usize {
        repro::store::ContentStore::open(&self.path("cache")).map_or(0, |store| store.records().len())
    }

    /// The newest record of a step.
    pub fn record(&self, step: &str) -> repro::record::RunRecord {
        let store = repro::store::ContentStore::open(&self.path("cache")).unwrap();
        store.records().into_iter().rev().find(|record| record.step == step).unwrap()
    }

    /// The names in a folder of the cache.
    pub fn cached(&self, folder: &str) -> Vec<String> {
        let items = fs::read_dir(self.path("cache").join(folder)).into_iter().flatten().flatten();
        items.map(|item| item.file_name().to_string_lossy().into_owned()).collect()
    }
}
