//! The examples that need nothing but programs: the article, and DVC's tutorial.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use super::process::{Run, finished};
use super::runtime::has;
use super::support::TestSpace;

/// A copy of an example: its pipeline file and the folder of the same name.
fn example(name: &str) -> TestSpace {
    let space = TestSpace::new("");
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    fs::copy(examples.join(format!("{name}.ron")), space.path("pipeline.ron")).unwrap();
    fs::create_dir(space.path(name)).unwrap();
    for file in fs::read_dir(examples.join(name)).unwrap().flatten() {
        fs::copy(file.path(), space.path(name).join(file.file_name())).unwrap();
    }
    space
}

fn make(space: &TestSpace, args: &[&str]) -> Run {
    finished(space.command(&[&["make"], args].concat()).output().unwrap())
}

#[test]
fn the_tutorial_gives_its_metrics_and_reruns_what_a_change_concerns() {
    let space = example("tutorial");
    let all = ["evaluate", "featurize", "posts", "prepare", "train"];
    assert_eq!(make(&space, &[]).expect(0).ran(), all);
    let metrics = || -> serde_json::Value {
        serde_json::from_str(&space.read("reports/default/metrics.json")).unwrap()
    };
    let expected = serde_json::json!({"average_precision": 0.778278, "roc_auc": 0.853618, "rows": 440});
    assert_eq!(metrics(), expected);
    let text = space.read("pipeline.ron");
    let (before, after) = (r#""trees": 20"#, r#""trees": 30"#);
    assert!(text.contains(before));
    space.write("pipeline.ron", &text.replace(before, after));
    assert_eq!(make(&space, &[]).expect(0).ran(), ["evaluate", "train"]);
    assert_eq!(metrics()["roc_auc"], 0.865291);
    // The same value from the command line is the same run.
    assert_eq!(make(&space, &["--set", "train.trees=30"]).expect(0).ran(), [""; 0]);
    // Back again, nothing runs: all results are known.
    space.write("pipeline.ron", &text);
    assert_eq!(make(&space, &[]).expect(0).ran(), [""; 0]);
    assert_eq!(metrics(), expected);
    // A comment in the code of a step: its output stays, so nothing else runs.
    let code = space.read("tutorial/featurize.py");
    space.write("tutorial/featurize.py", &format!("{code}# A comment.\n"));
    assert_eq!(make(&space, &[]).expect(0).ran(), ["featurize"]);
}

/// The numbers in a text, without those of labels.
fn numbers(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_digit() && c != '.').map(|word| word.trim_matches('.'));
    words.filter(|word| !word.is_empty()).map(ToOwned::to_owned).collect()
}

#[test]
fn every_number_in_the_text_of_the_article_comes_from_a_step() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/article/article.tex"));
    let text = text.unwrap();
    let (_, text) = text.split_once("\\begin{document}").unwrap();
    // The unit is m/s^2.
    assert_eq!(numbers(text), BTreeSet::from(["2".to_owned()]));
}

/// With uv, its registry and LaTeX; where one of them is missing, the program says so.
#[test]
fn the_article_becomes_a_pdf_with_the_numbers_of_its_steps() {
    let space = example("article");
    if !has("uv") {
        space.write("article/uv.lock", "[[package]]\nname = \"article\"\nsource = { virtual = \".\" }\n");
        let run = make(&space, &["measurements"]).expect(3);
        assert!(run.err.contains("`pip install uv`"), "{}", run.err);
        return;
    }
    let run = make(&space, &[]).expect(2);
    assert!(run.err.contains("hint: `uv lock` writes it from `pyproject.toml`"), "{}", run.err);
    let locked = Command::new("uv")
        .args(["lock", "--quiet", "--project", "article"])
        .current_dir(space.path(""))
        .output()
        .unwrap();
    if !locked.status.success() {
        // Nothing else may be in the way than a registry that is out of reach.
        let told = String::from_utf8_lossy(&locked.stderr);
        assert!(
            ["error sending request", "dns error", "Failed to fetch"].iter().any(|why| told.contains(why)),
            "{told}"
        );
        return;
    }
    if !has("pdflatex") {
        let run = make(&space, &["-k"]).expect(1);
        assert!(run.err.contains("its version command `pdflatex --version` cannot be run"), "{}", run.err);
        assert!(run.ran().contains(&"figure") && run.ran().contains(&"table"), "{}", run.err);
        return;
    }
    let run = make(&space, &["paper.pdf"]).expect(0);
    assert_eq!(run.ran().len(), 9, "{}", run.err);
    let pdf = fs::read(space.path("reports/default/paper.pdf")).unwrap();
    assert!(pdf.starts_with(b"%PDF"));
    // The fits agree with the gravity that the measurements were drawn with.
    let fit = space.record("fit-64");
    let fit: serde_json::Value =
        serde_json::from_str(&space.read(&format!("cache/trees/{}/fit.json", fit.tree))).unwrap();
    let (gravity, error) = (fit["gravity"].as_f64().unwrap(), fit["error"].as_f64().unwrap());
    assert!((gravity - 9.81).abs() < 2.0 * error, "{fit}");
    assert!(make(&space, &["paper.pdf"]).expect(0).err.contains("nothing to do"));
    let runs = space.run(&["runs", "fit-*", "--json"]).expect(0).out;
    assert_eq!(runs.matches("\"fit/gravity\"").count(), 5, "{runs}");
    // The same bytes at another time; what a changed text concerns is the PDF alone.
    make(&space, &["paper.pdf", "--force", "paper.pdf"]).expect(0);
    assert_eq!(fs::read(space.path("reports/default/paper.pdf")).unwrap(), pdf);
    let text = space.read("article/article.tex");
    space.write("article/article.tex", &text.replace("We timed", "Somebody timed"));
    assert_eq!(make(&space, &["paper.pdf"]).expect(0).ran(), ["paper.pdf"]);
    if has("pdftotext") {
        let mut shown = Command::new("pdftotext");
        let shown =
            shown.args(["reports/default/paper.pdf", "-"]).current_dir(space.path("")).output().unwrap();
        let shown = numbers(&String::from_utf8(shown.stdout).unwrap());
        for number in [format!("{gravity:.3}"), format!("{error:.3}"), "320".to_owned()] {
            assert!(shown.contains(&number), "{number}: {shown:?}");
        }
    }
}
