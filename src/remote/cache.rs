//! A shared store beside a plan that unfolds: asks it for the keys that are not known here, as they become known; fetches
//! bytes where something needs them, and nothing else; and offers what it does not have. Whatever is wrong with it is told
//! and costs time, never a run: what cannot be had from it is made here.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap, HashSet};

use petgraph::Direction::Outgoing;
use petgraph::graph::NodeIndex;

use super::{Pushed, Remote, RemoteError, Stored, Upload};
use crate::digest::Digest;
use crate::key::{KeyText, StageKey};
use crate::pipeline::Pipeline;
use crate::plan::{Plan, Reason, Verdict};
use crate::record::RunRecord;
use crate::store::{ResultError, StoreError, TryClaim, Writer};
use crate::workspace::Workspace;

/// Something to tell.
#[derive(Debug, Clone, Copy)]
pub enum RemoteEvent<'a> {
    /// The bytes of a step's result came.
    Fetched {
        /// The step.
        step: &'a str,
        /// How many.
        bytes: u64,
    },
    /// Something is wrong, in words; the step is made here if need be.
    Trouble {
        /// The step that was asked for.
        step: &'a str,
        /// What is wrong.
        text: &'a str,
    },
}

/// What became of results that were offered.
#[derive(Debug, Clone, Default)]
pub struct PushSummary {
    /// Steps whose results the store has now and had not.
    pub pushed: Vec<String>,
    /// Bytes that were sent.
    pub sent: u64,
    /// Results that the store had already.
    pub known: usize,
    /// Steps whose key has another result there: its record.
    pub conflicts: Vec<(String, RunRecord)>,
    /// What went wrong, by step.
    pub troubles: Vec<(String, RemoteError)>,
}

/// A shared store as one run uses it.
#[derive(Debug)]
pub struct RemoteCache {
    remote: Remote,
    /// Keys that it was asked for.
    asked: RefCell<HashSet<StageKey>>,
    /// Results that came from it.
    theirs: RefCell<HashSet<StageKey>>,
    /// Trees as it describes them; nothing for one that cannot be had from it.
    trees: RefCell<HashMap<Digest, Option<Stored>>>,
    /// Whether it is left alone from now on.
    is_unreachable: Cell<bool>,
}

/// What a pass has to work with.
struct Pass<'a, 'b> {
    pipeline: &'a Pipeline,
    workspace: &'a Workspace,
    writer: &'a Writer,
    tell: &'b mut dyn FnMut(RemoteEvent),
}

impl RemoteCache {
    /// A run's use of a store.
    pub fn new(remote: Remote) -> Self {
        Self {
            remote,
            asked: RefCell::default(),
            theirs: RefCell::default(),
            trees: RefCell::default(),
            is_unreachable: Cell::new(false),
        }
    }

    /// The store.
    pub fn remote(&self) -> &Remote {
        &self.remote
    }

    /// Whether the store did not answer and was left alone since.
    pub fn is_unreachable(&self) -> bool {
        self.is_unreachable.get()
    }

    /// Asks the store about `nodes` and all that this makes known, and fetches the bytes that are wanted here. Returns the
    /// steps that may have become ready.
    pub fn fetch_missing(
        &self,
        pipeline: &Pipeline,
        workspace: &Workspace,
        writer: &Writer,
        plan: &mut Plan,
        nodes: BTreeSet<NodeIndex>,
        tell: &mut dyn FnMut(RemoteEvent),
    ) -> BTreeSet<NodeIndex> {
        let mut pass = Pass { pipeline, workspace, writer, tell };
        let (mut open, mut touched) = (nodes, BTreeSet::new());
        while !open.is_empty() && !self.is_unreachable() {
            let changed = self.look_up(&mut pass, plan, &open);
            let changed = changed.and_then(|changed| match changed.is_empty() {
                true => self.fetch_wanted(&mut pass, plan),
                false => Ok(changed),
            });
            open = changed.unwrap_or_else(|error| {
                // What the disk does not take now it will not take later.
                self.is_unreachable.set(true);
                let text = format!("what the shared store has cannot be kept: {error}");
                let step = open.first().map_or("", |node| pipeline.graph[*node].name.as_str());
                (pass.tell)(RemoteEvent::Trouble { step, text: &text });
                BTreeSet::new()
            });
            touched.extend(&open);
        }
        touched
    }

