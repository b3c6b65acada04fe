//! `repro graph`.

mod boxes;
mod layout;
mod svg;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use petgraph::Direction::Incoming;
use petgraph::graph::NodeIndex;
use serde_json::json;
use stage_api::Registry;

use super::error::CliError;
use super::{Global, format, harmless, print_bytes, print_data, print_json};
use crate::explain::explain;
use crate::pipeline::Pipeline;
use crate::plan::{Request, in_order, plan};
use crate::project::Project;
use crate::record::source_name;
use boxes::{Boxes, StepBox};

/// Draw the graph of steps, coloured by state, as text, SVG, Graphviz or Mermaid.
#[derive(Args)]
pub struct Graph {
    /// Targets or steps to draw, with their dependencies. Default: every step.
    targets: Vec<String>,
    /// The output format.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// Draw the steps that one entry of the pipeline file declares as one box, with their number.
    #[arg(long)]
    fold: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// A list of steps, each with its state and inputs.
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
        let workspace = project.workspace()?;
        let nodes = self.nodes(&project)?;
        let everything = pipeline.graph.node_indices().collect();
        let plan = plan(pipeline, &workspace, &Request { targets: everything, forced: BTreeSet::new() });
        let state = |node| format::state_and_origin(&explain(pipeline, &workspace, &plan, node)).to_owned();
        let boxes = Boxes::from_steps(pipeline, &nodes, self.fold, &|node| (state(node), None));
        if global.json {
            print_json(&json(pipeline, &nodes, &boxes, self.fold))?;
            return Ok(ExitCode::SUCCESS);
        }
        match self.format {
            // Escaped piece by piece, because colours are control characters.
            Format::Text => print_bytes(text(&boxes).as_bytes())?,
            Format::Dot => print_data(&dot(&boxes))?,
            Format::Mermaid => print_data(&mermaid(&boxes))?,
            Format::Svg => print_data(&svg::svg(pipeline, &boxes, false))?,
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

/// The drawing of some steps, each a link to `#step-NAME`. `state` is the state, and what is shown in its place.
pub fn linked_svg(
    pipeline: &Pipeline,
    nodes: &[NodeIndex],
    state: &dyn Fn(NodeIndex) -> (String, Option<String>),
) -> String {
    svg::svg(pipeline, &Boxes::from_steps(pipeline, nodes, false, state), true)
}

/// Fill and border of a state, readable under dark text.
fn colours(state: &str) -> (&'static str, &'static str) {
    match state {
        "fresh" => ("#d9f0dc", "#2c7a3f"),
        format::FROM_EVIDENCE => ("#d7efee", "#1f6f70"),
        "stale" => ("#fde3c0", "#b26a00"),
        "waiting" => ("#fbf3c4", "#8a7a00"),
        "running" => ("#d3e6fa", "#1f5fa8"),
        "broken" => ("#f8d4d4", "#a32020"),
        _ => ("#e6e8eb", "#6a7078"),
    }
}

fn json(pipeline: &Pipeline, nodes: &[NodeIndex], boxes: &Boxes, fold: bool) -> serde_json::Value {
    if fold {
        let families = boxes.boxes.iter().map(|each| {
            json!({"name": each.name, "stage": each.stage, "steps": each.steps, "states": each.states})
        });
        return families.collect();
    }
    let steps = nodes.iter().map(|node| &pipeline.graph[*node]).zip(&boxes.boxes).map(|(step, each)| {
        let inputs: Vec<_> = step
            .inputs
            .iter()
            .map(|input| json!({"port": input.port, "source": source_name(pipeline, &input.source)}))
            .collect();
        json!({"name": step.name, "stage": step.stage, "state": each.state(), "inputs": inputs})
    });
    steps.collect()
}

fn text(boxes: &Boxes) -> String {
    let mut text = String::new();
    for each in &boxes.boxes {
        let state = console::style(each.states_in_words());
        let state = match each.state() {
            "fresh" | format::FROM_EVIDENCE => state.green(),
            "stale" | "waiting" => state.yellow(),
            "running" => state.cyan(),
            "broken" => state.red(),
            _ => state,
        };
        let _ = writeln!(text, "{} ({}{}) {state}", harmless(&each.name), harmless(&each.stage), times(each));
        for line in &each.details {
            let _ = writeln!(text, "  {}", harmless(line));
        }
    }
    text
}

/// How many steps a box stands for: ` × 6`.
fn times(each: &StepBox) -> String {
    if each.steps.len() == 1 { String::new() } else { format!(" × {}", each.steps.len()) }
}

/// The lines of text in a box.
fn lines(each: &StepBox) -> [String; 2] {
    [each.name.clone(), format!("{}{} · {}", each.stage, times(each), each.states_in_words())]
}

fn dot(boxes: &Boxes) -> String {
    let mut text =
        "digraph pipeline {\n  rankdir=LR;\n  node [shape=box, style=filled, fontname=\"sans-serif\"];\n"
            .to_owned();
    for (at, each) in boxes.boxes.iter().enumerate() {
        let (fill, border) = colours(each.state());
        let _ = writeln!(
            text,
            "  s{at} [label={:?}, fillcolor=\"{fill}\", color=\"{border}\"];",
            lines(each).join("\n")
        );
    }
    for (from, to) in &boxes.edges {
        let _ = writeln!(text, "  s{from} -> s{to};");
    }
    text + "}\n"
}

fn mermaid(boxes: &Boxes) -> String {
    let mut text = "flowchart LR\n".to_owned();
    let mut by_state: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (at, each) in boxes.boxes.iter().enumerate() {
        let label = lines(each).map(|line| line.replace('"', "'")).join("<br/>");
        let _ = writeln!(text, "  s{at}[\"{label}\"]");
        by_state.entry(each.state()).or_default().push(format!("s{at}"));
    }
    for (from, to) in &boxes.edges {
        let _ = writeln!(text, "  s{from} --> s{to}");
    }
    for (at, (state, nodes)) in by_state.iter().enumerate() {
        let (fill, border) = colours(state);
        let _ = writeln!(text, "  classDef state{at} fill:{fill},stroke:{border},color:#111111");
        let _ = writeln!(text, "  class {} state{at}", nodes.join(","));
    }
    text
}
