//! `repro list`.

use std::process::ExitCode;

use clap::Args;
use serde_json::json;
use stage_api::{Registry, secrets};

use super::error::CliError;
use super::terminal_text::TerminalText;
use super::{Global, print_json};
use crate::pipeline::Step;

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
    let mut text = TerminalText::stdout();
    for stage in registry.iter() {
        text.row(&[(stage.name(), width)], None, stage.about());
    }
    text.print()
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
            .map(|(target, nodes)| {
                json!({"name": target, "about": pipeline.target_abouts.get(target),
                         "steps": nodes.iter().map(name).collect::<Vec<_>>()})
            })
            .collect();
        let steps: Vec<_> = pipeline
            .graph
            .node_weights()
            .map(|step| {
                json!({"name": step.name, "about": step.about, "stage": step.stage, "params": secrets::shown(&step.params),
                         "file": pipeline.file_of(step), "line": step.line})
            })
            .collect();
        return print_json(&json!({"profile": pipeline.profile, "targets": targets, "steps": steps}));
    }
    let targets: Vec<_> = targets.collect();
    let width =
        |names: &mut dyn Iterator<Item = &str>| names.map(|name| name.chars().count()).max().unwrap_or(0) + 2;
    let mut text = TerminalText::stdout();
    let about = if pipeline.about.is_empty() { String::new() } else { format!(": {}", pipeline.about) };
    text.push(&format!("profile {}{about}\n", pipeline.profile));
    if !targets.is_empty() {
        text.push("\ntargets\n");
    }
    let target_width = width(&mut targets.iter().map(|(target, _)| target.as_str()));
    for (target, nodes) in targets {
        let steps = nodes.iter().map(name).collect::<Vec<_>>().join(", ");
        let (target, about) = (format!("  {target}"), pipeline.target_abouts.get(target));
        text.row(&[(&target, target_width)], None, about.unwrap_or(&steps));
        if about.is_some() {
            text.row(&[("", target_width)], None, &steps);
        }
    }
    text.push("\nsteps\n");
    let steps = || pipeline.graph.node_weights();
    let name_width = width(&mut steps().map(|step| step.name.as_str()));
    let stage_width =
        width(&mut steps().filter(|step| step.about.is_some()).map(|step| step.stage.as_str())) - 2;
    for Step { name, stage, about, .. } in steps() {
        let cells = [(format!("  {name}"), name_width), (stage.clone(), stage_width)];
        text.row(
            &cells.each_ref().map(|(cell, width)| (cell.as_str(), *width)),
            None,
            about.as_deref().unwrap_or_default(),
        );
    }
    text.print()
}
