//! Finds the reasons for the state of a step in its plan and in the records. It follows a changed input into its files and
//! up to the step that caused the change.

use std::collections::BTreeSet;
use std::path::Path;
use std::rc::Rc;

use petgraph::Direction::Incoming;
use petgraph::graph::NodeIndex;

use super::{Cause, Explanation, Failed, FileChange, State, Upstream, VariableChange};
use crate::digest::Digest;
use crate::environment::{ENV, NOT_SET};
use crate::key::{Difference, KeyText, StageKey};
use crate::params::ParamChange;
use crate::pipeline::{Pipeline, Step};
use crate::plan::{BuildState, Plan, Reason, Verdict};
use crate::record::{RecordedInput, RunRecord};
use crate::tree::Manifest;
use crate::workspace::Workspace;

/// Explains steps of a plan.
pub(super) struct Explainer<'a> {
    pub pipeline: &'a Pipeline,
    pub workspace: &'a Workspace,
    pub plan: &'a Plan<'a>,
    /// Steps whose reasons were reported; each is reported once.
    pub explained: BTreeSet<String>,
}

impl Explainer<'_> {
    pub fn explain(&mut self, node: NodeIndex) -> Explanation {
        let step = &self.pipeline.graph[node];
        let step_plan = self.plan.of(node);
        let last = self.workspace.last(step);
        let mut waits_for = Vec::new();
        let (state, causes) = match &step_plan.verdict {
            Verdict::Unneeded => (State::Unneeded, Vec::new()),
            Verdict::Broken(problem) => (State::Broken, vec![Cause::Broken { problem: problem.clone() }]),
            Verdict::Stale(reason) => (State::Stale, self.reasons(node, reason, last.as_ref())),
            Verdict::Waiting { .. } => {
                for root in self.roots(node) {
                    waits_for.push(self.explain(root));
                }
                (State::Waiting, own_changes(step, last.as_ref()))
            }
            Verdict::Fresh => (State::Fresh, self.last_reasons(node)),
        };
        let key = step_plan.key_text.as_ref().map(KeyText::key);
        let result = key.filter(|_| state == State::Fresh).and_then(|key| self.workspace.record(&key));
        let from_evidence = key.is_some_and(|key| self.workspace.is_from_evidence(&key));
        let failed = key.filter(|_| state == State::Stale).and_then(|key| self.failed(step, &key));
        let verified = key.and_then(|key| self.workspace.store().verdict(&key));
        let key = key.map(|key| key.to_string());
        Explanation {
            step: step.name.clone(),
            state,
            key,
            causes,
            waits_for,
            result,
            last,
            from_evidence,
            failed,
            verified,
        }
    }

    fn failed(&self, step: &Step, key: &StageKey) -> Option<Failed> {
        let store = self.workspace.store();
        let run = store.failure(&self.pipeline.profile, &step.name, key)?;
        Some(Failed { run, log: Some(store.log(key)).filter(|log| log.exists()) })
    }

    /// Whether a step publishes and reads a step that the evidence knows.
    fn is_built_from_evidence(&self, node: NodeIndex) -> bool {
        let mut inputs = self.pipeline.graph.neighbors_directed(node, Incoming);
        self.pipeline.graph[node].publish.is_some()
            && inputs.any(|input| {
                let key = self.plan.of(input).key_text.as_ref().map(KeyText::key);
                key.is_some_and(|key| self.workspace.is_from_evidence(&key))
            })
    }

    /// The steps above a waiting step that do not wait themselves, in the order of the pipeline.
    fn roots(&self, node: NodeIndex) -> Vec<NodeIndex> {
        let (mut roots, mut seen, mut open) = (BTreeSet::new(), BTreeSet::new(), vec![node]);
        while let Some(node) = open.pop() {
            if !seen.insert(node) {
                continue;
            }
            match self.plan.verdict(node) {
                Verdict::Waiting { on } => open.extend(on),
                _ => drop(roots.insert(self.plan.position(node))),
            }
        }
        roots.into_iter().map(|place| self.plan.at(place)).collect()
    }

    fn reasons(&mut self, node: NodeIndex, reason: &Reason, last: Option<&RunRecord>) -> Vec<Cause> {
        match reason {
            Reason::NeverRun if self.is_built_from_evidence(node) => vec![Cause::NotRecorded],
            Reason::NeverRun => vec![Cause::NeverRun],
            Reason::Forced => vec![Cause::Forced],
            Reason::BytesMissing { needed_by } => {
                let needed_by = needed_by.map(|node| self.pipeline.graph[node].name.clone());
                let key = self.plan.of(node).key_text.as_ref().map(KeyText::key);
                let from_evidence = key.is_some_and(|key| self.workspace.is_from_evidence(&key));
                let needed_by = needed_by.unwrap_or_else(|| "reports".to_owned());
                vec![Cause::BytesMissing { from_evidence, needed_by }]
            }
            Reason::Changed(differences) => {
                let now = self.plan.recorded_inputs(node);
                let before = last.map(|record| record.inputs.clone()).unwrap_or_default();
                self.explained.insert(self.pipeline.graph[node].name.clone());
                self.causes(differences, &before, &now)
            }
        }
    }

    /// The reasons why a fresh step last ran: its record compared with the one before.
    fn last_reasons(&mut self, node: NodeIndex) -> Vec<Cause> {
        let step = &self.pipeline.graph[node];
        let Some(text) = &self.plan.of(node).key_text else { return Vec::new() };
        let Some(record) = self.workspace.record(&text.key()) else { return Vec::new() };
        let earlier = |other: &&RunRecord| {
            other.step == step.name && other.profile == record.profile && other.started_ms < record.started_ms
        };
        let Some(before) = self.workspace.history().iter().rev().find(earlier) else {
            // Evidence does not tell whether its machine had run the step before.
            let is_first_here = !self.workspace.is_from_evidence(&text.key());
            return Vec::from_iter(is_first_here.then_some(Cause::NeverRun));
        };
        self.explained.insert(step.name.clone());
        self.causes(&before.key_text.differences(text), &before.inputs, &record.inputs)
    }

    /// The reasons that `differences` between two keys are, with what is behind those of the inputs.
    pub fn causes(
        &mut self,
        differences: &[Difference],
        before: &[RecordedInput],
        now: &[RecordedInput],
    ) -> Vec<Cause> {
        let nth = |inputs: &[RecordedInput], port: &str, index: usize| {
            inputs.iter().filter(|input| input.port == port).nth(index).cloned()
        };
        let mut causes = Vec::new();
        for difference in differences {
            causes.push(match difference {
                Difference::Stage { old, new } => Cause::Stage { old: old.clone(), new: new.clone() },
                Difference::Version { old, new } => {
                    Cause::Stage { old: format!("version {old}"), new: format!("version {new}") }
                }
                Difference::Param(change) => Cause::Param(change.clone()),
                Difference::Also(change) => machine_cause(change),
                Difference::Input { port, index, old, new } => {
                    let (was, is) = (nth(before, port, *index), nth(now, port, *index));
                    let source = is.as_ref().or(was.as_ref()).map(|i| i.source.clone()).unwrap_or_default();
                    let (files, because) = match (&was, &is) {
                        (Some(was), Some(is)) => (self.changed_files(was, is), self.because(was, is)),
                        _ => (Vec::new(), None),
                    };
                    Cause::Input { port: port.clone(), source, old: *old, new: *new, files, because }
                }
            });
        }
        causes
    }

    fn folder(&self, input: &RecordedInput) -> Option<Rc<Manifest>> {
        if let Some(path) = input.source.strip_prefix("./") {
            // The manifest now, or as recorded when a step read it.
            let now = self.workspace.project_folder(Path::new(path)).filter(|m| m.digest() == input.digest);
            return now.map(Rc::new).or_else(|| self.workspace.manifest(&input.digest));
        }
        let whole = self.workspace.manifest(&input.tree?)?;
        match input.source.split_once('/') {
            None => Some(whole),
            Some((_, path)) => whole.below(path).map(Rc::new),
        }
    }

    fn changed_files(&self, was: &RecordedInput, is: &RecordedInput) -> Vec<FileChange> {
        let (Some(old), Some(new)) = (self.folder(was), self.folder(is)) else { return Vec::new() };
        let find = |manifest: &Manifest, path: &str| {
            let entries = manifest.entries();
            entries.binary_search_by(|e| e.path.as_str().cmp(path)).ok().map(|at| entries[at].digest)
        };
        let mut changes = Vec::new();
        for entry in new.entries() {
            match find(&old, &entry.path) {
                None => changes.push(FileChange { path: entry.path.clone(), change: "added" }),
                Some(digest) if digest != entry.digest => {
                    changes.push(FileChange { path: entry.path.clone(), change: "changed" });
                }
                Some(_) => {}
            }
        }
        let removed = old.entries().iter().filter(|entry| find(&new, &entry.path).is_none());
        changes.extend(removed.map(|entry| FileChange { path: entry.path.clone(), change: "removed" }));
        changes
    }

    /// The reasons why the step of an input wrote different bytes: its old and its current record compared.
    fn because(&mut self, was: &RecordedInput, is: &RecordedInput) -> Option<Upstream> {
        let name = is.source.split('/').next()?;
        let (old_tree, new_tree) = (was.tree?, is.tree?);
        if was.source.split('/').next() != Some(name) || old_tree == new_tree {
            return None;
        }
        let upstream = |causes| Some(Upstream { step: name.to_owned(), causes });
        if !self.explained.insert(name.to_owned()) {
            return upstream(Vec::new());
        }
        let newest = |tree: Digest| {
            self.workspace.history().iter().rev().find(|r| r.step == name && r.tree == tree).cloned()
        };
        let (Some(old), Some(new)) = (newest(old_tree), newest(new_tree)) else {
            return upstream(Vec::new());
        };
        if old.key_text == new.key_text {
            return upstream(vec![Cause::Unsteady]);
        }
        let causes = self.causes(&old.key_text.differences(&new.key_text), &old.inputs, &new.inputs);
        upstream(causes)
    }
}