    /// Fetches the bytes of fresh steps that are not here. Returns the steps whose bytes are not here after that.
    pub fn fetch_bytes(
        &self,
        pipeline: &Pipeline,
        workspace: &Workspace,
        writer: &Writer,
        plan: &Plan,
        nodes: &[NodeIndex],
        tell: &mut dyn FnMut(RemoteEvent),
    ) -> Result<Vec<NodeIndex>, StoreError> {
        let mut pass = Pass { pipeline, workspace, writer, tell };
        let mut missing = Vec::new();
        for node in nodes {
            let tree = plan.of(*node).tree.filter(|_| *plan.verdict(*node) == Verdict::Fresh);
            let is_here = match tree {
                Some(tree) if workspace.store().open_tree(&tree).is_ok() => true,
                Some(tree) if !self.is_unreachable() => self.fetch(&mut pass, plan, *node, &tree)?,
                _ => false,
            };
            if !is_here {
                missing.push(*node);
            }
        }
        Ok(missing)
    }

    /// Lets the store's results stand for those of steps here that differ from them; judges anew what that touches.
    /// Returns those steps.
    ///
    /// # Errors
    /// When the store does not answer, or the disk here does not take what came.
    pub fn adopt(
        &self,
        pipeline: &Pipeline,
        workspace: &Workspace,
        writer: &Writer,
        plan: &mut Plan,
        nodes: &[NodeIndex],
        tell: &mut dyn FnMut(RemoteEvent),
    ) -> Result<Vec<NodeIndex>, StoreError> {
        let mut pass = Pass { pipeline, workspace, writer, tell };
        let key = |node: &NodeIndex| Some((*node, plan.of(*node).key_text.as_ref()?.key()));
        let (nodes, keys): (Vec<NodeIndex>, Vec<StageKey>) = nodes.iter().filter_map(key).unzip();
        let mut changed = Vec::new();
        for (node, found) in nodes.into_iter().zip(self.remote.records(&keys)) {
            match found {
                Ok(Some((record, stored))) if plan.of(node).tree != Some(record.tree) => {
                    writer.keep_known(std::iter::once((&record, &stored.manifest)))?;
                    plan.invalidate(node);
                    changed.push(node);
                }
                Ok(_) => {}
                Err(error) => self.trouble(&mut pass, node, &error),
            }
        }
        Ok(changed)
    }

    /// Asks for the keys of stale steps that were not asked for.
    fn look_up(
        &self,
        pass: &mut Pass,
        plan: &mut Plan,
        open: &BTreeSet<NodeIndex>,
    ) -> Result<BTreeSet<NodeIndex>, StoreError> {
        let is_open = |node: &NodeIndex| {
            matches!(plan.verdict(*node), Verdict::Stale(Reason::NeverRun | Reason::Changed(_)))
        };
        let key = |node: NodeIndex| Some((node, plan.of(node).key_text.as_ref()?.key()));
        let nodes: Vec<(NodeIndex, StageKey)> =
            open.iter().copied().filter(is_open).filter_map(key).collect();
        let mut keys: Vec<StageKey> = nodes.iter().map(|(_, key)| *key).collect();
        keys.retain(|key| self.asked.borrow_mut().insert(*key));
        let found: HashMap<StageKey, _> = keys.iter().copied().zip(self.remote.records(&keys)).collect();
        let mut known: Vec<(RunRecord, Stored)> = Vec::new();
        for (node, key) in &nodes {
            match found.get(key) {
                Some(Ok(Some(found))) => known.push(found.clone()),
                Some(Err(error)) => self.trouble(pass, *node, error),
                Some(Ok(None)) | None => {}
            }
        }
        pass.writer.keep_known(known.iter().map(|(record, stored)| (record, &stored.manifest)))?;
        for (record, stored) in known {
            self.theirs.borrow_mut().insert(record.key_text.key());
            self.trees.borrow_mut().insert(record.tree, Some(stored));
            pass.workspace.learn(&record.tree);
        }
        let mut changed = BTreeSet::new();
        for (node, key) in nodes {
            if matches!(found.get(&key), Some(Ok(Some(_)))) {
                changed.extend(plan.invalidate(node));
                changed.insert(node);
            }
        }
        Ok(changed)
    }

