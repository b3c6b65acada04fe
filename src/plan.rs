//! Planning: which steps are fresh, which must run, and why. A pure function of the pipeline and of what is
//! known; it reads no tree and runs nothing.
//!
//! A step has a key once the digests of its inputs are known. A key with a record is fresh without running,
//! whatever happened above it: a step that reran and wrote the same bytes leaves what reads it fresh.
//! Bytes count only where they are needed: a fresh step whose tree is gone must run when a step that must run
//! reads it, or when it is to be published.

use std::collections::BTreeSet;

use petgraph::Direction::{Incoming, Outgoing};
use petgraph::graph::NodeIndex;

use crate::digest::Digest;
use crate::key::{Difference, KeyText, StageKey};
use crate::pipeline::{Pipeline, Source, Step};
use crate::record::{RecordedInput, RunRecord, source_name};

/// All that planning asks of the store, the project and the reports. What an answer was read from outside of the state
/// log, [`crate::recorder::Recorder`] notes.
pub trait BuildState {
    /// The tree that the newest execution of a key wrote.
    fn tree(&self, key: &StageKey) -> Option<Digest>;
    /// Whether a tree may be believed to be this step's: nothing that is noted of the step speaks against it.
    fn agrees(&self, _step: &Step, _tree: &Digest) -> bool {
        true
    }
    /// The newest record of a step under any key.
    fn last(&self, step: &Step) -> Option<RunRecord>;
    /// The digest of a path within a tree; `None` when the tree holds no such path.
    fn output(&self, tree: &Digest, path: &str) -> Option<Digest>;
    /// Whether the bytes of a tree are there, or those of a path within it.
    fn has_bytes(&self, tree: &Digest, path: Option<&str>) -> bool;
    /// The digest of a file of the project.
    fn file(&self, path: &std::path::Path) -> Option<Digest>;
    /// What of the machine counts for a step's result, by name and value; or what keeps it from being known.
    fn environment(&self, step: &Step) -> Result<Vec<(String, String)>, String>;
    /// Whether the reports hold all that publishing `tree` for `step` would write.
    fn is_published(&self, step: &Step, tree: &Digest) -> bool;
}

/// A request for targets.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// The steps to bring up to date, with all that they read.
    pub targets: Vec<NodeIndex>,
    /// Steps to run though they are fresh.
    pub forced: BTreeSet<NodeIndex>,
}

/// Why a step must run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// No execution of it is known.
    NeverRun,
    /// It was run, but on something else.
    Changed(Vec<Difference>),
    /// Its result is known, but the bytes are gone and needed.
    BytesMissing {
        /// The step that reads them; `None` when they are to be published.
        needed_by: Option<NodeIndex>,
    },
    /// It was requested.
    Forced,
}

/// What is to be done about a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// No target needs it.
    Unneeded,
    /// Its result is known.
    Fresh,
    /// It must run.
    Stale(Reason),
    /// Its key is not known before these have run.
    Waiting {
        /// The steps it reads that must run or wait themselves.
        on: Vec<NodeIndex>,
    },
    /// It cannot run with this pipeline: it reads a path that its source does not hold.
    Broken(String),
}

/// What is known of a step.
#[derive(Debug, Clone)]
pub struct StepPlan {
    /// What is to be done.
    pub verdict: Verdict,
    /// The text of its key, when all digests are known.
    pub key_text: Option<KeyText>,
    /// The tree that its record names.
    pub tree: Option<Digest>,
}

/// The state of every step, kept up to date while steps run.
pub struct Plan<'a> {
    pipeline: &'a Pipeline,
    known: &'a dyn BuildState,
    order: Vec<NodeIndex>,
    position: Vec<usize>,
    forced: BTreeSet<NodeIndex>,
    targets: BTreeSet<NodeIndex>,
    steps: Vec<StepPlan>,
}

