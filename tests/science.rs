//! What the mini profile's memes can be told by: captions and pictures together, neither of them alone; and how the modes of
//! either model compare. Runs the mini profile as it is, pretraining included: a minute or two a test on two cores, less with a
//! cache that has a part of it (`REPRO_TEST_CACHE`, which `.ci/run` sets to what it has just built).
#![cfg(feature = "paper")]

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
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
    let history = fs::read_to_string(cache.join("trees").join(tree).join("history.json")).expect("a history");
    let history: Value = serde_json::from_str(&history).expect("JSON");
    let val = history["val"].as_array().expect("validations");
    val.iter().map(|point| point["roc_auc"].as_f64().expect("a number")).collect()
}

/// The project in which `targets` were made, and its cache.
fn made(targets: &[impl AsRef<OsStr>]) -> (tempfile::TempDir, PathBuf) {
    let project = tempfile::tempdir().expect("a folder");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    fs::copy(root.join("pipeline.ron"), project.path().join("pipeline.ron")).expect("copied");
    for folder in ["paper", "profiles"] {
        fs::create_dir(project.path().join(folder)).expect("a folder");
        for file in fs::read_dir(root.join(folder)).expect("a folder") {
            let file = file.expect("a file").path();
            let to = project.path().join(folder).join(file.file_name().expect("a name"));
            fs::copy(&file, to).expect("copied");
        }
    }
    let cache = std::env::var_os("REPRO_TEST_CACHE").map_or(project.path().join("cache"), PathBuf::from);
    let made = Command::new(env!("CARGO_BIN_EXE_repro"))
        .args(["make", "--cache"])
        .arg(&cache)
        .args(targets)
        .env_remove("REPRO_PROFILE")
        .current_dir(project.path())
        .output()
        .expect("the program runs");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));

    (project, cache)
}

#[test]
fn adapters_bring_a_vilbert_near_to_full_fine_tuning_and_far_above_its_head_alone() {
    let runs = |data: &str| ["fc", "pe", "full"].map(|mode| format!("{data}-vilbert-{mode}-train"));
    let (_project, cache) = made(&[runs("hmd"), runs("mmh")].concat());
    for data in ["hmd", "mmh"] {
        let [fc, pe, full] = runs(data).map(|run| validations(&cache, &run).into_iter().fold(0.0, f64::max));
        assert!(pe >= full - 0.05, "{data}: PE {pe}, Full-FT {full}");
        assert!(pe >= fc + 0.10, "{data}: PE {pe}, FC {fc}");
    }
}

#[test]
fn neither_captions_nor_pictures_alone_tell_the_label() {
    let (_project, cache) = made(&["ablations", "hmd-full-train"]);
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
