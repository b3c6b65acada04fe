//! A project in a folder, the program run on it, and what must hold of it whatever happened.

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

/// A project in a folder, and what is known of it.
pub struct Project {
    folder: TempDir,
    pub steps: Vec<Drawn>,
    pub files: Files,
    /// What persons and other pipelines have among the reports.
    pub by_others: BTreeMap<PathBuf, Vec<u8>>,
    /// Who is running the program, if that is not who runs the test.
    user: Option<usize>,
    /// All that steps were to leave, by their names, and what the step of the other pipeline leaves.
    seen: BTreeMap<String, Vec<Tree>>,
}

/// How to run.
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

    /// The step that alone is asked for, if the pipeline has it.
    pub fn wanted(&self, steps: &[Drawn]) -> Option<usize> {
        self.target.filter(|target| steps[*target].present)
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
        args.extend(self.wanted(steps).map(|target| script::name(steps, target)));
        args.extend(self.keep_going.then(|| "-k".to_owned()));
        args
    }
}

/// What a run came to.
#[derive(Debug, Default)]
pub struct Made {
    pub code: Option<i32>,
    pub err: String,
    /// Whether something happened during it.
    pub disturbed: bool,
    /// What the files of the project hold since, if that is another thing.
    pub changed: Option<Files>,
    /// The bytes that a step moved into its output.
    taken: Option<(usize, Vec<u8>)>,
}

impl Project {
    pub fn new(steps: Vec<Drawn>, users: bool) -> Self {
        // Many small files, in memory where the system has such a place.
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let files = Files { texts: [0; FOLDER + 1], second: None };
        // A new project belongs to who made it.
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

    /// A file is written only when it changes, as by an editor.
    pub fn write_pipeline(&self) {
        let text = script::pipeline(self.root(), &self.steps);
        if fs::read_to_string(self.root().join("pipeline.ron")).ok().as_ref() != Some(&text) {
            self.write("pipeline.ron", text.as_bytes());
        }
    }

    pub fn next_user(&mut self) {
        self.user = self.user.map(|user| 1 - user);
    }

    /// Gives what the test wrote to the users, whose group may write it.
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

    /// The program with these arguments, by the user whose turn it is.
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

    pub fn run(&self, args: &[String]) -> Made {
        let output = self.command(args).output().unwrap();
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!err.contains("panicked at"), "{err}");
        Made { code: output.status.code(), err, ..Made::default() }
    }

    /// A run, killed or disturbed where the edit says so.
    pub fn make(&mut self, how: &How, edit: &Edit) -> Made {
        let args = how.args(&self.steps);
        if let Some(line) = how.killed_at {
            return self.killed(&args, line);
        }
        let Edit::During(number, what) = edit else { return self.run(&args) };
        let (step, what) = (self.steps[*number].clone(), *what);
        let text = match what {
            Disturbance::Rewritten(file) | Disturbance::RewrittenWithTime(file) => self.files.texts[file],
            // Another one than any that is drawn.
            _ => 9,
        };
        let reads_steps = !clean::reads(&self.steps, *number).is_empty();
        let hooks = script::hooks(self.root(), &step, reads_steps, what, text).filter(|_| step.present);
        let Some((before, after)) = hooks else { return self.run(&args) };
        self.write(&format!("hooks/before{number}"), before.as_bytes());
        self.write(&format!("hooks/after{number}"), after.as_bytes());
        let mut made = self.run(&args);
        for hook in ["before", "after"] {
            fs::remove_file(self.root().join(format!("hooks/{hook}{number}"))).unwrap();
        }
        if fs::remove_file(self.root().join("fired")).is_err() {
            return made;
        }
        made.disturbed = true;
        match (what, step.file) {
            (Disturbance::Changed(file), _) => {
                let mut files = self.files.clone();
                files.texts[file] = text;
                made.changed = (files != self.files).then_some(files);
            }
            (Disturbance::Taken, Some(file)) => {
                made.taken = Some((file, vec![letter(self.files.texts[file])]))
            }
            _ => {}
        }
        made
    }

    /// A run that ends when it prints a line of that number.
    fn killed(&self, args: &[String], line: usize) -> Made {
        let mut child = self.command(args).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        for (number, _) in lines.map_while(Result::ok).enumerate() {
            if number == line {
                // It may have ended this moment.
                let _ = child.kill();
            }
        }
        child.wait().unwrap();
        Made::default()
    }

    /// The keys whose results are there and whole: nothing that would make them again may run.
    pub fn whole_results(&self) -> BTreeSet<StageKey> {
        let store = ContentStore::open(&self.cache()).unwrap();
        let records = store.records();
        let whole = records.iter().filter(|record| store.open_tree(&record.tree).is_ok());
        whole.map(|record| record.key_text.key()).collect()
    }

    /// Keeps what steps are to leave.
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

    /// No step runs whose result was there, and none twice.
    pub fn check_runs(&self, made: &Made, how: &How, whole: &BTreeSet<StageKey>) -> Result<(), String> {
        if made.disturbed {
            return Ok(());
        }
        let done =
            made.err.lines().filter_map(|line| Some(line.split_once("] ")?.1.split_once(" done in")?.0));
        let ran: Vec<&str> = done.collect();
        let store = ContentStore::open(&self.cache()).unwrap();
        let records = store.records();
        let forced = how.forced.map(|forced| script::name(&self.steps, forced));
        for step in &ran {
            if ran.iter().filter(|other| *other == step).count() > 1 {
                return Err(format!("{step} ran twice: {}", made.err));
            }
            let record = records.iter().rev().find(|record| record.step == **step);
            if let Some(record) = record.filter(|_| forced.as_deref() != Some(step))
                && whole.contains(&record.key_text.key())
            {
                return Err(format!("a fresh step ran: {step}: {}", made.err));
            }
        }
        Ok(())
    }

    /// Nothing that a step started is left.
    pub fn check_processes(&self) -> Result<(), String> {
        let file = self.root().join("escaped");
        let Ok(pid) = fs::read_to_string(&file) else { return Ok(()) };
        let _ = fs::remove_file(&file);
        match fs::read_to_string(format!("/proc/{}/cmdline", pid.trim())) {
            Ok(line) if line.contains("EVIL") => Err("a process outlived its step".to_owned()),
            _ => Ok(()),
        }
    }

    /// The files of the project are what they were, and are a person's to write.
    pub fn check_files(&mut self, made: &Made) -> Result<(), String> {
        if let Some((file, bytes)) = &made.taken {
            let root = self.root();
            let in_place = fs::read(root.join(script::file(*file))).ok();
            let left = contents(&self.cache())
                .into_iter()
                .any(|(path, held)| path.ends_with("taken") && held == *bytes);
            if in_place.as_ref() != Some(bytes) && !left {
                return Err(format!("a file that a step moved is lost: {}", made.err));
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
                // A run that was killed may have left it so.
                if made.code.is_some() {
                    return Err(format!("{} holds {held:?}", path.display()));
                }
                self.write_file(file, self.files.texts[file]);
            }
        }
        Ok(())
    }

    /// What is kept as a step's result, and is what its name says, is what the step was to leave.
    pub fn check_records(&self) -> Result<(), String> {
        let store = ContentStore::open(&self.cache()).unwrap();
        for record in store.records() {
            let Some(seen) = self.seen.get(&record.step) else { continue };
            let folder = self.cache().join("trees").join(record.tree.to_string());
            let is_intact = store.open_tree(&record.tree).is_ok();
            let found = tree_of(&folder);
            // A step may have run before it was renamed, or under a kill: then others remember it.
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

/// What a folder holds.
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
