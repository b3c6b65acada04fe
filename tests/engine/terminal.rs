//! Text from outside reaches a terminal as text, not as control sequences.

use super::support::TestSpace;

/// Characters that a terminal interprets, or that change the displayed order of a line.
const OBEYED: [char; 8] = ['\u{1b}', '\u{7}', '\r', '\u{8}', '\u{9b}', '\u{202e}', '\u{2066}', '\u{7f}'];

#[track_caller]
fn harmless(text: &str) {
    assert!(!text.contains(OBEYED), "{text:?}");
}

#[test]
fn file_names_output_of_steps_and_records_are_escaped() {
    let evil = "e\u{1b}]0;owned\u{7}\u{9b}2J\u{202e}";
    let step = r#"(name: "a", stage: "command", params: (shell: "CODE", outputs: ["x"]), tolerance: 1e-3),"#;
    let code = |code: &str| step.replace("CODE", code);
    let space = TestSpace::new(&code(&format!(
        "touch {{out}}/x {{out}}/'{}'",
        evil.replace('\u{1b}', "\\u{1b}").replace('\u{7}', "\\u{7}")
    )));
    let run = space.make().expect(1);
    assert!(run.err.contains("owned"), "{}", run.err);
    harmless(&run.err);
    let json = space.run(&["make", "--json"]).expect(1);
    harmless(&json.out);
    harmless(&json.err);
    // The last lines of a program's log are part of the error.
    space.steps(&code("printf '\\\\033[31mred\\\\033[0m\\\\007\\\\r\\\\n' >&2; exit 3"));
    let run = space.make().expect(1);
    harmless(&run.err);
    // The log file holds what the program wrote.
    assert!(space.run(&["log", "a"]).expect(0).out.contains("\u{1b}[31mred"));
    space.steps(&code("touch {out}/x").replace(", outputs: [\"x\"]", ""));
    space.make().expect(0);
    for command in ["show", "why"] {
        harmless(&space.run(&[command, "a"]).out);
    }
    // A name on the command line may be a file name.
    for args in
        [["make", evil], ["--nonsense", evil], ["show", evil], ["-f", evil], ["pull", "--remote=x://\u{1b}"]]
    {
        let run = space.run(&args);
        assert_eq!(run.code, Some(2), "{args:?}");
        harmless(&run.err);
    }
    space.write(evil, "(\u{1b}[2J)\n");
    harmless(&space.run(&["make", "-f", evil]).expect(2).err);
    // The description of a profile.
    let text = space
        .read("pipeline.ron")
        .replace("toys", &format!("toys {}", evil.replace('\u{1b}', "\\u{1b}").replace('\u{7}', "\\u{7}")));
    space.write("pipeline.ron", &text);
    let list = space.run(&["list"]).expect(0).out;
    assert!(list.contains("owned"), "{list}");
    harmless(&list);
    harmless(&space.run(&["list", "--json"]).expect(0).out);
}

#[test]
fn long_names_are_errors_and_long_lines_are_cut() {
    let name = "n".repeat(70_000);
    let space = TestSpace::new(&format!("(name: \"{name}\", stage: \"join\"),"));
    let run = space.run(&["list"]).expect(2);
    assert!(run.err.contains("this name has 70000 bytes; the limit is 200"), "{:.300}", run.err);
    for filler in ["(name: \"x\", stage: \"join\"), ", "語", "\\u{1b}[31m"] {
        space
            .steps(&format!("{} (name: \"y\", stage: \"jion\"),", format!("/* {filler} */ ").repeat(20_000)));
        let run = space.make().expect(2);
        assert!(run.err.contains("did you mean `join`?") && run.err.contains("\"jion\""), "{:.500}", run.err);
        assert!(run.err.len() < 3000, "{}", run.err.len());
    }
    let misspelt = "j".repeat(100_000);
    space.steps(&format!("(name: \"y\", stage: \"join\", inputs: {{\"in\": [\"{misspelt}\"]}}),"));
    space.make().expect(2);
}

/// A run on a terminal of 60 columns.
fn on_terminal(space: &TestSpace, args: &[&str], no_color: bool) -> String {
    let program = space.command(args);
    let words: Vec<String> = std::iter::once(program.get_program())
        .chain(program.get_args())
        .map(|word| repro::command::quoted(word.to_str().unwrap()))
        .collect();
    let mut script = std::process::Command::new("script");
    script.args(["-qec", &format!("stty cols 60; {}", words.join(" ")), "/dev/null"]);
    script
        .current_dir(space.path(""))
        .env_remove("REPRO_PROFILE")
        .env("TERM", "xterm-256color")
        .env_remove("NO_COLOR");
    if no_color {
        script.env("NO_COLOR", "1");
    }
    String::from_utf8(script.stdin(std::process::Stdio::null()).output().unwrap().stdout).unwrap()
}

#[test]
fn states_have_colours_on_a_terminal_alone_and_lines_break_at_words() {
    let space = TestSpace::new(
        r#"(name: "done", stage: "join", params: (text: "1")),
           (name: "bad", stage: "command", params: (shell: "echo the reason >&2; exit 3")),
           (name: "below", stage: "join", inputs: {"in": ["bad"]}, params: (text: "a text of several words that is much longer than a line")),"#,
    );
    let made = on_terminal(&space, &["make", "-k"], false);
    assert!(made.contains("done \u{1b}[32mdone\u{1b}[0m in"), "{made:?}");
    assert!(made.contains("bad \u{1b}[31m\u{1b}[1mfailed\u{1b}[0m: it ended with exit code 3"), "{made:?}");
    assert!(made.contains("\u{1b}[31m\u{1b}[1merror:\u{1b}[0m step `bad` failed"), "{made:?}");
    let status = on_terminal(&space, &["status"], false);
    assert!(status.contains("\u{1b}[33mstale\u{1b}[0m    bad"), "{status:?}");
    assert!(
        status.contains("3 steps: 1 fresh, 1 stale, 1 waiting") && !status.contains("fresh\u{1b}"),
        "{status:?}"
    );
    assert!(on_terminal(&space, &["status", "-v"], false).contains("\u{1b}[32mfresh\u{1b}[0m    done"));
    // The last step has run before, with another text.
    space.steps(r#"(name: "below", stage: "join", params: (text: "a text of several words that is much longer than a line")),"#);
    space.make().expect(0);
    space.steps(r#"(name: "below", stage: "join", params: (text: "another")),"#);
    let status = on_terminal(&space, &["status"], true);
    assert_eq!(
        status.lines().take(2).map(str::trim_end).collect::<Vec<_>>(),
        [
            "stale    below  param text: \"a text of several words that",
            "                is much longer than a line\" -> \"another\""
        ],
        "{status:?}"
    );
    harmless(&status.replace('\r', ""));
    assert!(!space.run(&["status"]).out.contains('\u{1b}'), "not a terminal");
}