/// The changes of a step itself while its inputs are not known yet.
fn own_changes(step: &Step, last: Option<&RunRecord>) -> Vec<Cause> {
    let Some(last) = last else { return vec![Cause::NeverRun] };
    let now = KeyText::new(&step.stage, step.version, &step.params, []);
    let differences = last.key_text.differences(&now);
    let own = differences.into_iter().filter_map(|difference| match difference {
        Difference::Stage { old, new } => Some(Cause::Stage { old, new }),
        Difference::Version { old, new } => {
            Some(Cause::Stage { old: format!("version {old}"), new: format!("version {new}") })
        }
        Difference::Param(change) => Some(Cause::Param(change)),
        // Not known before the step is planned.
        Difference::Input { .. } | Difference::Also(_) => None,
    });
    own.collect()
}

/// The cause for a change of the environment.
fn machine_cause(change: &ParamChange) -> Cause {
    let Some(name) = change.name.strip_prefix(ENV) else { return Cause::Param(change.clone()) };
    let is_unset = |value: &String| value.trim_matches('"') == NOT_SET;
    let change = match (&change.old, &change.new) {
        (None, _) => VariableChange::Declared,
        (_, None) => VariableChange::NoLongerDeclared,
        (Some(old), _) if is_unset(old) => VariableChange::Set,
        (_, Some(new)) if is_unset(new) => VariableChange::Unset,
        _ => VariableChange::Changed,
    };
    Cause::Variable { name: name.to_owned(), change }
}
