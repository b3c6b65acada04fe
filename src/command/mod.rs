//! The stage `command`: any program with declared inputs and outputs, so that a pipeline needs no Rust. This module
//! defines what a command is, its environment and its required outputs. Starting and ending processes is the
//! executor's work.
//!
//! A command runs in a folder of its own, which holds its inputs from the project and nothing else. It sees its declared
//! variables and a few that every program needs. The output of its version command and the values of its declared
//! variables are part of its key.

mod launch;
mod metrics;
mod programs;
pub mod project_files;
mod undeclared_reads;
mod words;

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::path::{Component, Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stage_api::{Environment, Input, Job, Stage, StageError};

pub use launch::{Place, check_end, found, launch, log_end, not_started, quoted};
pub use metrics::Metrics;

use crate::sandbox::{self, Allowed, Sandbox};

/// Variables that every command sees. They name places on this machine and are not inputs.
pub const COMMON_ENV: [&str; 3] = ["PATH", "HOME", "TMPDIR"];
/// The first characters of the placeholders for a port's inputs and for an argument.
const INPUT: &str = "{input.";
const ARGS: &str = "{args.";
/// A variable that stops Python from writing bytecode next to the modules that it imports, which may be in a folder of
/// the project.
const NO_BYTECODE: (&str, &str) = ("PYTHONDONTWRITEBYTECODE", "1");

/// The stage.
pub struct Command;

/// The settings of a command.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CommandParams {
    /// The program and its arguments, without a shell.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "words::list")]
    #[schemars(with = "Vec<words::Word>")]
    pub run: Vec<String>,
    /// Instead of `run`: a line for `sh -e -c`. Paths are inserted with quotes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shell: Option<String>,
    /// Named values for `{args.NAME}`. Each is a line of its own where the params of two runs are compared.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "words::map")]
    #[schemars(with = "BTreeMap<String, words::Word>")]
    pub args: BTreeMap<String, String>,
    /// The output file that receives the standard output; by default it goes to the log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stdout: Option<String>,
    /// The files and folders that it must write to the output folder. If the list is not empty, others are an error.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub outputs: Vec<String>,
    /// Variables with fixed values.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "words::map")]
    #[schemars(with = "BTreeMap<String, words::Word>")]
    pub set_env: BTreeMap<String, String>,
    /// Variables whose values come from the environment; the values are part of the key.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pass_env: Vec<String>,
    /// Variables whose values come from the environment and change no result (a token, a folder for temporary files).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pass_env_uncounted: Vec<String>,
    /// A program and its arguments that print the version of the tools; the output is part of the key.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "words::list")]
    #[schemars(with = "Vec<words::Word>")]
    pub version: Vec<String>,
    /// Whether undeclared reads are reported (`report`) or denied (`strict`).
    #[serde(skip_serializing_if = "Sandbox::is_off")]
    pub sandbox: Sandbox,
    /// Files and folders that it may read in a sandbox, in addition to its inputs and the system's files.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sandbox_read: Vec<PathBuf>,
}

impl CommandParams {
    /// Parses canonical params.
    ///
    /// # Errors
    /// When the text is not valid.
    pub fn parse(canonical: &str) -> Result<Self, StageError> {
        let options =
            ron::Options::default().with_default_extension(ron::extensions::Extensions::IMPLICIT_SOME);
        options.from_str(canonical).map_err(|error| StageError::Params(error.code.to_string()))
    }

    /// All texts that may hold placeholders.
    fn texts(&self) -> impl Iterator<Item = &str> {
        let texts = self.run.iter().chain(&self.shell).chain(self.set_env.values());
        texts.map(String::as_str)
    }

    fn uses(&self, placeholder: &str) -> bool {
        self.texts().any(|text| text.contains(placeholder))
    }

    /// The names in its placeholders that begin with `beginning`.
    fn names<'a>(&'a self, beginning: &'a str) -> impl Iterator<Item = &'a str> {
        self.texts().flat_map(move |text| {
            text.match_indices(beginning)
                .filter_map(move |(at, _)| text[at + beginning.len()..].split_once('}'))
                .map(|(name, _)| name)
        })
    }
}

