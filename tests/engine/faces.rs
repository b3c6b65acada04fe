//! `show`, `log`, `graph`, `diff`, `completions`, `man`, the dry run's estimate, and the JSON of a run.

use std::process::Command;

use serde_json::Value;

use super::process::{finished, wait_until};
use super::support::TestSpace;

const STEPS: &str = r#"
    (name: "words", stage: "join", params: (text: "one"), inputs: {"in": ["./file"]}),
    (name: "middle", stage: "join", inputs: {"in": ["words/text"]}, needs: (cpu: 2, memory: "1 GiB")),
    (name: "end", stage: "join", params: (text: "end", ms: 60), inputs: {"in": ["middle", "words"]}, publish: "."),
"#;

fn built() -> TestSpace {
    let space = TestSpace::new(STEPS);
    space.write("file", "f");
    space.make().expect(0);
    space
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn show_prints_the_whole_record_of_a_step() {
    let space = TestSpace::new(STEPS);
    space.write("file", "f");
    let show = space.run(&["show", "middle"]).expect(0).out;
    assert!(show.contains("result   none: it has not run yet"), "{show}");
    assert!(show.contains("input    in <- words/text not known yet"), "{show}");
    space.make().expect(0);
    let show = space.run(&["show", "middle"]).expect(0).out;
    for words in [
        "step     middle (pipeline.ron:5, profile mini)",
        "stage    join 1",
        "needs    cpu 2, memory 1.0 GiB",
        "state    fresh",
        "ran      just now, took",
        "files    2 files, 14 B",
        "  6 B  parts/0\n",
    ] {
        assert!(show.contains(words), "{words}: {show}");
    }
    let shown = json(&space.run(&["show", "middle", "--json"]).expect(0).out);
    assert_eq!(shown["result"]["files"][1]["path"], "text");
    assert_eq!(shown["result"]["current"], true);
    space.steps(&STEPS.replace("\"one\"", "\"two\""));
    let show = space.run(&["show", "words"]).expect(0).out;
    assert!(show.contains("none for this key; the last one, of another key, is"), "{show}");
    std::fs::remove_file(space.path("file")).unwrap();
    space.run(&["show", "words"]).expect(0);
}

#[test]
fn a_log_is_printed_and_followed_until_its_step_ends() {
    let space = built();
    let log = space.run(&["log", "end"]).expect(0);
    assert!(log.out.starts_with("joined on cpu"), "{}", log.out);
    assert!(
        json(&space.run(&["log", "end", "--json"]).expect(0).out)["text"]
            .as_str()
            .unwrap()
            .contains("joined")
    );
    let run = TestSpace::new(STEPS).run(&["log", "end"]).expect(2);
    assert!(run.err.contains("step `end` has no log"), "{}", run.err);
    assert!(space.run(&["log", "end", "-f"]).expect(0).err.contains("`end` is not running"));
    // A running step: followed from before its only line to its end.
    space.steps(&STEPS.replace("ms: 60", "ms: 1500"));
    let mut make = space.spawn(&["make"]);
    wait_until("the step runs", || json(&space.run(&["log", "end", "--json"]).out)["running"] == true);
    let followed = space.run(&["log", "end", "-f"]).expect(0);
    assert!(followed.out.starts_with("joined on cpu"), "{}", followed.out);
    assert!(make.wait().unwrap().success());
}

#[test]
fn a_dry_run_estimates_from_earlier_runs_and_lists_unknown_times() {
    let space = built();
    space.steps(&format!(
        "{}(name: \"new\", stage: \"join\", params: (text: \"n\")),",
        STEPS.replace("\"one\"", "\"two\"")
    ));
    let run = space.run(&["make", "--dry-run", "-j", "1"]).expect(0);
    assert!(run.out.contains("by earlier runs about 0."), "{}", run.out);
    assert!(run.out.contains(" with 1 thread, "), "{}", run.out);
    assert!(
        run.out.contains("the longest chain takes 0.") && run.out.contains(": words -> middle -> end\n"),
        "{}",
        run.out
    );
    assert!(run.out.contains("not counted, as no earlier run is known: new\n"), "{}", run.out);
    let plan = json(&space.run(&["make", "--dry-run", "--json"]).expect(0).out);
    let estimate = &plan["estimate"];
    assert_eq!(estimate["unknown"][0], "new");
    assert_eq!(estimate["critical_path"][2], "end");
    let seconds: f64 = ["words", "middle", "end"].iter().map(|step| space.record(step).seconds).sum();
    assert!((estimate["critical_seconds"].as_f64().unwrap() - seconds).abs() < 1e-6);
    assert!(estimate["at_least_seconds"].as_f64() <= estimate["seconds"].as_f64());
    assert_eq!(plan["steps"][0]["causes"][0]["old"], "\"one\"");
}

#[test]
fn status_check_sets_the_exit_code() {
    let space = built();
    space.run(&["status", "--check"]).expect(0);
    space.write("file", "g");
    space.run(&["status", "--check"]).expect(4);
}

#[test]
fn a_run_ends_with_a_json_line_of_its_result() {
    let space = TestSpace::new(STEPS);
    space.write("file", "f");
    let run = space.run(&["make", "--json"]).expect(0);
    let last = json(run.out.lines().last().unwrap());
    assert_eq!((&last["event"], &last["ran"], &last["fresh"]), (&"ended".into(), &3.into(), &3.into()));
    assert_eq!(last["failed"], Value::Array(vec![]));
    let last = json(space.run(&["make", "--json"]).expect(0).out.trim());
    assert_eq!((&last["event"], &last["ran"]), (&"ended".into(), &0.into()));
}

#[test]
fn the_graph_of_a_target_is_reproducible() {
    let space = built();
    let svg = space.run(&["graph", "--format", "svg"]).expect(0).out;
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"), "{svg}");
    assert_eq!(svg.matches("<rect x=").count(), 3);
    assert_eq!(svg.matches("<path ").count(), 5, "a line past a column has three parts");
    assert_eq!(svg, space.run(&["graph", "--format", "svg"]).expect(0).out);
    let part = space.run(&["graph", "middle", "--format", "svg"]).expect(0).out;
    assert_eq!(part.matches("<rect x=").count(), 2);
    assert!(!space.run(&["graph", "middle"]).expect(0).out.contains("end (join)"));
    assert!(svg.contains(">fresh</text>") && !svg.contains(">stale</text>"), "{svg}");
    assert!(space.run(&["graph", "midle"]).expect(2).err.contains("did you mean `middle`?"));
}

#[test]
fn the_graph_has_states_and_folds_the_steps_of_one_entry() {
    let space = TestSpace::new(
        r#"(for: {"data": ["a", "b"], "run": "1..3"}, name: "{data}-{run}-text", stage: "join", params: (text: "{data}{run}")),
        (name: "end", stage: "join", inputs: {"in": ["{a,b}-{1..3}-text/text"]}),
        (for: {"at": ["x", "y"]}, name: "{at}-loop", stage: "join", params: (text: "{at}"), inputs: {"in": ["end/text"]}),"#,
    );
    space.run(&["make", "a-1-text"]).expect(0);
    let text = space.run(&["graph", "--fold"]).expect(0).out;
    assert!(text.starts_with("{a,b}-{1,2,3}-text (join × 6) 1 fresh, 5 stale\n  a-1-text\n"), "{text}");
    assert!(
        text.contains("\nend (join) waiting\n") && text.contains("\n{x,y}-loop (join × 2) 2 waiting\n"),
        "{text}"
    );
    let dot = space.run(&["graph", "--fold", "--format", "dot"]).expect(0).out;
    assert_eq!((dot.matches("fillcolor=").count(), dot.matches(" -> ").count()), (3, 2), "{dot}");
    let mermaid = space.run(&["graph", "--fold", "--format", "mermaid"]).expect(0).out;
    assert!(mermaid.contains("  s0 --> s1\n") && mermaid.contains("  class s0 state"), "{mermaid}");
    let folded = json(&space.run(&["graph", "--fold", "--json"]).expect(0).out);
    assert_eq!(folded[0]["states"], serde_json::json!({"fresh": 1, "stale": 5}));
    let all = json(&space.run(&["graph", "--json"]).expect(0).out);
    assert_eq!((all.as_array().unwrap().len(), &all[0]["state"]), (9, &"fresh".into()));
    let svg = space.run(&["graph", "--fold", "--format", "svg"]).expect(0).out;
    assert_eq!(svg.matches("<rect x=").count(), 3, "{svg}");
}

#[test]
fn families_that_read_each_other_stay_apart() {
    // a-1 <- b-1 <- a-2 <- b-2: as two boxes they would be a circle.
    let space = TestSpace::new(
        r#"(for: {"n": "1..2"}, name: "a-{n}", stage: "join", inputs: {"in": ["a-{n}-from/text"]}),
        (for: {"n": "1..2"}, name: "b-{n}", stage: "join", inputs: {"in": ["a-{n}/text"]}),
        (name: "a-1-from", stage: "join", params: (text: "x")),
        (name: "a-2-from", from: "b-1"),"#,
    );
    let text = space.run(&["graph", "--fold"]).expect(0).out;
    assert!(
        text.contains("\na-2 (join) ") && text.contains("\nb-2 (join) ") && !text.contains('×'),
        "{text}"
    );
}

#[test]
fn diff_compares_params_and_reported_numbers_between_revisions() {
    let space = built();
    let run = space.run(&["diff"]).expect(2);
    assert!(run.err.contains("is not in a git repository") && run.err.contains("hint: "), "{}", run.err);
    space.git(&["init", "-q"]);
    let run = space.run(&["diff"]).expect(2);
    assert!(run.err.contains("has no commit") && run.err.contains("git commit"), "{}", run.err);
    let table = |auc: f64| format!("{{\"rows\": [{{\"mode\": \"fc\", \"auc\": {auc}}}]}}");
    space.write("reports/mini/table.json", &table(0.5));
    space.git(&["add", "pipeline.ron", "reports"]);
    space.git(&["commit", "-qm", "one"]);
    let head = |name: &str| {
        let commit = space.git(&["rev-parse", "--short=7", name]);
        format!("{name} ({})", commit.trim())
    };
    assert_eq!(
        space.run(&["diff"]).expect(0).out,
        format!(
            "no reported value differs\n{} -> the files in reports/mini: no params and no reported values differ\n",
            head("HEAD")
        )
    );
    space.steps(&STEPS.replace("\"one\"", "\"two\"").replace("\"middle\", \"words\"", "\"middle\""));
    space.write("reports/mini/table.json", &table(0.75));
    let text = |old: &str, new: &str| {
        format!(
            "1 value differs; it has no interval\n{old} -> {new}: 2 steps and 1 value differ\n\
             end\n  input gone: in <- words\nwords\n  param text: \"one\" -> \"two\"\n\
             table.json\n  rows[mode=fc].auc: 0.5 -> 0.75 (+0.25)\n"
        )
    };
    assert_eq!(space.run(&["diff"]).expect(0).out, text(&head("HEAD"), "the files in reports/mini"));
    space.git(&["commit", "-qam", "two"]);
    assert_eq!(space.run(&["diff", "HEAD~1", "HEAD"]).expect(0).out, text(&head("HEAD~1"), &head("HEAD")));
    let markdown = space.run(&["diff", "HEAD~1", "--md"]).expect(0).out;
    assert!(markdown.starts_with("**1 value differs; it has no interval**\n\n"), "{markdown}");
    assert!(
        markdown.contains("\n| words | param text: \"one\" -&gt; \"two\" |\n")
            && markdown.contains("\n| rows\\[mode=fc\\].auc | 0.5 | 0.75 | +0.25 |  |  |\n"),
        "{markdown}"
    );
    let diff = json(&space.run(&["diff", "HEAD~1", "--json"]).expect(0).out);
    assert_eq!((&diff["values"][0]["by"], &diff["steps"][1]["step"]), (&0.25.into(), &"words".into()));
    let run = space.run(&["diff", "mian"]).expect(2);
    assert!(
        run.err.contains("git knows no revision `mian`") && run.err.contains("did you mean `main`?"),
        "{}",
        run.err
    );
    // An older pipeline that this program cannot read does not hide numbers.
    space.steps("(name: \"x\", stage: \"gone\"),");
    space.git(&["commit", "-qam", "three"]);
    space.steps(STEPS);
    let run = space.run(&["diff", "HEAD", "--json"]).expect(0);
    assert!(run.err.contains("warning: params are not compared: at HEAD,"), "{}", run.err);
}

#[test]
fn diff_compares_two_profiles_without_git_and_marks_significant_differences() {
    let space = TestSpace::new("");
    space.write(
        "pipeline.ron",
        r#"(default_profile: "small",
            profiles: [(name: "small", about: "", sources: [], defaults: {"join": (text: "s")}),
                (name: "large", about: "", sources: [], defaults: {"join": (text: "l")})],
            steps: [(name: "a", stage: "join", params: ())], targets: {})"#,
    );
    let table = |auc: f64| {
        format!(
            "{{\"columns\": [{{\"key\": \"mode\"}}, {{\"key\": \"auc\"}}, {{\"key\": \"auc_interval\"}}], \"rows\": [[\
             {{\"text\": \"FC\"}}, {{\"number\": {{\"value\": {auc}, \"places\": 2}}}}, \
             {{\"interval\": {{\"low\": {}, \"high\": {}, \"places\": 2}}}}]]}}",
            auc - 0.03,
            auc + 0.03
        )
    };
    space.write("reports/small/tables/t.json", &table(0.5));
    space.write("reports/large/tables/t.json", &table(0.75));
    let text = space.run(&["diff", "small", "large"]).expect(0).out;
    assert_eq!(
        text,
        "1 interval compared, significantly different\n\
         the files in reports/small -> the files in reports/large: 1 step and 3 values differ; \
         2 derived values not shown (`--all` shows them)\n\
         a\n  param text: \"s\" -> \"l\"\ntables/t.json\n  \
         rows[mode=FC].auc: 0.5 -> 0.75 (+0.25, 95% interval +0.2076 to +0.2924: significant)\n"
    );
    let all = space.run(&["diff", "small", "large", "--all"]).expect(0).out;
    assert!(all.contains("\n  rows[mode=FC].auc_interval.high: 0.53 -> 0.78 (+0.25)\n"), "{all}");
    // The current results are those of the default profile.
    assert_eq!(
        space.run(&["diff", "large", "--profile", "small"]).expect(0).out.matches("-> 0.5 (-0.25").count(),
        1
    );
    let text = space.run(&["diff", "small"]).expect(0).out;
    assert!(text.starts_with("1 interval compared, not significantly different\n"), "{text}");
    assert!(text.ends_with(": no params and no reported values differ\n"), "{text}");
}

