//! The remote cache of one run. It looks up keys that are unknown here as soon as the plan knows them, fetches only
//! bytes that are needed, and pushes new results. An error of the remote cache is reported but never fails a run: the
//! steps run here instead.

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

/// An event to report.
#[derive(Debug, Clone, Copy)]
pub enum RemoteEvent<'a> {
    /// The bytes of a step's result were fetched.
    Fetched {
        /// The step.
        step: &'a str,
        /// Their number.
        bytes: u64,
    },
    /// Something failed; if necessary, the step runs here.
    Trouble {
        /// The step whose result was requested.
        step: &'a str,
        /// What failed, as text.
        text: &'a str,
    },
}

/// The outcome of a push.
#[derive(Debug, Clone, Default)]
pub struct PushSummary {
    /// Steps whose results are new in the remote cache.
    pub pushed: Vec<String>,
    /// The number of bytes that were sent.
    pub sent: u64,
    /// The number of results that it had already.
    pub known: usize,
    /// Steps whose key has another result there, with that record.
    pub conflicts: Vec<(String, RunRecord)>,
    /// Errors, by step.
    pub troubles: Vec<(String, RemoteError)>,
}

/// The remote cache as one run uses it.
#[derive(Debug)]
pub struct RemoteCache {
    remote: Remote,
    /// Keys that were looked up.
    looked_up: RefCell<HashSet<StageKey>>,
    /// Keys whose result came from it.
    theirs: RefCell<HashSet<StageKey>>,
    /// Trees as it describes them; `None` for a tree that cannot be fetched.
    trees: RefCell<HashMap<Digest, Option<Stored>>>,
    /// Whether no more requests are sent.
    is_unreachable: Cell<bool>,
}

/// The arguments of one pass over a plan.
struct Pass<'a, 'b> {
    pipeline: &'a Pipeline,
    workspace: &'a Workspace,
    writer: &'a Writer,
    on_event: &'b mut dyn FnMut(RemoteEvent),
}

impl RemoteCache {
    /// The remote cache `remote` for one run.
    pub fn new(remote: Remote) -> Self {
        Self {
            remote,
            looked_up: RefCell::default(),
            theirs: RefCell::default(),
            trees: RefCell::default(),
            is_unreachable: Cell::new(false),
        }
    }

    /// The remote cache itself.
    pub fn remote(&self) -> &Remote {
        &self.remote
    }

    /// Whether a request failed, so that no more are sent.
    pub fn is_unreachable(&self) -> bool {
        self.is_unreachable.get()
    }

    /// Looks up the keys of `nodes` and of all nodes whose keys this makes known, and fetches the bytes that are
    /// needed here. Returns the steps that may have become ready.
    pub fn fetch_missing(
        &self,
        pipeline: &Pipeline,
        workspace: &Workspace,
        writer: &Writer,
        plan: &mut Plan,
        nodes: BTreeSet<NodeIndex>,
        on_event: &mut dyn FnMut(RemoteEvent),
    ) -> BTreeSet<NodeIndex> {
        let mut pass = Pass { pipeline, workspace, writer, on_event };
        let (mut open, mut touched) = (nodes, BTreeSet::new());
        while !open.is_empty() && !self.is_unreachable() {
            let changed = self.look_up(&mut pass, plan, &open);
            let changed = changed.and_then(|changed| match changed.is_empty() {
                true => self.fetch_needed(&mut pass, plan),
                false => Ok(changed),
            });
            open = changed.unwrap_or_else(|error| {
                // Writing failed, so the next attempt would fail too.
                self.is_unreachable.set(true);
                let text = format!("cannot store results from the remote cache: {error}");
                let step = open.first().map_or("", |node| pipeline.graph[*node].name.as_str());
                (pass.on_event)(RemoteEvent::Trouble { step, text: &text });
                BTreeSet::new()
            });
            touched.extend(&open);
        }
        touched
    }

