//! The stage `command`: any program with declared inputs and outputs, so that a pipeline needs no Rust. It says what
//! a command is, how its words are filled in, in which environment it runs and what it must leave behind. Who waits
//! for it and who ends it is another's business.
//!
//! A command runs in an empty folder of its own: a path that is not declared as an input is not there. It sees the
//! variables it declares and a few that every program needs. The text of its version command and the values of the
//! variables it declares are part of its key.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Component, Path, PathBuf};
use std::process::{Child, Command as Process, ExitStatus, Stdio};
use std::time::Duration;

use crate::sandbox::{self, Allowed, Sandbox};
use serde::{Deserialize, Serialize};
use stage_api::{Inputs, Job, Stage, StageError, Surroundings};

/// Variables that every command sees. They say where things are on this machine and count as no input.
pub const COMMON_ENV: [&str; 3] = ["PATH", "HOME", "TMPDIR"];
/// How much of a failed command's log its error repeats.
const TOLD_LINES: usize = 5;
/// A placeholder for the paths of a port's inputs begins so.
const INPUT: &str = "{input.";

/// The stage.
pub struct Command;

/// What to run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
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
        let folder = job.out.parent().unwrap_or(job.out);
        let log = folder.join("command.log");
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
    let temporary = place.folder.join("tmp");
    std::fs::create_dir_all(&temporary)?;
    process.env("TMPDIR", &temporary);
    let program = params.run.first().map(String::as_str).and_then(found_program);
    let inputs = place.inputs.0.iter().map(|input| input.path.clone());
    let allowed = Allowed {
        read: inputs.chain(params.sandbox_read.iter().cloned()).chain(program).collect(),
        write: vec![place.folder.to_owned(), place.out.to_owned(), place.scratch.to_owned()],
    };
    let ended = sandbox::run(&mut process, params.sandbox, &allowed);
    job.progress.note(std::fs::read_to_string(place.log).unwrap_or_default().trim_end());
    job.checkpoint()?;
    let ended = ended.map_err(|error| StageError::Failed(not_started(params, &error)))?;
    for path in &ended.undeclared {
        job.progress.warn(&format!("it read {}, which is not among its inputs", path.display()));
    }
    judge(params, place, ended.status).map_err(|error| match error {
        StageError::Failed(problem) if params.sandbox == Sandbox::Strict => StageError::Failed(format!(
            "{problem}\n  in `sandbox: strict` it may open only its inputs, `{{out}}`, `{{scratch}}`, folders of the \
             system and those of `sandbox_read`; `sandbox: report` names what else it reads"
        )),
        other => other,
    })
}

