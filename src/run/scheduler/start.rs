//! Which step starts next, and its start: it is ready, what it reads is whole, there is room for it, and no other
//! process runs it.

use std::collections::BTreeSet;
use std::time::Instant;

use petgraph::graph::NodeIndex;
use stage_api::Input;

use super::{Active, Rank, Scheduler, now_ms};
use crate::digest::Digest;
use crate::key::KeyText;
use crate::pipeline::Source;
use crate::plan::{Plan, Verdict};
use crate::remote::RemoteEvent;
use crate::run::event::Event;
use crate::run::executor::{Reporter, Task};
use crate::run::inputs::ProjectInputs;
use crate::run::resources::Allocation;
use crate::run::results::{located, verify_tree};
use crate::store::{Claim, LockOwner, ResultError, StoreError, TryClaim};

impl Scheduler<'_> {
    /// Starts what is ready and fits.
    pub(super) fn start_ready(&mut self, plan: &mut Plan) {
        self.ask_the_shared_store(plan);
        let candidates: Vec<Rank> = self.candidates.iter().copied().collect();
        for (_, place) in candidates {
            let node = plan.at(place);
            if let Verdict::Broken(problem) = plan.verdict(node)
                && self.tried.insert(node)
            {
                self.fail(node, problem.clone(), None, false);
            }
        }
        let mut later = BTreeSet::new();
        while !self.free.is_full()
            && let Some(rank) = self.candidates.pop_first()
        {
            let node = plan.at(rank.1);
            let stopped = !self.summary.failures.is_empty() && !self.session.keep_going;
            if self.summary.interrupted || stopped {
                return self.held_by_others.clear();
            }
            if self.tried.contains(&node) || self.active.contains_key(&node) || !plan.is_ready(node) {
                continue;
            }
            // Steps of one key are one piece of work, whatever they are called.
            let key = plan.of(node).key_text.as_ref().map(KeyText::key);
            if key.is_some_and(|key| self.kept.contains(&key)) {
                let touched = plan.finished(node).into_iter().collect();
                self.consider(plan, touched);
                continue;
            }
            if key.is_some_and(|key| self.active.values().any(|active| active.work.key == key)) {
                later.insert(rank);
                continue;
            }
            let step = &self.session.pipeline.graph[node];
            if let Some(problem) = self.session.resources.refuses_step(step) {
                self.tried.insert(node);
                self.fail(node, problem, None, false);
                continue;
            }
            let Some(allocation) = self.free.acquire_for(step, &self.session.resources) else {
                // Asked again when something ends.
                later.insert(rank);
                continue;
            };
            // Behind the room: a result with many files is not looked at again for every step that waits.
            let Some(inputs) = self.open_inputs(plan, node) else {
                self.free.release(allocation);
                continue;
            };
            match self.claim(plan, node) {
                Ok(TryClaim::Acquired(claim)) if plan.is_ready(node) => {
                    self.start(plan, node, inputs, allocation, claim)
                }
                // Another process ran it after it was planned.
                Ok(TryClaim::Acquired(_)) => self.free.release(allocation),
                Ok(TryClaim::HeldBy(owner)) => {
                    self.free.release(allocation);
                    self.leave(node, owner);
                    later.insert(rank);
                }
                Err(error) => {
                    self.free.release(allocation);
                    self.give_up(node, &error);
                }
            }
        }
        self.candidates.append(&mut later);
    }

    /// Fetches from the remote cache, if there is one, results of the steps that were planned since the last time.
    fn ask_the_shared_store(&mut self, plan: &mut Plan) {
        let nodes = std::mem::take(&mut self.unasked);
        let Some(remote_cache) =
            self.session.remote_cache.as_ref().filter(|_| !nodes.is_empty() && !self.summary.interrupted)
        else {
            return;
        };
        let observer = &mut *self.session.observer;
        let mut on_event = |event: RemoteEvent| observer.on(&Event::from(event));
        let touched = remote_cache.fetch_missing(
            self.session.pipeline,
            self.session.workspace,
            self.session.writer,
            plan,
            nodes,
            &mut on_event,
        );
        self.consider(plan, touched.into_iter().collect());
        // All of these were requested just now.
        self.unasked.clear();
    }

    /// What a step reads, the bytes of results checked. What is damaged counts as gone, and its step runs again.
    fn open_inputs(&mut self, plan: &mut Plan, node: NodeIndex) -> Option<Vec<Input>> {
        let step = &self.session.pipeline.graph[node];
        let mut opened = Vec::with_capacity(step.inputs.len());
        let mut damaged = BTreeSet::new();
        for input in &step.inputs {
            match (located(self.session.workspace, plan, input), &input.source) {
                (Ok(input), _) => opened.push(input),
                (Err(ResultError::Damaged(_) | ResultError::Missing), Source::Step { step, .. }) => {
                    damaged.insert(*step);
                }
                (Err(error), _) => {
                    self.tried.insert(node);
                    let problem = format!("what it reads as `{}` cannot be used: {error}", input.port);
                    self.fail(node, problem, None, false);
                    return None;
                }
            }
        }
        for source in &damaged {
            let name = &self.session.pipeline.graph[*source].name;
            let tree = plan.of(*source).tree;
            match verify_tree(self.session.workspace, plan, *source) {
                Ok(Some(touched)) => self.run_again(plan, *source, tree, touched),
                Ok(None) if *plan.verdict(*source) == Verdict::Fresh => {
                    self.tried.insert(node);
                    let problem = format!("the result of `{name}` changed while it was checked; make again");
                    self.fail(node, problem, None, false);
                }
                // Its step is to run already.
                Ok(None) => {}
                Err(error) => {
                    self.tried.insert(node);
                    self.fail(node, format!("the result of `{name}`: {error}"), None, false);
                }
            }
        }
        damaged.is_empty().then_some(opened)
    }

    /// Looks whether what a step reads of other steps is as it was written. What is damaged counts as gone, and its step
    /// runs again. Returns the names of those.
    ///
    /// # Errors
    /// A sentence that says what cannot be read.
    pub(super) fn damaged_inputs(&mut self, plan: &mut Plan, node: NodeIndex) -> Result<Vec<String>, String> {
        let sources: Vec<NodeIndex> =
            self.session.pipeline.graph.neighbors_directed(node, petgraph::Direction::Incoming).collect();
        let mut damaged = Vec::new();
        for source in sources {
            let tree = plan.of(source).tree;
            let touched = verify_tree(self.session.workspace, plan, source).map_err(|error| {
                format!(
                    "the result of `{}`, which it reads: {error}",
                    self.session.pipeline.graph[source].name
                )
            })?;
            if let Some(touched) = touched {
                damaged.push(format!("`{}`", self.session.pipeline.graph[source].name));
                self.run_again(plan, source, tree, touched);
            }
        }
        Ok(damaged)
    }

    /// Considers again what a damaged result touches. This run may have written it itself, and does so again. What reads
    /// it at this moment may have read the damage, also where the result is as it was by the time that step ends.
    fn run_again(
        &mut self,
        plan: &Plan,
        source: NodeIndex,
        tree: Option<Digest>,
        touched: BTreeSet<NodeIndex>,
    ) {
        if let Some(key_text) = &plan.of(source).key_text {
            self.kept.remove(&key_text.key());
        }
        let name = &self.session.pipeline.graph[source].name;
        for (node, active) in &mut self.active {
            let mut sources =
                self.session.pipeline.graph.neighbors_directed(*node, petgraph::Direction::Incoming);
            if sources.any(|read| read == source || tree.is_some() && plan.of(read).tree == tree) {
                active.damaged.insert(format!("`{name}`"));
            }
        }
        self.session.observer.on(&Event::Damaged { step: name });
        self.consider(plan, touched.into_iter().collect());
    }

    /// Claims a ready step, then plans it again by what other processes have done meanwhile.
    fn claim(&mut self, plan: &mut Plan, node: NodeIndex) -> Result<TryClaim, StoreError> {
        let Some(key) = plan.of(node).key_text.as_ref().map(KeyText::key) else {
            return Ok(TryClaim::HeldBy(None));
        };
        let claimed = self.session.writer.claim(key)?;
        if matches!(claimed, TryClaim::Acquired(_)) {
            self.held_by_others.remove(&node);
            self.session.workspace.store().refresh()?;
            let touched = plan.invalidate(node).into_iter().filter(|other| *other != node).collect();
            self.consider(plan, touched);
        }
        Ok(claimed)
    }

    /// Leaves a step to the process that runs it.
    fn leave(&mut self, node: NodeIndex, owner: Option<LockOwner>) {
        if !self.held_by_others.contains_key(&node) {
            let by = owner.as_ref().map(ToString::to_string);
            self.session
                .observer
                .on(&Event::HeldByOther { step: &self.session.pipeline.graph[node].name, by: by.as_deref() });
        }
        self.held_by_others.insert(node, owner);
    }

    /// Gives a step up that the store has no place for.
    fn give_up(&mut self, node: NodeIndex, error: &StoreError) {
        self.tried.insert(node);
        self.fail(node, error.to_string(), None, false);
    }

    fn start(
        &mut self,
        plan: &Plan,
        node: NodeIndex,
        inputs: Vec<Input>,
        allocation: Allocation,
        claim: Claim,
    ) {
        let step = &self.session.pipeline.graph[node];
        let Some(key_text) = plan.of(node).key_text.clone() else { return };
        let project_inputs = match ProjectInputs::at_start(self.session.workspace, step) {
            Ok(inputs) => inputs,
            Err(problem) => {
                self.free.release(allocation);
                self.tried.insert(node);
                return self.fail(node, problem, None, false);
            }
        };
        let begun = match allocation.is_job {
            true => self.session.writer.begin_job(key_text.key(), claim),
            false => self.session.writer.begin(key_text.key(), claim),
        };
        let work = match begun {
            Ok(work) => work,
            Err(error) => {
                self.free.release(allocation);
                return self.give_up(node, &error);
            }
        };
        let places = inputs.iter().map(|input| input.path.clone()).collect();
        let task = Task::for_step(step, inputs, &work, &allocation, &self.session.resources);
        self.begun += 1;
        let open = plan.needed().filter(|node| !matches!(plan.verdict(*node), Verdict::Fresh)).count();
        self.session.observer.on(&Event::Started {
            step: &step.name,
            device: &task.host.device,
            threads: task.host.threads,
            gpus: task.gpus.as_deref().unwrap_or_default(),
            number: self.begun,
            of: self.summary.ran.len() + open,
        });
        let since = Instant::now();
        let started_ms = now_ms();
        let recorded = plan.recorded_inputs(node);
        match self.session.executor.start(task, Reporter::new(self.session.messages.0.clone(), node)) {
            Ok(running) => {
                let active = Active {
                    running,
                    work,
                    key_text,
                    inputs: recorded,
                    places,
                    project_inputs,
                    damaged: BTreeSet::new(),
                    allocation,
                    since,
                    started_ms,
                    peak_memory: None,
                    throughput: None,
                    execution: None,
                };
                self.active.insert(node, active);
            }
            Err(error) => {
                self.free.release(allocation);
                self.tried.insert(node);
                // The next run clears what cannot be cleared now.
                let _ = self.session.writer.discard(work);
                self.fail(node, format!("its process cannot be started: {error}"), None, false);
            }
        }
    }
}
