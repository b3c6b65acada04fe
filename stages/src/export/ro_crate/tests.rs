//! The crate of a small pipeline. That it conforms to its profiles is what `tests/export/read_back.py` shows.

use std::path::PathBuf;

use stage_api::testing::Recorder;
use stage_api::{AllowedEnv, Host, InputView};

use super::*;

/// A file, a hidden result made of it, and two published ones.
struct Project(PathBuf, Vec<StepView>);

impl Results for Project {
    fn root(&self) -> &Path {
        &self.0
    }
    fn file(&self) -> &Path {
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../pipeline.ron"))
    }
    fn other_files(&self) -> Vec<PathBuf> {
        vec!["profiles/own.ron".into()]
    }
    fn profile(&self) -> &str {
        "mini"
    }
    fn steps(&self) -> Vec<StepView> {
        self.1.clone()
    }
    fn output(&self, step: &str) -> Result<PathBuf, StageError> {
        Ok(self.0.join("cache").join(step))
    }
}

fn project(dir: &Path) -> Project {
    let step = |name: &str, sources: &[&str], publish: Option<&str>| {
        let folder = dir.join("cache").join(name);
        fs::create_dir_all(folder.join("in")).unwrap();
        fs::write(folder.join("in/a b.csv"), name).unwrap();
        let input = |source: &&str| InputView {
            port: "p".to_owned(),
            source: (*source).to_owned(),
            digest: Some("d1".to_owned()),
        };
        StepView {
            name: name.to_owned(),
            stage: "toy".to_owned(),
            version: 3,
            params: "(lr:0.5,none:None)".to_owned(),
            inputs: sources.iter().map(input).collect(),
            publish: publish.map(ToOwned::to_owned),
            key: Some(format!("key-{name}")),
            tree: Some(format!("tree-{name}")),
            run: Some(RunView { started_ms: 1_700_000_000_000, seconds: 2.0, ..RunView::default() }),
            ..StepView::default()
        }
    };
    fs::create_dir_all(dir.join("profiles")).unwrap();
    for path in ["secret.zip", "paper.csv", "profiles/own.ron"] {
        fs::write(dir.join(path), path).unwrap();
    }
    let steps = vec![
        step("raw", &["./secret.zip"], None),
        step("other", &["./secret.zip"], Some("tables")),
        step("table", &["raw/in", "./paper.csv"], Some("tables")),
        step("page", &["table"], None),
    ];
    Project(dir.to_owned(), steps)
}

fn make(project: &Project, name: &str, out: &Path) -> Result<Value, StageError> {
    let context = ToolContext {
        results: project,
        host: &Host { device: "cpu".to_owned(), threads: 1 },
        allowed_env: &AllowedEnv::default(),
        progress: &Recorder::default(),
        columns: None,
    };
    export(&context, name, out)?;
    Ok(serde_json::from_slice(&fs::read(out.join("ro-crate-metadata.json")).unwrap()).unwrap())
}

#[test]
fn a_crate_holds_what_is_published_and_tells_of_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let project = project(dir.path());
    let out = dir.path().join("crate");
    let made = make(&project, "page", &out).unwrap();
    let entity = |id: &str| {
        let graph = made["@graph"].as_array().unwrap();
        let found: Vec<&Value> = graph.iter().filter(|entity| entity["@id"] == id).collect();
        assert_eq!(found.len(), 1, "{id}");
        found[0].clone()
    };
    assert_eq!(fs::read(out.join("results/table/in/a b.csv")).unwrap(), b"table");
    assert_eq!(entity("results/table/in/a%20b.csv")["contentSize"], "5");
    assert!(out.join("paper.csv").is_file() && out.join("results/page").is_dir());
    assert!(!out.join("secret.zip").exists() && !out.join("results/raw").exists());
    assert!(!out.join("results/other").exists(), "what does not lead there is left out");
    assert_eq!(entity("profiles/own.ron")["contentSize"], "16", "what the pipeline file names");
    assert_eq!(entity("#tree-raw")["identifier"], "repro tree tree-raw");
    assert_eq!(entity("#part-d1")["isPartOf"]["@id"], "#tree-raw");
    assert_eq!(entity("#file-d1")["name"], "./secret.zip");
    let action = entity("#run-table");
    let objects = refs(["#part-d1", "paper.csv", "#set-table-lr"]);
    assert_eq!((&action["object"], &action["result"]), (&objects, &refs(["results/table/"])));
    assert_eq!(
        (&action["startTime"], &action["endTime"]),
        (&json!("2023-11-14T22:13:20+00:00"), &json!("2023-11-14T22:13:22+00:00"))
    );
    assert_eq!(entity("#step-page")["position"], "3");
    let again = dir.path().join("again");
    assert_eq!(made, make(&project, "page", &again).unwrap());
}

#[test]
fn times_that_are_no_dates_are_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let mut project = project(dir.path());
    for (started_ms, seconds) in [
        (u64::MAX, 1.0),
        (253_402_300_800_000, 0.0),
        (0, f64::INFINITY),
        (0, f64::NAN),
        (0, -1.0),
        (1_700_000_000_000, 1e300),
    ] {
        project.1[0].run = Some(RunView { started_ms, seconds, ..RunView::default() });
        let error = make(&project, "page", &dir.path().join("x")).unwrap_err().to_string();
        assert!(error.contains("the record of step `raw`") && error.contains("no dates"), "{error}");
    }
    project.1[0].run = Some(RunView { started_ms: 253_402_300_798_000, seconds: 1.0, ..RunView::default() });
    make(&project, "page", &dir.path().join("x")).unwrap();
}

#[test]
fn what_prevents_a_crate_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let mut project = project(dir.path());
    let full = make(&project, "page", dir.path()).unwrap_err();
    assert!(matches!(&full, StageError::Params(problem) if problem.contains("not empty")), "{full}");
    let unknown = make(&project, "pages", &dir.path().join("x")).unwrap_err();
    assert!(
        matches!(&unknown, StageError::Params(problem) if problem.contains("no step `pages`")),
        "{unknown}"
    );
    project.1[0].run = None;
    let stale = make(&project, "page", &dir.path().join("x")).unwrap_err().to_string();
    assert!(stale.contains("step `raw` is not up to date; run `repro make page`"), "{stale}");
    assert!(!dir.path().join("x").exists());
}
