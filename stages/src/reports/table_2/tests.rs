//! Tables of invented evaluations next to the published runs.

use std::path::{Path, PathBuf};

use stage_api::testing::run_stage;

use super::*;
use crate::artifacts::labels::{Classes, Label};
use crate::artifacts::metrics::Metrics;
use crate::artifacts::scores::{self, Score};
use crate::reports::evaluation::made_up::write;

/// The tables of the stage by name.
fn make(root: &Path, dirs: &[PathBuf]) -> Result<impl Fn(&str) -> Table, StageError> {
    let paper = Path::new(env!("CARGO_MANIFEST_DIR")).join("../paper");
    let [published, quoted, splits] = ["runs.csv", "quoted.csv", "splits.csv"].map(|name| paper.join(name));
    let mut inputs: Vec<(&str, &Path)> =
        vec![("published", &published), ("quoted", &quoted), ("splits", &splits)];
    inputs.extend(dirs.iter().map(|dir| ("runs", dir.as_path())));
    run_stage(&Results, &crate::reports::names::made_up::params(), &inputs, &root.join("out"))?;
    let out = root.join("out");
    Ok(move |name: &str| Table::read(&out.join(format!("{name}.json"))).unwrap())
}

fn cell<'a>(table: &'a Table, row: usize, key: &str) -> &'a Cell {
    &table.rows[row][table.columns.iter().position(|column| column.key == key).unwrap()]
}

#[test]
fn several_seeds_become_mean_and_deviation_next_to_the_published_value() {
    let dir = tempfile::tempdir().unwrap();
    let seeds = [(1, 0.70), (2, 0.72), (3, 0.77)];
    let dirs: Vec<_> = seeds.map(|(seed, auc)| write(dir.path(), "hmd", "pe", seed, auc, 0.2)).into();
    let table = make(dir.path(), &dirs).unwrap()("table-2");
    assert_eq!(table.rows[1][1], Cell::Text("PE".into()));
    // Mean 0.73, squared deviations 0.0009 + 0.0001 + 0.0016 = 0.0026, over n − 1 = 2.
    let Cell::Mean { value, sd, .. } = *cell(&table, 1, "roc_auc") else { panic!("{table:?}") };
    assert!((value - 0.73).abs() < 1e-12 && (sd - 0.0013f64.sqrt()).abs() < 1e-12);
    assert_eq!(*cell(&table, 1, "published_roc_auc"), Cell::Number { value: 0.728077, places: 4 });
    // The interval of the mean is drawn from the rows, not copied from one seed.
    let Cell::Interval { low, high, .. } = *cell(&table, 1, "roc_auc_interval") else { panic!("{table:?}") };
    assert!(low < high && (low, high) != (0.5, 0.9));
    // 0.728077 is 84.7 % of the state of the art that is meant.
    assert_eq!(cell(&table, 1, "published_share").shown(), "84.7 %");
    assert!(table.caption.contains("profile mini (synthetic memes)"));
}

#[test]
fn a_difference_to_the_published_value_is_given_on_the_papers_rows_alone() {
    let dir = tempfile::tempdir().unwrap();
    // 500 rows, 247 of them hateful: those of Hateful Memes in the paper, and not those of MMHS150K.
    let dirs = [write(dir.path(), "mmh", "pe", 1, 0.70, 0.2), write(dir.path(), "hmd", "pe", 1, 0.70, 0.2)];
    let table = make(dir.path(), &dirs[..1]).unwrap()("table-2");
    assert!(table.columns.iter().all(|column| column.key != "roc_auc_difference"), "{table:?}");
    let table = make(dir.path(), &dirs).unwrap()("table-2");
    let Cell::Difference { value, .. } = *cell(&table, 1, "roc_auc_difference") else { panic!("{table:?}") };
    assert!((value - (0.70 - 0.728077)).abs() < 1e-12);
    let others = [cell(&table, 4, "roc_auc_difference"), cell(&table, 4, "share")];
    assert_eq!(others, [&Cell::None, &Cell::None]);
}

