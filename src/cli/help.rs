//! The list of subcommands in `repro --help`, by purpose. It does not know their options.

use clap::Command;
use console::Term;

use super::terminal_text::wrapped;

/// Purposes and their subcommands, in the order of the help. [`grouped`] adds the tools of the stages as one more group.
const GROUPS: [(&str, &[&str]); 5] = [
    ("Run", &["init", "make", "rehearse", "doctor", "accept"]),
    (
        "Inspect",
        &[
            "status", "why", "show", "path", "get", "log", "watch", "runs", "page", "serve", "list", "graph",
            "diff",
        ],
    ),
    ("Share", &["push", "pull", "evidence"]),
    ("Store", &["verify", "gc"]),
    ("Shell and editor", &["completions", "man", "schema", "help"]),
];

/// What the group of the stages' tools is called.
const TOOLS: &str = "Paper";

/// The program's grammar with a help that lists subcommands by purpose.
pub fn grouped(command: Command) -> Command {
    let is_listed = |name: &str| GROUPS.iter().any(|(_, names)| names.contains(&name));
    let visible = command.get_subcommands().filter(|subcommand| !subcommand.is_hide_set());
    let abouts: Vec<(&str, String)> =
        visible.map(|subcommand| (subcommand.get_name(), about(subcommand))).collect();
    let help = ("help", "Print the help of a subcommand".to_owned());
    let width = abouts.iter().chain([&help]).map(|(name, _)| name.len()).max().unwrap_or(0);
    // As clap breaks the options: by the terminal, also where the help goes into a pager.
    let columns = Term::stderr().size_checked().map(|(_, columns)| usize::from(columns));
    let mut text = String::from("{about-with-newline}\n{usage-heading} {usage}\n");
    let mut group = |title: &str, members: Vec<&(&str, String)>| {
        if members.is_empty() {
            return;
        }
        text.push_str(&format!("\n{title}:\n"));
        for (name, about) in members {
            // Below itself where it is longer than the terminal's line.
            let about = wrapped(about, width + 4, columns);
            text.push_str(&format!("  {name:width$}  {about}\n"));
        }
    };
    for (title, names) in &GROUPS[..GROUPS.len() - 1] {
        group(title, names.iter().filter_map(|name| abouts.iter().find(|(each, _)| each == name)).collect());
    }
    group(TOOLS, abouts.iter().filter(|(name, _)| !is_listed(name)).collect());
    let (title, names) = &GROUPS[GROUPS.len() - 1];
    let all: Vec<&(&str, String)> = abouts.iter().chain([&help]).collect();
    group(
        title,
        names.iter().filter_map(|name| all.iter().find(|(each, _)| each == name).copied()).collect(),
    );
    text.push_str("\nOptions:\n{options}");
    command.help_template(text)
}

/// The first line of a subcommand's help.
fn about(command: &Command) -> String {
    let text = command.get_about().map(ToString::to_string).unwrap_or_default();
    text.lines().next().unwrap_or_default().trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn each_subcommand_of_the_engine_is_in_one_group() {
        let mut grouped: Vec<&str> = GROUPS.iter().flat_map(|(_, names)| *names).copied().collect();
        let engine = Cli::command();
        let visible = engine.get_subcommands().filter(|subcommand| !subcommand.is_hide_set());
        let mut all: Vec<&str> = visible.map(Command::get_name).chain(["help"]).collect();
        grouped.sort_unstable();
        all.sort_unstable();
        assert_eq!(grouped, all);
    }

    #[test]
    fn a_tool_of_the_stages_has_a_group_of_its_own() {
        let command = Cli::command().subcommand(Command::new("table").about("Print a table.\n\nMore."));
        let help = super::grouped(command).render_help().to_string();
        assert!(help.contains("\nPaper:\n  table        Print a table\n"), "{help}");
        assert!(
            help.contains("\nRun:\n  init         ") && help.contains("\nOptions:\n  -f, --file"),
            "{help}"
        );
    }
}
