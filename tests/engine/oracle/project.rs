//! A project in a folder, runs of the program in it, and its invariants.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use repro::key::StageKey;
use repro::store::ContentStore;
use tempfile::TempDir;

use super::clean::{self, Files, Node, Outcome, Tree, letter};
use super::contents;
use super::drawn::{Disturbance, Drawn, Edit, FOLDER};
use super::script;

/// The users that share a cache by their group.
const USERS: [u32; 2] = [1000, 1001];
const GROUP: u32 = 1500;

/// A project in a folder, and what the test knows of it.
pub struct Project {
    folder: TempDir,
    pub steps: Vec<Drawn>,
    pub files: Files,
    /// The files of people and other pipelines among the reports.
    pub by_others: BTreeMap<PathBuf, Vec<u8>>,
    /// The user who runs the program, if it is not the user of the test.
    user: Option<usize>,
    /// The expected output of all steps, by name, and of the step of the other pipeline.
    seen: BTreeMap<String, Vec<Tree>>,
}

/// The options of a run.
#[derive(Debug, Default)]
pub struct How {
    forced: Option<usize>,
    target: Option<usize>,
    pub killed_at: Option<usize>,
    keep_going: bool,
}

impl How {
    pub fn of(edit: &Edit) -> Self {
        let mut how = Self::default();
        match edit {
            Edit::Force(step) | Edit::During(step, _) => how.forced = Some(*step),
            Edit::Target(step) => how.target = Some(*step),
            Edit::Kill(line) => how.killed_at = Some(*line),
            Edit::KeepGoing => how.keep_going = true,
            _ => {}
        }
        how
    }

    /// The only requested step, if the pipeline has it.
    pub fn target(&self, steps: &[Drawn]) -> Option<usize> {
        self.target.filter(|target| steps[*target].present)
    }

    /// The same by name, as a request of the library.
    pub fn targets(&self, steps: &[Drawn]) -> Vec<String> {
        self.target(steps).map(|target| script::name(steps, target)).into_iter().collect()
    }

    fn args(&self, steps: &[Drawn]) -> Vec<String> {
        let mut args = self.unforced(steps);
        if let Some(forced) = self.forced.filter(|forced| steps[*forced].present) {
            args.extend(["--force".to_owned(), script::name(steps, forced)]);
        }
        args
    }

    /// The arguments of the same run without force.
    pub fn unforced(&self, steps: &[Drawn]) -> Vec<String> {
        let mut args: Vec<String> = ["make", "-j", "3"].map(str::to_owned).to_vec();
        args.extend(self.targets(steps));
        args.extend(self.keep_going.then(|| "-k".to_owned()));
        args
    }
}

/// The result of a run.
#[derive(Debug, Default)]
pub struct RunResult {
    pub code: Option<i32>,
    pub err: String,
    /// Whether something was disturbed during it.
    pub disturbed: bool,
    /// The content of the project's files, if it changed.
    pub changed: Option<Files>,
    /// The bytes that a step moved into its output.
    taken: Option<(usize, Vec<u8>)>,
}

impl Project {
    pub fn new(steps: Vec<Drawn>, users: bool) -> Self {
        // Many small files; in memory if the system has such a folder.
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let files = Files { texts: [0; FOLDER + 1], second: None };
        // A new project belongs to its creator.
        let user = (users && rustix::process::geteuid().is_root()).then_some(0);
        let mut project =
            Self { folder, steps, files, by_others: BTreeMap::new(), user, seen: BTreeMap::new() };
        let other = Node::File { bytes: b"other".to_vec(), runs: false };
        project.seen.insert("other.ron".to_owned(), vec![Tree::from([("text".into(), other)])]);
        fs::create_dir(project.root().join("folder")).unwrap();
        fs::create_dir(project.root().join("hooks")).unwrap();
        (0..=FOLDER).for_each(|file| project.write_file(file, 0));
        let other = "(name: \"s1\", stage: \"join\", params: (text: \"other\"), publish: \"other\"),\n";
        project.write("other.ron", script::whole(other).as_bytes());
        project
    }

    /// Whether two users run it by turns.
    pub fn has_users(&self) -> bool {
        self.user.is_some()
    }

    pub fn root(&self) -> &Path {
        self.folder.path()
    }

    pub fn cache(&self) -> PathBuf {
        self.root().join("cache")
    }

    pub fn reports(&self) -> PathBuf {
        self.root().join("reports/mini")
    }

    pub fn write(&self, path: &str, bytes: &[u8]) {
        fs::write(self.root().join(path), bytes).unwrap();
        self.hand_over();
    }

