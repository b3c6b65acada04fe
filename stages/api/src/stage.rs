//! What a stage is. An author implements [`Stage`]; the engine finds an [`AnyStage`] by name and loads params into it.

use std::path::Path;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::params;
use crate::{AllowedEnv, Job, ParamsError, Scalars, StageError};

/// A named input of a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port {
    /// The name `pipeline.ron` connects to.
    pub name: &'static str,
    /// Whether it takes a list of any length (`[…]`) instead of exactly one input.
    pub many: bool,
    /// Whether the pipeline may leave it unconnected.
    pub optional: bool,
    /// Whether a file of the project is connected only once it exists.
    pub by_hand: bool,
}

impl Port {
    /// A port that takes exactly one input.
    pub const fn one(name: &'static str) -> Self {
        Self { name, many: false, optional: false, by_hand: false }
    }
    /// A port that takes a list of at least one input.
    pub const fn many(name: &'static str) -> Self {
        Self { name, many: true, optional: false, by_hand: false }
    }
    /// A port that takes one input or none.
    pub const fn optional(name: &'static str) -> Self {
        Self { name, many: false, optional: true, by_hand: false }
    }
    /// A port that takes one input or none: a file of the project there may be missing, because a person adds it.
    pub const fn placed(name: &'static str) -> Self {
        Self { name, many: false, optional: true, by_hand: true }
    }
}

/// The params of a stage that has none: `()` in RON.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NoParams {}

/// What of the machine counts for a result in addition to params and inputs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Environment {
    /// Environment variables whose values count.
    pub env: Vec<String>,
    /// A program and its arguments whose printed text counts; empty when there is none.
    pub version: Vec<String>,
}

/// A file of the project that params name: an input as well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProjectFile {
    /// The port that it is read by.
    pub port: &'static str,
    /// Its path, as the params have it: relative to the folder of the pipeline file.
    pub path: String,
    /// Whether it is an input only if it exists.
    pub optional: bool,
}

/// The JSON Schema of a type, with nothing that it refers to outside of itself.
pub fn schema_of<T: JsonSchema>() -> Schema {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    settings.into_generator().into_root_schema_for::<T>()
}

