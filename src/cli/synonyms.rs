//! What a subcommand is called in other programs: `clean` in Make and Cargo is `gc` here. It only suggests; a name that
//! is none stays an error.

use clap::Command;

use crate::pipeline::nearest;

/// Subcommands, and what other programs call them.
const SYNONYMS: [(&str, &[&str]); 23] = [
    ("init", &["new", "create", "template", "start", "setup", "quickstart"]),
    ("make", &["run", "build", "repro", "reproduce", "all", "exec", "execute", "train", "update", "publish"]),
    ("rehearse", &["rehearsal", "simulate"]),
    ("doctor", &["check", "env", "environment", "preflight"]),
    ("status", &["state", "stat", "stale", "outdated", "progress"]),
    ("why", &["explain", "reason", "reasons", "causes"]),
    ("show", &["info", "inspect", "describe", "detail", "details", "cat"]),
    ("path", &["where", "which", "locate", "output", "outputs", "result"]),
    ("get", &["cp", "copy", "checkout", "download", "extract", "save"]),
    ("log", &["logs", "tail", "stdout", "stderr"]),
    ("watch", &["follow", "monitor", "plot", "plots", "metrics", "live"]),
    ("runs", &["history", "experiments", "exp", "exps", "sweep", "best"]),
    ("serve", &["server", "ui", "gui", "web", "dashboard", "open", "view"]),
    ("page", &["report", "html"]),
    ("list", &["ls", "steps", "targets", "stages", "query", "tasks"]),
    ("graph", &["dag", "dot", "tree", "mermaid"]),
    ("diff", &["compare", "changes", "changed"]),
    ("push", &["upload", "sync", "share"]),
    ("pull", &["fetch", "restore"]),
    ("evidence", &["commit", "freeze", "snapshot", "lock"]),
    ("verify", &["test", "fsck", "validate", "rerun", "audit"]),
    ("gc", &["clean", "cleanup", "clear", "prune", "purge", "remove", "rm", "delete", "reset"]),
    ("completions", &["completion", "complete", "shell"]),
];

/// The error about a subcommand that does not exist: its message and a hint.
pub fn unknown(grammar: &Command, name: &str) -> (String, String) {
    let known = || grammar.get_subcommands().filter(|known| !known.is_hide_set()).map(Command::get_name);
    let synonym = SYNONYMS.iter().find(|(_, others)| others.contains(&name)).map(|(meant, _)| *meant);
    let hint = synonym
        .filter(|meant| known().any(|known| known == *meant))
        .map(|meant| format!("{meant}`?"))
        .or_else(|| Some(nearest(name, known())?.strip_prefix("did you mean `")?.to_owned()))
        .map(|rest| format!("did you mean `repro {rest}"))
        .unwrap_or_else(|| "`repro --help` lists the subcommands".to_owned());
    (format!("there is no subcommand `{name}`"), hint)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::CommandFactory;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn the_name_of_another_program_leads_to_the_one_here() {
        let hint = |name: &str| unknown(&Cli::command(), name).1;
        for (name, meant) in
            [("clean", "gc"), ("run", "make"), ("ls", "list"), ("logs", "log"), ("new", "init")]
        {
            assert_eq!(hint(name), format!("did you mean `repro {meant}`?"), "{name}");
        }
        assert_eq!(hint("stauts"), "did you mean `repro status`?");
        assert_eq!(hint("zzz"), "`repro --help` lists the subcommands");
    }

    #[test]
    fn each_synonym_has_one_meaning_and_is_no_subcommand() {
        let engine = Cli::command();
        let names: BTreeSet<&str> = engine.get_subcommands().map(Command::get_name).collect();
        let mut seen = BTreeSet::new();
        for (meant, others) in SYNONYMS {
            // The page comes with the stages.
            assert!(meant == "page" || names.contains(meant), "there is no `{meant}`");
            for other in others {
                assert!(!names.contains(other) && seen.insert(*other), "`{other}`");
            }
        }
    }
}
