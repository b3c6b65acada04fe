//! The pipeline: a DAG of steps, checked. It knows nothing of what was run before and touches no step's output.

mod cached;
mod check;
mod error;
mod excerpt;
mod expand;
mod experiment;
mod file;
pub mod needs;
mod params;
mod rehearsal;
pub mod schema;

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use petgraph::graph::{DiGraph, NodeIndex};
use serde::{Deserialize, Serialize};
use stage_api::{Environment, Registry};

use crate::digest::Digest;

pub(crate) use check::matches as fits;
pub use error::{PipelineError, nearest};
pub use experiment::{Experiment, ExperimentError};
pub use needs::Needs;
pub use rehearsal::{Real, Rehearsal};

/// What a step reads by one port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepInput {
    /// The port of the stage.
    pub port: String,
    /// Where it comes from.
    pub source: Source,
    /// Where the file that declares the step says so: line and column, from 1.
    pub position: (usize, usize),
}

/// Where an input comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// A step's tree, or a file or folder within it (`step/output`, any depth, `/`-separated).
    Step {
        /// The step.
        step: NodeIndex,
        /// The path within its tree; `None` for the whole tree.
        output: Option<String>,
    },
    /// A file or folder of the project (`./paper/runs.csv`), relative to the pipeline's folder.
    File(PathBuf),
}

impl Source {
    /// The path in the project, if it is there.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::Step { .. } => None,
        }
    }
}

/// A node of the DAG.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Step {
    /// Its name; unique, not part of its key.
    pub name: String,
    /// What the file says about it, if anything. Not part of its key.
    pub about: Option<String>,
    /// The stage it runs.
    pub stage: String,
    /// That stage's version.
    pub version: u32,
    /// The stage's params in canonical form.
    pub params: String,
    /// Whether its params say too little to prove what it brings from outside.
    pub unproven: bool,
    /// What of the machine counts for its result.
    pub environment: Environment,
    /// What it reads, in the order of the file (lists expanded in place).
    pub inputs: Vec<StepInput>,
    /// What it asks of the machine.
    pub needs: Needs,
    /// The folder below the reports folder its tree is copied to (`.` for the top), if it is published.
    pub publish: Option<PathBuf>,
    /// The share by which numbers may be off when it runs again and is compared. Not part of its key.
    pub tolerance: Option<f64>,
    /// The file that declares it, relative to the pipeline file's folder, when it is not that file itself.
    pub file: Option<PathBuf>,
    /// Its line in that file, from 1.
    pub line: usize,
}

impl Step {
    /// Whether its output is held against the pins: nothing in its key says which bytes to expect.
    pub fn is_pinned(&self) -> bool {
        self.unproven && self.inputs.is_empty()
    }
}

/// A checked pipeline for one profile.
#[derive(Debug, Clone)]
pub struct Pipeline {
    /// The pipeline file.
    pub file: PathBuf,
    /// Its folder: what `./` means in it.
    pub root: PathBuf,
    /// The digest of its text.
    pub text: Digest,
    /// The files that it names for profiles, relative to its folder, with the digests of their texts.
    pub other_files: Vec<(PathBuf, Digest)>,
    /// The chosen profile.
    pub profile: String,
    /// What the file says about that profile; empty where it declares no profiles.
    pub about: String,
    /// All profiles of the file.
    pub profiles: Vec<String>,
    /// What the chosen profile says of the one that it rehearses, if it is a rehearsal.
    pub rehearsal: Option<Rehearsal>,
    /// Which profile is rehearsed by which.
    pub rehearsals: Vec<(String, String)>,
    /// The pools that the file declares, with how much of each may be in use at one time.
    pub pools: BTreeMap<String, usize>,
    /// The steps; an edge goes from a step to each step that reads it. Acyclic.
    pub graph: DiGraph<Step, ()>,
    /// What a person would ask for: every declared target, and every step by its own name.
    pub targets: BTreeMap<String, Vec<NodeIndex>>,
    /// What the file says about its declared targets, by name.
    pub target_abouts: BTreeMap<String, String>,
    /// Files of the project that a person may place or not, connected where they are there, and whether they were.
    pub looked_for: Vec<(PathBuf, bool)>,
}

/// No pipeline file has so many bytes; what is no file at all (`/dev/zero`) may have no end.
const LONGEST: u64 = 64 << 20;

/// The folder of a pipeline file, as it is or as it was at some revision. Paths are relative to it.
pub trait Folder {
    /// Whether there is such a file or folder.
    fn has(&self, path: &Path) -> bool;
    /// The text of a file.
    ///
    /// # Errors
    /// A sentence that says why it cannot be read.
    fn read(&self, path: &Path) -> Result<String, String>;
}

