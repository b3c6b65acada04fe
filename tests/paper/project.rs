//! A copy of the project in a folder of its own, with sizes that make the whole paper a matter of seconds.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use repro::store::ContentStore;
use tempfile::TempDir;

use super::process::{Run, finished};

/// Sizes for tests, which as the last defaults by name go over all others. The figures that come out mean nothing.
const SMALL: &str = r#"
    "memes": (hmd_train: 16, hmd_dev_seen: 8, hmd_dev_unseen: 4, hmd_test_seen: 4, hmd_test_unseen: 4,
              mmh_train: 16, mmh_val: 16, mmh_test: 16, scenes: 16, scenes_val: 4),
    "detector": (examples: 8),
    "visualbert": (updates: 4, warm_up: 1, batch: 8, evaluate_every: 2),
    "*-train": (updates: 4, warm_up: 1, batch: 8, evaluate_every: 2, log_every: 1),
"#;

/// A project.
pub struct Project {
    folder: TempDir,
}

impl Project {
    /// A fresh clone, small.
    pub fn new() -> Self {
        let project = Self { folder: tempfile::tempdir().unwrap() };
        let origin = Path::new(env!("CARGO_MANIFEST_DIR"));
        copy(&origin.join("paper"), &project.path("paper"));
        copy(&origin.join("profiles"), &project.path("profiles"));
        let text = fs::read_to_string(origin.join("pipeline.ron")).unwrap();
        project.write(&with_defaults(&text, SMALL));
        project
    }

    /// A fresh clone as it is committed, with its reports and its evidence.
    pub fn fresh_clone() -> Self {
        let project = Self { folder: tempfile::tempdir().unwrap() };
        let origin = Path::new(env!("CARGO_MANIFEST_DIR"));
        for folder in ["paper", "profiles", "reports"] {
            copy(&origin.join(folder), &project.path(folder));
        }
        project.write(&fs::read_to_string(origin.join("pipeline.ron")).unwrap());
        project
    }

    /// A copy with all that was made in it.
    pub fn copy(&self) -> Self {
        let folder = tempfile::tempdir().unwrap();
        copy(self.folder.path(), folder.path());
        Self { folder }
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    /// The text of `pipeline.ron`.
    pub fn text(&self) -> String {
        fs::read_to_string(self.path("pipeline.ron")).unwrap()
    }

    /// Replaces `pipeline.ron`.
    pub fn write(&self, text: &str) {
        fs::write(self.path("pipeline.ron"), text).unwrap();
    }

    /// Adds defaults to those of the profile `mini`.
    pub fn defaults(&self, more: &str) {
        self.write(&with_defaults(&self.text(), more));
    }

    /// The program, ready to run here.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_repro"));
        command.args(args).current_dir(self.folder.path()).env_remove("REPRO_PROFILE").env("NO_COLOR", "1");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub fn run(&self, args: &[&str]) -> Run {
        finished(self.command(args).output().unwrap())
    }

    pub fn spawn(&self, args: &[&str]) -> Child {
        self.command(args).spawn().unwrap()
    }

    /// The tree digest of every step, by name, as the newest records have it.
    pub fn trees(&self) -> BTreeMap<String, String> {
        let records = ContentStore::open(&self.path("cache")).unwrap().records();
        records.into_iter().map(|record| (record.step, record.tree.to_string())).collect()
    }

    /// How many items a folder of the cache has.
    pub fn cached(&self, folder: &str) -> usize {
        fs::read_dir(self.path("cache").join(folder)).map_or(0, Iterator::count)
    }

    /// How many executions the cache knows; while it is being written, too.
    pub fn records(&self) -> usize {
        ContentStore::open(&self.path("cache")).map_or(0, |store| store.records().len())
    }

    /// Every file of the reports.
    pub fn reports(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut files = BTreeMap::new();
        gather(&self.path("reports"), Path::new(""), &mut files);
        files
    }
}

/// The undisturbed result: `make all`, once, in a fresh project.
pub struct Made {
    pub project: Project,
    pub run: Run,
    pub time: Duration,
}

/// The undisturbed result, for all tests that want it at one time. Nobody may change it; [`Project::copy`] can be.
pub fn made() -> Arc<Made> {
    static MADE: Mutex<Weak<Made>> = Mutex::new(Weak::new());
    let mut known = MADE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    known.upgrade().unwrap_or_else(|| {
        let (project, since) = (Project::new(), Instant::now());
        let run = project.run(&["make", "all", "-j", "2"]).expect(0);
        let made = Arc::new(Made { project, run, time: since.elapsed() });
        *known = Arc::downgrade(&made);
        made
    })
}

/// `text`, a pipeline, with `more` after the last of the defaults of its first profile.
fn with_defaults(text: &str, more: &str) -> String {
    let start = text.find("defaults: {").unwrap() + "defaults: {".len();
    let mut open = 1;
    let end = text[start..].find(|c| {
        open += i32::from(c == '{') - i32::from(c == '}');
        open == 0
    });
    let (before, after) = text.split_at(start + end.unwrap());
    format!("{before}{more}{after}")
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for item in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(item.file_name());
        if item.file_type().unwrap().is_dir() {
            copy(&item.path(), &to);
        } else {
            fs::copy(item.path(), to).unwrap();
        }
    }
}

fn gather(folder: &Path, name: &Path, files: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for item in fs::read_dir(folder).into_iter().flatten().map(Result::unwrap) {
        let name = name.join(item.file_name());
        if item.file_type().unwrap().is_dir() {
            gather(&item.path(), &name, files);
        } else {
            files.insert(name, fs::read(item.path()).unwrap());
        }
    }
}
