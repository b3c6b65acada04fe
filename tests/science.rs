//! What the mini profile's memes can be told by: captions and pictures together, neither of them alone; and how the modes of
//! either model compare. The ablations train: half a minute on two cores where the project's cache has what they read, as the
//! README's first command leaves it, else a minute in a cache of their own. ViLBERT's runs are those of the committed evidence.
#![cfg(feature = "paper")]

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// Every validation ROC-AUC of the train step `step`, from its history in the cache.
fn validations(cache: &Path, step: &str) -> Vec<f64> {
    let log = fs::read_to_string(cache.join("state")).expect("the log was written");
    let tree = log
        .lines()
        // A record is a line of the log, and from the first bracket on JSON.
        .filter_map(|line| serde_json::from_str::<Value>(&line[line.find('{')?..]).ok())
        .rfind(|record| record["step"] == step)
        .and_then(|record| record["tree"].as_str().map(str::to_owned))
        .expect("the step ran");
    validations_in(&cache.join("trees").join(tree))
}

/// Every validation ROC-AUC in the history of a train step's result.
fn validations_in(result: &Path) -> Vec<f64> {
    let history = fs::read_to_string(result.join("history.json")).expect("a history");
    let history: Value = serde_json::from_str(&history).expect("JSON");
    let val = history["val"].as_array().expect("validations");
    val.iter().map(|point| point["roc_auc"].as_f64().expect("a number")).collect()
}

/// Copies a folder with all that it holds.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for item in fs::read_dir(from).expect("a folder") {
        let item = item.expect("an entry").path();
        let to = to.join(item.file_name().expect("a name"));
        if item.is_dir() {
            copy(&item, &to);
        } else {
            fs::copy(&item, &to).expect("copied");
        }
    }
}

/// The project, without reports and results.
fn project() -> tempfile::TempDir {
    let project = tempfile::tempdir().expect("a folder");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    fs::copy(root.join("pipeline.ron"), project.path().join("pipeline.ron")).expect("copied");
    for folder in ["paper", "profiles"] {
        copy(&root.join(folder), &project.path().join(folder));
    }
    project
}

/// Runs `repro make` in a project.
fn make(project: &tempfile::TempDir, cache: &Path, arguments: &[&str]) {
    let made = Command::new(env!("CARGO_BIN_EXE_repro"))
        .args(["make", "--cache"])
        .arg(cache)
        .args(arguments)
        .env_remove("REPRO_PROFILE")
        .current_dir(project.path())
        .output()
        .expect("the program runs");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

#[test]
fn adapters_bring_a_vilbert_near_to_full_fine_tuning_and_far_above_its_head_alone() {
    let runs = |data: &str| ["fc", "pe", "full"].map(|mode| format!("{data}-vilbert-{mode}-train"));
    // The evidence has results for the steps as they are now, or something would have to be trained.
    let project = project();
    let evidence = project.path().join("reports/evidence");
    copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("reports/evidence"), &evidence);
    make(&project, &project.path().join("cache"), &["vilbert", "--deny-pool", "gpu"]);
    for data in ["hmd", "mmh"] {
        let best = |run: String| {
            validations_in(&evidence.join("mini/trees").join(run)).into_iter().fold(0.0, f64::max)
        };
        let [fc, pe, full] = runs(data).map(best);
        assert!(pe >= full - 0.05, "{data}: PE {pe}, Full-FT {full}");
        assert!(pe >= fc + 0.10, "{data}: PE {pe}, FC {fc}");
    }
}

#[test]
fn neither_captions_nor_pictures_alone_tell_the_label() {
    let project = project();
    let cache = Some(Path::new(env!("CARGO_MANIFEST_DIR")).join("cache")).filter(|cache| cache.is_dir());
    let cache = cache.unwrap_or(project.path().join("cache"));
    make(&project, &cache, &["ablations", "hmd-full-train"]);
    let both = validations(&cache, "hmd-full-train");
    assert!(both.iter().any(|auc| *auc > 0.9), "captions and pictures together tell the label: {both:?}");
    for data in ["hmd", "mmh"] {
        for left_out in ["text", "regions"] {
            let step = format!("{data}-full-no-{left_out}-train");
            let alone = validations(&cache, &step);
            assert!(alone.len() >= 10, "{step}: {alone:?}");
            assert!(alone.iter().all(|auc| (auc - 0.5).abs() <= 0.06), "{step}: {alone:?}");
        }
    }
}
