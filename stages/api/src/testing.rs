//! Helpers for tests of stages and of the engine: run a stage in this process, on folders of the test's own.

use std::path::Path;
use std::sync::Mutex;

use crate::{AllowedEnv, AnyStage, Host, Input, Inputs, Job, Progress, StageError, Unit};

/// A progress that records its calls.
#[derive(Default)]
pub struct Recorder {
    /// Every scalar in order: name, step, value.
    pub scalars: Mutex<Vec<(String, u64, f64)>>,
    /// Every note in order.
    pub notes: Mutex<Vec<String>>,
}

impl Progress for Recorder {
    fn advance(&self, _done: u64, _total: u64, _unit: Unit) {}
    fn scalar(&self, name: &str, step: u64, value: f64) {
        self.scalars.lock().expect("no test panics while recording").push((name.to_owned(), step, value));
    }
    fn note(&self, text: &str) {
        self.notes.lock().expect("no test panics while recording").push(text.to_owned());
    }
    fn cancelled(&self) -> bool {
        false
    }
}

/// The device that tests compute on: `cpu`, or what the variable `REPRO_TEST_DEVICE` says (`cuda:0`).
pub fn device() -> String {
    std::env::var("REPRO_TEST_DEVICE").unwrap_or_else(|_| "cpu".to_owned())
}

/// Runs `stage` in this process with params in RON on `inputs` (port, path), into `out`, which is created, on
/// [`device`]. Scratch is `<out>.scratch`.
///
/// # Errors
/// What the stage returns, or its refusal of the params.
pub fn run_stage(
    stage: &dyn AnyStage,
    params: &str,
    inputs: &[(&str, &Path)],
    out: &Path,
) -> Result<Recorder, StageError> {
    run_stage_outside(stage, params, inputs, out, &AllowedEnv::default())
}

/// As [`run_stage`], with what the stage sees of the outside.
///
/// # Errors
/// As [`run_stage`].
pub fn run_stage_outside(
    stage: &dyn AnyStage,
    params: &str,
    inputs: &[(&str, &Path)],
    out: &Path,
    allowed_env: &AllowedEnv,
) -> Result<Recorder, StageError> {
    let loaded = stage.load(params)?;
    let scratch = out.with_extension("scratch");
    std::fs::create_dir_all(out)?;
    std::fs::create_dir_all(&scratch)?;
    let inputs = Inputs(inputs.iter().map(|(port, path)| Input::new(*port, *path)).collect());
    let host = Host { device: device(), threads: 1 };
    let recorder = Recorder::default();
    loaded.run(&Job {
        inputs: &inputs,
        out,
        scratch: &scratch,
        host: &host,
        allowed_env,
        progress: &recorder,
    })?;
    Ok(recorder)
}