#[test]
fn published_columns_are_those_of_the_logs_to_the_last_digit() {
    let dir = tempfile::tempdir().unwrap();
    let dirs = [write(dir.path(), "mmh", "fc", 1, 0.6, 0.1)];
    let tables = make(dir.path(), &dirs).unwrap();
    let of = |name: &str, key: &str| -> Vec<String> {
        let text = String::from_utf8(tables(name).csv().unwrap()).unwrap();
        let mut file = csv::Reader::from_reader(text.as_bytes());
        let place = file.headers().unwrap().iter().position(|head| head == key).unwrap();
        file.records().map(|row| row.unwrap()[place].to_owned()).collect()
    };
    let auc = of("table-2", "published_roc_auc");
    assert_eq!(auc, ["0.578931", "0.728077", "0.743899", "0.63657", "0.726792", "0.724402"]);
    assert_eq!(of("table-2", "published_best_update"), ["19000", "19000", "2000", "20000", "13000", "16000"]);
    let accuracy = of("table-2-metrics", "published_accuracy");
    assert_eq!(accuracy, ["0.52", "0.632", "0.674", "0.7392", "0.741", "0.6602"]);
    let f1 = of("table-2-metrics", "published_f1");
    assert_eq!(f1, ["0.0769", "0.5354", "0.651", "0.8493", "0.8421", "0.7336"]);
}

#[test]
fn a_missing_run_says_what_to_make() {
    let dir = tempfile::tempdir().unwrap();
    let dirs = [write(dir.path(), "mmh", "fc", 1, 0.6, 0.1)];
    let tables = make(dir.path(), &dirs).unwrap();
    let table = tables("table-2");
    assert_eq!(table.rows.len(), 6);
    assert_eq!(*cell(&table, 5, "roc_auc"), Cell::Missing("no run: make mmh-full".into()));
    assert_eq!(*cell(&table, 3, "roc_auc"), Cell::Number { value: 0.6, places: 4 });
    assert_eq!(*cell(&tables("table-2-metrics"), 0, "accuracy"), Cell::Missing("no run: make hmd-fc".into()));
    assert_eq!(*cell(&tables("table-2-tests"), 4, "difference"), Cell::Missing("no run: make mmh-pe".into()));
}

#[test]
fn modes_differ_when_the_rows_show_it() {
    let dir = tempfile::tempdir().unwrap();
    let dirs = [("fc", 0.0), ("pe", 0.6), ("full", 0.6)]
        .map(|(mode, quality)| write(dir.path(), "hmd", mode, 1, 0.6, quality));
    let table = make(dir.path(), &dirs).unwrap()("table-2-tests");
    let verdict = |row| cell(&table, row, "verdict").shown();
    assert_eq!([verdict(0), verdict(1)], ["not significant", "greater"]);
    assert_eq!(cell(&table, 0, "p").shown(), "1.000");
    assert_eq!(verdict(3), "undecided");
}

#[test]
fn predictions_of_one_class_are_said() {
    let dir = tempfile::tempdir().unwrap();
    let run = write(dir.path(), "hmd", "fc", 4, 0.6, 0.1);
    let mut metrics = Metrics::read(&run).unwrap();
    metrics.predicted_positives = Some(0);
    metrics.write(&run).unwrap();
    let table = make(dir.path(), &[run]).unwrap()("table-2");
    let note = "Hateful Memes, FC, seed 4: every row is predicted not hateful.";
    assert!(table.notes.iter().any(|line| line == note), "{:?}", table.notes);
}

#[test]
fn the_same_run_twice_and_a_run_on_other_data_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let run = write(dir.path(), "mmh", "fc", 1, 0.6, 0.1);
    let error = make(dir.path(), &[run.clone(), run.clone()]).err().unwrap().to_string();
    assert!(error.contains("mmh fc with seed 1 is given twice"), "{error}");
    let metrics = Metrics { dataset: "hmd".into(), ..Metrics::read(&run).unwrap() };
    metrics.write(&run).unwrap();
    let error = make(dir.path(), &[run]).err().unwrap().to_string();
    assert!(error.contains("was evaluated on `hmd` and trained on `mmh`"), "{error}");
}

