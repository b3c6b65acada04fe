//! The environment that is part of a step's key: values of variables, and the output of a tool's version command. A
//! value may be a secret, so only its digest leaves this module. A version command costs a process, so its output is
//! stored and reused while the program file has the same stamp. A run that executes steps runs it again.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use stage_api::{Environment, secrets};

use crate::command::COMMON_ENV;
use crate::digest::Digest;
use crate::store::{Stamp, stamp_of};

/// The prefix of a variable's name in the key.
pub const ENV: &str = "env.";
/// Timeout of a version command.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Output beyond this many bytes is ignored.
const MAX_OUTPUT_BYTES: u64 = 4096;

/// The value of an unset variable in the key; no digest has this text.
pub const NOT_SET: &str = "not set";

/// The output of a version command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// The version command.
    pub command: Vec<String>,
    /// The program file.
    pub program: PathBuf,
    /// The stamp of the file at that time.
    pub stamp: Stamp,
    /// Its output.
    pub text: String,
}

/// The known versions.
#[derive(Debug, Default)]
pub struct Versions {
    known: HashMap<Vec<String>, Version>,
    /// The results of this process; no command runs twice.
    results: HashMap<Vec<String>, Result<Version, String>>,
    new: Vec<Version>,
    ask_again: bool,
}

impl Versions {
    /// A cache with these versions.
    pub fn new(versions: impl Iterator<Item = Version>) -> Self {
        let known = versions.map(|version| (version.command.clone(), version)).collect();
        Self { known, ..Self::default() }
    }

    /// From now on every version command runs again, once. Returns whether any has run or was looked up before.
    pub fn ask_again(&mut self) -> bool {
        self.ask_again = true;
        !std::mem::take(&mut self.results).is_empty()
    }

    /// Returns versions that are not stored yet.
    pub fn take_new(&mut self) -> Vec<Version> {
        std::mem::take(&mut self.new)
    }

    /// The environment by name: the output of the version command, and a digest of the value of each variable.
    ///
    /// # Errors
    /// When a version command cannot be run, or fails.
    pub fn environment(&mut self, of: &Environment) -> Result<Vec<(String, String)>, String> {
        let mut found = Vec::new();
        if !of.version.is_empty() {
            found.push(("version".to_owned(), self.version(&of.version)?));
        }
        for name in &of.env {
            found.push((format!("{ENV}{name}"), recorded(name, std::env::var_os(name).as_deref())));
        }
        Ok(found)
    }

    fn version(&mut self, command: &[String]) -> Result<String, String> {
        if let Some(answer) = self.results.get(command) {
            return answer.clone().map(|answer| answer.text);
        }
        let answer = self.find_out(command);
        if let Ok(answer) = &answer
            && self.known.get(command) != Some(answer)
        {
            self.known.insert(command.to_vec(), answer.clone());
            self.new.push(answer.clone());
        }
        self.results.insert(command.to_vec(), answer.clone());
        answer.map(|answer| answer.text)
    }

    fn find_out(&self, command: &[String]) -> Result<Version, String> {
        let failed = |problem: String| format!("its version command `{}` {problem}", command.join(" "));
        let program = crate::command::found(&command[0], std::env::var_os("PATH").as_deref())
            .ok_or_else(|| failed(format!("cannot be run: there is no program `{}`", command[0])))?;
        let stamp = stamp_of(&program).map_err(|error| failed(format!("cannot be run: {error}")))?;
        if !self.ask_again
            && let Some(known) = self.known.get(command)
            && known.program == program
            && known.stamp == stamp
        {
            return Ok(known.clone());
        }
        let text = run(&program, command).map_err(failed)?;
        Ok(Version { command: command.to_vec(), program, stamp, text })
    }
}

/// The text for a variable in the key: a digest of its value, keyed with its name. It is the same on every machine,
/// so that machines can share results.
fn recorded(name: &str, value: Option<&OsStr>) -> String {
    let context = format!("repro environment variable v1 {name}");
    let digest = value.map(|value| Digest::of_kind(&context, value.as_encoded_bytes()));
    digest.map_or_else(|| NOT_SET.to_owned(), |digest| format!("{}{digest}", secrets::DIGEST))
}

/// Runs a version command and returns its standard output and standard error.
fn run(program: &Path, command: &[String]) -> Result<String, String> {
    let cannot = |error: std::io::Error| format!("cannot be run: {error}");
    let mut process = Command::new(program);
    process.arg0(&command[0]).args(&command[1..]).env_clear().stdin(Stdio::null()).process_group(0);
    process.envs(COMMON_ENV.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
    let printed = tempfile::tempfile().map_err(cannot)?;
    let (out, err) = (printed.try_clone().map_err(cannot)?, printed.try_clone().map_err(cannot)?);
    let mut child = process.stdout(out).stderr(err).spawn().map_err(cannot)?;
    let end = Instant::now() + TIMEOUT;
    let status = loop {
        match child.try_wait().map_err(cannot)? {
            Some(status) => break status,
            None if Instant::now() < end => std::thread::sleep(Duration::from_millis(1)),
            None => {
                crate::command::end(&mut child);
                return Err(format!("did not end within {} s", TIMEOUT.as_secs()));
            }
        }
    };
    let mut bytes = Vec::new();
    let mut printed = printed;
    std::io::Seek::rewind(&mut printed)
        .and_then(|()| printed.take(MAX_OUTPUT_BYTES).read_to_end(&mut bytes))
        .map_err(cannot)?;
    let text = match std::str::from_utf8(&bytes) {
        Ok(text) => text.trim().to_owned(),
        // The digest distinguishes two texts that differ only in invalid UTF-8.
        Err(_) => format!("{} ({})", String::from_utf8_lossy(&bytes).trim(), Digest::of_bytes(&bytes)),
    };
    if status.success() { Ok(text) } else { Err(format!("failed ({status}): {text}")) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn different_values_of_a_variable_differ_and_are_recorded_as_digests() {
        let values: [&[u8]; 8] = [
            b"caf\xe9",
            b"caf\xe8",
            "caf\u{fffd}".as_bytes(),
            b"(not set)",
            b"not set",
            b"",
            b"secret",
            b"Secret",
        ];
        let mut found: Vec<String> =
            values.iter().map(|value| recorded("A", Some(OsStr::from_bytes(value)))).collect();
        found.push(recorded("A", None));
        found.push(recorded("B", Some(OsStr::new("secret"))));
        assert!(found.iter().all(|recorded| !recorded.contains("ecret")), "{found:?}");
        let plain = Digest::of_bytes(b"secret").to_string();
        assert!(found.iter().all(|recorded| !recorded.contains(&plain)), "{found:?}");
        let number = found.len();
        found.sort_unstable();
        found.dedup();
        assert_eq!(found.len(), number);
    }
}
