//! What a stage is. An author implements [`Stage`]; the engine uses [`AnyStage`] and a [`Registry`] of them.

use std::collections::BTreeMap;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::params;
use crate::{AllowedEnv, HostCheck, HostError, Job, ParamsError, StageError, Tool};

/// A named input of a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port {
    /// The name `pipeline.ron` connects to.
    pub name: &'static str,
    /// Whether it takes a list of any length (`[…]`) instead of exactly one input.
    pub many: bool,
    /// Whether the pipeline may leave it unconnected.
    pub optional: bool,
}

impl Port {
    /// A port that takes exactly one input.
    pub const fn one(name: &'static str) -> Self {
        Self { name, many: false, optional: false }
    }
    /// A port that takes a list of at least one input.
    pub const fn many(name: &'static str) -> Self {
        Self { name, many: true, optional: false }
    }
    /// A port that takes one input or none.
    pub const fn optional(name: &'static str) -> Self {
        Self { name, many: false, optional: true }
    }
}

/// The params of a stage that has none: `()` in RON.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NoParams {}

/// What of the machine counts for a result beside params and inputs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Environment {
    /// Environment variables whose values count.
    pub env: Vec<String>,
    /// A program and its arguments whose printed text counts; empty when there is none.
    pub version: Vec<String>,
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
    /// what changes the meaning of a result. A name that ends in `*` stands for all that begin so.
    const OUTSIDE: &'static [&'static str] = &[];
    /// Whether the pipeline may connect inputs by names of its own, too, each a list.
    const OPEN_INPUTS: bool = false;

    /// Checks what the types cannot: ranges, combinations. Called when the pipeline is loaded.
    ///
    /// # Errors
    /// A sentence that says which param is wrong and what it may be.
    fn check(&self, _params: &Self::Params) -> Result<(), String> {
        Ok(())
    }

    /// What a person must do before this can run with only `ports` connected, complete enough to be followed as it
    /// stands; `None` when nothing is known to be missing. Asked before the first step of a run starts, so it looks
    /// and does not work.
    fn needs_human(&self, _params: &Self::Params, _ports: &[&str], _outside: &AllowedEnv) -> Option<String> {
        None
    }

    /// Whether these params say too little to prove the output right: it comes from the outside world, and nobody has
    /// said which bytes to expect. The engine then pins the first output and refuses any other.
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

    /// What of the machine counts for the result beside params and inputs.
    fn environment(&self, _params: &Self::Params) -> Environment {
        Environment::default()
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
    /// [`Stage::OUTSIDE`].
    fn allowed_env(&self) -> &'static [&'static str];
    /// [`Stage::needs_human`] for params in canonical form; `None` for params that do not parse.
    fn needs_human_erased(
        &self,
        canonical_params: &str,
        ports: &[&str],
        allowed_env: &AllowedEnv,
    ) -> Option<String>;
    /// [`Stage::is_unproven`] for params in canonical form.
    fn is_unproven_erased(&self, canonical_params: &str) -> bool;
    /// [`Stage::OPEN_INPUTS`].
    fn open_inputs(&self) -> bool;
    /// The params' canonical text: parsed by the stage's own type and written again, so defaults are in and
    /// comments and spacing are out. Two texts with one meaning have one canonical form.
    ///
    /// # Errors
    /// Text that the stage's type or its check does not accept.
    fn canonical_params(&self, ron: &str) -> Result<String, ParamsError>;
    /// What the params may be, as a JSON Schema that stands alone.
    fn params_schema(&self) -> Schema;
    /// [`Stage::check_wiring`] on params in canonical form.
    ///
    /// # Errors
    /// What [`Stage::check_wiring`] returns.
    fn check_wiring(&self, canonical_params: &str, ports: &[&str]) -> Result<(), String>;
    /// [`Stage::environment`] of params in canonical form.
    ///
    /// # Errors
    /// Params that do not parse.
    fn environment(&self, canonical_params: &str) -> Result<Environment, ParamsError>;
    /// Runs the stage on params in canonical form.
    ///
    /// # Errors
    /// What [`Stage::run`] returns, or [`StageError::Params`] for params that do not parse.
    fn run_erased(&self, canonical_params: &str, job: &Job) -> Result<(), StageError>;
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
    fn allowed_env(&self) -> &'static [&'static str] {
        S::OUTSIDE
    }
    fn needs_human_erased(
        &self,
        canonical_params: &str,
        ports: &[&str],
        allowed_env: &AllowedEnv,
    ) -> Option<String> {
        self.needs_human(&params::parse(canonical_params).ok()?, ports, allowed_env)
    }
    fn is_unproven_erased(&self, canonical_params: &str) -> bool {
        params::parse(canonical_params).is_ok_and(|params| self.is_unproven(&params))
    }
    fn canonical_params(&self, ron: &str) -> Result<String, ParamsError> {
        let params: S::Params = params::parse(ron)?;
        self.check(&params).map_err(params::rejected)?;
        params::write(&params)
    }
    fn open_inputs(&self) -> bool {
        S::OPEN_INPUTS
    }
    fn params_schema(&self) -> Schema {
        schema_of::<S::Params>()
    }
    fn check_wiring(&self, canonical_params: &str, ports: &[&str]) -> Result<(), String> {
        let params: S::Params = params::parse(canonical_params).map_err(|error| error.message)?;
        Stage::check_wiring(self, &params, ports)
    }
    fn environment(&self, canonical_params: &str) -> Result<Environment, ParamsError> {
        Ok(Stage::environment(self, &params::parse(canonical_params)?))
    }
    fn run_erased(&self, canonical_params: &str, job: &Job) -> Result<(), StageError> {
        let params: S::Params =
            params::parse(canonical_params).map_err(|error| StageError::Params(error.message))?;
        self.run(&params, job)
    }
}