    pub fn write_file(&mut self, file: usize, text: u8) {
        self.files.texts[file] = text;
        self.write(&script::file(file), &[letter(text)]);
    }

    /// A file is written only when it changes, as in an editor.
    pub fn write_pipeline(&self) {
        let text = script::pipeline(self.root(), &self.steps);
        if fs::read_to_string(self.root().join("pipeline.ron")).ok().as_ref() != Some(&text) {
            self.write("pipeline.ron", text.as_bytes());
        }
    }

    pub fn next_user(&mut self) {
        self.user = self.user.map(|user| 1 - user);
    }

    /// Makes the files of the test writable for the group of the users.
    pub fn hand_over(&self) {
        let Some(user) = self.user else { return };
        let mut left = vec![self.root().to_owned()];
        while let Some(path) = left.pop() {
            let metadata = fs::symlink_metadata(&path).unwrap();
            let (owner, mode) =
                (std::os::unix::fs::MetadataExt::uid(&metadata), metadata.permissions().mode());
            if owner == 0 && !metadata.is_symlink() {
                chown(&path, Some(USERS[user]), Some(GROUP)).unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(mode | (mode & 0o600) >> 3)).unwrap();
            }
            if metadata.is_dir() {
                left.extend(fs::read_dir(&path).unwrap().flatten().map(|item| item.path()));
            }
        }
    }

    /// The program with these arguments, as the current user.
    fn command(&self, args: &[String]) -> Command {
        let here = std::env::current_exe().unwrap();
        let program = here.parent().and_then(Path::parent).unwrap().join("examples/toy");
        let mut command = match self.user {
            None => Command::new(program),
            Some(user) => {
                let mut shell = Command::new("/bin/sh");
                shell.args(["-c", "umask 002; exec \"$@\"", "sh"]).arg(program);
                shell.uid(USERS[user]).gid(GROUP).env("HOME", "/");
                shell
            }
        };
        command.args(args).current_dir(self.root()).env_remove("REPRO_PROFILE").env("NO_COLOR", "1");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    pub fn run(&self, args: &[String]) -> RunResult {
        let output = self.command(args).output().unwrap();
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!err.contains("panicked at"), "{err}");
        RunResult { code: output.status.code(), err, ..RunResult::default() }
    }

    /// A run that is killed or disturbed as the edit requires.
    pub fn make(&mut self, how: &How, edit: &Edit) -> RunResult {
        let args = how.args(&self.steps);
        if let Some(line) = how.killed_at {
            return self.killed(&args, line);
        }
        let Edit::During(number, what) = edit else { return self.run(&args) };
        let (step, what) = (self.steps[*number].clone(), *what);
        let text = match what {
            Disturbance::Rewritten(file) | Disturbance::RewrittenWithTime(file) => self.files.texts[file],
            // Different from any that is drawn.
            _ => 9,
        };
        let reads_steps = !clean::reads(&self.steps, *number).is_empty();
        let hooks = script::hooks(self.root(), &step, reads_steps, what, text).filter(|_| step.present);
        let Some((before, after)) = hooks else { return self.run(&args) };
        self.write(&format!("hooks/before{number}"), before.as_bytes());
        self.write(&format!("hooks/after{number}"), after.as_bytes());
        let mut result = self.run(&args);
        for hook in ["before", "after"] {
            fs::remove_file(self.root().join(format!("hooks/{hook}{number}"))).unwrap();
        }
        if fs::remove_file(self.root().join("fired")).is_err() {
            return result;
        }
        result.disturbed = true;
        match (what, step.file) {
            (Disturbance::Changed(file), _) => {
                let mut files = self.files.clone();
                files.texts[file] = text;
                result.changed = (files != self.files).then_some(files);
            }
            (Disturbance::Taken, Some(file)) => {
                result.taken = Some((file, vec![letter(self.files.texts[file])]))
            }
            _ => {}
        }
        result
    }

    /// A run that is killed when it prints a line of that number.
    fn killed(&self, args: &[String], line: usize) -> RunResult {
        let mut child = self.command(args).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        for (number, _) in lines.map_while(Result::ok).enumerate() {
            if number == line {
                // It may just have ended.
                let _ = child.kill();
            }
        }
        child.wait().unwrap();
        RunResult::default()
    }

    /// The keys whose results are present and intact: steps that would build them again must not run.
    pub fn whole_results(&self) -> BTreeSet<StageKey> {
        let store = ContentStore::open(&self.cache()).unwrap();
        let records = store.records();
        let intact = records.iter().filter(|record| store.open_tree(&record.tree).is_ok());
        intact.map(|record| record.key_text.key()).collect()
    }

    /// Stores the expected output of the steps.
    pub fn remember(&mut self, outcomes: &BTreeMap<usize, Outcome>) {
        for (number, outcome) in outcomes {
            if let Outcome::Leaves(tree) = outcome {
                let seen = self.seen.entry(script::name(&self.steps, *number)).or_default();
                if !seen.contains(tree) {
                    seen.push(tree.clone());
                }
            }
        }
    }

    /// Checks that no step runs whose result was present, and that none runs twice.
    pub fn check_runs(
        &self,
        result: &RunResult,
        how: &How,
        intact: &BTreeSet<StageKey>,
    ) -> Result<(), String> {
        if result.disturbed {
            return Ok(());
        }
        let done =
            result.err.lines().filter_map(|line| Some(line.split_once("] ")?.1.split_once(" done in")?.0));
        let ran: Vec<&str> = done.collect();
        let store = ContentStore::open(&self.cache()).unwrap();
        let records = store.records();
        let forced = how.forced.map(|forced| script::name(&self.steps, forced));
        for step in &ran {
            if ran.iter().filter(|other| *other == step).count() > 1 {
                return Err(format!("{step} ran twice: {}", result.err));
            }
            let record = records.iter().rev().find(|record| record.step == **step);
            if let Some(record) = record.filter(|_| forced.as_deref() != Some(step))
                && intact.contains(&record.key_text.key())
            {
                return Err(format!("a fresh step ran: {step}: {}", result.err));
            }
        }
        Ok(())
    }

    /// Checks that no process of a step is left.
    pub fn check_processes(&self) -> Result<(), String> {
        let file = self.root().join("escaped");
        let Ok(pid) = fs::read_to_string(&file) else { return Ok(()) };
        let _ = fs::remove_file(&file);
        match fs::read_to_string(format!("/proc/{}/cmdline", pid.trim())) {
            Ok(line) if line.contains("EVIL") => Err("a process outlived its step".to_owned()),
            _ => Ok(()),
        }
    }

    /// Checks that the files of the project are unchanged and writable.
    pub fn check_files(&mut self, result: &RunResult) -> Result<(), String> {
        if let Some((file, bytes)) = &result.taken {
            let root = self.root();
            let in_place = fs::read(root.join(script::file(*file))).ok();
            let left = contents(&self.cache())
                .into_iter()
                .any(|(path, held)| path.ends_with("taken") && held == *bytes);
            if in_place.as_ref() != Some(bytes) && !left {
                return Err(format!("a file that a step moved is lost: {}", result.err));
            }
            self.write_file(*file, bytes[0] - letter(0));
        }
        for file in 0..=FOLDER {
            let path = self.root().join(script::file(file));
            let mode = fs::metadata(&path).map(|metadata| metadata.permissions().mode()).unwrap_or_default();
            if mode & 0o200 == 0 {
                return Err(format!("{} is {mode:o} now", path.display()));
            }
            let held = fs::read(&path).unwrap();
            if held == [letter(9)] {
                self.files.texts[file] = 9;
            } else if held != [letter(self.files.texts[file])] {
                // A killed run may have left it so.
                if result.code.is_some() {
                    return Err(format!("{} holds {held:?}", path.display()));
                }
                self.write_file(file, self.files.texts[file]);
            }
        }
        Ok(())
    }

    /// Checks that every intact result of a step has the expected content.
    pub fn check_records(&self) -> Result<(), String> {
        let store = ContentStore::open(&self.cache()).unwrap();
        for record in store.records() {
            let Some(seen) = self.seen.get(&record.step) else { continue };
            let folder = self.cache().join("trees").join(record.tree.to_string());
            let is_intact = store.open_tree(&record.tree).is_ok();
            let found = tree_of(&folder);
            // A step may have run before it was renamed, or during a kill: then other records know it.
            if is_intact && !seen.contains(&found) && !self.seen.values().flatten().any(|tree| *tree == found)
            {
                return Err(format!(
                    "`{}` is said to have left {found:?} instead of one of {seen:?}",
                    record.step
                ));
            }
        }
        Ok(())
    }
}

/// The content of a folder.
fn tree_of(folder: &Path) -> Tree {
    let item = |item: fs::DirEntry| {
        let metadata = item.metadata().unwrap();
        let node = if metadata.is_dir() {
            Node::Folder(tree_of(&item.path()))
        } else {
            let runs = metadata.permissions().mode() & 0o100 != 0;
            Node::File { bytes: fs::read(item.path()).unwrap(), runs }
        };
        (item.file_name(), node)
    };
    fs::read_dir(folder).into_iter().flatten().flatten().map(item).collect()
}
