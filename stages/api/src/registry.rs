//! What a program can do: its stages, the tools that come with them, and what it checks on this machine.

use std::collections::BTreeMap;

use crate::{AnyStage, AnyTool, HostCheck, HostError, ReportPage, Stage, Tool};

/// The stages a program knows, the tools that come with them, and what to look at before they run.
#[derive(Default)]
pub struct Registry {
    stages: BTreeMap<&'static str, Box<dyn AnyStage>>,
    tools: BTreeMap<&'static str, Box<dyn AnyTool>>,
    pages: Vec<ReportPage>,
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

    /// Adds the page of the pipelines that have a step of its stage.
    #[must_use]
    pub fn with_page(mut self, page: ReportPage) -> Self {
        self.pages.push(page);
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

    /// The pages, in the order in which they were added.
    pub fn pages(&self) -> impl Iterator<Item = &ReportPage> {
        self.pages.iter()
    }

    /// The tool of that name.
    pub fn tool(&self, name: &str) -> Option<&dyn AnyTool> {
        self.tools.get(name).map(AsRef::as_ref)
    }

    /// All tools, by name.
    pub fn tools(&self) -> impl Iterator<Item = &dyn AnyTool> {
        self.tools.values().map(AsRef::as_ref)
    }
}
