//! The stage `command`: any program with declared inputs and outputs, so that a pipeline needs no Rust. It says what
//! a command is, how its words are filled in, in which environment it runs and what it must leave behind. Who waits
//! for it and who ends it is another's business.
//!
//! A command runs in an empty folder of its own: a path that is not declared as an input is not there. It sees the
//! variables it declares and a few that every program needs. The text of its version command and the values of the
//! variables it declares are part of its key.

mod ended;
mod launch;

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::path::{Component, Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stage_api::{Job, Stage, StageError, Surroundings};

pub use ended::judge;
pub use launch::{Place, found, launch, not_started};

use crate::sandbox::{self, Allowed, Sandbox};

/// Variables that every command sees. They say where things are on this machine and count as no input.
pub const COMMON_ENV: [&str; 3] = ["PATH", "HOME", "TMPDIR"];
/// A placeholder for the paths of a port's inputs begins so.
const INPUT: &str = "{input.";

/// The stage.
pub struct Command;

/// What to run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CommandParams {
    /// The program and its arguments, a word each. No shell reads them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub run: Vec<String>,
    /// Instead of `run`: a line for `sh -e -c`. Paths are filled in quoted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shell: Option<String>,
    /// The file of the output that the standard output goes to; the log if none is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stdout: Option<String>,
    /// The files and folders it must leave in the output folder. If any are named, it may leave no others.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub outputs: Vec<String>,
    /// Variables and their values.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub set_env: BTreeMap<String, String>,
    /// Variables whose values it takes from the environment; the values are part of the key.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pass_env: Vec<String>,
    /// Variables whose values it takes from the environment and that change no result (a token, a folder for
    /// temporary files).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pass_env_uncounted: Vec<String>,
    /// A program and its arguments that print which version of the tools is used; what they print is part of the key.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub version: Vec<String>,
    /// Whether reads that are not declared are named (`report`) or refused (`strict`).
    #[serde(skip_serializing_if = "Sandbox::is_off")]
    pub sandbox: Sandbox,
    /// Files and folders that it may read in a sandbox beside its inputs and what is the system's: tools.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sandbox_read: Vec<PathBuf>,
}

impl CommandParams {
    /// Reads canonical params.
    ///
    /// # Errors
    /// Text that is none.
    pub fn parse(canonical: &str) -> Result<Self, StageError> {
        let options =
            ron::Options::default().with_default_extension(ron::extensions::Extensions::IMPLICIT_SOME);
        options.from_str(canonical).map_err(|error| StageError::Params(error.code.to_string()))
    }

    /// Every text in which placeholders are filled in.
    fn texts(&self) -> impl Iterator<Item = &str> {
        let texts = self.run.iter().chain(&self.shell).chain(self.set_env.values());
        texts.map(String::as_str)
    }

    fn uses(&self, placeholder: &str) -> bool {
        self.texts().any(|text| text.contains(placeholder))
    }

    /// The ports whose paths it has filled in.
    fn ports(&self) -> impl Iterator<Item = &str> {
        self.texts().flat_map(|text| {
            text.match_indices(INPUT)
                .filter_map(|(at, _)| text[at + INPUT.len()..].split_once('}'))
                .map(|(port, _)| port)
        })
    }
}

impl Stage for Command {
    type Params = CommandParams;
    const NAME: &'static str = "command";
    const ABOUT: &'static str = "runs a program with declared inputs and outputs";
    const VERSION: u32 = 1;
    const INPUTS: &'static [stage_api::Port] = &[];
    const OPEN_INPUTS: bool = true;

    fn check(&self, params: &CommandParams) -> Result<(), String> {
        match (&params.run[..], &params.shell) {
            ([], None) => {
                return Err("it needs `run: [\"program\", \"argument\"]` or `shell: \"line\"`".to_owned());
            }
            ([program, ..], None) if program.is_empty() => {
                return Err("run begins with the name of a program".to_owned());
            }
            ([_, ..], Some(_)) => return Err("it takes either `run` or `shell`, not both".to_owned()),
            _ => {}
        }
        if params.version.first().is_some_and(String::is_empty) {
            return Err("version begins with the name of a program".to_owned());
        }
        for (param, path) in params
            .stdout
            .iter()
            .map(|path| ("stdout", path))
            .chain(params.outputs.iter().map(|path| ("outputs", path)))
        {
            let parts = Path::new(path).components();
            if path.is_empty() || !parts.clone().all(|part| matches!(part, Component::Normal(_))) {
                return Err(format!("{param}: `{path}` is no path within the output folder"));
            }
        }
        if let Some(stdout) = params.stdout.as_ref().filter(|path| path.contains('/')) {
            return Err(format!("stdout: `{stdout}` lies in a folder; name a file at the top of the output"));
        }
        let names = params.set_env.keys().chain(&params.pass_env).chain(&params.pass_env_uncounted);
        for name in names.clone() {
            if name.is_empty() || name.contains(['=', '\0', ' ', '\n']) {
                return Err(format!("`{name}` is no name of an environment variable"));
            }
            if names.clone().filter(|other| *other == name).count() > 1 {
                return Err(format!("the environment variable `{name}` is declared twice"));
            }
        }
        if params.texts().chain(params.version.iter().map(String::as_str)).any(|text| text.contains('\0')) {
            return Err("a word holds the character NUL, which no program can be given".to_owned());
        }
        Ok(())
    }

