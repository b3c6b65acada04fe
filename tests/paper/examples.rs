//! The examples that need the paper's stages, and the rehearsal as the pipeline declares it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::process::finished;
use super::project::Project;

#[test]
fn the_example_for_memes_of_ones_own_runs_on_drawn_ones() {
    let project = Project::new();
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/own-data.ron");
    fs::create_dir(project.path("examples")).unwrap();
    fs::copy(example, project.path("examples/own-data.ron")).unwrap();
    project.run(&["-f", "examples/own-data.ron", "make"]).expect(0);
    for mode in ["fc", "pe", "full"] {
        let metrics = fs::read(project.path(&format!("examples/reports/made/{mode}/metrics.json"))).unwrap();
        let metrics: Value = serde_json::from_slice(&metrics).unwrap();
        assert_eq!((&metrics["split"], &metrics["dataset"]), (&"test".into(), &"questions".into()), "{mode}");
        assert!((18..=22).contains(&metrics["rows"].as_u64().unwrap()), "{mode}: {metrics:#}");
        let interval = &metrics["intervals"]["roc_auc"];
        let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("{mode}: {metrics:#}"));
        assert!(number(&interval["low"]) <= number(&metrics["roc_auc"]), "{mode}: {metrics:#}");
    }
    // The page has tables and curves of these runs by the names of these data, and no paper.
    let read =
        |path: &str| fs::read_to_string(project.path(&format!("examples/reports/made/{path}"))).unwrap();
    let table = read("tables/table-2.md");
    assert!(table.contains("# Table II: classification of questions on the test splits"), "{table}");
    assert!(table.contains("| Drawn questions | PE |") && !table.contains("ublished"), "{table}");
    assert!(read("tables/table-2-tests.csv").contains("PE \u{2212} Full-FT"));
    // A row for each mode and true class, with a column for each predicted class.
    let confusion = read("tables/table-2-confusion.csv");
    assert_eq!(confusion.lines().next(), Some("dataset,mode,seed,class,predicted_0,predicted_1,predicted_2"));
    assert_eq!(confusion.lines().count(), 1 + 3 * 3);
    let by_class = read("tables/table-2-classes.csv");
    for mode in ["FC", "PE", "Full-FT"] {
        let rows = |class: &str| by_class.contains(&format!("Drawn questions,{mode},{class},"));
        assert!(["red", "blue", "green"].into_iter().all(rows), "{by_class}");
    }
    let page = read("index.html");
    for words in [
        "<h1>Questions about drawn pictures, with a made-up BERT: shows that it runs</h1>",
        "Drawn questions: validation ROC-AUC",
        "predicted",
        "Macro F1",
        "the mean over the classes of the probability that a row of the class scores above",
        "id=\"data-splits\"",
    ] {
        assert!(page.contains(words), "{words}");
    }
    for words in ["hateful", "Hateful", " meme", " published run", "The paper", "authors"] {
        assert!(!page.contains(words), "{words}");
    }
    assert!(
        project.run(&["-f", "examples/own-data.ron", "table", "2"]).expect(0).out.contains("Drawn questions")
    );
    // With nothing in `own/`, its profile says what it looks for.
    let told = project.run(&["-f", "examples/own-data.ron", "--profile", "own", "make"]).expect(2);
    assert!(told.err.contains("own/memes.csv"), "{}", told.err);

    // Files of one's own, and features that were extracted before, in both forms: the same runs.
    let result = |step: &str, file: &str| {
        let shown = project.run(&["-f", "examples/own-data.ron", "--json", "show", step]).expect(0).out;
        let shown: Value = serde_json::from_str(&shown).unwrap();
        project.path(shown["result"]["folder"].as_str().unwrap()).join(file)
    };
    fs::create_dir(project.path("examples/own")).unwrap();
    fs::create_dir(project.path("examples/own/bert")).unwrap();
    for (step, file, name) in [
        ("drawn", "questions.csv", "memes.csv"),
        ("bert", "model.safetensors", "bert/model.safetensors"),
        ("bert", "config.json", "bert/config.json"),
        ("bert", "vocab.txt", "bert/vocab.txt"),
    ] {
        fs::copy(result(step, file), project.path(&format!("examples/own/{name}"))).unwrap();
    }
    let images = project.path("examples/own/images");
    fs::create_dir(&images).unwrap();
    for picture in fs::read_dir(result("drawn", "questions")).unwrap().map(Result::unwrap) {
        fs::copy(picture.path(), images.join(picture.file_name())).unwrap();
    }
    let whole = fs::read_to_string(project.path("examples/own-data.ron")).unwrap();
    let (made, own) = whole.split_once("name: \"own\"").unwrap();
    let own = own.replace("updates: 120, warm_up: 12", "updates: 4, warm_up: 1");
    // Drawn pictures have few questions, and their classes are other ones.
    let own = own.replace("split: (val: 0.1, test: 0.1)", "split: (val: 0.2, test: 0.2, share_texts: true)");
    let own = own.replace("[\"not hateful\", \"hateful\"]", "[\"red\", \"blue\", \"green\"]");
    fs::write(project.path("examples/own-data.ron"), format!("{made}name: \"own\"{own}")).unwrap();
    let run = |profile: &str| {
        project.run(&["-f", "examples/own-data.ron", "--profile", profile, "make"]).expect(0);
        fs::read(project.path(&format!("examples/reports/{profile}/full/metrics.json"))).unwrap()
    };
    let extracted = run("own");
    for form in ["mmf-npy", "mmf-lmdb"] {
        let features = project.path("examples/own/features");
        let _ = fs::remove_dir_all(&features);
        let out = features.to_str().unwrap();
        let export = [
            "-f",
            "examples/own-data.ron",
            "--profile",
            "own",
            "export",
            "extracted",
            "--to",
            form,
            "--out",
            out,
        ];
        project.run(&export).expect(0);
        assert_eq!(run("own-features"), extracted, "{form}");
    }
}

