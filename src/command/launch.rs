//! Builds the process of a command (arguments with filled placeholders, program file, environment and streams) and checks
//! how it ended. Waiting for it and ending it is the work of the executor.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command as Process, ExitStatus, Stdio};

use stage_api::{Inputs, StageError};

use super::runtime::Runtime;
use super::{COMMON_ENV, CommandParams, NO_BYTECODE, metrics, project_files};

/// How much of a failed command's log its error repeats.
const LOG_LINES: usize = 5;
/// How much of a failed command's log is read, in bytes.
const LOG_BYTES: u64 = 4000;

/// The folders and inputs of a run of a command.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// Its inputs.
    pub inputs: &'a Inputs,
    /// Its output folder.
    pub out: &'a Path,
    /// The folder that survives a failed attempt.
    pub scratch: &'a Path,
    /// Its current directory, with the project's files that it reads.
    pub folder: &'a Path,
    /// The log, which receives standard error.
    pub log: &'a Path,
    /// The number of threads it may use.
    pub threads: usize,
    /// The software that it runs with.
    pub runtime: &'a Runtime,
}

/// The process of a command, to be started as the leader of a process group. Its current directory receives the files of
/// the project that it reads.
///
/// # Errors
/// When its log, output or scratch folder cannot be created, or a file of the project cannot be copied or linked.
pub fn launch(params: &CommandParams, place: &Place) -> io::Result<Process> {
    let inputs = project_files::place(place.inputs, place.folder)?;
    let place = &Place { inputs: &inputs, ..*place };
    let words = match &params.shell {
        None => params.run.iter().flat_map(|word| filled(word, params, place, false)).collect(),
        Some(line) => {
            let line = filled(line, params, place, true).concat();
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
    let threads = place.threads.to_string();
    let own = [("OMP_NUM_THREADS", &*threads), ("RAYON_NUM_THREADS", &threads), NO_BYTECODE];
    let own = own.map(|(name, value)| (name.to_owned(), value.into()));
    let metrics = (metrics::METRICS.to_owned(), place.folder.join(metrics::FILE).into_os_string());
    let set = params.set_env.iter();
    let set = set
        .map(|(name, value)| (name.clone(), OsString::from(filled(value, params, place, false).join(" "))));
    let variables: Vec<(String, OsString)> = own.into_iter().chain([metrics]).chain(set).collect();
    let passed: Vec<String> = params.pass_env.iter().chain(&params.pass_env_uncounted).cloned().collect();
    let mut process = match place.runtime {
        Runtime::Container(container) => container.process(&words, place, &variables, &passed),
        runtime => on_this_machine(&words, runtime, variables, &passed),
    };
    process.current_dir(place.folder).process_group(0);
    process.stdin(Stdio::null()).stdout(stdout).stderr(log);
    Ok(process)
}

/// The process of a command whose programs are on this machine.
fn on_this_machine(
    words: &[String],
    runtime: &Runtime,
    variables: Vec<(String, OsString)>,
    passed: &[String],
) -> Process {
    let set_path = variables.iter().rfind(|(name, _)| name == "PATH").map(|(_, value)| value.clone());
    let path = runtime.path(set_path.or_else(|| std::env::var_os("PATH")));
    // The path of the program file. With a bare name and its own environment, the fast way to start a process
    // (`posix_spawn`) would not be used.
    let program = found(&words[0], path.as_deref()).unwrap_or_else(|| PathBuf::from(&words[0]));
    let mut process = Process::new(program);
    process.arg0(&words[0]).args(&words[1..]).env_clear();
    for name in COMMON_ENV.into_iter().chain(passed.iter().map(String::as_str)) {
        if let Some(value) = std::env::var_os(name) {
            process.env(name, value);
        }
    }
    process.envs(runtime.variables()).envs(variables);
    if let Some(path) = path {
        process.env("PATH", path);
    }
    process
}

/// The file of a program: the name itself if it is a path, else the first executable of that name in the folders of
/// `path`.
pub fn found(name: &str, path: Option<&OsStr>) -> Option<PathBuf> {
    let is_program = |file: &PathBuf| {
        let metadata = file.metadata();
        metadata.is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
    };
    if name.contains('/') {
        return Some(PathBuf::from(name)).filter(is_program);
    }
    // A relative folder would mean another one in the command's current directory.
    let mut folders = std::env::split_paths(path?).filter(|folder| folder.is_absolute());
    folders.find_map(|folder| Some(folder.join(name)).filter(is_program))
}

/// An argument with its placeholders filled. A placeholder of several inputs gives one argument each, or, for a
/// shell, their quoted paths with spaces. Other braces stay as they are.
fn filled(word: &str, params: &CommandParams, place: &Place, quote: bool) -> Vec<String> {
    let text = |text: &str| if quote { quoted(text) } else { text.to_owned() };
    let path = |path: &Path| text(&path.to_string_lossy());
    let mut words = vec![String::new()];
    let mut rest = word;
    while let Some(start) = rest.find('{') {
        let (before, from) = rest.split_at(start);
        let inside = from.find('}').map_or("", |end| &from[1..end]);
        let values = match inside.split_once('.').unwrap_or((inside, "")) {
            ("out", "") => vec![path(place.out)],
            ("scratch", "") => vec![path(place.scratch)],
            ("threads", "") => vec![place.threads.to_string()],
            ("args", name) if params.args.contains_key(name) => vec![text(&params.args[name])],
            ("input", port) if inside.contains('.') => {
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

/// A word, quoted for a shell.
pub fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,@".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// The message for a command that could not be started.
pub fn not_started(params: &CommandParams, error: &io::Error) -> String {
    let program = params.run.first().map_or("/bin/sh", String::as_str);
    let note = match error.kind() {
        io::ErrorKind::NotFound if !program.contains('/') && params.env.is_some() => {
            "; neither its environment nor PATH has it"
        }
        io::ErrorKind::NotFound if !program.contains('/') => "; check that PATH contains its folder",
        io::ErrorKind::NotFound => "; declare a program of the project as an input: `{input.NAME}`",
        _ => "",
    };
    format!("cannot start `{program}`: {error}{note}")
}

/// Whether a command that has ended did what it should.
///
/// # Errors
/// With the end of its log, when it failed; when an output is missing or was not declared.
pub fn check_end(params: &CommandParams, place: &Place, status: ExitStatus) -> Result<(), StageError> {
    if !status.success() {
        let how = status_text(status);
        let last = last_lines(place.log).unwrap_or_default();
        return Err(StageError::Failed(if last.is_empty() { how } else { format!("{how}:\n{last}") }));
    }
    if let Some(missing) = params.outputs.iter().find(|output| !place.out.join(output).exists()) {
        return Err(StageError::Failed(format!(
            "it did not write `{missing}`, which is one of its outputs, below {{out}}"
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
                "it wrote `{}`, which is not one of its outputs; declare it, or write it outside {{out}}",
                name.display()
            )));
        }
    }
    Ok(())
}

/// How a process ended that did not succeed.
pub(super) fn status_text(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("it ended with exit code {code}"),
        (None, Some(signal)) => format!("it was killed by signal {signal}"),
        (None, None) => "it ended with an unknown status".to_owned(),
    }
}

/// The last lines of a log.
pub(super) fn last_lines(log: &Path) -> io::Result<String> {
    let text = log_end(log)?;
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let last = &lines[lines.len().saturating_sub(LOG_LINES)..];
    Ok(last
        .iter()
        .map(|line| format!("  {}", line.chars().take(300).collect::<String>()))
        .collect::<Vec<_>>()
        .join("\n"))
}

/// The end of a log.
pub fn log_end(log: &Path) -> io::Result<String> {
    // A step may have put something else in its place: a link, or a pipe without a writer.
    if !std::fs::symlink_metadata(log)?.is_file() {
        return Ok(String::new());
    }
    let mut file = File::open(log)?;
    let size = file.metadata()?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(LOG_BYTES)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use stage_api::Input;

    fn words(word: &str, quote: bool) -> Vec<String> {
        let inputs = Inputs(vec![
            Input::new("a", "/p/it's"),
            Input::new("b", "/p/1"),
            Input::new("b", "/p/2 {input.b}"),
        ]);
        let (out, scratch) = (Path::new("/o"), Path::new("/s"));
        let place = Place {
            inputs: &inputs,
            out,
            scratch,
            folder: out,
            log: out,
            threads: 3,
            runtime: &Runtime::Host,
        };
        let args = [("lr", "1e-3"), ("name", "a b{out}")].map(|(name, value)| (name.into(), value.into()));
        let params = CommandParams { args: args.into(), ..Default::default() };
        filled(word, &params, &place, quote)
    }

    #[test]
    fn placeholders_are_filled_and_other_braces_stay() {
        assert_eq!(words("--to={out}/x", false), ["--to=/o/x"]);
        assert_eq!(words("{scratch}{threads}", false), ["/s3"]);
        assert_eq!(words("{print $1} {", false), ["{print $1} {"]);
        assert_eq!(words("{{input.a}}", false), ["{/p/it's}"]);
        assert_eq!(words("plain", false), ["plain"]);
        assert_eq!(words("{input} {out.x}", false), ["{input} {out.x}"]);
    }

    #[test]
    fn args_are_filled_in_and_quoted_for_a_shell() {
        assert_eq!(words("lr={args.lr}", false), ["lr=1e-3"]);
        assert_eq!(words("{args.name}", false), ["a b{out}"]);
        assert_eq!(
            words("echo {args.name} {args.lr} {args.none}", true),
            ["echo 'a b{out}' 1e-3 {args.none}"]
        );
    }

    #[test]
    fn several_inputs_are_one_word_each_and_filled_text_is_not_filled_again() {
        assert_eq!(words("-i={input.b}", false), ["-i=/p/1", "-i=/p/2 {input.b}"]);
        assert_eq!(words("{input.none}", false), [""; 0]);
        assert_eq!(
            words("cat {input.b} {input.a} > {out}/x", true),
            [r"cat /p/1 '/p/2 {input.b}' '/p/it'\''s' > /o/x"]
        );
    }
}