    /// Fetches what a step that will run reads, and what is to be published.
    fn fetch_wanted(&self, pass: &mut Pass, plan: &mut Plan) -> Result<BTreeSet<NodeIndex>, StoreError> {
        let wanted: Vec<NodeIndex> =
            plan.needed().filter(|node| self.is_wanted(pass.pipeline, plan, *node)).collect();
        let mut changed = BTreeSet::new();
        for node in wanted {
            // Another node's bytes may have been the same.
            let Some(tree) = self.obtainable(plan, node) else { continue };
            if self.is_unreachable() {
                break;
            }
            let has_come = self.fetch(pass, plan, node, &tree)?;
            changed.insert(node);
            if has_come {
                changed.extend(plan.invalidate(node));
            } else {
                self.trees.borrow_mut().insert(tree, None);
                if let Some(text) = &plan.of(node).key_text {
                    self.theirs.borrow_mut().remove(&text.key());
                }
                // It will run: now the bytes that it reads are wanted.
                changed.extend(plan.invalidate(node));
            }
        }
        Ok(changed)
    }

    /// The tree of a step that is known and whose bytes are gone, unless it is known that they cannot be had here.
    fn obtainable(&self, plan: &Plan, node: NodeIndex) -> Option<Digest> {
        let planned = plan.of(node);
        let tree = planned
            .tree
            .filter(|_| matches!(planned.verdict, Verdict::Stale(Reason::BytesMissing { .. })))?;
        (self.trees.borrow().get(&tree) != Some(&None)).then_some(tree)
    }

    /// Whether the bytes of a step are wanted by something that does not itself wait for bytes from here.
    fn is_wanted(&self, pipeline: &Pipeline, plan: &Plan, node: NodeIndex) -> bool {
        let runs = |reader| {
            matches!(plan.verdict(reader), Verdict::Stale(_)) && self.obtainable(plan, reader).is_none()
        };
        self.obtainable(plan, node).is_some()
            && (*plan.verdict(node) == Verdict::Stale(Reason::BytesMissing { wanted_by: None })
                || pipeline.graph.neighbors_directed(node, Outgoing).any(runs))
    }