/// The steps of a profile by name: stage and params.
fn steps(project: &Project, profile: &str) -> BTreeMap<String, (String, String)> {
    let listed = project.run(&["list", "--json", "--profile", profile]).expect(0).out;
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let text = |step: &Value, field: &str| step[field].as_str().unwrap().to_owned();
    let steps = listed["steps"].as_array().unwrap().iter();
    steps.map(|step| (text(step, "name"), (text(step, "stage"), text(step, "params")))).collect()
}

#[test]
fn the_rehearsal_has_the_steps_of_the_paper_profile_and_its_models_and_settings() {
    let project = Project::new();
    let (paper, rehearsal) = (steps(&project, "paper"), steps(&project, "rehearsal"));
    // What is fetched is made up; how long runs are and how often a score is resampled is the rehearsal's own.
    let own = ["fetch", "train", "evaluate"];
    let speaks_of_its_profile = |params: &str| params.contains("profile:");
    let mut same = 0;
    for (name, (stage, params)) in &paper {
        let (stage_there, params_there) = rehearsal.get(name).unwrap_or_else(|| panic!("no step `{name}`"));
        assert_eq!(stage, stage_there, "{name}");
        if !own.contains(&stage.as_str()) && !speaks_of_its_profile(params) {
            assert_eq!(params, params_there, "{name}");
            same += 1;
        }
    }
    assert!(same >= 10, "{same} steps were compared");
    // The original's fine-tuned model has a stand-in of its own, which is imported and evaluated as the real one.
    let planned =
        project.run(&["make", "hmd-oracle", "--profile", "rehearsal", "--dry-run", "--json"]).expect(0);
    for step in ["finetuned", "hmd-oracle-download", "hmd-oracle-run", "hmd-oracle"] {
        assert!(planned.out.contains(&format!("\"{step}\"")), "{step}: {}", planned.out);
    }
    assert!(rehearsal["finetuned"].1.contains("of:\"run\""), "{}", rehearsal["finetuned"].1);
    // What it runs asks no network.
    for (name, (stage, params)) in &rehearsal {
        assert!(stage != "fetch" || !params.contains("http"), "{name} would be downloaded: {params}");
    }
}

#[test]
fn hateful_memes_are_trained_on_the_published_features() {
    let project = Project::new();
    let planned = project.run(&["make", "hmd-pe", "--profile", "paper", "--dry-run", "--json"]).expect(0);
    for (step, is_there) in [
        ("hmd-features", true),
        ("hmd-features-files", true),
        ("hmd-regions", true),
        ("hmd-own-regions", false),
        ("detector", false),
    ] {
        assert_eq!(planned.out.contains(&format!("\"{step}\"")), is_there, "{step}: {}", planned.out);
    }
    // An archive in the published layout, with values of full size, is imported as it is.
    project.run(&["make", "hmd-regions", "--profile", "rehearsal"]).expect(0);
    let place = project.run(&["path", "hmd-regions/regions.json", "--profile", "rehearsal"]).expect(0);
    let manifest: Value = serde_json::from_slice(&fs::read(place.out.trim()).unwrap()).unwrap();
    assert_eq!((&manifest["width"], &manifest["max_regions"]), (&2048.into(), &100.into()));
    assert_eq!(manifest["shards"][0]["images"].as_array().unwrap().len(), 16);
}

#[test]
fn init_writes_files_that_the_other_tests_run() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (template, pipeline, profiles) in [
        ("commands", "examples/command.ron", &["default"][..]),
        ("memes", "examples/own-data.ron", &["made", "own", "own-features"]),
        ("paper", "pipeline.ron", &["mini", "paper", "rehearsal"]),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let repro = |args: &[&str]| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_repro"));
            finished(
                command.args(args).current_dir(folder.path()).env_remove("REPRO_PROFILE").output().unwrap(),
            )
        };
        let written = repro(&["init", template, "--json"]).expect(0).out;
        let written: Value = serde_json::from_str(&written).unwrap();
        for file in written["files"].as_array().unwrap().iter().map(|file| file.as_str().unwrap()) {
            let source = match file {
                "pipeline.ron" => root.join(pipeline),
                "README.md" => root.join(format!("src/cli/init/{template}.md")),
                file => root.join(file),
            };
            assert_eq!(fs::read(folder.path().join(file)).unwrap(), fs::read(source).unwrap(), "{file}");
        }
        for profile in profiles {
            repro(&["list", "--profile", profile]).expect(0);
        }
        // Every file of the project that a step needs is there, but for those that a person places.
        let planned = repro(&["make", "--dry-run"]).expect(0);
        assert!(planned.out.contains("no earlier run of it is known"), "{template}: {}", planned.err);
    }
}
