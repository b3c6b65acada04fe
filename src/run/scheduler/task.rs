//! What a step is given and what is noted of it: where its inputs lie, the task for the executor, the record of
//! what it wrote.

use std::path::Path;

use petgraph::graph::NodeIndex;
use stage_api::Input;

use super::{Active, Scheduler};
use crate::key::StageKey;
use crate::pipeline::{Source, StepInput};
use crate::plan::{Known, Plan};
use crate::record::{Machine, RunRecord};
use crate::run::event::Event;
use crate::run::executor::Execution;
use crate::run::machine;
use crate::run::summary::RanStep;
use crate::store::ResultError;
use crate::workspace::Workspace;

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
    pub(super) fn keep(&mut self, node: NodeIndex, active: Active) -> Result<(), String> {
        let step = &self.pipeline.graph[node];
        let Active { work, key_text, inputs, share, since, started_ms, peak_memory, pace, execution, .. } =
            active;
        let Execution { machine, started_ms, seconds } = execution.unwrap_or_else(|| {
            let machine = Machine {
                name: machine::name(),
                device: share.device().to_owned(),
                threads: share.threads,
                gpus: share.gpu_ids(),
            };
            Execution { machine, started_ms, seconds: since.elapsed().as_secs_f64() }
        });
        if let Some(path) = self.changed_file(node) {
            let _ = self.writer.discard(work);
            return Err(format!("./{} changed while the step ran; make again", path.display()));
        }
        let manifest = match self.writer.hash(&work) {
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

    /// A file of the project that the step reads and that is not what its key says.
    fn changed_file(&self, node: NodeIndex) -> Option<&Path> {
        self.pipeline.graph[node].inputs.iter().find_map(|input| match &input.source {
            Source::File(path) if !self.workspace.is_unchanged(path) => Some(path.as_path()),
            _ => None,
        })
    }
}
