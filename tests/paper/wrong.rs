//! Bad input: what its author reads, and that nothing else happens.

use std::fs;

use super::process::finished;
use super::project::{Project, made};

/// Replaces the first `from` in the pipeline by `to`, makes all of it, and returns what is told, which must begin
/// with the line and column where `at` begins.
#[track_caller]
fn refused(from: &str, to: &str, at: &str) -> String {
    let project = Project::new();
    let text = project.text();
    assert!(text.contains(from), "{from}");
    let text = text.replacen(from, to, 1);
    project.write(&text);
    let run = project.run(&["make", "all"]).expect(2);
    let start = text.find(at).unwrap();
    let line_start = text[..start].rfind('\n').unwrap() + 1;
    let line = text[..start].matches('\n').count() + 1;
    let column = text[line_start..start].chars().count() + 1;
    let place = format!("error: pipeline.ron:{line}:{column}: ");
    assert!(run.err.starts_with(&place), "{place}\n{}", run.err);
    assert_eq!(run.out, "");
    assert!(!project.path("cache").exists() && !project.path("reports").exists(), "nothing was begun");
    run.err
}

#[track_caller]
fn tells(told: &str, words: &[&str]) {
    for words in words {
        assert!(told.contains(words), "{words}\n{told}");
    }
}

