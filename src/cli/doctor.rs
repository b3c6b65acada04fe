//! `repro doctor`.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;

use clap::Args;
use stage_api::Registry;

use super::error::CliError;
use super::{Global, format, print, print_json};
use crate::doctor::{Finding, Standing, examine};
use crate::make::manual_steps;
use crate::pipeline::Pipeline;
use crate::plan::plan;
use crate::project::Project;

/// Check this machine, the cache and a profile's downloads before a run.
///
/// Exits with code 3 when a problem would stop the run.
#[derive(Args)]
pub struct Doctor {
    /// Targets or steps to check. Default: all of the pipeline.
    targets: Vec<String>,
}

impl Doctor {
    pub fn run(&self, global: &Global, registry: &Registry) -> Result<ExitCode, CliError> {
        let project = global.project(registry)?;
        project.pipeline()?;
        let mut found = examine(project.cache(), registry.host_checks());
        found.extend(self.allowed_env(&project)?);
        if global.json {
            print_json(&found)?;
        } else {
            print(&text(&found))?;
        }
        let problems = found.iter().filter(|finding| finding.standing == Standing::Problem).count();
        match problems {
            0 => Ok(ExitCode::SUCCESS),
            number => {
                print_err!("{} in the way", format::count(number, "thing"));
                Ok(ExitCode::from(3))
            }
        }
    }

    /// What the profile needs from outside: files and licences that only a person can get, and the variables of the
    /// environment that its steps may see.
    fn allowed_env(&self, project: &Project) -> Result<Vec<Finding>, CliError> {
        let (pipeline, registry) = (project.pipeline()?, project.registry());
        let nodes = match self.targets.is_empty() {
            true => pipeline.graph.node_indices().collect(),
            false => project.targets(&self.targets)?,
        };
        // A cache that cannot be read is a finding already.
        let Ok(workspace) = project.workspace() else { return Ok(Vec::new()) };
        let request = crate::plan::Request { targets: nodes, forced: BTreeSet::new() };
        let plan = plan(pipeline, &workspace, &request);
        let needed = manual_steps(pipeline, &plan, registry);
        let mut found: Vec<Finding> = needed
            .iter()
            .map(|failure| {
                let mut lines = failure.problem.splitn(2, '\n');
                let what = format!("step `{}`", failure.step);
                let found = lines.next().unwrap_or_default();
                Finding::problem(&what, found, lines.next().unwrap_or("do that, and run again"))
            })
            .collect();
        if found.is_empty() {
            let profile = &pipeline.profile;
            found.push(Finding::good(
                "outside",
                format!("nothing is missing that only a person can get for `{profile}`"),
            ));
        }
        found.push(credentials(pipeline, registry, plan.needed()));
        Ok(found)
    }
}

/// Which variables of the environment are set that the steps may see. Values are never looked at.
fn credentials(
    pipeline: &Pipeline,
    registry: &Registry,
    nodes: impl Iterator<Item = petgraph::graph::NodeIndex>,
) -> Finding {
    let mut by_name: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for node in nodes {
        let step = &pipeline.graph[node];
        let allowed = registry.get(&step.stage).map(|stage| stage.allowed_env()).unwrap_or_default();
        for (name, _) in std::env::vars_os() {
            let Some(name) = name.to_str() else { continue };
            let is_allowed = allowed.iter().any(|pattern| crate::pipeline::fits(pattern, name));
            if is_allowed {
                by_name.entry(name.to_owned()).or_default().insert(&step.stage);
            }
        }
    }
    let set = by_name.iter().map(|(name, stages)| {
        format!("{name} (for {})", stages.iter().copied().collect::<Vec<_>>().join(", "))
    });
    let set: Vec<String> = set.collect();
    match set.is_empty() {
        true => Finding::good("credentials", "no variable is set that a step would read"),
        false => Finding::good("credentials", format!("set: {}", set.join(", "))),
    }
}

fn text(found: &[Finding]) -> String {
    let width = found.iter().map(|finding| finding.what.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for Finding { what, standing, found, advice } in found {
        let mark = match standing {
            Standing::Good => "good   ",
            Standing::Note => "note   ",
            Standing::Problem => "PROBLEM",
        };
        text.push_str(&format!("{mark}  {what:width$}  {found}\n"));
        for line in advice.iter().flat_map(|advice| advice.lines()) {
            text.push_str(&format!("{:9}{:width$}  -> {}\n", "", "", line.trim()));
        }
    }
    text
}