/// The file that a program's name stands for.
fn found_program(name: &str) -> Option<PathBuf> {
    if name.contains('/') {
        return Some(PathBuf::from(name));
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// Ends a command with all that it has started.
pub(crate) fn end(child: &mut Child) {
    if let Some(group) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw) {
        // It may have ended this moment.
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
    let _ = child.wait();
}

/// Where a command runs.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// What it reads.
    pub inputs: &'a Inputs,
    /// The folder it fills.
    pub out: &'a Path,
    /// The folder that survives a failed attempt.
    pub scratch: &'a Path,
    /// The folder it begins in: its own, with nothing in it but the output folder.
    pub folder: &'a Path,
    /// Where its errors go.
    pub log: &'a Path,
    /// How many threads it may keep busy.
    pub threads: usize,
}

/// The process of a command, ready to be started as the leader of a process group.
///
/// # Errors
/// When its log, its output or its scratch folder cannot be made.
pub fn launch(params: &CommandParams, place: &Place) -> io::Result<Process> {
    let words = match &params.shell {
        None => params.run.iter().flat_map(|word| filled(word, place, false)).collect(),
        Some(line) => {
            let line = filled(line, place, true).concat();
            vec!["/bin/sh".to_owned(), "-e".to_owned(), "-c".to_owned(), line]
        }
    };
    if params.uses("{scratch}") {
        std::fs::create_dir_all(place.scratch)?;
    }
    let log = OpenOptions::new().create(true).append(true).open(place.log)?;
    let stdout = match &params.stdout {
        Some(file) => File::create(place.out.join(file))?,
        None => log.try_clone()?,
    };
    let mut process = Process::new(&words[0]);
    process.args(&words[1..]).current_dir(place.folder).env_clear().process_group(0);
    let passed = COMMON_ENV.iter().copied();
    let passed = passed.chain(params.pass_env.iter().chain(&params.pass_env_uncounted).map(String::as_str));
    for name in passed {
        if let Some(value) = std::env::var_os(name) {
            process.env(name, value);
        }
    }
    let threads = place.threads.to_string();
    process.env("OMP_NUM_THREADS", &threads).env("RAYON_NUM_THREADS", &threads);
    for (name, value) in &params.set_env {
        process.env(name, filled(value, place, false).join(" "));
    }
    process.stdin(Stdio::null()).stdout(stdout).stderr(log);
    Ok(process)
}

/// A word with its placeholders filled in. A word with the placeholder of several inputs becomes a word for each,
/// or, for a shell, the quoted paths one after the other. Braces that are no placeholder stay as they are.
fn filled(word: &str, place: &Place, quote: bool) -> Vec<String> {
    let path = |path: &Path| {
        let text = path.to_string_lossy();
        if quote { quoted(&text) } else { text.into_owned() }
    };
    let mut words = vec![String::new()];
    let mut rest = word;
    while let Some(start) = rest.find('{') {
        let (before, from) = rest.split_at(start);
        let inside = from.find('}').map_or("", |end| &from[1..end]);
        let values = match (inside, inside.strip_prefix("input.")) {
            ("out", _) => vec![path(place.out)],
            ("scratch", _) => vec![path(place.scratch)],
            ("threads", _) => vec![place.threads.to_string()],
            (_, Some(port)) => {
                let inputs = place.inputs.0.iter().filter(|input| input.port == port);
                let paths: Vec<String> = inputs.map(|input| path(&input.path)).collect();
                if quote { vec![paths.join(" ")] } else { paths }
            }
            _ => {
                words.iter_mut().for_each(|word| word.push_str(&rest[..=start]));
                rest = &rest[start + 1..];
                continue;
            }
        };
        words = words
            .iter()
            .flat_map(|word| values.iter().map(move |value| format!("{word}{before}{value}")))
            .collect();
        rest = &from[inside.len() + 2..];
    }
    words.iter_mut().for_each(|word| word.push_str(rest));
    words
}

/// A word as a shell reads it back.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,@".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// What to say of a command that could not be started.
pub fn not_started(params: &CommandParams, error: &io::Error) -> String {
    let program = params.run.first().map_or("/bin/sh", String::as_str);
    let hint = match error.kind() {
        io::ErrorKind::NotFound if !program.contains('/') => "; it is in no folder of PATH",
        io::ErrorKind::NotFound => "; a program of the project is an input: `{input.NAME}`",
        _ => "",
    };
    format!("`{program}` cannot be started: {error}{hint}")
}

/// Whether a command that has ended did what it should.
///
/// # Errors
/// With the end of its log, when it failed; when an output is missing or was not declared.
pub fn judge(params: &CommandParams, place: &Place, status: ExitStatus) -> Result<(), StageError> {
    if !status.success() {
        let how = match (status.code(), status.signal()) {
            (Some(code), _) => format!("it ended with exit code {code}"),
            (None, Some(signal)) => format!("it was killed by signal {signal}"),
            (None, None) => "it ended early".to_owned(),
        };
        let told = last_lines(place.log).unwrap_or_default();
        return Err(StageError::Failed(if told.is_empty() { how } else { format!("{how}:\n{told}") }));
    }
    if let Some(missing) = params.outputs.iter().find(|output| !place.out.join(output).exists()) {
        return Err(StageError::Failed(format!(
            "it wrote no `{missing}`, which its outputs declare; it is to write it below {{out}}"
        )));
    }
    if params.outputs.is_empty() {
        return Ok(());
    }
    for item in std::fs::read_dir(place.out)? {
        let name = PathBuf::from(item?.file_name());
        let mut declared = params.outputs.iter().chain(&params.stdout);
        if !declared.any(|output| Path::new(output).starts_with(&name)) {
            return Err(StageError::Failed(format!(
                "it wrote `{}`, which its outputs do not declare; declare it, or write it elsewhere than below {{out}}",
                name.display()
            )));
        }
    }
    Ok(())
}

/// The end of a log.
fn last_lines(log: &Path) -> io::Result<String> {
    let mut file = File::open(log)?;
    let size = file.metadata()?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(2000)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let told = &lines[lines.len().saturating_sub(TOLD_LINES)..];
    Ok(told
        .iter()
        .map(|line| format!("  {}", line.chars().take(300).collect::<String>()))
        .collect::<Vec<_>>()
        .join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use stage_api::Input;

    fn words(word: &str, quote: bool) -> Vec<String> {
        let input = |port: &str, path: &str| Input { port: port.into(), path: path.into() };
        let inputs = Inputs(vec![input("a", "/p/it's"), input("b", "/p/1"), input("b", "/p/2 {input.b}")]);
        let (out, scratch) = (Path::new("/o"), Path::new("/s"));
        let place = Place { inputs: &inputs, out, scratch, folder: out, log: out, threads: 3 };
        filled(word, &place, quote)
    }

    #[test]
    fn placeholders_are_filled_in_and_other_braces_stay() {
        assert_eq!(words("--to={out}/x", false), ["--to=/o/x"]);
        assert_eq!(words("{scratch}{threads}", false), ["/s3"]);
        assert_eq!(words("{print $1} {", false), ["{print $1} {"]);
        assert_eq!(words("{{input.a}}", false), ["{/p/it's}"]);
        assert_eq!(words("plain", false), ["plain"]);
    }

    #[test]
    fn many_inputs_are_a_word_each_and_what_was_filled_in_is_not_filled_again() {
        assert_eq!(words("-i={input.b}", false), ["-i=/p/1", "-i=/p/2 {input.b}"]);
        assert_eq!(words("{input.none}", false), [""; 0]);
        assert_eq!(
            words("cat {input.b} {input.a} > {out}/x", true),
            [r"cat /p/1 '/p/2 {input.b}' '/p/it'\''s' > /o/x"]
        );
    }

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