#[test]
fn predictions_of_others_have_rows_and_are_tested_against_the_runs() {
    let dir = tempfile::tempdir().unwrap();
    let kind = "hate-clipper-predictions";
    let dirs = [
        write(dir.path(), "hmd", "pe", 1, 0.7, 0.2),
        write(dir.path(), "hmd", "full", 1, 0.7, 0.3),
        write(dir.path(), "hmd", kind, 0, 0.9, 0.9),
        write(dir.path(), "hmd", "zoo-predictions", 0, 0.8, 0.6),
    ];
    for dir in &dirs[2..] {
        let mut metrics = Metrics::read(dir).unwrap();
        metrics.run.updates = 0;
        metrics.predicted_positives = Some(0);
        metrics.write(dir).unwrap();
    }
    let tables = make(dir.path(), &dirs).unwrap();
    let shown =
        |name: &str, row: usize| -> Vec<String> { tables(name).rows[row].iter().map(Cell::shown).collect() };
    let table = tables("table-2");
    assert_eq!(shown("table-2", 3)[..2], ["Hateful Memes", "hate-clipper"]);
    assert_eq!(*cell(&table, 3, "roc_auc"), Cell::Number { value: 0.9, places: 4 });
    assert_eq!((cell(&table, 3, "best_update"), cell(&table, 3, "seeds")), (&Cell::None, &Cell::None));
    assert!(table.notes.iter().any(|note| note == "Hateful Memes, zoo: every row is predicted not hateful."));
    let tested: Vec<String> = tables("table-2-tests").rows.iter().map(|row| row[1].shown()).collect();
    let theirs = ["hate-clipper \u{2212} PE", "hate-clipper \u{2212} Full-FT", "hate-clipper \u{2212} zoo"];
    assert_eq!(tested[3..8], [&theirs[..], &["zoo \u{2212} PE", "zoo \u{2212} Full-FT"]].concat());
    assert_eq!(shown("table-2-tests", 3).last().unwrap(), "greater");
    // Without them the tables are as they were.
    assert_eq!(make(dir.path(), &dirs[..2]).unwrap()("table-2-tests").rows.len(), 6);
}

#[test]
fn without_a_paper_the_tables_have_the_runs_by_the_names_of_their_data() {
    let dir = tempfile::tempdir().unwrap();
    let dirs = [("fc", 0.2), ("full", 0.6)]
        .map(|(mode, quality)| write(dir.path(), "shapes", mode, 1, 0.7, quality));
    for dir in &dirs {
        let classes = Classes { names: vec!["no".to_owned(), "yes".to_owned()], multi_label: false };
        Metrics { split: Split::Test, classes, ..Metrics::read(dir).unwrap() }.write(dir).unwrap();
    }
    let inputs: Vec<(&str, &Path)> = dirs.iter().map(|dir| ("runs", dir.as_path())).collect();
    let out = dir.path().join("out");
    let tables = |params: &str| {
        run_stage(&Results, params, &inputs, &out).unwrap();
        ["table-2", "table-2-metrics", "table-2-confusion", "table-2-tests"]
            .map(|name| Table::read(&out.join(format!("{name}.json"))).unwrap())
    };
    let [results, metrics, confusion, tests] = tables("(profile: \"own\")");
    let keys: Vec<&str> = results.columns.iter().map(|column| column.key.as_str()).collect();
    assert_eq!(keys, ["dataset", "mode", "roc_auc", "roc_auc_interval", "best_update", "seeds"]);
    assert_eq!(results.title, "Table II: detection of rows of class yes on the test splits");
    assert_eq!(results.caption, "ROC-AUC of the checkpoint with the best validation. This run: profile own.");
    let names = |table: &Table| -> Vec<String> {
        table.rows.iter().map(|row| format!("{} {}", row[0].shown(), row[1].shown())).collect()
    };
    assert_eq!(names(&results), ["shapes FC", "shapes Full-FT"]);
    assert_eq!(results.notes[0], "Test splits of this run. shapes: 500 rows, 247 of them yes.");
    assert_eq!(metrics.columns.len(), 2 + 5);
    assert!(metrics.notes[0].contains("F1 (of the class yes)") && metrics.notes[0].contains("P(yes)"));
    assert_eq!(confusion.columns[3].group, "rows of class yes");
    assert_eq!(confusion.columns[6].title, "called yes");
    assert_eq!(names(&tests), ["shapes Full-FT \u{2212} FC"]);
    let named = r#"(profile: "own", names: (data: [("shapes", "Shapes")], modes: [("full", "all"), ("pe", "adapters"),
        ("fc", "head")], classes: ["plain", "odd"], samples: ("picture", "pictures")))"#;
    let [results, _, confusion, tests] = tables(named);
    assert_eq!(results.title, "Table II: detection of odd pictures on the test splits");
    assert_eq!(names(&results), ["Shapes all", "Shapes head"]);
    assert_eq!(
        [&confusion.columns[3].group, &confusion.columns[6].group],
        ["odd pictures", "other pictures"]
    );
    // Modes that are named are missed where they are not there.
    assert_eq!(tests.rows.len(), 3);
    assert_eq!(tests.rows[0][2].shown(), "no run: make shapes-pe");
    let text = std::fs::read_to_string(out.join("table-2-confusion.html")).unwrap();
    assert!(!text.contains("hateful") && !text.contains("Hateful"), "{text}");
}

