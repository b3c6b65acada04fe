//! Commands in messages: `` `repro make hmd-pe` ``. They are written where the problem is known, in stages too, without the
//! options that name the project. Here those that were given are added, so that the command can be pasted.

use std::borrow::Cow;
use std::path::Path;
use std::sync::{PoisonError, RwLock};

use clap::ArgMatches;
use clap::parser::ValueSource;

use super::Global;
use crate::command::quoted;

/// An option that was given, and how it is repeated. The short `-f` would follow the log in `repro log`.
#[derive(Debug, Clone, PartialEq)]
struct Given {
    name: &'static str,
    words: String,
}

/// The options that commands in messages repeat: those of this process's command line.
static GIVEN: RwLock<Vec<Given>> = RwLock::new(Vec::new());

/// Repeats the options that were typed. Those that come from the environment are still there for the next command.
pub fn repeat_typed(global: &Global, matches: &ArgMatches) {
    set(given(global, |id| matches.value_source(id) == Some(ValueSource::CommandLine)));
}

/// Repeats the options of a command that chooses them itself.
pub fn repeat_all(global: &Global) {
    set(given(global, |_| true));
}

fn set(given: Vec<Given>) {
    *GIVEN.write().unwrap_or_else(PoisonError::into_inner) = given;
}

fn given(global: &Global, is_given: impl Fn(&str) -> bool) -> Vec<Given> {
    let option = |id: &str, name: &'static str, value: Option<Cow<str>>| {
        let value = value.filter(|_| is_given(id))?;
        Some(Given { name, words: format!("{name} {}", quoted(&value)) })
    };
    let given = [
        option("file", "--file", global.file.as_deref().map(Path::to_string_lossy)),
        option("cache", "--cache", global.cache.as_deref().map(Path::to_string_lossy)),
        option("profile", "--profile", global.profile.as_deref().map(Cow::from)),
    ];
    let experiment = [("set", "--set", &global.set), ("sweep", "--sweep", &global.sweep)];
    let experiment = experiment.iter().flat_map(|(id, name, values)| {
        values.iter().filter_map(|value| option(id, name, Some(value.into())))
    });
    given.into_iter().flatten().chain(experiment).collect()
}

/// `text` with the options that were given added to each command of this program in it.
pub fn complete(text: &str) -> Cow<'_, str> {
    complete_with(text, &GIVEN.read().unwrap_or_else(PoisonError::into_inner))
}

fn complete_with<'a>(text: &'a str, given: &[Given]) -> Cow<'a, str> {
    const BEGIN: &str = "`repro ";
    if given.is_empty() || !text.contains(BEGIN) {
        return text.into();
    }
    let (mut completed, mut rest) = (String::with_capacity(text.len() + 64), text);
    while let Some(begin) = rest.find(BEGIN) {
        let words_at = begin + BEGIN.len();
        let Some(length) = rest[words_at..].find('`') else { break };
        let words: Vec<&str> = rest[words_at..words_at + length].split(' ').collect();
        completed.push_str(&rest[..words_at + length]);
        if !words.contains(&"--help") {
            let missing = given.iter().filter(|one| !words.contains(&one.name));
            missing.for_each(|one| completed.extend([" ", &one.words]));
        }
        // The end of a command is not the beginning of the next one.
        completed.push('`');
        rest = &rest[words_at + length + 1..];
    }
    completed.push_str(rest);
    completed.into()
}

#[cfg(test)]
mod tests {
    use clap::FromArgMatches;

    use super::super::Cli;
    use super::*;

    /// The hint `text` as a run of `line` prints it.
    fn hint(line: &[&str], text: &str) -> String {
        let grammar = <Cli as clap::CommandFactory>::command();
        let matches = grammar.try_get_matches_from(line).unwrap();
        let global = Global::from_arg_matches(&matches).unwrap();
        let typed = |id: &str| matches.value_source(id) == Some(ValueSource::CommandLine);
        complete_with(text, &given(&global, typed)).into_owned()
    }

    #[test]
    fn a_command_repeats_what_was_given() {
        let text = "run `repro make hmd-pe --force hmd-pe`, or `repro pull hmd-pe`, first";
        assert_eq!(hint(&["repro", "status"], text), text);
        assert_eq!(
            hint(&["repro", "status", "-f", "other.ron", "--cache", "/big disk/it's"], text),
            r"run `repro make hmd-pe --force hmd-pe --file other.ron --cache '/big disk/it'\''s'`, or `repro pull hmd-pe --file other.ron --cache '/big disk/it'\''s'`, first"
        );
        assert_eq!(
            hint(
                &["repro", "--file=other.ron", "why", "a", "--profile", "mini", "--no-evidence", "--json"],
                "hint: `repro list` shows them all"
            ),
            "hint: `repro list --file other.ron --profile mini` shows them all"
        );
        assert_eq!(
            hint(
                &["repro", "path", "a", "--set", "a.x=1", "--set=a.y=b c", "--sweep", "a.z=1..3"],
                "`repro make a`"
            ),
            "`repro make a --set a.x=1 --set 'a.y=b c' --sweep a.z=1..3`"
        );
    }

    #[test]
    fn what_a_command_has_is_not_repeated_and_the_rest_stays() {
        let line = ["repro", "gc", "--cache", "c", "-f", "a.ron"];
        assert_eq!(
            hint(&line, "`repro status --file b.ron` says why; if it is gone for good, `repro gc --force`"),
            "`repro status --file b.ron --cache c` says why; if it is gone for good, `repro gc --force --file a.ron --cache c`"
        );
        for text in [
            "`repro table --help` lists its arguments",
            "run `repro` in the folder of the project",
            "a `reproduced` result, and repro make x",
            "an end that is missing: `repro make",
            "",
        ] {
            assert_eq!(hint(&line, text), text);
        }
    }
}