    fn check_wiring(&self, params: &CommandParams, ports: &[&str]) -> Result<(), String> {
        match params.ports().find(|port| !ports.contains(port)) {
            None => Ok(()),
            Some(port) if ports.is_empty() => {
                Err(format!("`{{input.{port}}}` stands for an input, but the step has none"))
            }
            Some(port) => {
                Err(format!("`{{input.{port}}}` stands for no input; there are {}", ports.join(", ")))
            }
        }
    }

    fn surroundings(&self, params: &CommandParams) -> Surroundings {
        Surroundings { env: params.pass_env.clone(), version: params.version.clone() }
    }

    fn run(&self, params: &CommandParams, job: &Job) -> Result<(), StageError> {
        // Beside the output: the folder it begins in, as the store makes it, and a log of its own.
        let (folder, log) = (&job.out.with_file_name("here"), job.out.with_file_name("command.log"));
        std::fs::create_dir_all(folder)?;
        let place = Place {
            inputs: job.inputs,
            out: job.out,
            scratch: job.scratch,
            folder,
            log: &log,
            threads: job.host.threads,
        };
        if params.sandbox != Sandbox::Off {
            return watched(params, &place, job);
        }
        let mut child = launch(params, &place)?
            .spawn()
            .map_err(|error| StageError::Failed(not_started(params, &error)))?;
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if job.progress.cancelled() {
                end(&mut child);
                return Err(StageError::Cancelled);
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        let result = judge(params, &place, status);
        job.progress.note(std::fs::read_to_string(&log).unwrap_or_default().trim_end());
        result
    }
}

/// Runs a command in its sandbox.
fn watched(params: &CommandParams, place: &Place, job: &Job) -> Result<(), StageError> {
    let mut process = launch(params, place)?;
    // In the group of this process: whoever ends that one ends the command with it.
    process.process_group(rustix::process::getpgrp().as_raw_nonzero().get());
    let temporary = place.out.with_file_name("tmp");
    std::fs::create_dir_all(&temporary)?;
    process.env("TMPDIR", &temporary);
    let program = PathBuf::from(process.get_program());
    let inputs = place.inputs.0.iter().map(|input| input.path.clone());
    let allowed = Allowed {
        read: inputs.chain(params.sandbox_read.iter().cloned()).chain([program]).collect(),
        write: [place.folder, place.out, place.scratch, &temporary].map(Path::to_owned).to_vec(),
    };
    let ended = sandbox::run(&mut process, params.sandbox, &allowed);
    job.progress.note(std::fs::read_to_string(place.log).unwrap_or_default().trim_end());
    job.checkpoint()?;
    let ended = ended.map_err(|error| StageError::Failed(not_started(params, &error)))?;
    let was = if params.sandbox == Sandbox::Strict { "was kept from" } else { "read" };
    let told = |path: &PathBuf| format!("it {was} {}, which is not among its inputs", path.display());
    let undeclared: Vec<String> = ended.undeclared.iter().map(told).collect();
    undeclared.iter().for_each(|told| job.progress.warn(told));
    judge(params, place, ended.status).map_err(|error| match error {
        StageError::Failed(problem) if params.sandbox == Sandbox::Strict => StageError::Failed(format!(
            "{problem}\n  {}in `sandbox: \"strict\"` it may open only its inputs, `{{out}}`, `{{scratch}}`, folders of the \
             system and those of `sandbox_read`",
            undeclared.iter().map(|told| format!("{told}\n  ")).collect::<String>()
        )),
        other => other,
    })
}

/// Ends a command with all that it has started.
pub(crate) fn end(child: &mut Child) {
    if let Some(group) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw) {
        // It may have ended this moment.
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
    let _ = child.wait();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn params_that_cannot_work_are_refused_in_words() {
        let run = |run: &[&str]| CommandParams {
            run: run.iter().map(ToString::to_string).collect(),
            ..Default::default()
        };
        let refused = |params: &CommandParams| Command.check(params).unwrap_err();
        assert!(refused(&run(&[])).contains("it needs `run:"));
        assert!(refused(&run(&[""])).contains("name of a program"));
        assert!(refused(&CommandParams { shell: Some("x".into()), ..run(&["x"]) }).contains("not both"));
        assert!(
            refused(&CommandParams { stdout: Some("../x".into()), ..run(&["x"]) }).contains("no path within")
        );
        assert!(
            refused(&CommandParams { outputs: vec!["/x".into()], ..run(&["x"]) }).contains("no path within")
        );
        assert!(
            refused(&CommandParams { pass_env: vec!["A".into(), "A".into()], ..run(&["x"]) })
                .contains("twice")
        );
        assert!(refused(&CommandParams { pass_env: vec!["A=1".into()], ..run(&["x"]) }).contains("no name"));
        assert!(Command.check_wiring(&run(&["{input.b}"]), &["a"]).unwrap_err().contains("there are a"));
        assert_eq!(Command.check(&run(&["x"])), Ok(()));
    }
}