/// A kind of work. The same params on the same inputs give the same bytes, on every CPU and number of threads.
///
/// # Examples
///
/// ```
/// use schemars::JsonSchema;
/// use serde::{Deserialize, Serialize};
/// use stage_api::testing::run_stage;
/// use stage_api::{Job, Port, Stage, StageError};
///
/// /// Writes how many words its input has.
/// struct CountWords;
///
/// #[derive(Serialize, Deserialize, JsonSchema)]
/// #[serde(deny_unknown_fields)]
/// struct CountWordsParams {
///     /// Shorter words are left out.
///     #[serde(default)]
///     min_length: usize,
/// }
///
/// impl Stage for CountWords {
///     type Params = CountWordsParams;
///     const NAME: &'static str = "count-words";
///     const ABOUT: &'static str = "counts the words of a text";
///     const VERSION: u32 = 1;
///     const INPUTS: &'static [Port] = &[Port::one("text")];
///
///     fn run(&self, params: &CountWordsParams, job: &Job) -> Result<(), StageError> {
///         let text = std::fs::read_to_string(job.inputs.one("text")?)?;
///         let count = text.split_whitespace().filter(|word| word.len() >= params.min_length).count();
///         Ok(std::fs::write(job.out.join("count"), count.to_string())?)
///     }
/// }
///
/// # let folder = std::env::temp_dir().join(format!("stage-example-{}", std::process::id()));
/// # std::fs::create_dir_all(&folder)?;
/// let (text, out) = (folder.join("text"), folder.join("out"));
/// std::fs::write(&text, "a step reads and writes")?;
/// run_stage(&CountWords, "(min_length: 5)", &[("text", &text)], &out)?;
/// assert_eq!(std::fs::read_to_string(out.join("count"))?, "2");
///
/// // Params that the stage does not have are refused, with the names that it has.
/// let refused = run_stage(&CountWords, "(longest: 5)", &[("text", &text)], &out);
/// assert!(matches!(refused, Err(StageError::Params(message)) if message.contains("min_length")));
/// # std::fs::remove_dir_all(&folder)?;
/// # Ok::<(), StageError>(())
/// ```
pub trait Stage: Send + Sync + 'static {
    /// The settings a pipeline may give. `#[serde(deny_unknown_fields)]`, defaults in code (`#[serde(default)]`
    /// on each field that has one). Their doc comments are what editors show of them.
    type Params: Serialize + DeserializeOwned + JsonSchema;
    /// What `pipeline.ron` calls it.
    const NAME: &'static str;
    /// One sentence for `repro list --stages`.
    const ABOUT: &'static str;
    /// Raised by hand when the same params and inputs begin to mean another output.
    const VERSION: u32;
    /// What it reads.
    const INPUTS: &'static [Port];
    /// The variables of the environment it may see, by [`Job::allowed_env`]: credentials and where downloads lie, never
    /// what changes the meaning of a result. A name that ends in `*` matches all names with that beginning.
    const OUTSIDE: &'static [&'static str] = &[];
    /// Whether the pipeline may connect inputs by names of its own, too, each a list.
    const OPEN_INPUTS: bool = false;
    /// The file of the output that keeps what [`Stage::run`] reported by [`crate::Progress::scalar`]; `None` for a stage
    /// whose output keeps nothing of it.
    const HISTORY: Option<&'static str> = None;

    /// Checks what the types cannot: ranges, combinations. Called when the pipeline is loaded.
    ///
    /// # Errors
    /// A sentence that says which param is wrong and what it may be.
    fn check(&self, _params: &Self::Params) -> Result<(), String> {
        Ok(())
    }

    /// What a person must do before this can run with only `ports` connected, complete enough to be followed as it
    /// is; `None` when nothing is known to be missing. The engine calls it before the first step of a run, so it is
    /// quick and changes nothing.
    fn needs_human(
        &self,
        _params: &Self::Params,
        _ports: &[&str],
        _allowed_env: &AllowedEnv,
    ) -> Option<String> {
        None
    }

    /// Whether these params say too little to prove the output right: it comes from the outside world, and no
    /// digest is given. The engine then records the digest of the first output in the lockfile and refuses any other.
    fn is_unproven(&self, _params: &Self::Params) -> bool {
        false
    }

    /// Checks params against the ports that the pipeline connects. Called when the pipeline is loaded.
    ///
    /// # Errors
    /// A sentence that says what does not fit.
    fn check_wiring(&self, _params: &Self::Params, _ports: &[&str]) -> Result<(), String> {
        Ok(())
    }

    /// What of the machine counts for the result in addition to params and inputs.
    fn environment(&self, _params: &Self::Params) -> Environment {
        Environment::default()
    }

    /// The files of the project that the params name. They are inputs of the step, behind those that the pipeline
    /// connects, by ports that it may not connect.
    fn project_files(&self, _params: &Self::Params) -> Vec<ProjectFile> {
        Vec::new()
    }

    /// The values in `history`, the file [`Stage::HISTORY`] of an output, under the names that the stage reports them by.
    ///
    /// # Errors
    /// A file that cannot be read.
    fn read_scalars(&self, _history: &Path) -> Result<Vec<Scalars>, StageError> {
        Ok(Vec::new())
    }

    /// Does the work: reads `job.inputs`, fills `job.out`.
    ///
    /// # Errors
    /// See [`StageError`]; whatever `job.out` holds then is thrown away.
    fn run(&self, params: &Self::Params, job: &Job) -> Result<(), StageError>;
}

