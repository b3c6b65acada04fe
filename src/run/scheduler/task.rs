//! What a step is given and what is noted of it: where its inputs lie, the task for the executor, the record of
//! what it wrote.

use std::collections::BTreeSet;
use std::path::PathBuf;

use petgraph::graph::NodeIndex;
use stage_api::Input;

use super::{Active, Scheduler};
use crate::key::StageKey;
use crate::pipeline::{Source, StepInput};
use crate::plan::{BuildState, Plan};
use crate::record::{Machine, RecordedInput, RunRecord};
use crate::run::event::Event;
use crate::run::executor::Execution;
use crate::run::machine;
use crate::run::summary::RanStep;
use crate::store::{ResultError, VerifiedPath};
use crate::workspace::Workspace;

/// From so many files or bytes on, hashing and keeping an output takes a second or more, and is said.
const MANY_FILES: usize = 10_000;
const MANY_BYTES: u64 = 512 << 20;

/// Where an input of a step is, the bytes of a result checked.
///
/// # Errors
/// Why the result cannot be used.
pub(in crate::run) fn located(
    workspace: &Workspace,
    plan: &Plan,
    input: &StepInput,
) -> Result<Input, ResultError> {
    let path = match &input.source {
        Source::File(path) => workspace.locate(path),
        Source::Step { step, output } => {
            let opened = match plan.of(*step).tree {
                Some(tree) => workspace.open_result(&tree, output.as_deref()),
                None => Err(ResultError::Missing),
            };
            opened?.into()
        }
    };
    Ok(Input { port: input.port.clone(), path })
}

impl Scheduler<'_> {
    /// Commits the output of a step that ended well.
    pub(super) fn keep(&mut self, plan: &mut Plan, node: NodeIndex, active: Active) -> Result<(), String> {
        let step = &self.pipeline.graph[node];
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
            pace,
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
        if let Err(problem) = project_inputs.are_unchanged(self.workspace, &work) {
            let put_back = project_inputs.put_back(self.workspace, &work);
            return Err(match self.drop_work(work, put_back) {
                Some(taken) => {
                    format!("{taken}; a step copies its inputs instead of moving or removing them")
                }
                None => problem,
            });
        }
        if let Err(problem) = self.results_are_unchanged(plan, node, damaged, inputs.iter().zip(&places)) {
            let _ = self.writer.discard(work);
            return Err(problem);
        }
        let mut announce = |files, bytes| {
            if files >= MANY_FILES || bytes >= MANY_BYTES {
                self.observer.on(&Event::Keeping { step: &step.name, files, bytes });
            }
        };
        let manifest = match self.writer.hash_announced(&work, &mut announce) {
            Ok(manifest) => manifest,
            Err(error) => {
                let _ = self.writer.discard(work);
                return Err(error.to_string());
            }
        };
        // Before the commit: a record without its pin would never be checked.
        if step.is_pinned()
            && let Err(problem) = self.workspace.pin(step, &manifest.top_level())
        {
            let _ = self.writer.discard(work);
            return Err(problem);
        }
        let key: StageKey = key_text.key();
        let log = self.writer.store().log(&key);
        let log = log.strip_prefix(self.writer.store().root()).unwrap_or(&log);
        let record = RunRecord {
            key_text,
            step: step.name.clone(),
            profile: self.pipeline.profile.clone(),
            tree: manifest.digest(),
            outputs: manifest.top_level(),
            inputs,
            bytes: manifest.bytes(),
            started_ms,
            seconds,
            peak_memory,
            work: pace.map(|pace| pace.work()),
            machine,
            log: log.to_string_lossy().into_owned(),
            accepted: None,
        };
        for input in &step.inputs {
            if let Source::File(path) = &input.source
                && let Some(folder) = self.workspace.project_folder(path)
            {
                // Without it a later change is told by the folder only.
                let _ = self.writer.keep_manifest(&folder);
            }
        }
        // Asked before the new record is there to be found.
        let same = self.workspace.last(step).is_some_and(|last| last.tree == record.tree);
        let committed = self.writer.commit(work, &manifest, &record).and_then(|()| self.writer.sync_some());
        committed.map_err(|error| error.to_string())?;
        self.observer.on(&Event::Finished { step: &step.name, seconds, tree: record.tree, same });
        self.summary.ran.push(RanStep { step: step.name.clone(), seconds });
        self.kept.insert(key);
        self.workspace.learn(&record.tree);
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
