//! What a drawing of the graph shows: a box per step, or per family of steps, and the lines between them. It does not know
//! how they are drawn.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use petgraph::Direction::Incoming;
use petgraph::algo::tarjan_scc;
use petgraph::graph::{DiGraph, NodeIndex};

use crate::cli::format;
use crate::pipeline::{Pipeline, Step};
use crate::record::source_name;

/// The boxes, each after all that it reads, and the lines from and to them by their places.
pub struct Boxes {
    pub boxes: Vec<StepBox>,
    pub edges: Vec<(usize, usize)>,
}

/// A step, or a family.
pub struct StepBox {
    /// The step's name; of a family, the names in the pipeline's own short form: `{hmd,mmh}-{fc,pe}-train`.
    pub name: String,
    pub stage: String,
    /// The steps that it stands for.
    pub steps: Vec<String>,
    /// How many of them are in which state.
    pub states: BTreeMap<String, usize>,
    /// What a step reads, `port <- source`; the steps of a family.
    pub details: Vec<String>,
    pub is_published: bool,
    /// What is added to the state: a time.
    pub remark: Option<String>,
}

/// From the one to see first to the one to see last.
const URGENCY: [&str; 6] = ["broken", "running", "stale", "waiting", "fresh", format::FROM_EVIDENCE];

impl StepBox {
    /// The state that decides the colour: that of the step which asks for attention most.
    pub fn state(&self) -> &str {
        let urgency =
            |state: &&String| URGENCY.iter().position(|each| each == state).unwrap_or(URGENCY.len());
        self.states.keys().min_by_key(urgency).map_or("", String::as_str)
    }

    /// The states in words: `fresh`; of a family `5 fresh, 1 stale`.
    pub fn states_in_words(&self) -> String {
        match (&self.remark, self.steps.len()) {
            (Some(remark), _) => remark.clone(),
            (None, 1) => self.state().to_owned(),
            (None, _) => {
                let each = self.states.iter().map(|(state, count)| format!("{count} {state}"));
                each.collect::<Vec<_>>().join(", ")
            }
        }
    }
}

impl Boxes {
    /// The boxes of `nodes`, which are in the order of the graph. With `fold`, the steps that one entry of the pipeline file
    /// declares become one box, unless that would close a circle.
    pub fn from_steps(
        pipeline: &Pipeline,
        nodes: &[NodeIndex],
        fold: bool,
        state: &dyn Fn(NodeIndex) -> (String, Option<String>),
    ) -> Self {
        let groups =
            if fold { families(pipeline, nodes) } else { nodes.iter().map(|node| vec![*node]).collect() };
        let edges = edges(pipeline, &groups);
        let step_box = |group: &Vec<NodeIndex>| {
            let steps: Vec<&Step> = group.iter().map(|node| &pipeline.graph[*node]).collect();
            let names: Vec<String> = steps.iter().map(|step| step.name.clone()).collect();
            let mut found = StepBox {
                name: short_form(&names),
                stage: steps[0].stage.clone(),
                states: BTreeMap::new(),
                details: match &steps[..] {
                    [step] => step
                        .inputs
                        .iter()
                        .map(|i| format!("{} <- {}", i.port, source_name(pipeline, &i.source)))
                        .collect(),
                    _ => names.clone(),
                },
                steps: names,
                is_published: steps.iter().any(|step| step.publish.is_some()),
                remark: None,
            };
            for node in group {
                let (state, remark) = state(*node);
                *found.states.entry(state).or_default() += 1;
                found.remark = remark.filter(|_| group.len() == 1);
            }
            found
        };
        Self { boxes: groups.iter().map(step_box).collect(), edges }
    }
}

/// The steps by the entry of the pipeline file that declares them, in the order of the graph. A family that is in a circle
/// of families, because its steps read each other by way of others, stays apart.
fn families(pipeline: &Pipeline, nodes: &[NodeIndex]) -> Vec<Vec<NodeIndex>> {
    let mut apart: BTreeSet<NodeIndex> = BTreeSet::new();
    loop {
        let mut at: BTreeMap<(Option<&PathBuf>, usize), usize> = BTreeMap::new();
        let mut groups: Vec<Vec<NodeIndex>> = Vec::new();
        for node in nodes {
            let step = &pipeline.graph[*node];
            let place = match apart.contains(node) {
                true => None,
                false => Some(*at.entry((step.file.as_ref(), step.line)).or_insert(groups.len())),
            };
            match place.and_then(|place| groups.get_mut(place)) {
                Some(group) => group.push(*node),
                None => groups.push(vec![*node]),
            }
        }
        let mut graph = DiGraph::<(), ()>::new();
        for _ in &groups {
            graph.add_node(());
        }
        let within = edges(pipeline, &groups);
        graph.extend_with_edges(within.iter().map(|(from, to)| (*from as u32, *to as u32)));
        let order = tarjan_scc(&graph);
        let is_circle =
            |members: &&Vec<NodeIndex>| members.len() > 1 || graph.contains_edge(members[0], members[0]);
        let circles: Vec<&Vec<NodeIndex>> = order.iter().filter(is_circle).collect();
        if circles.is_empty() {
            // The components are in reverse topological order.
            return order.iter().rev().map(|members| groups[members[0].index()].clone()).collect();
        }
        apart.extend(
            circles.iter().flat_map(|members| members.iter()).flat_map(|member| &groups[member.index()]),
        );
    }
}

/// Each pair of a box and one that reads it, once.
fn edges(pipeline: &Pipeline, groups: &[Vec<NodeIndex>]) -> Vec<(usize, usize)> {
    let place: BTreeMap<NodeIndex, usize> =
        groups.iter().enumerate().flat_map(|(at, group)| group.iter().map(move |node| (*node, at))).collect();
    let of_group = |(to, group): (usize, &Vec<NodeIndex>)| {
        let inputs = group.iter().flat_map(|node| pipeline.graph.neighbors_directed(*node, Incoming));
        inputs.filter_map(|input| Some((*place.get(&input)?, to))).collect::<BTreeSet<_>>()
    };
    groups.iter().enumerate().flat_map(of_group).collect()
}

/// Names as one: word by word, with the alternatives where they differ; the first and a count where they have different
/// numbers of words.
fn short_form(names: &[String]) -> String {
    let words: Vec<Vec<&str>> = names.iter().map(|name| name.split('-').collect()).collect();
    let count = words[0].len();
    if words.iter().any(|words| words.len() != count) {
        return format!("{} and {} more", names[0], names.len() - 1);
    }
    let word = |at: usize| {
        let mut different: Vec<&str> = Vec::new();
        for words in &words {
            if !different.contains(&words[at]) {
                different.push(words[at]);
            }
        }
        match &different[..] {
            [one] => (*one).to_owned(),
            few if few.len() <= 4 => format!("{{{}}}", few.join(",")),
            many => format!("{{{},…,{}}}", many[0], many[many.len() - 1]),
        }
    };
    (0..count).map(word).collect::<Vec<_>>().join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_has_the_short_form_of_its_names() {
        let form = |names: &[&str]| short_form(&names.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(form(&["a-b"]), "a-b");
        assert_eq!(
            form(&["hmd-fc-train", "hmd-pe-train", "mmh-fc-train", "mmh-pe-train"]),
            "{hmd,mmh}-{fc,pe}-train"
        );
        assert_eq!(form(&["s1", "s2", "s3", "s4", "s5"]), "{s1,…,s5}");
        assert_eq!(form(&["a-b", "c"]), "a-b and 1 more");
    }
}