impl Folder for PathBuf {
    fn has(&self, path: &Path) -> bool {
        self.join(path).exists()
    }
    fn read(&self, path: &Path) -> Result<String, String> {
        read(&self.join(path))
    }
}

/// The text of a file.
fn read(file: &Path) -> Result<String, String> {
    let mut text = String::new();
    let read = File::open(file).and_then(|file| file.take(LONGEST + 1).read_to_string(&mut text));
    match read {
        Ok(length) if length as u64 <= LONGEST => Ok(text),
        Ok(_) => Err("has more than 64 MiB: it is no pipeline file".to_owned()),
        Err(error) => Err(format!("cannot be read: {error}")),
    }
}

impl Pipeline {
    /// Reads and checks the pipeline file for one profile, or for the file's default one.
    ///
    /// # Errors
    /// A file that cannot be read, and everything that can be wrong with a pipeline, with its place.
    pub fn load(file: &Path, profile: Option<&str>, registry: &Registry) -> Result<Self, PipelineError> {
        Self::parse(file, &Self::read(file)?, profile, registry)
    }

    /// The text of the pipeline file.
    ///
    /// # Errors
    /// When it cannot be read, or has more than 64 MiB.
    pub fn read(file: &Path) -> Result<String, PipelineError> {
        read(file).map_err(|problem| {
            PipelineError::of_file(file, problem)
                .hint("run `repro` in the folder of the project, or name the pipeline file with --file")
        })
    }

    /// Checks the text of a pipeline file; `file` is its path, whose folder is what `./` means in it.
    ///
    /// # Errors
    /// As for [`Pipeline::load`].
    pub fn parse(
        file: &Path,
        text: &str,
        profile: Option<&str>,
        registry: &Registry,
    ) -> Result<Self, PipelineError> {
        Self::parse_in(&root_of(file), file, text, profile, registry)
    }

    /// As [`Pipeline::parse`], with another folder than the one on the disk.
    ///
    /// # Errors
    /// As for [`Pipeline::load`].
    pub fn parse_in(
        folder: &dyn Folder,
        file: &Path,
        text: &str,
        profile: Option<&str>,
        registry: &Registry,
    ) -> Result<Self, PipelineError> {
        let digest = Digest::of_bytes(text.as_bytes());
        let main = without_mark(text);
        let mut text = error::Text::new(file, main);
        let form: file::FileForm = file::parse(main, &text)?;
        // A profile in a file of its own.
        let mut others = Vec::new();
        for raw in form.profiles.iter().filter(|raw| raw.0.starts_with('"')) {
            let path = check::project_file(*raw, &text)?;
            let other = folder.read(&path).map_err(|problem| {
                text.error(text.span(raw.0), format!("./{}: {problem}", path.display()))
            })?;
            others.push((path, other));
        }
        let places: Vec<PathBuf> = others.iter().map(|(path, _)| file.with_file_name(path)).collect();
        for (place, (_, other)) in places.iter().zip(&others) {
            text.add(place, without_mark(other));
        }
        let mut rest = others.iter();
        let profiles = form.profiles.iter().map(|raw| match raw.0.starts_with('"') {
            true => file::parse(rest.next().map_or("", |(_, other)| without_mark(other)), &text),
            false => file::parse(raw.0, &text),
        });
        let mut profiles = profiles.collect::<Result<Vec<_>, _>>()?;
        if profiles.is_empty() {
            profiles.push(file::ProfileForm::only());
        }
        let mut pipeline = check::check(&form, &profiles, profile, &text, registry, folder)?;
        let digests = others.iter().map(|(path, other)| (path.clone(), Digest::of_bytes(other.as_bytes())));
        (pipeline.text, pipeline.other_files) = (digest, digests.collect());
        Ok(pipeline)
    }

    /// The file that declares a step.
    pub fn file_of(&self, step: &Step) -> PathBuf {
        step.file.as_ref().map_or_else(|| self.file.clone(), |file| self.file.with_file_name(file))
    }
}

/// Some editors begin a file with a byte order mark.
fn without_mark(text: &str) -> &str {
    text.trim_start_matches('\u{feff}')
}

impl Pipeline {
    /// The pipeline file, within its folder as that is named here.
    pub fn absolute_file(&self) -> PathBuf {
        self.root.join(self.file.file_name().unwrap_or_default())
    }

    /// Where the steps that publish do so, by name.
    pub fn publishing(&self) -> HashMap<&str, &Path> {
        let steps = self.graph.node_weights();
        steps.filter_map(|step| Some((step.name.as_str(), step.publish.as_deref()?))).collect()
    }
}

/// The folder of a pipeline file: what `./` means in it.
fn root_of(file: &Path) -> PathBuf {
    let root = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    root.unwrap_or(Path::new(".")).to_owned()
}