#[test]
fn runs_on_two_splits_and_quotes_without_runs_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let dirs = ["fc", "pe"].map(|mode| write(dir.path(), "shapes", mode, 1, 0.7, 0.2));
    Metrics { split: Split::Test, ..Metrics::read(&dirs[1]).unwrap() }.write(&dirs[1]).unwrap();
    let inputs: Vec<(&str, &Path)> = dirs.iter().map(|dir| ("runs", dir.as_path())).collect();
    let error = run_stage(&Results, "(profile: \"own\")", &inputs, &dir.path().join("out"))
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.contains("was evaluated on the test split, the runs before it on the validation split"),
        "{error}"
    );
    let loaded = stage_api::AnyStage::load(&Results, "(profile: \"own\")").unwrap();
    assert!(loaded.check_wiring(&["runs"]).is_ok());
    let error = loaded.check_wiring(&["runs", "quoted"]).unwrap_err();
    assert!(error.contains("`quoted` is about the runs of `published`"), "{error}");
}

/// An evaluation of six rows with three classes, of which a row may have several.
fn several(root: &Path, mode: &str, seed: u64, multi_label: bool) -> PathBuf {
    let dir = write(root, "shapes", mode, seed, 0.75, 0.5);
    let set = |classes: &[u8]| Label::Several(classes.iter().copied().collect());
    let row = |(at, (label, probabilities)): (usize, (Label, [f32; 3]))| Score {
        id: at.to_string(),
        label,
        probabilities: probabilities.to_vec(),
    };
    let rows: Vec<(Label, [f32; 3])> = match multi_label {
        true => vec![
            (set(&[0, 1]), [0.9, 0.8, 0.1]),
            (set(&[]), [0.1, 0.2, 0.6]),
            (set(&[2]), [0.2, 0.6, 0.7]),
            (set(&[0]), [0.4, 0.1, 0.1]),
        ],
        false => vec![
            (Label::One(0), [0.8, 0.1, 0.1]),
            (Label::One(0), [0.2, 0.7, 0.1]),
            (Label::One(1), [0.1, 0.8, 0.1]),
            (Label::One(1), [0.3, 0.6, 0.1]),
            (Label::One(2), [0.1, 0.3, 0.6]),
            (Label::One(2), [0.5, 0.3, 0.2]),
        ],
    };
    let rows: Vec<Score> = rows.into_iter().enumerate().map(row).collect();
    scores::write(&dir, &rows).unwrap();
    let metrics = Metrics::read(&dir).unwrap();
    let names = ["circle", "square", "star"].map(String::from).to_vec();
    let run = Evaluated {
        metrics: Metrics { classes: Classes { names, multi_label }, rows: rows.len() as u64, ..metrics },
        scores: rows,
    };
    let found = run.predictions().metrics();
    Metrics {
        positives: None,
        predicted_positives: None,
        f1: None,
        f1_macro: found.f1_macro,
        f1_micro: found.f1_micro,
        balanced_accuracy: found.balanced_accuracy,
        calibration_error: None,
        by_class: found.by_class,
        ..run.metrics
    }
    .write(&dir)
    .unwrap();
    dir
}

