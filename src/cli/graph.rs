//! `repro graph`.

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use petgraph::Direction::Incoming;
use serde_json::json;
use stage_api::Registry;

use super::context::Context;
use super::error::CliError;
use super::{Global, print, print_json};
use crate::pipeline::Pipeline;
use crate::plan::in_order;
use crate::record::source_name;

/// Draws the graph of steps: as text, for Graphviz or for Mermaid.
#[derive(Args)]
pub struct Graph {
    /// The form.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// Each step with what it reads.
    Text,
    /// For Graphviz: `repro graph --format dot | dot -Tsvg`.
    Dot,
    /// For Markdown pages that draw Mermaid.
    Mermaid,
}

impl Graph {
    pub fn run(&self, global: &Global, registry: &Registry) -> Result<ExitCode, CliError> {
        let pipeline = Context::load(global, registry)?.pipeline;
        if global.json {
            let steps = pipeline.graph.node_weights().map(|step| {
                let inputs: Vec<_> = step
                    .inputs
                    .iter()
                    .map(|input| json!({"port": input.port, "source": source_name(&pipeline, &input.source)}))
                    .collect();
                json!({"name": step.name, "stage": step.stage, "inputs": inputs})
            });
            print_json(&steps.collect::<Vec<_>>())?;
        } else {
            print(&match self.format {
                Format::Text => text(&pipeline),
                Format::Dot => dot(&pipeline),
                Format::Mermaid => mermaid(&pipeline),
            })?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn text(pipeline: &Pipeline) -> String {
    let mut text = String::new();
    for step in in_order(pipeline).into_iter().map(|node| &pipeline.graph[node]) {
        let _ = writeln!(text, "{} ({})", step.name, step.stage);
        for input in &step.inputs {
            let _ = writeln!(text, "  {} <- {}", input.port, source_name(pipeline, &input.source));
        }
    }
    text
}

fn edges(pipeline: &Pipeline) -> impl Iterator<Item = (usize, usize)> + '_ {
    pipeline.graph.node_indices().flat_map(|node| {
        let mut inputs: Vec<usize> =
            pipeline.graph.neighbors_directed(node, Incoming).map(|input| input.index()).collect();
        inputs.sort_unstable();
        inputs.dedup();
        inputs.into_iter().map(move |input| (input, node.index()))
    })
}

fn dot(pipeline: &Pipeline) -> String {
    let mut text =
        "digraph pipeline {\n  rankdir=LR;\n  node [shape=box, fontname=\"sans-serif\"];\n".to_owned();
    for node in pipeline.graph.node_indices() {
        let step = &pipeline.graph[node];
        let _ = writeln!(text, "  s{} [label={:?}];", node.index(), format!("{}\n{}", step.name, step.stage));
    }
    for (from, to) in edges(pipeline) {
        let _ = writeln!(text, "  s{from} -> s{to};");
    }
    text + "}\n"
}

fn mermaid(pipeline: &Pipeline) -> String {
    let mut text = "flowchart LR\n".to_owned();
    for node in pipeline.graph.node_indices() {
        let step = &pipeline.graph[node];
        let _ = writeln!(text, "  s{}[\"{}<br/>{}\"]", node.index(), step.name.replace('"', "'"), step.stage);
    }
    for (from, to) in edges(pipeline) {
        let _ = writeln!(text, "  s{from} --> s{to}");
    }
    text
}
