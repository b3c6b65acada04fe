//! `repro list`.

use std::process::ExitCode;

use clap::Args;
use serde_json::json;
use stage_api::{Registry, secrets};

use super::error::CliError;
use super::{Global, print, print_json};

/// List targets and steps of the pipeline, or all stages.
#[derive(Args)]
pub struct List {
    /// List the stages that this program has.
    #[arg(long)]
    stages: bool,
}

impl List {
    pub fn run(&self, global: &Global, registry: &Registry) -> Result<ExitCode, CliError> {
        if self.stages {
            stages(global, registry)?
        } else {
            steps(global, registry)?
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn stages(global: &Global, registry: &Registry) -> Result<(), CliError> {
    if global.json {
        let stages = registry.iter().map(|stage| {
            let ports: Vec<_> = stage
                .inputs()
                .iter()
                .map(|port| json!({"name": port.name, "many": port.many, "optional": port.optional}))
                .collect();
            // What it takes when nothing is said; nothing where a param must be given.
            let params = stage.load("()").ok().map(|loaded| loaded.canonical_params().to_owned());
            json!({"name": stage.name(), "version": stage.version(), "about": stage.about(), "inputs": ports, "params": params})
        });
        return print_json(&stages.collect::<Vec<_>>());
    }
    let width = registry.iter().map(|stage| stage.name().len()).max().unwrap_or(0);
    let mut text = String::new();
    for stage in registry.iter() {
        text.push_str(&format!("{:width$}  {}\n", stage.name(), stage.about()));
    }
    print(&text)
}

fn steps(global: &Global, registry: &Registry) -> Result<(), CliError> {
    let project = global.project(registry)?;
    let pipeline = project.pipeline()?;
    let name = |node: &petgraph::graph::NodeIndex| pipeline.graph[*node].name.as_str();
    // A step is a target by its own name; as a target it is listed only where it is declared as one.
    let is_step = |target: &str| pipeline.graph.node_weights().any(|step| step.name == target);
    let targets = pipeline.targets.iter().filter(|(target, _)| !is_step(target));
    if global.json {
        let targets: Vec<_> = targets
            .map(|(target, nodes)| json!({"name": target, "steps": nodes.iter().map(name).collect::<Vec<_>>()}))
            .collect();
        let steps: Vec<_> = pipeline
            .graph
            .node_weights()
            .map(|step| {
                json!({"name": step.name, "stage": step.stage, "params": secrets::shown(&step.params),
                         "file": pipeline.file_of(step), "line": step.line})
            })
            .collect();
        return print_json(&json!({"profile": pipeline.profile, "targets": targets, "steps": steps}));
    }
    let mut text = format!("profile {}: {}\n\ntargets\n", pipeline.profile, pipeline.about);
    for (target, nodes) in targets {
        text.push_str(&format!("  {target}: {}\n", nodes.iter().map(name).collect::<Vec<_>>().join(", ")));
    }
    text.push_str("\nsteps\n");
    let width = pipeline.graph.node_weights().map(|step| step.name.chars().count()).max().unwrap_or(0);
    for step in pipeline.graph.node_weights() {
        text.push_str(&format!("  {:width$}  {}\n", step.name, step.stage));
    }
    print(&text)
}
