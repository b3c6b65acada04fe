//! `repro graph`.

mod layout;
mod svg;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use petgraph::Direction::Incoming;
use petgraph::graph::NodeIndex;
use serde_json::json;
use stage_api::Registry;

use super::error::CliError;
use super::{Global, print_data, print_json};
use crate::pipeline::Pipeline;
use crate::plan::in_order;
use crate::project::Project;
use crate::record::source_name;

/// Draw the graph of steps as text, SVG, Graphviz or Mermaid.
#[derive(Args)]
pub struct Graph {
    /// Targets or steps to draw, with their dependencies. Default: every step.
    targets: Vec<String>,
    /// The output format.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// A list of steps, each with its inputs.
    Text,
    /// Graphviz: `repro graph --format dot | dot -Tsvg`.
    Dot,
    /// Mermaid, for Markdown pages.
    Mermaid,
    /// An SVG image: `repro graph --format svg > graph.svg`.
    Svg,
}

impl Graph {
    pub fn run(&self, global: &Global, registry: &Registry) -> Result<ExitCode, CliError> {
        let project = global.project(registry)?;
        let pipeline = project.pipeline()?;

        let nodes = self.nodes(&project)?;
        if global.json {
            let steps = nodes.iter().map(|node| &pipeline.graph[*node]).map(|step| {
                let inputs: Vec<_> = step
                    .inputs
                    .iter()
                    .map(|input| json!({"port": input.port, "source": source_name(pipeline, &input.source)}))
                    .collect();
                json!({"name": step.name, "stage": step.stage, "inputs": inputs})
            });
            print_json(&steps.collect::<Vec<_>>())?;
        } else {
            print_data(&match self.format {
                Format::Text => text(pipeline, &nodes),
                Format::Dot => dot(pipeline, &nodes),
                Format::Mermaid => mermaid(pipeline, &nodes),
                Format::Svg => svg::svg(pipeline, &nodes, &edges(pipeline, &nodes), None),
            })?;
        }
        Ok(ExitCode::SUCCESS)
    }

    /// The steps to draw, each after all that it reads.
    fn nodes(&self, project: &Project) -> Result<Vec<NodeIndex>, CliError> {
        let pipeline = project.pipeline()?;
        let graph = &pipeline.graph;
        let all = in_order(pipeline);
        if self.targets.is_empty() {
            return Ok(all);
        }
        let mut open = project.targets(&self.targets)?;
        let mut needed = BTreeSet::new();
        while let Some(node) = open.pop() {
            if needed.insert(node) {
                open.extend(graph.neighbors_directed(node, Incoming));
            }
        }
        Ok(all.into_iter().filter(|node| needed.contains(node)).collect())
    }
}

/// The drawing of some steps, each with what `state` says of it, and a link to `#step-NAME`.
pub fn svg_with_states(
    pipeline: &Pipeline,
    nodes: &[NodeIndex],
    state: &dyn Fn(NodeIndex) -> String,
) -> String {
    svg::svg(pipeline, nodes, &edges(pipeline, nodes), Some(state))
}

fn text(pipeline: &Pipeline, nodes: &[NodeIndex]) -> String {
    let mut text = String::new();
    for step in nodes.iter().map(|node| &pipeline.graph[*node]) {
        let _ = writeln!(text, "{} ({})", step.name, step.stage);
        for input in &step.inputs {
            let _ = writeln!(text, "  {} <- {}", input.port, source_name(pipeline, &input.source));
        }
    }
    text
}

/// Each pair of a step and one that reads it, once, by their numbers.
fn edges(pipeline: &Pipeline, nodes: &[NodeIndex]) -> Vec<(usize, usize)> {
    let of_node = |node: &NodeIndex| {
        let inputs = pipeline.graph.neighbors_directed(*node, Incoming).map(NodeIndex::index);
        inputs.map(|input| (input, node.index())).collect::<BTreeSet<_>>()
    };
    nodes.iter().flat_map(of_node).collect()
}

fn dot(pipeline: &Pipeline, nodes: &[NodeIndex]) -> String {
    let mut text =
        "digraph pipeline {\n  rankdir=LR;\n  node [shape=box, fontname=\"sans-serif\"];\n".to_owned();
    for node in nodes {
        let step = &pipeline.graph[*node];
        let _ = writeln!(text, "  s{} [label={:?}];", node.index(), format!("{}\n{}", step.name, step.stage));
    }
    for (from, to) in edges(pipeline, nodes) {
        let _ = writeln!(text, "  s{from} -> s{to};");
    }
    text + "}\n"
}

fn mermaid(pipeline: &Pipeline, nodes: &[NodeIndex]) -> String {
    let mut text = "flowchart LR\n".to_owned();
    for node in nodes {
        let step = &pipeline.graph[*node];
        let _ = writeln!(text, "  s{}[\"{}<br/>{}\"]", node.index(), step.name.replace('"', "'"), step.stage);
    }
    for (from, to) in edges(pipeline, nodes) {
        let _ = writeln!(text, "  s{from} --> s{to}");
    }
    text
}