#[test]
fn diff_reads_tracked_files_from_the_revision_and_ignored_ones_from_the_disk() {
    let steps = r#"(name: "a", stage: "join", inputs: {"in": ["./kept", "./ignored"]}),"#;
    let space = TestSpace::new(steps);
    space.write(".gitignore", "ignored\n");
    space.write("kept", "k");
    space.write("ignored", "i");
    space.git(&["init", "-q"]);
    space.git(&["add", "."]);
    space.git(&["commit", "-qm", "one"]);
    std::fs::remove_file(space.path("kept")).unwrap();
    let run = space.run(&["diff"]).expect(0);
    assert!(run.out.ends_with(": 1 step differs\na\n  input gone: in <- ./kept\n"), "{}", run.out);
    assert!(run.err.contains("note: no JSON or CSV report to compare in HEAD ("), "{}", run.err);
    space.git(&["commit", "-qam", "two"]);
    let text = space.run(&["diff", "HEAD~1", "HEAD"]).expect(0).out;
    assert!(text.ends_with(": 1 step differs\na\n  input gone: in <- ./kept\n"), "{text}");
    let text = space.run(&["diff"]).expect(0).out;
    assert!(text.ends_with(": no params and no reported values differ\n"), "{text}");
}

#[test]
fn the_log_of_a_running_command_is_followed_and_a_silent_one_has_no_log() {
    let step = r#"(name: "a", stage: "command", params: (shell: "echo one; sleep 1; echo two >&2; sleep 0.5; echo three")),
        (name: "quiet", stage: "command", params: (run: ["true"])),"#;
    let space = TestSpace::new(step);
    let mut make = space.spawn(&["make"]);
    wait_until("it has said one word", || space.run(&["log", "a"]).out == "one\n");
    assert_eq!(json(&space.run(&["log", "a", "--json"]).out)["running"], true);
    let followed = space.run(&["log", "a", "-f"]).expect(0);
    assert_eq!(followed.out, "one\ntwo\nthree\n");
    assert!(make.wait().unwrap().success());
    assert_eq!(space.run(&["log", "a"]).expect(0).out, "one\ntwo\nthree\n");
    let run = space.run(&["log", "quiet"]).expect(0);
    assert!(run.out.is_empty() && run.err.contains("`quiet` has run and said nothing"), "{}", run.err);
    assert_eq!(json(&space.run(&["log", "quiet", "--json"]).expect(0).out)["text"], "");
    assert_eq!(space.cached("logs").len(), 1, "no empty files are kept");
}