/// The stages a program knows, the tools that come with them, and what to look at before they run.
#[derive(Default)]
pub struct Registry {
    stages: BTreeMap<&'static str, Box<dyn AnyStage>>,
    tools: BTreeMap<&'static str, Box<dyn Tool>>,
    host_checks: Vec<HostCheck>,
}

impl Registry {
    /// A registry without stages.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a stage.
    ///
    /// # Panics
    /// When the name is taken: a mistake of the program, not of its user.
    #[must_use]
    pub fn with(mut self, stage: impl Stage) -> Self {
        let name = stage.name();
        assert!(self.stages.insert(name, Box::new(stage)).is_none(), "two stages are called `{name}`");
        self
    }

    /// Adds a tool.
    ///
    /// # Panics
    /// When the name is taken: a mistake of the program, not of its user.
    #[must_use]
    pub fn with_tool(mut self, tool: impl Tool) -> Self {
        let name = tool.name();
        assert!(self.tools.insert(name, Box::new(tool)).is_none(), "two tools are called `{name}`");
        self
    }

    /// Adds a look at the machine before any step runs.
    #[must_use]
    pub fn with_host_check(mut self, check: HostCheck) -> Self {
        self.host_checks.push(check);
        self
    }

    /// The looks at the machine before any step runs, in the order in which they were added.
    pub fn host_checks(&self) -> &[HostCheck] {
        &self.host_checks
    }

    /// Whether this machine can follow all settings.
    ///
    /// # Errors
    /// The first setting that it cannot follow.
    pub fn check_host(&self) -> Result<(), HostError> {
        self.host_checks.iter().try_for_each(|check| (check.find)().map(drop))
    }

    /// The stage of that name.
    pub fn get(&self, name: &str) -> Option<&dyn AnyStage> {
        self.stages.get(name).map(AsRef::as_ref)
    }

    /// All stages, by name.
    pub fn iter(&self) -> impl Iterator<Item = &dyn AnyStage> {
        self.stages.values().map(AsRef::as_ref)
    }

    /// The tool of that name.
    pub fn tool(&self, name: &str) -> Option<&dyn Tool> {
        self.tools.get(name).map(AsRef::as_ref)
    }

    /// All tools, by name.
    pub fn tools(&self) -> impl Iterator<Item = &dyn Tool> {
        self.tools.values().map(AsRef::as_ref)
    }
}