    /// Fetches the missing bytes of fresh steps. Returns the steps whose bytes are still missing.
    pub fn fetch_bytes(
        &self,
        pipeline: &Pipeline,
        workspace: &Workspace,
        writer: &Writer,
        plan: &Plan,
        nodes: &[NodeIndex],
        on_event: &mut dyn FnMut(RemoteEvent),
    ) -> Result<Vec<NodeIndex>, StoreError> {
        let mut pass = Pass { pipeline, workspace, writer, on_event };
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

    /// Replaces the results of steps here by different ones in the remote cache, and updates the plan. Returns these
    /// steps.
    ///
    /// # Errors
    /// When a request or a write fails.
    pub fn adopt(
        &self,
        pipeline: &Pipeline,
        workspace: &Workspace,
        writer: &Writer,
        plan: &mut Plan,
        nodes: &[NodeIndex],
        on_event: &mut dyn FnMut(RemoteEvent),
    ) -> Result<Vec<NodeIndex>, StoreError> {
        let mut pass = Pass { pipeline, workspace, writer, on_event };
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

    /// Looks up the keys of stale steps, each key once.
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
        keys.retain(|key| self.looked_up.borrow_mut().insert(*key));
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
    fn fetch_needed(&self, pass: &mut Pass, plan: &mut Plan) -> Result<BTreeSet<NodeIndex>, StoreError> {
        let needed: Vec<NodeIndex> =
            plan.needed().filter(|node| self.is_needed(pass.pipeline, plan, *node)).collect();
        let mut changed = BTreeSet::new();
        for node in needed {
            // Another node may have had the same tree.
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
                // The step will run, so the bytes that it reads are needed now.
                changed.extend(plan.invalidate(node));
            }
        }
        Ok(changed)
    }

    /// The tree of a known step whose bytes are missing, unless the remote cache is known not to have it.
    fn obtainable(&self, plan: &Plan, node: NodeIndex) -> Option<Digest> {
        let planned = plan.of(node);
        let tree = planned
            .tree
            .filter(|_| matches!(planned.verdict, Verdict::Stale(Reason::BytesMissing { .. })))?;
        (self.trees.borrow().get(&tree) != Some(&None)).then_some(tree)
    }

    /// Whether a step that will run, or publishing, needs the bytes of this step.
    fn is_needed(&self, pipeline: &Pipeline, plan: &Plan, node: NodeIndex) -> bool {
        let runs = |reader| {
            matches!(plan.verdict(reader), Verdict::Stale(_)) && self.obtainable(plan, reader).is_none()
        };
        self.obtainable(plan, node).is_some()
            && (*plan.verdict(node) == Verdict::Stale(Reason::BytesMissing { needed_by: None })
                || pipeline.graph.neighbors_directed(node, Outgoing).any(runs))
    }

    /// Fetches the bytes of a step's tree. Returns whether they are present now.
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
        // The owner of the claim runs the step or fetches its result.
        let TryClaim::Acquired(claim) = pass.writer.claim(key)? else { return Ok(false) };
        let work = pass.writer.begin_aside(key, claim)?;
        let problem = match self.remote.fetch(&stored, &work.out) {
            Ok(()) => match pass.writer.hash(&work)? {
                found if found.digest() == *tree => None,
                _ => Some(RemoteError::Damaged {
                    place: self.remote.place().to_owned(),
                    object: super::object::tree_name(tree),
                    problem: "its chunks do not add up to its files".to_owned(),
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
        (pass.on_event)(RemoteEvent::Fetched {
            step: &pass.pipeline.graph[node].name,
            bytes: stored.manifest.bytes(),
        });
        Ok(true)
    }

    /// Reports an error. After a failed request no more are sent, because each would wait for its timeout.
    fn trouble(&self, pass: &mut Pass, node: NodeIndex, error: &RemoteError) {
        let step = pass.pipeline.graph[node].name.as_str();
        match error {
            // The caller has stopped it and needs no message.
            RemoteError::Stopped => self.is_unreachable.set(true),
            RemoteError::Trouble { is_refusal, .. } => {
                if !self.is_unreachable.replace(true) {
                    let what = if *is_refusal {
                        "check the credentials in the environment"
                    } else {
                        "`repro push` can send the new results later"
                    };
                    let text = format!("{error}; continuing without the remote cache; {what}");
                    (pass.on_event)(RemoteEvent::Trouble { step, text: &text });
                }
            }
            other => {
                let text = format!("{other}; the step runs here if necessary");
                (pass.on_event)(RemoteEvent::Trouble { step, text: &text });
            }
        }
    }

    /// Pushes the results of `nodes` whose bytes are present and did not come from the remote cache.
    pub fn push(
        &self,
        pipeline: &Pipeline,
        workspace: &Workspace,
        plan: &Plan,
        nodes: impl Iterator<Item = NodeIndex>,
        force: bool,
    ) -> PushSummary {
        let mut offered = PushSummary::default();
        let (mut steps, mut offers, mut seen) = (Vec::new(), Vec::new(), HashSet::new());
        for node in nodes {
            let (Some(text), Some(tree)) = (&plan.of(node).key_text, plan.of(node).tree) else { continue };
            let key = text.key();
            let store = workspace.store();
            let is_new = force || !self.theirs.borrow().contains(&key);
            if !is_new || !seen.insert(key) {
                continue;
            }
            let step = &pipeline.graph[node].name;
            let bytes = match store.open_tree(&tree) {
                Ok(bytes) => bytes,
                Err(ResultError::Missing) => continue,
                // A damaged result must not spread.
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
        for (step, pushed) in steps.into_iter().zip(self.remote.push(offers, force)) {
            match pushed {
                Ok(Pushed::New { sent }) => {
                    offered.pushed.push(step);
                    offered.sent += sent;
                }
                Ok(Pushed::AlreadyPresent) => offered.known += 1,
                Ok(Pushed::Conflict(theirs)) => offered.conflicts.push((step, *theirs)),
                Err(error) => offered.troubles.push((step, error)),
            }
        }
        offered
    }
}