/// All steps, each after all that it reads, otherwise in the order of the pipeline file.
pub fn in_order(pipeline: &Pipeline) -> Vec<NodeIndex> {
    let graph = &pipeline.graph;
    let mut missing: Vec<usize> =
        graph.node_indices().map(|node| graph.neighbors_directed(node, Incoming).count()).collect();
    let mut free: BTreeSet<NodeIndex> = graph.externals(Incoming).collect();
    let mut order = Vec::with_capacity(graph.node_count());
    while let Some(node) = free.pop_first() {
        order.push(node);
        for reader in graph.neighbors_directed(node, Outgoing) {
            missing[reader.index()] -= 1;
            if missing[reader.index()] == 0 {
                free.insert(reader);
            }
        }
    }
    order
}

/// Plans every step that the request needs.
///
/// # Examples
/// Where no step has run yet, the first one is stale and the second one waits for it:
///
/// ```
/// use std::path::Path;
///
/// use repro::command::Command;
/// use repro::digest::Digest;
/// use repro::key::StageKey;
/// use repro::pipeline::{Pipeline, Step};
/// use repro::plan::{BuildState, Reason, Request, Verdict, plan};
/// use repro::record::RunRecord;
/// use stage_api::Registry;
///
/// /// No step has run, and nothing is published.
/// struct Empty;
///
/// impl BuildState for Empty {
///     fn tree(&self, _: &StageKey) -> Option<Digest> {
///         None
///     }
///     fn last(&self, _: &Step) -> Option<RunRecord> {
///         None
///     }
///     fn output(&self, _: &Digest, _: &str) -> Option<Digest> {
///         None
///     }
///     fn has_bytes(&self, _: &Digest, _: Option<&str>) -> bool {
///         false
///     }
///     fn file(&self, _: &Path) -> Option<Digest> {
///         None
///     }
///     fn environment(&self, _: &Step) -> Result<Vec<(String, String)>, String> {
///         Ok(Vec::new())
///     }
///     fn is_published(&self, _: &Step, _: &Digest) -> bool {
///         false
///     }
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let text = r#"(
///     default_profile: "paper",
///     profiles: [(name: "paper", about: "an example")],
///     steps: [
///         (name: "numbers", stage: "command", params: (run: ["seq", "9"], stdout: "text")),
///         (name: "sum", stage: "command", inputs: {"in": ["numbers/text"]}, params: (run: ["wc", "{input.in}"])),
///     ],
/// )"#;
/// let registry = Registry::new().with(Command);
/// let pipeline = Pipeline::parse(Path::new("pipeline.ron"), text, None, &registry)?;
/// let step = |name: &str| pipeline.targets[name][0];
/// let (numbers, sum) = (step("numbers"), step("sum"));
///
/// let plan = plan(&pipeline, &Empty, &Request { targets: vec![sum], ..Request::default() });
/// assert_eq!(*plan.verdict(numbers), Verdict::Stale(Reason::NeverRun));
/// assert_eq!(*plan.verdict(sum), Verdict::Waiting { on: vec![numbers] });
/// # Ok(())
/// # }
/// ```
pub fn plan<'a>(pipeline: &'a Pipeline, known: &'a dyn BuildState, request: &Request) -> Plan<'a> {
    let graph = &pipeline.graph;
    let order = in_order(pipeline);
    let mut position = vec![0; graph.node_count()];
    for (place, node) in order.iter().enumerate() {
        position[node.index()] = place;
    }
    let unneeded = StepPlan { verdict: Verdict::Unneeded, key_text: None, tree: None };
    let mut steps = vec![unneeded; graph.node_count()];
    let mut needed: Vec<NodeIndex> = request.targets.clone();
    while let Some(node) = needed.pop() {
        let step_plan = &mut steps[node.index()];
        if step_plan.verdict == Verdict::Unneeded {
            step_plan.verdict = Verdict::Waiting { on: Vec::new() };
            needed.extend(graph.neighbors_directed(node, Incoming));
        }
    }
    let all = order.iter().copied().filter(|n| steps[n.index()].verdict != Verdict::Unneeded).collect();
    let mut plan = Plan {
        pipeline,
        known,
        order,
        position,
        forced: request.forced.clone(),
        targets: request.targets.iter().copied().collect(),
        steps,
    };
    plan.propagate(all);
    plan
}

