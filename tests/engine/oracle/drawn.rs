//! What the oracle draws at random: pipelines and edits of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use petgraph::graph::{DiGraph, NodeIndex};
use proptest::prelude::*;
use repro::digest::Digest;
use repro::pipeline::{Needs, Pipeline, Source, Step, StepInput};

/// Files of the project that steps may read.
pub const FILES: usize = 2;
/// Steps of a pipeline, as long as none is taken out.
pub const STEPS: usize = 7;

/// Steps or parts of them that are read: which one, and whether only its `text`.
type Reads = Vec<(usize, bool)>;

/// A step as drawn.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Drawn {
    /// Whether the pipeline has it.
    present: bool,
    /// Whether it has its other name.
    renamed: bool,
    /// Whether it fails.
    fails: bool,
    /// Whether its output goes to the reports.
    publishes: bool,
    head: bool,
    param: u8,
    reads: Reads,
    file: Option<usize>,
}

/// Something that happens between two runs, or during the next one.
#[derive(Debug, Clone)]
pub enum Edit {
    Param(usize, u8),
    Stage(usize),
    Reads(usize, Reads),
    /// A step is taken out of the pipeline, or comes back.
    Presence(usize),
    /// A step begins to fail, or works again.
    Failure(usize),
    /// A step is published, or no more.
    Publish(usize),
    Rename(usize),
    /// A file of the project is written, with other bytes or the same.
    File(usize, u8),
    /// The bytes of a step's result vanish.
    Bytes(usize),
    /// A byte of a step's result flips.
    Flip(usize),
    /// The record of a step vanishes.
    Record(usize),
    /// The end of the state log is cut off, so many thousandths of it.
    Torn(usize),
    /// A byte of the state log flips, at so many thousandths of it.
    FlipLog(usize),
    /// The reports are deleted.
    Reports,
    Force(usize),
    /// Only this step is asked for.
    Target(usize),
    /// The run is killed at this event.
    Kill(usize),
    /// The run keeps going when a step fails.
    KeepGoing,
}

fn reads() -> impl Strategy<Value = Reads> {
    prop::collection::vec((0..STEPS, any::<bool>()), 0..3)
}

pub fn steps() -> impl Strategy<Value = Vec<Drawn>> {
    let rarely = || prop::bool::weighted(0.1);
    let step = (rarely(), rarely(), prop::bool::weighted(0.3), any::<bool>(), 0..3u8, reads(), 0..3 * FILES)
        .prop_map(|(absent, fails, publishes, head, param, reads, file)| Drawn {
            present: !absent,
            renamed: false,
            fails,
            publishes,
            head,
            param,
            reads,
            file: (file < FILES).then_some(file),
        });
    prop::collection::vec(step, STEPS)
}

pub fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let step = || 0..STEPS;
    let edit = prop_oneof![
        3 => (step(), 0..3u8).prop_map(|(step, param)| Edit::Param(step, param)),
        1 => step().prop_map(Edit::Stage),
        2 => (step(), reads()).prop_map(|(step, reads)| Edit::Reads(step, reads)),
        1 => step().prop_map(Edit::Presence),
        1 => step().prop_map(Edit::Failure),
        1 => step().prop_map(Edit::Publish),
        1 => step().prop_map(Edit::Rename),
        2 => (0..FILES, 0..3u8).prop_map(|(file, text)| Edit::File(file, text)),
        1 => step().prop_map(Edit::Bytes),
        1 => step().prop_map(Edit::Flip),
        1 => step().prop_map(Edit::Record),
        1 => (0..1000usize).prop_map(Edit::Torn),
        1 => (0..1000usize).prop_map(Edit::FlipLog),
        1 => Just(Edit::Reports),
        1 => step().prop_map(Edit::Force),
        1 => step().prop_map(Edit::Target),
        2 => (0..2 * STEPS).prop_map(Edit::Kill),
        1 => Just(Edit::KeepGoing),
    ];
    // Several may happen before a run.
    prop::collection::vec(edit, 1..12)
}

/// Applies an edit of the pipeline; others are the caller's.
pub fn apply(steps: &mut [Drawn], edit: &Edit) {
    match edit {
        Edit::Param(step, param) => steps[*step].param = *param,
        Edit::Stage(step) => steps[*step].head ^= true,
        Edit::Reads(step, reads) => steps[*step].reads.clone_from(reads),
        Edit::Presence(step) => steps[*step].present ^= true,
        Edit::Failure(step) => steps[*step].fails ^= true,
        Edit::Publish(step) => steps[*step].publishes ^= true,
        Edit::Rename(step) => steps[*step].renamed ^= true,
        _ => {}
    }
}

/// The name of the step of that number.
pub fn name(steps: &[Drawn], number: usize) -> String {
    format!("{}{number}", if steps[number].renamed { "renamed" } else { "s" })
}

/// The pipeline of drawn steps, and by number where each is in it. A step reads only earlier ones.
pub fn pipeline(root: &Path, drawn: &[Drawn]) -> (Pipeline, BTreeMap<usize, NodeIndex>) {
    let mut graph = DiGraph::new();
    let mut nodes = BTreeMap::new();
    for (number, step) in drawn.iter().enumerate().filter(|(_, step)| step.present) {
        let mut sources = Vec::new();
        for (read, part) in step.reads.iter().filter(|(read, _)| *read < number) {
            if let Some(step) = nodes.get(read) {
                sources.push(Source::Step { step: *step, output: part.then(|| "text".to_owned()) });
            }
        }
        sources.extend(step.file.map(|file| Source::File(PathBuf::from(format!("file{file}")))));
        let (stage, params) = match step {
            Drawn { fails: true, .. } => ("trouble", "(how:\"fail\")".to_owned()),
            Drawn { head: true, param, .. } => ("head", format!("(chars:{param})")),
            Drawn { param, .. } => ("join", format!("(text:\"{param}\",ms:0,style:(loud:false))")),
        };
        let inputs: Vec<StepInput> = sources
            .into_iter()
            .map(|source| StepInput { port: "in".to_owned(), source, position: (1, 1) })
            .collect();
        let node = graph.add_node(Step {
            name: name(drawn, number),
            stage: stage.to_owned(),
            unproven: false,
            version: 1,
            params,
            surroundings: stage_api::Surroundings::default(),
            inputs: inputs.clone(),
            needs: Needs::default(),
            tolerance: None,
            publish: step.publishes.then(|| PathBuf::from(number.to_string())),
            line: number + 1,
        });
        for input in inputs {
            if let Source::Step { step, .. } = input.source {
                graph.update_edge(step, node, ());
            }
        }
        nodes.insert(number, node);
    }
    let targets = BTreeMap::from([("all".to_owned(), graph.node_indices().collect())]);
    let pipeline = Pipeline {
        text: Digest::of_bytes(b"drawn"),
        looked_for: Vec::new(),
        file: root.join("pipeline.ron"),
        root: root.to_owned(),
        profile: "mini".to_owned(),
        about: String::new(),
        profiles: vec!["mini".to_owned()],
        rehearsal: None,
        rehearsals: Vec::new(),
        pools: BTreeMap::new(),
        graph,
        targets,
    };
    (pipeline, nodes)
}