    /// Fetches the bytes of a step's tree; says whether they are here now.
    fn fetch(
        &self,
        pass: &mut Pass,
        plan: &Plan,
        node: NodeIndex,
        tree: &Digest,
    ) -> Result<bool, StoreError> {
        let Some(key) = plan.of(node).key_text.as_ref().map(KeyText::key) else { return Ok(false) };
        let Some(record) = pass.workspace.record(&key) else { return Ok(false) };
        let described = self.trees.borrow().get(tree).cloned().flatten();
        let described = match described.map_or_else(|| self.remote.tree(tree), |stored| Ok(Some(stored))) {
            Ok(described) => described,
            Err(error) => {
                self.trouble(pass, node, &error);
                None
            }
        };
        let Some(stored) = described else { return Ok(false) };
        // Whoever has the claim makes it, or fetches it for both.
        let TryClaim::Acquired(claim) = pass.writer.claim(key)? else { return Ok(false) };
        let work = pass.writer.begin_aside(key, claim)?;
        let problem = match self.remote.fetch(&stored, &work.out) {
            Ok(()) => match pass.writer.hash(&work)? {
                found if found.digest() == *tree => None,
                _ => Some(RemoteError::Damaged {
                    place: self.remote.place().to_owned(),
                    object: super::object::tree_name(tree),
                    problem: "its chunks are not those of its files".to_owned(),
                }),
            },
            Err(error) => Some(error),
        };
        if let Some(error) = problem {
            pass.writer.discard(work)?;
            self.trouble(pass, node, &error);
            return Ok(false);
        }
        pass.writer.commit_fetched(work, &stored.manifest, &record)?;
        pass.workspace.learn(tree);
        self.theirs.borrow_mut().insert(key);
        (pass.tell)(RemoteEvent::Fetched {
            step: &pass.pipeline.graph[node].name,
            bytes: stored.manifest.bytes(),
        });
        Ok(true)
    }

    /// Tells of trouble. A store that does not answer is asked for nothing more: each further wait would be in vain.
    fn trouble(&self, pass: &mut Pass, node: NodeIndex, error: &RemoteError) {
        let step = pass.pipeline.graph[node].name.as_str();
        match error {
            // Whoever stopped it knows.
            RemoteError::Stopped => self.is_unreachable.set(true),
            RemoteError::Trouble { is_refusal, .. } => {
                if !self.is_unreachable.replace(true) {
                    let what = if *is_refusal {
                        "look at the credentials in the environment"
                    } else {
                        "`repro push` sends later what is made now"
                    };
                    let text = format!("{error}; going on without the shared store; {what}");
                    (pass.tell)(RemoteEvent::Trouble { step, text: &text });
                }
            }
            other => {
                let text = format!("{other}; what it is part of is made here");
                (pass.tell)(RemoteEvent::Trouble { step, text: &text });
            }
        }
    }

    /// Offers the store what `nodes` wrote, as far as the bytes are here and did not come from there.
    pub fn offer(
        &self,
        pipeline: &Pipeline,
        workspace: &Workspace,
        plan: &Plan,
        nodes: impl Iterator<Item = NodeIndex>,
        again: bool,
    ) -> PushSummary {
        let mut offered = PushSummary::default();
        let (mut steps, mut offers, mut seen) = (Vec::new(), Vec::new(), HashSet::new());
        for node in nodes {
            let (Some(text), Some(tree)) = (&plan.of(node).key_text, plan.of(node).tree) else { continue };
            let key = text.key();
            let store = workspace.store();
            let is_news = again || !self.theirs.borrow().contains(&key);
            if !is_news || !seen.insert(key) {
                continue;
            }
            let step = &pipeline.graph[node].name;
            let bytes = match store.open_tree(&tree) {
                Ok(bytes) => bytes,
                Err(ResultError::Missing) => continue,
                // What is damaged here must not spread.
                Err(error) => {
                    let error = RemoteError::Result { problem: error.to_string() };
                    offered.troubles.push((step.clone(), error));
                    continue;
                }
            };
            let (Some(record), Some(manifest)) = (store.record(&key), workspace.manifest(&tree)) else {
                continue;
            };
            steps.push(step.clone());
            offers.push(Upload { record, manifest: manifest.as_ref().clone(), tree: bytes });
        }
        for (step, pushed) in steps.into_iter().zip(self.remote.push(offers, again)) {
            match pushed {
                Ok(Pushed::New { sent }) => {
                    offered.pushed.push(step);
                    offered.sent += sent;
                }
                Ok(Pushed::BuildState) => offered.known += 1,
                Ok(Pushed::Conflict(theirs)) => offered.conflicts.push((step, *theirs)),
                Err(error) => offered.troubles.push((step, error)),
            }
        }
        offered
    }
}
