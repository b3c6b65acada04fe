//! Estimates the duration of a run from earlier records: for each step the median of its earlier runs, in the order
//! of the scheduler. It runs nothing and lists the steps with unknown times.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};

use petgraph::Direction::{Incoming, Outgoing};
use petgraph::graph::NodeIndex;
use serde::Serialize;

use crate::pipeline::Pipeline;
use crate::plan::{Plan, Verdict};
use crate::record::RunRecord;
use crate::run::{Resources, chains};

/// The duration of the steps that are not fresh.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Estimate {
    /// Wall time in seconds if all steps run that might.
    pub seconds: f64,
    /// Wall time in seconds of the steps that must run.
    pub at_least_seconds: f64,
    /// The longest chain of steps (critical path): no machine is faster.
    pub critical_path: Vec<String>,
    /// Its duration in seconds.
    pub critical_seconds: f64,
    /// The steps without an earlier run; they count as 0 s.
    pub unknown: Vec<String>,
    /// The steps that are not fresh, in the order of the pipeline.
    pub steps: Vec<StepEstimate>,
}

/// The duration of a step.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StepEstimate {
    /// The step.
    pub step: String,
    /// Whether it must run; otherwise it may turn out to be fresh.
    pub must: bool,
    /// The median of its earlier runs in seconds, if there are any.
    pub seconds: Option<f64>,
    /// The number of earlier runs.
    pub runs: usize,
}

/// Estimates the duration of `plan` with `resources`.
pub fn estimate(pipeline: &Pipeline, plan: &Plan, history: &[RunRecord], resources: &Resources) -> Estimate {
    let mut runs: HashMap<&str, Vec<f64>> = HashMap::new();
    // An accepted result has no duration under its key.
    for record in history.iter().filter(|r| r.profile == pipeline.profile && r.accepted.is_none()) {
        runs.entry(&record.step).or_default().push(record.seconds);
    }
    let open: Vec<NodeIndex> = plan
        .needed()
        .filter(|node| matches!(plan.verdict(*node), Verdict::Stale(_) | Verdict::Waiting { .. }))
        .collect();
    let mut steps = Vec::with_capacity(open.len());
    let mut times = BTreeMap::new();
    for node in &open {
        let step = &pipeline.graph[*node].name;
        let of_step = runs.get_mut(step.as_str());
        let (number, seconds) = of_step.map_or((0, None), |times| (times.len(), median(times)));
        times.insert(*node, seconds.unwrap_or(0.0));
        let must = matches!(plan.verdict(*node), Verdict::Stale(_));
        steps.push(StepEstimate { step: step.clone(), must, seconds, runs: number });
    }
    let must: BTreeMap<_, _> = times
        .iter()
        .filter(|(node, _)| matches!(plan.verdict(**node), Verdict::Stale(_)))
        .map(|(node, seconds)| (*node, *seconds))
        .collect();
    let (critical_path, critical_seconds) = critical_path(pipeline, &open, &times);
    Estimate {
        seconds: wall_time(pipeline, plan, &times, resources),
        at_least_seconds: wall_time(pipeline, plan, &must, resources),
        critical_path,
        critical_seconds,
        unknown: steps.iter().filter(|s| s.seconds.is_none()).map(|s| s.step.clone()).collect(),
        steps,
    }
}

fn median(times: &mut [f64]) -> Option<f64> {
    times.sort_by(f64::total_cmp);
    let upper = *times.get(times.len() / 2)?;
    let lower = times[(times.len() - 1) / 2];
    Some(lower.midpoint(upper))
}

/// The longest chain by time in `open`, in which each step comes after its inputs.
fn critical_path(
    pipeline: &Pipeline,
    open: &[NodeIndex],
    times: &BTreeMap<NodeIndex, f64>,
) -> (Vec<String>, f64) {
    let mut ends: BTreeMap<NodeIndex, (f64, Option<NodeIndex>)> = BTreeMap::new();
    for node in open {
        let inputs = pipeline.graph.neighbors_directed(*node, Incoming);
        let before = inputs
            .filter_map(|input| Some((ends.get(&input)?.0, input)))
            .max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)));
        let end = before.map_or(0.0, |(end, _)| end) + times[node];
        ends.insert(*node, (end, before.map(|(_, input)| input)));
    }
    let last = ends.iter().max_by(|a, b| a.1.0.total_cmp(&b.1.0).then(b.0.cmp(a.0)));
    let seconds = last.map_or(0.0, |(_, (end, _))| *end);
    let mut path = Vec::new();
    let mut at = last.map(|(node, _)| *node);
    while let Some(node) = at {
        path.push(pipeline.graph[node].name.clone());
        at = ends[&node].1;
    }
    path.reverse();
    (path, seconds)
}

/// The time until all steps of `times` have ended, if they start in the scheduler's order when resources are free.
pub(crate) fn wall_time(
    pipeline: &Pipeline,
    plan: &Plan,
    times: &BTreeMap<NodeIndex, f64>,
    resources: &Resources,
) -> f64 {
    let graph = &pipeline.graph;
    let chains = chains(pipeline);
    let rank = |node: NodeIndex| (Reverse(chains[node.index()]), plan.position(node));
    let mut missing: BTreeMap<NodeIndex, usize> = times
        .keys()
        .map(|node| {
            let inputs: BTreeSet<_> = graph.neighbors_directed(*node, Incoming).collect();
            (*node, inputs.iter().filter(|input| times.contains_key(input)).count())
        })
        .collect();
    let mut ready: BTreeSet<_> =
        missing.iter().filter(|(_, n)| **n == 0).map(|(node, _)| rank(*node)).collect();
    // Times in whole microseconds, which have a total order.
    let mut running: BinaryHeap<Reverse<(u64, NodeIndex)>> = BinaryHeap::new();
    let mut shares = HashMap::new();
    let (mut free, mut now) = (resources.clone(), 0u64);
    loop {
        let mut waiting = BTreeSet::new();
        while let Some(first) = ready.pop_first() {
            let node = plan.at(first.1);
            match free.acquire_for(&graph[node], resources) {
                Some(share) => {
                    shares.insert(node, share);
                    running.push(Reverse((now + (times[&node] * 1e6) as u64, node)));
                }
                None => drop(waiting.insert(first)),
            }
            if free.is_full() {
                break;
            }
        }
        ready.append(&mut waiting);
        let Some(Reverse((end, node))) = running.pop() else { return now as f64 / 1e6 };
        now = end;
        if let Some(share) = shares.remove(&node) {
            free.release(share);
        }
        let readers: BTreeSet<_> = graph.neighbors_directed(node, Outgoing).collect();
        for reader in readers {
            if let Some(left) = missing.get_mut(&reader) {
                *left -= 1;
                if *left == 0 {
                    ready.insert(rank(reader));
                }
            }
        }
    }
}