#[test]
fn a_misspelt_stage() {
    let told = refused(r#"stage: "results""#, r#"stage: "resluts""#, r#""resluts""#);
    tells(&told, &["there is no stage `resluts`", "did you mean `results`?"]);
}

#[test]
fn a_cycle() {
    let told = refused(
        r#"inputs: {"archive": "hmd-archive"}"#,
        r#"inputs: {"archive": "hmd-fc-train"}"#,
        r#""hmd-regions",   stage"#,
    );
    tells(
        &told,
        &["the steps form a cycle: hmd-regions -> hmd-fc-train -> hmd-samples -> hmd-regions", "help: "],
    );
}

#[test]
fn a_param_of_the_wrong_type() {
    let told = refused("(seed: 7)", "(seed: \"seven\")", "\"seven\"");
    tells(&told, &["params of stage `synthesize`", "by default of the stage, `seed` is 1"]);
}

#[test]
fn a_param_that_its_stage_refuses_though_it_stands_in_the_defaults() {
    let told = refused("hmd_train: 16", "hmd_train: 17", "17, hmd_dev_seen");
    tells(
        &told,
        &[
            "`hmd_train` is 17; labels balance only in multiples of 4",
            "by default of the stage, `hmd_train` is ",
        ],
    );
}

#[test]
fn a_missing_file() {
    let told = refused("./paper/curves.csv", "./paper/curve.csv", r#""./paper/curve.csv""#);
    tells(&told, &["step `curves` reads ./paper/curve.csv", "hint: "]);
}

#[test]
fn an_unknown_target_or_profile() {
    let project = Project::new();
    let run = project.run(&["make", "hmd-pee"]).expect(2);
    tells(&run.err, &["pipeline.ron: there is no target or step `hmd-pee`", "did you mean `hmd-pe`?"]);
    let run = project.run(&["make", "--profile", "papper"]).expect(2);
    tells(&run.err, &["there is no profile `papper`", "did you mean `paper`?"]);
    let run = project.command(&["make"]).env("REPRO_PROFILE", "minni").output().unwrap();
    assert_eq!(run.status.code(), Some(2));
    tells(&String::from_utf8(run.stderr).unwrap(), &["there is no profile `minni`", "did you mean `mini`?"]);
    assert!(!project.path("cache").exists());
}

#[test]
fn the_environment_chooses_the_profile_and_the_option_goes_over_it() {
    let project = Project::new();
    let stages = |profile: &str, args: &[&str]| {
        let output = project.command(args).env("REPRO_PROFILE", profile).output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(stages("paper", &["graph"]).contains("(import-visualbert)"));
    assert!(stages("paper", &["graph", "--profile", "mini"]).contains("(pretrain)"));
    assert!(stages("", &["graph"]).contains("(pretrain)"), "set to nothing is not set");
}

#[test]
fn an_export_of_what_it_is_not_for() {
    let project = Project::new();
    for form in ["mmf", "huggingface", "tensorboard", "wandb", "mlflow"] {
        let run = project.run(&["export", "hmd-pe", "--to", form, "--out", "x"]).expect(2);
        tells(&run.err, &["`hmd-pe` runs the stage `evaluate`; name a step that runs `train`", "hint: "]);
    }
    let run = project.run(&["export", "hmd-pe-train", "--to", "tar", "--out", "x"]).expect(2);
    tells(&run.err, &["invalid value 'tar' for '--to <FORM>'", "ro-crate"]);
    let run = project.run(&["export", "report", "--to", "ro-crate"]).expect(2);
    tells(&run.err, &["--to ro-crate needs --out PATH"]);
    let run = project.run(&["export", "hmd-pe-train", "--to", "wandb", "--out", "x"]).expect(1);
    tells(&run.err, &["step `hmd-pe-train` is not up to date; run `repro make hmd-pe-train` first"]);
    assert!(!project.path("x").exists());
}

#[test]
fn data_behind_a_login_asks_for_a_person() {
    let project = Project::new();
    let run = project.run(&["make", "hmd-samples", "--profile", "paper"]).expect(3);
    let words = ["step `hmd-download` needs you", "downloads/hateful_memes.zip", "hatefulmemeschallenge.com"];
    tells(&run.err, &words);
    assert_eq!(run.out, "");
    assert_eq!(project.cached("work"), 0);
}

#[test]
fn a_damaged_archive_fails_its_step_and_touches_nothing_else() {
    let made = made();
    let project = made.project.copy();
    let memes = &made.project.trees()["memes"];
    let archive = fs::read(project.path(&format!("cache/trees/{memes}/hateful_memes.zip"))).unwrap();
    fs::write(project.path("damaged.zip"), &archive[..archive.len() / 2]).unwrap();
    let text = made.project.text();
    let damaged = text.replace(r#"from: "memes/hateful_memes.zip""#, r#"from: "./damaged.zip""#);
    assert_ne!(damaged, text);
    project.write(&damaged);

    let run = project.run(&["make", "all"]).expect(1);
    tells(&run.err, &["error: step `hmd-samples` failed: ", "damaged.zip"]);
    let log = run.err.lines().find_map(|line| line.strip_prefix("hint: its log is ")).unwrap();
    tells(&fs::read_to_string(project.path(log)).unwrap(), &["damaged.zip"]);
    assert_eq!(project.trees(), made.project.trees());
    assert_eq!(project.reports(), made.project.reports());
    assert_eq!(project.cached("work"), 0);

    project.write(&text);
    let again = project.run(&["make", "all"]).expect(0);
    assert!(again.err.starts_with("nothing to do: "), "{}", again.err);
}

#[test]
fn errors_have_no_backtrace() {
    let project = Project::new();
    let original = project.text();
    // A header of safetensors that is not a table of tensors.
    fs::write(project.path("theirs.safetensors"), b"\x08\0\0\0\0\0\0\0{\"x\": 1}").unwrap();
    let config = "config: (vocab_size: 5, hidden_size: 4, num_hidden_layers: 1, num_attention_heads: 3, \
                  intermediate_size: 8, max_position_embeddings: 6, type_vocab_size: 2, visual_embedding_dim: 3)";
    for (params, code, problem) in
        [(config, 2, "`num_attention_heads` 3"), ("", 1, "cannot be read as safetensors")]
    {
        let step = format!(
            "(name: \"theirs\", stage: \"import-visualbert\", params: ({params}), \
             inputs: {{\"archive\": \"./theirs.safetensors\"}}),"
        );
        project.write(&original.replacen(
            "\n    steps: [\n",
            &format!("\n    steps: [\n        {step}\n"),
            1,
        ));
        let command = project.command(&["make", "theirs"]).env("RUST_BACKTRACE", "1").output().unwrap();
        let run = finished(command).expect(code);
        let shown = run.out + &run.err;
        assert!(
            shown.contains(problem) && !shown.contains("backtrace") && !shown.contains("std::"),
            "{shown}"
        );
    }
}

/// A tool runs in the program's own process.
#[test]
fn errors_of_a_tool_have_no_backtrace() {
    let project = Project::new();
    fs::create_dir(project.path("theirs")).unwrap();
    let config = r#"{"stem_width": 24, "blocks": [1, 1, 1], "groups": 4, "width_per_group": 8, "stage_widths": [48, 64, 96],
        "stride_in_1x1": false, "pyramid_width": 48, "anchor_sizes": [30, 48, 72, 104], "anchor_ratios": [1],
        "proposals": {"before_nms": 200, "nms": 0.6, "after_nms": 48, "over_levels": 48}, "pooled_size": 4,
        "sampling_ratio": 2, "head_width": 128, "classes": 5, "class_nms": 0.5, "min_size": 112, "max_size": 224,
        "size_divisor": 16, "means_bgr": [1, 2, 3]}"#;
    fs::write(project.path("theirs/config.json"), config).unwrap();
    // A tensor of bytes where f32 is expected: reading it fails inside candle, which would add a backtrace.
    let header = r#"{"backbone.body.stem.conv1.weight": {"dtype": "F32", "shape": [24, 3, 7, 7], "data_offsets": [0, 14112]},
        "backbone.body.stem.bn1.weight": {"dtype": "U8", "shape": [24], "data_offsets": [14112, 14136]}}"#;
    let length = (header.len() as u64).to_le_bytes();
    let weights = [&length[..], header.as_bytes(), &[0; 14136]].concat();
    fs::write(project.path("theirs/weights.safetensors"), weights).unwrap();
    let step = r#"(name: "theirs", stage: "command", params: (shell: "cp {input.files}/* {out}/"),
                   inputs: {"files": "./theirs"}),"#;
    project.write(&project.text().replacen(
        "\n    steps: [\n",
        &format!("\n    steps: [\n        {step}\n"),
        1,
    ));
    project.run(&["make", "theirs"]).expect(0);
    for (name, value) in [("RUST_BACKTRACE", "1"), ("RUST_BACKTRACE", "full"), ("RUST_LIB_BACKTRACE", "1")] {
        let mut command = project.command(&["regions", "x.png", "--detector", "theirs"]);
        let run = finished(command.env(name, value).output().unwrap()).expect(1);
        let lines: Vec<&str> = run.err.lines().collect();
        assert!(lines.len() == 1 && lines[0].contains("unexpected dtype"), "{name}={value}: {}", run.err);
    }
}