#[test]
fn the_log_of_a_killed_run_stays() {
    let space = TestSpace::new(r#"(name: "a", stage: "command", params: (shell: "echo begun; sleep 60")),"#);
    let mut make = space.spawn(&["make"]);
    wait_until("it has said one word", || space.run(&["log", "a"]).out == "begun\n");
    make.kill().unwrap();
    make.wait().unwrap();
    wait_until("it has ended", || json(&space.run(&["log", "a", "--json"]).out)["running"] == false);
    assert_eq!(space.run(&["log", "a"]).expect(0).out, "begun\n");
}

#[test]
fn bash_completes_targets_steps_and_options() {
    let space = built();
    let text = space.read("pipeline.ron");
    space.write("pipeline.ron", &text.replace("targets: {}", "targets: {\"everything\": [\"end\"]}"));
    let program = space.command(&[]).get_program().to_owned();
    let complete = |words: &str| {
        let script = format!(
            "repro() {{ '{program}' \"$@\"; }}; source <('{program}' completions bash); \
             COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}}-1)); COMP_TYPE=9; \
             $(complete -p repro | sed 's/.*-F \\([^ ]*\\).*/\\1/') repro \"${{COMP_WORDS[-1]}}\" ''; \
             printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            program = program.display()
        );
        let mut bash = Command::new("bash");
        bash.args(["--norc", "-c", &script]).current_dir(space.path(".")).env_remove("REPRO_PROFILE");
        let run = finished(bash.output().unwrap());
        assert!(run.err.is_empty(), "{}", run.err);
        run.out.split_whitespace().map(ToOwned::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(complete("repro make e"), ["end", "everything"]);
    assert_eq!(complete("repro why m"), ["middle"]);
    assert_eq!(complete("repro make --deny-pool g"), ["gpu"]);
    assert_eq!(complete("repro make --dry"), ["--dry-run"]);
    assert_eq!(complete("repro make --profile m"), ["mini"]);
    assert_eq!(complete("repro completions z"), ["zsh"]);
    let run = space.run(&["completions", "bsh"]).expect(2);
    assert!(run.err.contains("did you mean `bash`?"), "{}", run.err);
}

#[test]
fn manual_pages_are_written_for_every_subcommand() {
    let space = TestSpace::new(STEPS);
    let run = space.run(&["man", "pages"]).expect(0);
    assert!(run.out.contains("pages/repro.1\n") && run.out.contains("pages/repro-make.1\n"), "{}", run.out);
    let page = space.read("pages/repro-make.1");
    assert!(page.contains(".TH") && page.contains("deny\\-pool"), "{page}");
    assert!(!space.path("pages/repro-step.1").exists());
    space.write("plain", "x");
    let run = space.run(&["man", "plain"]).expect(2);
    assert!(run.err.contains("plain: cannot be written: "), "{}", run.err);
}