impl Stage for Command {
    type Params = CommandParams;
    const NAME: &'static str = "command";
    const ABOUT: &'static str = "runs a program with declared inputs and outputs";
    // 2: a script cannot import undeclared files of the project any more.
    const VERSION: u32 = 2;
    const INPUTS: &'static [stage_api::Port] = &[];
    const OPEN_INPUTS: bool = true;

    fn check(&self, params: &CommandParams) -> Result<(), String> {
        match (&params.run[..], &params.shell) {
            ([], None) => {
                return Err("it needs `run: [\"program\", \"argument\"]` or `shell: \"line\"`".to_owned());
            }
            ([program, ..], None) if program.is_empty() => {
                return Err("run: the name of the program is empty".to_owned());
            }
            ([_, ..], Some(_)) => return Err("it takes either `run` or `shell`, not both".to_owned()),
            _ => {}
        }
        if params.version.first().is_some_and(String::is_empty) {
            return Err("version: the name of the program is empty".to_owned());
        }
        for (param, path) in params
            .stdout
            .iter()
            .map(|path| ("stdout", path))
            .chain(params.outputs.iter().map(|path| ("outputs", path)))
        {
            let parts = Path::new(path).components();
            if path.is_empty() || !parts.clone().all(|part| matches!(part, Component::Normal(_))) {
                return Err(format!("{param}: `{path}` is not a path within the output folder"));
            }
        }
        if let Some(stdout) = params.stdout.as_ref().filter(|path| path.contains('/')) {
            return Err(format!(
                "stdout: `{stdout}` is in a subfolder; name a file at the top of the output"
            ));
        }
        if let Some(name) = params.names(ARGS).find(|name| !params.args.contains_key(*name)) {
            let names: Vec<&str> = params.args.keys().map(String::as_str).collect();
            return Err(format!(
                "`{{args.{name}}}` does not name one of its args{}{}",
                if names.is_empty() { "; declare it: `args: {\"NAME\": value}`" } else { ", which are " },
                names.join(", ")
            ));
        }
        if let Some(name) = params.args.keys().find(|name| !params.names(ARGS).any(|used| used == *name)) {
            return Err(format!(
                "args: `{name}` is not used; write `{{args.{name}}}` in `run`, `shell` or `set_env`"
            ));
        }
        let names = params.set_env.keys().chain(&params.pass_env).chain(&params.pass_env_uncounted);
        for name in names.clone() {
            if name.is_empty() || name.contains(['=', '\0', ' ', '\n']) {
                return Err(format!("`{name}` is not a name of an environment variable"));
            }
            if names.clone().filter(|other| *other == name).count() > 1 {
                return Err(format!("the environment variable `{name}` is declared twice"));
            }
        }
        if params.texts().chain(params.version.iter().map(String::as_str)).any(|text| text.contains('\0'))
            || params.args.values().any(|value| value.contains('\0'))
        {
            return Err("an argument or a variable contains the character NUL".to_owned());
        }
        Ok(())
    }

    fn check_wiring(&self, params: &CommandParams, ports: &[&str]) -> Result<(), String> {
        match params.names(INPUT).find(|port| !ports.contains(port)) {
            None => Ok(()),
            Some(port) if ports.is_empty() => {
                Err(format!("`{{input.{port}}}` names an input, but the step has none"))
            }
            Some(port) => Err(format!(
                "`{{input.{port}}}` does not name an input of the step; its inputs are {}",
                ports.join(", ")
            )),
        }
    }

    fn environment(&self, params: &CommandParams) -> Environment {
        Environment { env: params.pass_env.clone(), version: params.version.clone() }
    }

    fn run(&self, params: &CommandParams, job: &Job) -> Result<(), StageError> {
        // Next to the output: its current directory and a log, as the store creates them.
        let (folder, log) = (&job.out.with_file_name("cwd"), job.out.with_file_name("command.log"));
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
        let result = check_end(params, &place, status);
        job.progress.note(std::fs::read_to_string(&log).unwrap_or_default().trim_end());
        result
    }
}

