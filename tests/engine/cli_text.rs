//! What the program prints for people, kept word for word in `tests/snapshots`: the help of every subcommand, and messages of
//! each kind. `just golden` renews the files; what changed in them is then read like any other change.

use super::process::{Run, finished};
use super::snapshot::{compare, in_plain_environment, subcommands};
use super::support::TestSpace;

fn run(space: &TestSpace, args: &[&str]) -> Run {
    let mut command = space.command(args);
    in_plain_environment(&mut command);
    finished(command.output().unwrap())
}

/// The tools that come with the toy stages.
const TOY_TOOLS: [&str; 1] = ["read"];

#[test]
fn the_help_of_every_subcommand_is_as_kept() {
    let space = TestSpace::new("");
    let help = |args: &[&str]| format!("$ repro {}\n{}\n", args.join(" "), run(&space, args).expect(0).out);
    let all = help(&["--help"]);
    let engine = subcommands(&all).into_iter().filter(|name| !TOY_TOOLS.contains(name));
    let each: String = engine.map(|name| help(&[name, "--help"])).collect();
    compare("help", &(all.clone() + &each));
}

const STEPS: &str = r#"
    (name: "words", stage: "join", params: (text: "one"), inputs: {"in": ["./file"]}),
    (name: "middle", stage: "join", inputs: {"in": ["words/text"]}),
    (name: "end", stage: "join", params: (text: "end"), inputs: {"in": ["middle"]}, publish: "."),
"#;

/// A text without what differs from run to run: the project's folder, digests and times.
fn same_every_time(text: &str, space: &TestSpace) -> String {
    let folder = space.path("").canonicalize().unwrap();
    let mut same = text.replace(folder.to_str().unwrap(), "FOLDER");
    for digest in text.split(|letter: char| !letter.is_ascii_hexdigit()).filter(|word| word.len() >= 12) {
        same = same.replace(digest, "DIGEST");
    }
    for time in text.split_whitespace().filter(|word| word.parse::<f64>().is_ok()) {
        for end in ['\n', ',', ' '] {
            same = same.replace(&format!(" {time} s{end}"), &format!(" N s{end}"));
        }
    }
    same.replace("under N s", "N s")
}

#[test]
fn messages_are_as_kept() {
    let space = TestSpace::new(STEPS);
    space.write("file", "f");
    let mut text = String::new();
    let mut ask = |title: &str, args: &[&str]| {
        let run = run(&space, args);
        let printed = same_every_time(&(run.out + &run.err), &space);
        text += &format!("# {title}\n$ repro {}\n{printed}code {}\n\n", args.join(" "), run.code.unwrap());
    };
    ask("a step that never ran", &["why", "words"]);
    ask("a name that no step has", &["make", "midle"]);
    ask("a subcommand of another program", &["clean"]);
    ask("an option that make does not have", &["make", "--checks"]);
    ask("a file that is not there", &["list", "--file", "nothing.ron"]);
    space.make().expect(0);
    ask("nothing to do", &["make"]);
    ask("the status of fresh steps", &["status"]);
    space.steps(&STEPS.replace("\"one\"", "\"two\""));
    ask("the status of a changed param", &["status"]);
    ask("a result that is not up to date", &["path", "words"]);
    ask("why a step must run", &["why", "words"]);
    ask("why a step may have to run", &["why", "end"]);
    ask("stale under --check", &["make", "--check"]);
    space.steps(&STEPS.replace("\"./file\"", "\"end\""));
    ask("a cycle", &["list"]);
    space.steps(&STEPS.replace("\"join\", params: (text: \"one\")", "\"jion\", params: (text: \"one\")"));
    ask("a stage that does not exist", &["list"]);
    space.steps(&STEPS.replace("text: \"one\"", "txet: \"one\""));
    ask("a param that the stage does not have", &["list"]);
    space.steps(r#"(name: "a", stage: "command", params: (shell: "echo broken >&2; exit 3")),"#);
    ask("a step that fails", &["make"]);
    ask("the status after a failure", &["status"]);
    space.steps(r#"(name: "a", stage: "head", params: (chars: 1), inputs: {"in": ["./file"]}),"#);
    std::fs::remove_file(space.path("file")).unwrap();
    ask("an input that is not there", &["make"]);
    compare("messages", &text);
}

/// Two published steps: a table with an interval, and a page.
const REPORTS: &str = r#"
    (name: "table", stage: "command", inputs: {"in": ["./table.json"]}, publish: "tables",
     params: (run: ["cp", "{input.in}", "{out}/table.json"], outputs: ["table.json"])),
    (name: "page", stage: "command", inputs: {"in": ["./page.html"]}, publish: ".",
     params: (run: ["cp", "{input.in}", "{out}/index.html"], outputs: ["index.html"])),
"#;

#[test]
fn the_end_of_a_run_is_as_kept() {
    let space = TestSpace::new(REPORTS);
    let table = |auc: f64| {
        let (low, high) = (auc - 0.03, auc + 0.03);
        let cell =
            format!(r#"{{"estimate": {{"value": {auc}, "low": {low}, "high": {high}, "places": 2}}}}"#);
        let text = format!(
            r#"{{"columns": [{{"key": "mode"}}, {{"key": "auc"}}], "rows": [[{{"text": "FC"}}, {cell}]]}}"#
        );
        space.write("table.json", &text);
    };
    let mut text = String::new();
    let mut make = |title: &str| {
        // One step after the other, so that the order of the lines is always the same.
        let run = run(&space, &["make", "-j", "1"]);
        let printed = same_every_time(&run.err, &space);
        text += &format!("# {title}\n$ repro make -j 1\n{printed}code {}\n\n", run.code.unwrap());
    };
    table(0.7);
    space.write("page.html", "one");
    make("without a commit");
    space.write(".gitignore", "/cache\n");
    space.git(&["init", "-q"]);
    space.git(&["add", "."]);
    space.git(&["commit", "-qm", "one"]);
    std::fs::remove_dir_all(space.path("cache")).unwrap();
    make("with the results of the commit");
    table(0.72);
    make("with a difference that is not significant");
    table(0.8);
    space.write("page.html", "two");
    make("with a significant difference");
    compare("end-of-a-run", &text);
}
