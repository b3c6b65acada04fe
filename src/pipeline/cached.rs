//! A checked pipeline kept for the next time: parsing and checking ten thousand steps takes longer than judging
//! them. What is kept is named by all that parsing depends on, and proves itself by a checksum.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use petgraph::graph::{DiGraph, NodeIndex};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::{Pipeline, Rehearsal, Source, Step};
use crate::digest::Digest;

/// Bytes of the checksum at the beginning.
const CHECKSUM: usize = 8;

/// A pipeline without its arrows, which follow from its steps.
#[derive(Serialize, Deserialize)]
struct Kept {
    text: Digest,
    other_files: Vec<(PathBuf, Digest)>,
    profile: String,
    about: String,
    profiles: Vec<String>,
    rehearsal: Option<Rehearsal>,
    rehearsals: Vec<(String, String)>,
    pools: BTreeMap<String, usize>,
    steps: Vec<Step>,
    targets: BTreeMap<String, Vec<NodeIndex>>,
    target_abouts: BTreeMap<String, String>,
    looked_for: Vec<(PathBuf, bool)>,
}

impl Pipeline {
    /// The form that [`Pipeline::from_bytes`] reads.
    pub fn to_bytes(&self) -> Option<Vec<u8>> {
        let kept = Kept {
            text: self.text,
            other_files: self.other_files.clone(),
            profile: self.profile.clone(),
            about: self.about.clone(),
            profiles: self.profiles.clone(),
            rehearsal: self.rehearsal.clone(),
            rehearsals: self.rehearsals.clone(),
            pools: self.pools.clone(),
            steps: self.graph.node_weights().cloned().collect(),
            targets: self.targets.clone(),
            target_abouts: self.target_abouts.clone(),
            looked_for: self.looked_for.clone(),
        };
        let body = postcard::to_stdvec(&kept).ok()?;
        Some([&xxh3_64(&body).to_le_bytes(), &body[..]].concat())
    }

    /// The pipeline that was kept, as the one in `file`; `None` when a byte is not as it was written, when a file that
    /// the pipeline file names has changed, or when one that the check looked for has come or gone.
    pub fn from_bytes(bytes: &[u8], file: &Path) -> Option<Self> {
        let (checksum, body) = bytes.split_at_checked(CHECKSUM)?;
        if checksum != xxh3_64(body).to_le_bytes() {
            return None;
        }
        let kept: Kept = postcard::from_bytes(body).ok()?;
        let root = super::root_of(file);
        if kept.looked_for.iter().any(|(path, was_there)| root.join(path).exists() != *was_there) {
            return None;
        }
        let is_same = |(path, digest): &(PathBuf, Digest)| {
            super::read(&root.join(path)).is_ok_and(|text| Digest::of_bytes(text.as_bytes()) == *digest)
        };
        if !kept.other_files.iter().all(is_same) {
            return None;
        }
        let mut graph = DiGraph::with_capacity(kept.steps.len(), 2 * kept.steps.len());
        let mut arrows: Vec<(NodeIndex, NodeIndex)> = Vec::with_capacity(2 * kept.steps.len());
        for step in kept.steps {
            let node = NodeIndex::new(graph.node_count());
            let first = arrows.len();
            for input in &step.inputs {
                if let Source::Step { step: source, .. } = input.source
                    && !arrows[first..].contains(&(source, node))
                {
                    arrows.push((source, node));
                }
            }
            graph.add_node(step);
        }
        let is_step = |node: NodeIndex| node.index() < graph.node_count();
        let targets = kept.targets.values().flatten();
        if !arrows.iter().flat_map(|(from, to)| [from, to]).chain(targets).all(|node| is_step(*node)) {
            return None;
        }
        for (from, to) in arrows {
            graph.add_edge(from, to, ());
        }
        Some(Self {
            file: file.to_owned(),
            root,
            text: kept.text,
            other_files: kept.other_files,
            profile: kept.profile,
            about: kept.about,
            profiles: kept.profiles,
            rehearsal: kept.rehearsal,
            rehearsals: kept.rehearsals,
            pools: kept.pools,
            graph,
            targets: kept.targets,
            target_abouts: kept.target_abouts,
            looked_for: kept.looked_for,
        })
    }
}