impl Plan<'_> {
    /// The plan of a step.
    pub fn of(&self, node: NodeIndex) -> &StepPlan {
        &self.steps[node.index()]
    }

    /// The verdict on a step.
    pub fn verdict(&self, node: NodeIndex) -> &Verdict {
        &self.of(node).verdict
    }

    /// What a step reads as a record would have it; nothing before its key is known.
    pub fn recorded_inputs(&self, node: NodeIndex) -> Vec<RecordedInput> {
        let Some(text) = &self.of(node).key_text else { return Vec::new() };
        let inputs = self.pipeline.graph[node].inputs.iter().zip(text.input_digests());
        inputs
            .map(|(input, digest)| RecordedInput {
                port: input.port.clone(),
                source: source_name(self.pipeline, &input.source),
                digest,
                tree: match &input.source {
                    Source::Step { step, .. } => self.of(*step).tree,
                    Source::File(_) => None,
                },
            })
            .collect()
    }

    /// The needed steps, each after all that it reads.
    pub fn needed(&self) -> impl Iterator<Item = NodeIndex> {
        self.order.iter().copied().filter(|node| *self.verdict(*node) != Verdict::Unneeded)
    }

    /// The position of a step in that order.
    pub fn position(&self, node: NodeIndex) -> usize {
        self.position[node.index()]
    }

    /// The step at a place in that order.
    pub fn at(&self, position: usize) -> NodeIndex {
        self.order[position]
    }

    /// The requested steps.
    pub fn targets(&self) -> impl Iterator<Item = NodeIndex> {
        self.targets.iter().copied()
    }

    /// Whether a step must run and all that it reads is there.
    pub fn is_ready(&self, node: NodeIndex) -> bool {
        matches!(self.verdict(node), Verdict::Stale(_))
            && self
                .pipeline
                .graph
                .neighbors_directed(node, Incoming)
                .all(|input| *self.verdict(input) == Verdict::Fresh)
    }

    /// Takes note that a step has run and has a record, and plans again what that touches. Returns the steps
    /// that may have become ready.
    pub fn finished(&mut self, node: NodeIndex) -> BTreeSet<NodeIndex> {
        self.forced.remove(&node);
        self.invalidate(node)
    }

    /// Takes note that something may have become known of a step, and plans again what that touches. Returns the
    /// steps that may have become ready.
    pub fn invalidate(&mut self, node: NodeIndex) -> BTreeSet<NodeIndex> {
        let mut touched = self.propagate(BTreeSet::from([node]));
        touched.extend(self.pipeline.graph.neighbors_directed(node, Outgoing));
        touched
    }

    /// Judges `pending` and, as far as something changes, what reads it and what it reads, until nothing changes.
    fn propagate(&mut self, pending: BTreeSet<NodeIndex>) -> BTreeSet<NodeIndex> {
        let mut pending: BTreeSet<usize> = pending.into_iter().map(|node| self.position(node)).collect();
        let mut changed = BTreeSet::new();
        while let Some(place) = pending.pop_first() {
            let node = self.order[place];
            let new = self.evaluate(node);
            let old = std::mem::replace(&mut self.steps[node.index()], new);
            let new = self.of(node);
            let reaches = |direction| {
                self.pipeline
                    .graph
                    .neighbors_directed(node, direction)
                    .filter(|other| self.steps[other.index()].verdict != Verdict::Unneeded)
            };
            if old.tree != new.tree {
                pending.extend(reaches(Outgoing).map(|reader| self.position(reader)));
            }
            // Whether it runs decides whether the bytes of its inputs are needed.
            let runs = |step_plan: &StepPlan| matches!(step_plan.verdict, Verdict::Stale(_));
            if runs(&old) != runs(new) {
                pending.extend(reaches(Incoming).map(|input| self.position(input)));
            }
            if old.verdict != new.verdict || old.tree != new.tree {
                changed.insert(node);
            }
        }
        changed
    }

    fn evaluate(&self, node: NodeIndex) -> StepPlan {
        let step = &self.pipeline.graph[node];
        let (mut digests, mut waits) = (Vec::new(), Vec::new());
        let step_plan = |verdict, key_text, tree| StepPlan { verdict, key_text, tree };
        for input in &step.inputs {
            match &input.source {
                Source::File(path) => match self.known.file(path) {
                    Some(digest) => digests.push((input.port.as_str(), digest)),
                    None => {
                        let problem = format!("it reads ./{}, which is not there", path.display());
                        return step_plan(Verdict::Broken(problem), None, None);
                    }
                },
                Source::Step { step: source, output } => match (self.of(*source).tree, output) {
                    (None, _) => waits.push(*source),
                    (Some(tree), None) => digests.push((input.port.as_str(), tree)),
                    (Some(tree), Some(path)) => match self.known.output(&tree, path) {
                        Some(digest) => digests.push((input.port.as_str(), digest)),
                        None => {
                            let source = &self.pipeline.graph[*source].name;
                            let problem =
                                format!("it reads {source}/{path}, but `{source}` wrote no `{path}`");
                            return step_plan(Verdict::Broken(problem), None, None);
                        }
                    },
                },
            }
        }
        if !waits.is_empty() {
            waits.sort_unstable();
            waits.dedup();
            return step_plan(Verdict::Waiting { on: waits }, None, None);
        }
        let mut text = KeyText::new(&step.stage, step.version, &step.params, digests);
        match self.known.environment(step) {
            Ok(all) => text = all.iter().fold(text, |text, (name, value)| text.with(name, value)),
            Err(problem) => return step_plan(Verdict::Broken(problem), None, None),
        }
        let tree = self.known.tree(&text.key()).filter(|tree| self.known.agrees(step, tree));
        // Of a forced step the tree counts as unknown: a person doubts its result.
        let Some(tree) = tree.filter(|_| !self.forced.contains(&node)) else {
            let reason = if self.forced.contains(&node) {
                Reason::Forced
            } else {
                match self.known.last(step) {
                    Some(last) => Reason::Changed(last.key_text.differences(&text)),
                    None => Reason::NeverRun,
                }
            };
            return step_plan(Verdict::Stale(reason), Some(text), None);
        };
        let verdict = match self.missed_by(node, &tree) {
            Some(needed_by) => Verdict::Stale(Reason::BytesMissing { needed_by }),
            None => Verdict::Fresh,
        };
        step_plan(verdict, Some(text), Some(tree))
    }

    /// Who wants bytes of a fresh step that are gone: a reader that must run, or (`Some(None)`) the reports.
    fn missed_by(&self, node: NodeIndex, tree: &Digest) -> Option<Option<NodeIndex>> {
        let misses = |reader: &NodeIndex| {
            matches!(self.verdict(*reader), Verdict::Stale(_))
                && self.pipeline.graph[*reader].inputs.iter().any(|input| match &input.source {
                    Source::Step { step, output } => {
                        *step == node && !self.known.has_bytes(tree, output.as_deref())
                    }
                    Source::File(_) => false,
                })
        };
        let step = &self.pipeline.graph[node];
        match self.pipeline.graph.neighbors_directed(node, Outgoing).filter(misses).min() {
            Some(reader) => Some(Some(reader)),
            None if step.publish.is_some()
                && !self.known.is_published(step, tree)
                && !self.known.has_bytes(tree, None) =>
            {
                Some(None)
            }
            None => None,
        }
    }
}