#[test]
fn three_classes_have_a_matrix_and_metrics_of_each_class() {
    let dir = tempfile::tempdir().unwrap();
    let dirs = ["fc", "pe"].map(|mode| several(dir.path(), mode, 1, false));
    let inputs: Vec<(&str, &Path)> = dirs.iter().map(|dir| ("runs", dir.as_path())).collect();
    let out = dir.path().join("out");
    run_stage(&Results, "(profile: \"own\", names: (samples: (\"shape\", \"shapes\")))", &inputs, &out)
        .unwrap();
    let table = |name: &str| Table::read(&out.join(format!("{name}.json"))).unwrap();
    let results = table("table-2");
    assert_eq!(results.title, "Table II: classification of shapes on the validation splits");
    assert_eq!(results.notes[0], "Validation splits of this run. shapes: 6 rows.");
    assert_eq!(results.notes[1], "ROC-AUC: the mean over the classes of each class against the rest.");
    let shown =
        |table: &Table, row: usize| -> Vec<String> { table.rows[row].iter().map(Cell::shown).collect() };
    let confusion = table("table-2-confusion");
    assert_eq!(confusion.columns[5].title, "square");
    assert_eq!(shown(&confusion, 0), ["shapes", "FC", "1", "circle", "1", "1", "0"]);
    assert_eq!(shown(&confusion, 5)[3..], ["star", "1", "0", "1"]);
    // Precision of the second class: 2 of 3 predicted; recall of the third: 1 of 2.
    let classes = table("table-2-classes");
    let cell = |row, key| cell(&classes, row, key).shown();
    assert_eq!(
        (cell(1, "class"), cell(1, "support"), cell(1, "precision")),
        ("square".into(), "2".into(), "0.6667".into())
    );
    assert_eq!((cell(5, "recall"), cell(5, "f1")), ("0.5000".into(), "0.6667".into()));
    let keys =
        |name: &str| -> Vec<String> { table(name).columns.iter().map(|column| column.key.clone()).collect() };
    assert_eq!(
        keys("table-2-metrics")[2..],
        ["accuracy", "f1_macro", "f1_micro", "balanced_accuracy", "average_precision"]
    );
    assert!(table("table-2-tests").caption.starts_with("DeLong's test, extended"));
    assert_eq!(shown(&table("table-2-tests"), 0)[2], "0.0000");

    // Names for other classes, and runs with others, are refused.
    let two = "(profile: \"own\", names: (classes: [\"a\", \"b\"]))";
    let error = run_stage(&Results, two, &inputs, &out).map(drop).unwrap_err().to_string();
    assert!(error.contains("`names` has 2 classes, the runs have 3"), "{error}");
    let binary = write(dir.path(), "hmd", "fc", 1, 0.7, 0.2);
    let mixed = [inputs[0], ("runs", binary.as_path())];
    let error = run_stage(&Results, "(profile: \"own\")", &mixed, &out).map(drop).unwrap_err().to_string();
    assert!(error.contains("have one of 2 classes") && error.contains("one of 3 classes"), "{error}");
}

#[test]
fn rows_with_several_classes_have_a_matrix_of_each() {
    let dir = tempfile::tempdir().unwrap();
    let dirs = [1, 2].map(|seed| several(dir.path(), "pe", seed, true));
    let inputs: Vec<(&str, &Path)> = dirs.iter().map(|dir| ("runs", dir.as_path())).collect();
    let out = dir.path().join("out");
    run_stage(&Results, "(profile: \"own\")", &inputs, &out).unwrap();
    let table = |name: &str| Table::read(&out.join(format!("{name}.json"))).unwrap();
    let confusion = table("table-2-confusion");
    let shown = |row: usize| -> Vec<String> { confusion.rows[row].iter().map(Cell::shown).collect() };
    // True and missed, falsely and rightly passed.
    assert_eq!(shown(0), ["shapes", "PE", "1", "circle", "1", "1", "0", "2"]);
    assert_eq!(shown(1)[3..], ["square", "1", "0", "1", "2"]);
    assert_eq!(shown(5)[2..], ["2", "star", "1", "0", "1", "2"]);
    // Two seeds: mean and deviation, here of equal values.
    let classes = table("table-2-classes");
    assert_eq!(
        (classes.rows.len(), cell(&classes, 2, "precision").shown().as_str()),
        (3, "0.5000 \u{b1} 0.0000")
    );
    let columns: Vec<String> =
        table("table-2-metrics").columns.into_iter().map(|column| column.key).collect();
    assert_eq!(columns[2..], ["accuracy", "f1_macro", "f1_micro", "average_precision"]);
    let results = table("table-2");
    assert!(
        results
            .notes
            .iter()
            .any(|note| note.starts_with("95% intervals: percentile bootstrap over the rows. They"))
    );
    // The interval of the mean is drawn from all rows as one stratum.
    assert!(matches!(cell(&results, 0, "roc_auc_interval"), Cell::Interval { .. } | Cell::None));
}
