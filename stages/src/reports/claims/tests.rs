//! The claims of made-up evaluations.

use std::path::{Path, PathBuf};

use stage_api::testing::run_stage;

use super::*;
use crate::artifacts::metrics::Metrics;
use crate::reports::evaluation::made_up::write;
use crate::reports::table::Cell;

fn make(root: &Path, dirs: &[PathBuf]) -> Table {
    let paper = Path::new(env!("CARGO_MANIFEST_DIR")).join("../paper");
    let files = ["runs.csv", "quoted.csv", "splits.csv", "vilbert.csv"].map(|name| paper.join(name));
    let ports = ["published", "quoted", "splits", "vilbert"];
    let mut inputs: Vec<(&str, &Path)> = ports.into_iter().zip(files.iter().map(PathBuf::as_path)).collect();
    inputs.extend(dirs.iter().map(|dir| ("runs", dir.as_path())));
    let out = root.join("out");
    run_stage(&Claims, &crate::reports::names::made_up::params(), &inputs, &out).unwrap();
    Table::read(&out.join("claims.json")).unwrap()
}

/// The cells of the row that says so of a data set, by column.
fn row<'a>(table: &'a Table, says: &str, dataset: &str) -> Box<dyn Fn(&str) -> &'a Cell + 'a> {
    let found = table.rows.iter().find(|row| row[0].shown() == says && row[1].shown() == dataset);
    let row = found.unwrap_or_else(|| panic!("no claim `{says}` of {dataset}"));
    Box::new(move |key| &row[table.columns.iter().position(|column| column.key == key).unwrap()])
}

#[test]
fn the_logs_give_what_was_measured_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let table = make(dir.path(), &[]);
    let of = |says: &str, dataset: &str| {
        let row = row(&table, says, dataset);
        (row("logs").value(), row("logs_verdict").shown())
    };
    let holds = |value: &str| (value.to_owned(), "holds".to_owned());
    assert_eq!(of("PE trains 98 % fewer parameters than Full-FT", "–"), holds("98.21 %"));
    assert_eq!(of("PE adds 1.24 % of parameters to VisualBERT", "–"), holds("1.244 %"));
    assert_eq!(of("PE adds 1.07 % of parameters to ViLBERT", "–"), holds("1.067 %"));
    assert_eq!(of("PE gains 21 % over FC", "Hateful Memes"), holds("20.5 %"));
    assert_eq!(of("PE gains 12.5 % over FC", "MMHS150K"), holds("12.4 %"));
    let usual = "the same by the usual formula";
    assert_eq!(of(usual, "Hateful Memes"), ("25.8 %".into(), "–".into()));
    assert_eq!(of(usual, "MMHS150K"), ("14.2 %".into(), "–".into()));
    // One run each cannot tell 0.0158 apart on 500 rows, nor 0.0024 from 0.02 on 5,000.
    let open = |value: &str| (value.to_owned(), "undecided at this sample size".to_owned());
    assert_eq!(of("PE comes close to Full-FT", "Hateful Memes"), open("\u{2212}0.0158"));
    assert_eq!(of("PE comes close to Full-FT", "MMHS150K"), open("0.0024"));
    // Without runs each cell says what to make.
    let gain = row(&table, "PE gains 21 % over FC", "Hateful Memes");
    assert_eq!(*gain("value"), Cell::Missing("no run: make hmd-pe".into()));
    assert_eq!(gain(VERDICT).shown(), "not measured here");
}

#[test]
fn sizes_are_judged_on_the_papers_rows_alone_and_closeness_on_any() {
    let dir = tempfile::tempdir().unwrap();
    let dirs = [("fc", 0.70, 0.0), ("pe", 0.89, 0.6), ("full", 0.89, 0.6)]
        .map(|(mode, auc, quality)| write(dir.path(), "hmd", mode, 1, auc, quality));
    let table = make(dir.path(), &dirs);
    let of = |says: &'static str| row(&table, says, "Hateful Memes");
    // 500 rows, 247 of them hateful: the paper's split. Equal scores of PE and Full-FT are close.
    assert_eq!(of("PE comes close to Full-FT")(VERDICT).shown(), "holds");
    assert!(matches!(of("PE gains 21 % over FC")("value"), Cell::ShareEstimate { .. }));
    assert_ne!(of("PE gains 21 % over FC")(VERDICT).shown(), "not on the paper's data");
    for dir in &dirs {
        Metrics { rows: 400, ..Metrics::read(dir).unwrap() }.write(dir).unwrap();
    }
    let table = make(dir.path(), &dirs);
    let of = |says: &'static str| row(&table, says, "Hateful Memes");
    assert_eq!(of("PE gains 21 % over FC")(VERDICT).shown(), "not on the paper's data");
    let share = of("PE reaches 84.7 % of the state of the art");
    assert_eq!((share("value"), share(VERDICT).shown().as_str()), (&Cell::None, "not on the paper's data"));
    assert_eq!(of("PE comes close to Full-FT")(VERDICT).shown(), "holds");
}