/// Runs a command in its sandbox.
fn watched(params: &CommandParams, place: &Place, job: &Job) -> Result<(), StageError> {
    let mut process = launch(params, place)?;
    // In the process group of this process, so that ending the group ends the command.
    process.process_group(rustix::process::getpgrp().as_raw_nonzero().get());
    let temporary = place.out.with_file_name("tmp");
    std::fs::create_dir_all(&temporary)?;
    process.env("TMPDIR", &temporary);
    let program = PathBuf::from(process.get_program());
    let inputs = place.inputs.0.iter().map(|input| input.path.clone());
    let write = [place.folder, place.out, place.scratch, &temporary].map(Path::to_owned).to_vec();
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let of_step: Vec<&Path> = place.inputs.0.iter().map(|input| &*input.path).chain([place.out]).collect();
    let path = process.get_envs().find_map(|(name, value)| value.filter(|_| name == "PATH"));
    let programs = programs::installed(&program, path, home.as_deref(), &of_step);
    let mut read: Vec<PathBuf> = inputs.chain(params.sandbox_read.iter().cloned()).chain([program]).collect();
    if params.sandbox == Sandbox::Strict {
        read.extend(programs.iter().cloned());
    }
    let allowed = Allowed { read, write };
    let ended = sandbox::run(&mut process, params.sandbox, &allowed);
    job.progress.note(std::fs::read_to_string(place.log).unwrap_or_default().trim_end());
    job.check_cancelled()?;
    let ended = ended.map_err(|error| StageError::Failed(not_started(params, &error)))?;
    let was = if params.sandbox == Sandbox::Strict { "was denied" } else { "read" };
    let project = place.inputs.0.iter().find_map(project_of);
    let undeclared = undeclared_reads::lines(was, &ended.undeclared, &programs, project.as_deref());
    match check_end(params, place, ended.status) {
        Err(StageError::Failed(problem)) if params.sandbox == Sandbox::Strict => {
            Err(StageError::Failed(format!(
                "{problem}\n  {}in `sandbox: \"strict\"` it may open only its inputs, `{{out}}`, `{{scratch}}`, folders of \
                 the system, installed programs and those of `sandbox_read`",
                undeclared.iter().map(|line| format!("{line}\n  ")).collect::<String>()
            )))
        }
        end => {
            undeclared.iter().for_each(|line| job.progress.warn(line));
            end
        }
    }
}

/// The folder of the project, if this input is in it.
fn project_of(input: &Input) -> Option<PathBuf> {
    let parts = input.in_project.as_ref()?.components().count();
    input.path.ancestors().nth(parts)?.canonicalize().ok()
}

/// Ends a command and all its children.
pub(crate) fn end(child: &mut Child) {
    if let Some(group) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw) {
        // It may just have ended.
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
    let _ = child.wait();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_params_are_errors() {
        let run = |run: &[&str]| CommandParams {
            run: run.iter().map(ToString::to_string).collect(),
            ..Default::default()
        };
        let refused = |params: &CommandParams| Command.check(params).unwrap_err();
        assert!(refused(&run(&[])).contains("it needs `run:"));
        assert!(refused(&run(&[""])).contains("name of the program"));
        assert!(refused(&CommandParams { shell: Some("x".into()), ..run(&["x"]) }).contains("not both"));
        assert!(
            refused(&CommandParams { stdout: Some("../x".into()), ..run(&["x"]) })
                .contains("not a path within")
        );
        assert!(
            refused(&CommandParams { outputs: vec!["/x".into()], ..run(&["x"]) })
                .contains("not a path within")
        );
        assert!(
            refused(&CommandParams { pass_env: vec!["A".into(), "A".into()], ..run(&["x"]) })
                .contains("twice")
        );
        assert!(
            refused(&CommandParams { pass_env: vec!["A=1".into()], ..run(&["x"]) }).contains("not a name")
        );
        let args =
            |word: &str| CommandParams { args: [("lr".into(), "1".into())].into(), ..run(&["x", word]) };
        assert_eq!(Command.check(&args("{args.lr}")), Ok(()));
        assert!(
            refused(&args("{args.rl}")).contains("`{args.rl}` does not name one of its args, which are lr")
        );
        assert!(refused(&run(&["{args.lr}"])).contains("declare it: `args: {"));
        assert!(refused(&args("lr")).contains("args: `lr` is not used; write `{args.lr}`"));
        assert!(Command.check_wiring(&run(&["{input.b}"]), &["a"]).unwrap_err().contains("its inputs are a"));
        assert_eq!(Command.check(&run(&["x"])), Ok(()));
    }
}