/// A [`Stage`] with the type of its params erased; implemented for every stage.
pub trait AnyStage: Send + Sync {
    /// [`Stage::NAME`].
    fn name(&self) -> &'static str;
    /// [`Stage::ABOUT`].
    fn about(&self) -> &'static str;
    /// [`Stage::VERSION`].
    fn version(&self) -> u32;
    /// [`Stage::INPUTS`].
    fn inputs(&self) -> &'static [Port];
    /// [`Stage::OPEN_INPUTS`].
    fn open_inputs(&self) -> bool;
    /// [`Stage::OUTSIDE`].
    fn allowed_env(&self) -> &'static [&'static str];
    /// [`Stage::HISTORY`].
    fn history(&self) -> Option<&'static str>;
    /// [`Stage::read_scalars`].
    ///
    /// # Errors
    /// What [`Stage::read_scalars`] returns.
    fn read_scalars(&self, history: &Path) -> Result<Vec<Scalars>, StageError>;
    /// What the params may be, as a JSON Schema that needs no other one.
    fn params_schema(&self) -> Schema;
    /// Parses params by the stage's own type and checks them.
    ///
    /// # Errors
    /// Text that the stage's type or its check does not accept.
    fn load(&self, ron: &str) -> Result<Box<dyn LoadedStage + '_>, ParamsError>;
}

/// A stage together with params that it accepts.
pub trait LoadedStage {
    /// The params' canonical text: written again by the stage's own type, so defaults are in and comments and spacing
    /// are out. Two texts with one meaning have one canonical form.
    fn canonical_params(&self) -> &str;
    /// [`Stage::check_wiring`].
    ///
    /// # Errors
    /// What [`Stage::check_wiring`] returns.
    fn check_wiring(&self, ports: &[&str]) -> Result<(), String>;
    /// [`Stage::environment`].
    fn environment(&self) -> Environment;
    /// [`Stage::project_files`].
    fn project_files(&self) -> Vec<ProjectFile>;
    /// [`Stage::is_unproven`].
    fn is_unproven(&self) -> bool;
    /// [`Stage::needs_human`].
    fn needs_human(&self, ports: &[&str], allowed_env: &AllowedEnv) -> Option<String>;
    /// [`Stage::run`].
    ///
    /// # Errors
    /// What [`Stage::run`] returns.
    fn run(&self, job: &Job) -> Result<(), StageError>;
}

impl<S: Stage> AnyStage for S {
    fn name(&self) -> &'static str {
        S::NAME
    }
    fn about(&self) -> &'static str {
        S::ABOUT
    }
    fn version(&self) -> u32 {
        S::VERSION
    }
    fn inputs(&self) -> &'static [Port] {
        S::INPUTS
    }
    fn open_inputs(&self) -> bool {
        S::OPEN_INPUTS
    }
    fn allowed_env(&self) -> &'static [&'static str] {
        S::OUTSIDE
    }
    fn history(&self) -> Option<&'static str> {
        S::HISTORY
    }
    fn read_scalars(&self, history: &Path) -> Result<Vec<Scalars>, StageError> {
        self.read_scalars(history)
    }
    fn params_schema(&self) -> Schema {
        schema_of::<S::Params>()
    }
    fn load(&self, ron: &str) -> Result<Box<dyn LoadedStage + '_>, ParamsError> {
        let params: S::Params = params::parse(ron)?;
        self.check(&params).map_err(params::rejected)?;
        let canonical = params::write(&params)?;
        Ok(Box::new(Loaded { stage: self, params, canonical }))
    }
}

struct Loaded<'s, S: Stage> {
    stage: &'s S,
    params: S::Params,
    canonical: String,
}

impl<S: Stage> LoadedStage for Loaded<'_, S> {
    fn canonical_params(&self) -> &str {
        &self.canonical
    }
    fn check_wiring(&self, ports: &[&str]) -> Result<(), String> {
        self.stage.check_wiring(&self.params, ports)
    }
    fn environment(&self) -> Environment {
        self.stage.environment(&self.params)
    }
    fn project_files(&self) -> Vec<ProjectFile> {
        self.stage.project_files(&self.params)
    }
    fn is_unproven(&self) -> bool {
        self.stage.is_unproven(&self.params)
    }
    fn needs_human(&self, ports: &[&str], allowed_env: &AllowedEnv) -> Option<String> {
        self.stage.needs_human(&self.params, ports, allowed_env)
    }
    fn run(&self, job: &Job) -> Result<(), StageError> {
        self.stage.run(&self.params, job)
    }
}
