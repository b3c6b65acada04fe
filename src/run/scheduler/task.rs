//! What the executor is given of a step, and the record of what the step wrote.

use std::collections::BTreeSet;
use std::path::PathBuf;

use petgraph::graph::NodeIndex;
use stage_api::{Host, Input, Inputs};

use super::{Active, Scheduler};
use crate::key::StageKey;
use crate::pipeline::{Source, Step};
use crate::plan::{BuildState, Plan};
use crate::record::{Machine, RecordedInput, RunRecord};
use crate::run::event::Event;
use crate::run::executor::{Execution, Task};
use crate::run::machine;
use crate::run::resources::{Allocation, Resources};
use crate::run::summary::RanStep;
use crate::store::{VerifiedPath, WorkDir};

/// From so many files or bytes on, hashing and keeping an output takes a second or more, and is said.
const MANY_FILES: usize = 10_000;
const MANY_BYTES: u64 = 512 << 20;

impl Task {
    /// The task of running `step` in `work` with its share of `resources`.
    pub(in crate::run) fn for_step(
        step: &Step,
        inputs: Vec<Input>,
        work: &WorkDir,
        allocation: &Allocation,
        resources: &Resources,
    ) -> Self {
        Self {
            step: step.name.clone(),
            stage: step.stage.clone(),
            params: step.params.clone(),
            inputs: Inputs(inputs),
            out: work.out.clone(),
            scratch: work.scratch.clone(),
            folder: work.folder.clone(),
            log: work.log.clone(),
            host: Host { device: allocation.device().to_owned(), threads: allocation.threads },
            gpus: (!resources.gpus.is_empty()).then(|| allocation.gpu_ids()),
            needs: resources.needs_of(step).into_owned(),
        }
    }
}

impl Scheduler<'_> {
    /// Commits the output of a step that ended well.
    pub(super) fn keep(&mut self, plan: &mut Plan, node: NodeIndex, active: Active) -> Result<(), String> {
        let step = &self.session.pipeline.graph[node];
        let Active {
            work,
            key_text,
            inputs,
            places,
            project_inputs,
            allocation,
            since,
            started_ms,
            peak_memory,
            throughput,
            execution,
            damaged,
            ..
        } = active;
        let Execution { machine, started_ms, seconds } = execution.unwrap_or_else(|| {
            let machine = Machine {
                name: machine::name(),
                device: allocation.device().to_owned(),
                threads: allocation.threads,
                gpus: allocation.gpu_ids(),
            };
            Execution { machine, started_ms, seconds: since.elapsed().as_secs_f64() }
        });
        if let Err(problem) = project_inputs.are_unchanged(self.session.workspace, &work) {
            let put_back = project_inputs.put_back(self.session.workspace, &work);
            return Err(match self.drop_work(work, put_back) {
                Some(taken) => {
                    format!("{taken}; a step copies its inputs instead of moving or removing them")
                }
                None => problem,
            });
        }
        if let Err(problem) = self.results_are_unchanged(plan, node, damaged, inputs.iter().zip(&places)) {
            let _ = self.session.writer.discard(work);
            return Err(problem);
        }
        let mut announce = |files, bytes| {
            if files >= MANY_FILES || bytes >= MANY_BYTES {
                self.session.observer.on(&Event::Keeping { step: &step.name, files, bytes });
            }
        };
        let manifest = match self.session.writer.hash_announced(&work, &mut announce) {
            Ok(manifest) => manifest,
            Err(error) => {
                let _ = self.session.writer.discard(work);
                return Err(error.to_string());
            }
        };
        // Before the commit: a record without its pin would never be checked.
        if step.is_pinned()
            && let Err(problem) = self.session.workspace.pin(step, &manifest.top_level())
        {
            let _ = self.session.writer.discard(work);
            return Err(problem);
        }
        let key: StageKey = key_text.key();
        let log = self.session.writer.store().log(&key);
        let log = log.strip_prefix(self.session.writer.store().root()).unwrap_or(&log);
        let record = RunRecord {
            key_text,
            step: step.name.clone(),
            profile: self.session.pipeline.profile.clone(),
            tree: manifest.digest(),
            outputs: manifest.top_level(),
            inputs,
            bytes: manifest.bytes(),
            started_ms,
            seconds,
            peak_memory,
            work: throughput.map(|throughput| throughput.work()),
            machine,
            log: log.to_string_lossy().into_owned(),
            accepted: None,
        };
        for input in &step.inputs {
            if let Source::File(path) = &input.source
                && let Some(folder) = self.session.workspace.project_folder(path)
            {
                // Without it only the folder shows a later change.
                let _ = self.session.writer.keep_manifest(&folder);
            }
        }
        // Asked before the new record is there to be found.
        let same = self.session.workspace.last(step).is_some_and(|last| last.tree == record.tree);
        let committed = self
            .session
            .writer
            .commit(work, &manifest, &record)
            .and_then(|()| self.session.writer.sync_some());
        committed.map_err(|error| error.to_string())?;
        self.session.observer.on(&Event::Finished { step: &step.name, seconds, tree: record.tree, same });
        self.summary.ran.push(RanStep { step: step.name.clone(), seconds });
        self.kept.insert(key);
        self.session.workspace.learn(&record.tree);
        Ok(())
    }

    /// Whether the results of other steps that a step has read are as they were, and none of them was `damaged` while it ran.
    /// One that is not as it was counts as damaged.
    fn results_are_unchanged<'i>(
        &mut self,
        plan: &mut Plan,
        node: NodeIndex,
        damaged: BTreeSet<String>,
        inputs: impl Iterator<Item = (&'i RecordedInput, &'i PathBuf)>,
    ) -> Result<(), String> {
        let mut changed = damaged;
        changed.extend(self.damaged_inputs(plan, node)?);
        // Where the evidence has the right bytes, a damaged result is not missed, and yet it is what the step has read.
        let steps = inputs.filter(|(input, _)| input.tree.is_some());
        let differ = steps.filter(|(input, place)| VerifiedPath::check(place, &input.digest).is_err());
        changed
            .extend(differ.filter_map(|(input, _)| Some(format!("`{}`", input.source.split('/').next()?))));
        match changed.is_empty() {
            true => Ok(()),
            false => Err(format!(
                "the result of {} that it reads changed while the step ran, so its own is not kept; a step copies its \
                 inputs before it changes them",
                Vec::from_iter(changed).join(" and ")
            )),
        }
    }
}
