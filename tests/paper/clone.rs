//! A fresh clone, in which nothing has run: what the program says of it, word for word, and what it builds from the
//! committed evidence.

use super::process::finished;
use super::project::Project;
use super::snapshot::{compare, in_plain_environment};

/// What is typed, in this order.
const COMMANDS: [&str; 9] = [
    "status all seeds vilbert",
    "why hmd-pe-train",
    "log hmd-pe-train",
    "watch hmd-pe-train --only roc_auc",
    "show hmd-pe-train",
    "make seeds --dry-run",
    "make ablations --dry-run",
    "export hmd-pe-train --to wandb --out wandb",
    "page --out page.html",
];

/// A line without what depends on the day and the machine of the evidence: digests, times and the host.
fn same_every_time(line: &str, folder: &str) -> String {
    let mut same = line.replace(folder, "FOLDER");
    for digest in line.split(|letter: char| !letter.is_ascii_hexdigit()).filter(|word| word.len() >= 12) {
        same = same.replace(digest, "DIGEST");
    }
    // Up to `end`, or to the end of the line if that is empty.
    let between = |text: String, start: &str, end: &str, with: &str| {
        let replaced = text.split_once(start).and_then(|(before, after)| match end {
            "" => Some(format!("{before}{start}{with}")),
            end => Some(format!("{before}{start}{with}{end}{}", after.split_once(end)?.1)),
        });
        replaced.unwrap_or(text)
    };
    same = between(same, "ran ", " ago", "TIME");
    same = between(same, "ran      ", " ago", "TIME");
    same = between(same, " took ", ", ", "TIME");
    same = between(same, ", on ", " (", "HOST");
    same = between(same, "host     ", " (", "HOST");
    same = between(same, "stayed on ", "", "HOST");
    same = between(same, ", at most ", " of memory", "SIZE");
    same = between(same, " updates, ", " per second", "RATE");
    same = between(same, "by earlier runs about ", " with ", "TIME");
    same = between(same, " with ", " thread", "N");
    same = between(same, ", ", " if what waits turns out fresh", "TIME");
    same = between(same, "the longest chain takes ", ": ", "TIME");
    between(same, "offline-run-", "", "BEGIN-KEY")
}

#[test]
fn every_command_tells_the_truth_about_a_clone_in_which_nothing_has_run() {
    let clone = Project::fresh_clone();
    let folder = clone.path("").canonicalize().unwrap().display().to_string();
    let mut text = String::new();
    for typed in COMMANDS {
        let mut command = clone.command(&typed.split(' ').collect::<Vec<_>>());
        in_plain_environment(&mut command);
        let run = finished(command.output().unwrap()).expect(0);
        let printed: String = (run.err + &run.out)
            .split_inclusive('\n')
            .map(|line| same_every_time(line.trim_end(), &folder) + "\n")
            .collect();
        text += &format!("$ repro {typed}\n{printed}\n");
    }
    compare("fresh-clone", &text);
    assert!(!clone.path("cache").exists(), "a command that looks writes nothing");

    let page = std::fs::read_to_string(clone.path("page.html")).unwrap();
    for shown in
        ["id=\"table-2\"", "id=\"run-hmd-pe-1\"", "id=\"claims\"", "As committed in reports", "from evidence"]
    {
        assert!(page.contains(shown), "the page has no {shown}");
    }
    for untrue in ["Not there yet", "up to date", "cannot be used"] {
        assert!(!page.contains(untrue), "the page says: {untrue}");
    }
}

#[test]
fn the_committed_reports_follow_from_the_evidence() {
    let clone = Project::fresh_clone();
    let targets = ["all", "seeds", "vilbert"];
    let run = clone.run(&[&["make"], &targets[..], &["--deny-pool", "gpu", "--check"]].concat()).expect(0);
    let ran = ["claims", "curves", "curves-seeds", "curves-vilbert", "report", "roc", "table-1", "table-2"];
    assert_eq!(run.ran(), [&ran[..], &["table-2-seeds", "table-2-vilbert", "table-shift"]].concat());
}
