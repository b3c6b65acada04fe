//! What is made, what is made again, and that it is the same each time.

use std::path::Path;

use super::project::{Project, made};

const NAMES: [&str; 16] = [
    "all",
    "hmd",
    "mmh",
    "hmd-fc",
    "hmd-pe",
    "hmd-full",
    "mmh-fc",
    "mmh-pe",
    "mmh-full",
    "claims",
    "table-1",
    "table-2",
    "table-shift",
    "curves",
    "roc",
    "report",
];

#[test]
fn make_all_makes_every_name_and_a_second_one_makes_nothing() {
    let made = made();
    assert_eq!(made.run.ran().len(), made.project.records());
    assert_eq!(made.run.out, "", "what is told to people goes to standard error");
    assert_eq!(made.project.cached("work"), 0);
    for name in NAMES {
        let again = made.project.run(&["make", name]).expect(0);
        assert!(again.err.starts_with("nothing to do: "), "{name}: {}", again.err);
    }
}

#[test]
fn the_reports_hold_tables_curves_and_a_page_that_say_which_profile_made_them() {
    let reports = made().project.reports();
    let text = |name: &str| {
        let bytes = reports.get(Path::new(name)).unwrap_or_else(|| panic!("there is no {name}"));
        String::from_utf8_lossy(bytes).into_owned()
    };
    for name in ["tables/table-1.md", "tables/table-2.md", "curves/figures.json", "index.html"] {
        assert!(text(&format!("mini/{name}")).to_lowercase().contains("profile mini"), "{name}");
    }
    for data in ["hmd", "mmh"] {
        for curve in ["loss", "roc-auc"] {
            assert!(text(&format!("mini/curves/{data}-{curve}.svg")).contains("<svg"));
            assert!(text(&format!("mini/curves/{data}-{curve}.png")).contains("PNG"));
        }
    }
}

#[test]
fn table_1_holds_the_integers_of_the_papers_model() {
    let reports = made().project.reports();
    let table = String::from_utf8(reports[Path::new("mini/tables/table-1.csv")].clone()).unwrap();
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split(',').collect()).collect();
    let column = |name: &str| rows[0].iter().position(|head| *head == name).unwrap();
    let columns = ["mode", "total", "trained", "adapters"].map(column);
    let counted: Vec<[&str; 4]> = rows[1..4].iter().map(|row| columns.map(|column| row[column])).collect();
    assert_eq!(
        counted,
        [
            ["FC", "112044290", "593666", "0"],
            ["PE", "113455250", "2004626", "1410960"],
            ["Full-FT", "112044290", "112044290", "0"],
        ]
    );
}

#[test]
fn a_learning_rate_reruns_its_run_and_what_reads_it() {
    let made = made();
    let project = made.project.copy();
    project.defaults(r#""hmd-pe-train": (lr: 0.03125),"#);
    let why = project.run(&["why", "hmd-pe-train"]).expect(0).out;
    assert!(why.starts_with("hmd-pe-train must run:\n"), "{why}");
    let changes: Vec<&str> = why.lines().skip(1).map(str::trim).collect();
    let [change] = changes[..] else { panic!("one reason: {why}") };
    assert!(change.starts_with("param lr: ") && change.ends_with(" -> 0.03125"), "{why}");

    let run = project.run(&["make", "all"]).expect(0);
    assert_eq!(
        run.ran(),
        [
            "claims",
            "curves",
            "hmd-pe",
            "hmd-pe-on-mmh",
            "hmd-pe-train",
            "report",
            "roc",
            "table-2",
            "table-shift"
        ]
    );
    let why = project.run(&["why", "table-2"]).expect(0).out;
    for words in ["is fresh", "input runs (hmd-pe) changed", "because `hmd-pe-train` ran again", "0.03125"] {
        assert!(why.contains(words), "{words}: {why}");
    }
    assert_ne!(project.reports(), made.project.reports());

    // Back again: both results are kept.
    project.write(&made.project.text());
    assert_eq!(project.run(&["make", "all"]).expect(0).ran(), [""; 0]);
    assert_eq!(project.reports(), made.project.reports());
}

#[test]
fn comments_and_spacing_rerun_nothing() {
    let made = made();
    let project = made.project.copy();
    let text = made.project.text();
    let spaced = text.replace("params: (", "params : ( /* spaced */ ").replace("\n", "\n  // a comment\n");
    assert!(spaced.len() > text.len() + 1000);
    project.write(&spaced);
    let again = project.run(&["make", "all"]).expect(0);
    assert!(again.err.starts_with("nothing to do: "), "{}", again.err);
}

#[test]
fn clean_runs_leave_the_same_bytes_however_many_threads_they_have() {
    let made = made();
    for jobs in ["1", "2", "3"] {
        let project = Project::new();
        project.run(&["make", "all", "-j", jobs]).expect(0);
        assert_eq!(project.trees(), made.project.trees(), "-j {jobs}");
        assert_eq!(project.reports(), made.project.reports(), "-j {jobs}");
    }
}
