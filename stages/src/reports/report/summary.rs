//! The summary that a page begins with: what was run, PE against the other modes, what the claims say. It reads the tables
//! that are on the page and computes nothing.

use std::collections::{BTreeMap, BTreeSet};

use minijinja::{Value, context};

use super::page::Page;
use crate::artifacts::history::RunInfo;
use crate::models::Mode;
use crate::reports::names::{Names, parts_of_kind};
use crate::reports::table::{Cell, Table};

/// The lines for which the page has what they are about, each with its heading.
pub fn lines(page: &Page) -> Vec<Value> {
    let table = |name: &str| page.parts.iter().flat_map(|part| &part.tables).find(|table| table.name == name);
    let modes = table("table-2").map(|results| modes(results, table("table-2-tests"), &page.names));
    let claims = table("claims").map(claims);
    let pe = page.names.mode_title(Mode::Pe.as_str());
    let found =
        [("Run", runs(page)), (pe, modes.unwrap_or_default()), ("Claims", claims.unwrap_or_default())];
    let found = found.into_iter().filter(|(_, text)| !text.is_empty());
    found.map(|(heading, text)| context! { heading, text }).collect()
}

/// `6 training runs of profile mini (synthetic memes, small models): FC (trains the head), … on Hateful Memes and MMHS150K;
/// seed 1.`
fn runs(page: &Page) -> String {
    let infos: Vec<&RunInfo> =
        page.runs.iter().filter_map(|run| run.found.as_ref().ok()).map(|history| &history.run).collect();
    if page.runs.is_empty() {
        return String::new();
    }
    let about = if page.about.is_empty() { String::new() } else { format!(" ({})", page.about) };
    let all = page.runs.len();
    let mut text =
        format!("{all} training run{} of profile {}{about}", if all == 1 { "" } else { "s" }, page.profile);
    if infos.len() < all {
        text.push_str(&format!(", {} of them not there yet", all - infos.len()));
    }
    if infos.is_empty() {
        return text + ".";
    }
    let kinds: Vec<String> = infos.iter().map(|info| info.kind()).collect();
    let is_run = |mode: &str| kinds.iter().any(|kind| parts_of_kind(kind).1 == mode);
    let names = &page.names;
    let trained = Mode::ALL.into_iter().filter(|mode| is_run(mode.as_str())).map(|mode| {
        let title = names.mode_title(mode.as_str());
        match mode {
            Mode::Fc => format!("{title} (trains the head on a frozen model)"),
            Mode::Pe => format!("{title} (trains the head and small adapters)"),
            Mode::Full => format!("{title} (trains everything)"),
        }
    });
    let datasets = names.data.iter().filter(|(dataset, _)| infos.iter().any(|info| info.dataset == *dataset));
    let seeds: BTreeSet<u64> = infos.iter().map(|info| info.seed).collect();
    let seeds: Vec<String> = seeds.iter().map(u64::to_string).collect();
    text.push_str(&format!(
        ": {} on {}; seed{} {}.",
        listed(&trained.collect::<Vec<_>>()),
        listed(&datasets.map(|(_, title)| title.clone()).collect::<Vec<_>>()),
        if seeds.len() == 1 { "" } else { "s" },
        listed(&seeds),
    ));
    text
}

/// `ROC-AUC on Hateful Memes: PE 0.9905, Full-FT 0.9892 (difference +0.0013, not significant), FC 0.5890 (…).`
fn modes(results: &Table, tests: Option<&Table>, names: &Names) -> String {
    let pe = names.mode_title("pe");
    let mut found = Vec::new();
    for (_, dataset) in &names.data {
        let Some(ours) = auc(results, dataset, pe) else { continue };
        let mut others = vec![format!("{pe} {ours}")];
        for other in ["full", "fc"].map(|mode| names.mode_title(mode)) {
            let Some(auc) = auc(results, dataset, other) else { continue };
            let test = tests.and_then(|tests| test(tests, dataset, &format!("{pe} \u{2212} {other}")));
            let test = test.map_or(String::new(), |test| format!(" ({test})"));
            others.push(format!("{other} {auc}{test}"));
        }
        found.push(format!("{dataset}: {}", others.join(", ")));
    }
    if found.is_empty() { String::new() } else { format!("ROC-AUC on {}.", found.join(". On ")) }
}

fn auc(results: &Table, dataset: &str, mode: &str) -> Option<String> {
    let row = results.rows.iter().find(|row| {
        cell(results, row, "dataset").is_some_and(|cell| cell.value() == dataset)
            && cell(results, row, "mode").is_some_and(|cell| cell.value() == mode)
    })?;
    let found = cell(results, row, "roc_auc")?;
    (!matches!(found, Cell::Missing(_) | Cell::None)).then(|| found.value())
}

/// `difference +0.0013, not significant`, from DeLong's test.
fn test(tests: &Table, dataset: &str, modes: &str) -> Option<String> {
    let row = tests.rows.iter().find(|row| {
        cell(tests, row, "dataset").is_some_and(|cell| cell.value() == dataset)
            && cell(tests, row, "modes").is_some_and(|cell| cell.value() == modes)
    })?;
    let difference =
        cell(tests, row, "difference").filter(|cell| !matches!(cell, Cell::Missing(_) | Cell::None))?;
    let verdict = match cell(tests, row, "verdict")?.value().as_str() {
        "greater" | "smaller" => "significant".to_owned(),
        other => other.to_owned(),
    };
    Some(format!("difference {}, {verdict}", difference.value()))
}

/// `Of the paper's 9 claims, 4 hold and 5 are not on the paper's data in this run; 7 hold in the paper's own logs.`
fn claims(table: &Table) -> String {
    let count = |key: &str| -> (usize, String) {
        let verdicts = table.rows.iter().filter_map(|row| match cell(table, row, key)? {
            Cell::Text(verdict) => Some(verdict.as_str()),
            _ => None,
        });
        let (mut counts, mut order) = (BTreeMap::<&str, usize>::new(), Vec::new());
        for verdict in verdicts {
            let count = counts.entry(verdict).or_default();
            *count += 1;
            if *count == 1 {
                order.push(verdict);
            }
        }
        let each = order.iter().map(|verdict| match (*verdict, counts[verdict]) {
            ("holds", 1) => "1 holds".to_owned(),
            ("holds", many) => format!("{many} hold"),
            ("does not hold", 1) => "1 does not hold".to_owned(),
            ("does not hold", many) => format!("{many} do not hold"),
            (verdict, 1) => format!("1 is {verdict}"),
            (verdict, many) => format!("{many} are {verdict}"),
        });
        (counts.values().sum(), listed(&each.collect::<Vec<_>>()))
    };
    let ((all, ours), (_, logs)) = (count("verdict"), count("logs_verdict"));
    match all {
        0 => String::new(),
        _ => format!("Of the paper's {all} claims, {ours} in this run; {logs} in the paper's own logs."),
    }
}

fn cell<'a>(table: &Table, row: &'a [Cell], key: &str) -> Option<&'a Cell> {
    row.get(table.columns.iter().position(|column| column.key == key)?)
}

/// `a`, `a and b`, `a, b and c`.
fn listed(items: &[String]) -> String {
    match items {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reports::table::Column;

    fn table(name: &str, columns: &[&str], rows: Vec<Vec<Cell>>) -> Table {
        Table {
            name: name.into(),
            place: 0,
            title: String::new(),
            caption: String::new(),
            columns: columns.iter().map(|key| Column::words(key, key)).collect(),
            rows,
            notes: vec![],
        }
    }

    fn text(text: &str) -> Cell {
        Cell::Text(text.into())
    }

    #[test]
    fn modes_are_compared_with_their_test_and_missing_ones_left_out() {
        let number = |value| Cell::Number { value, places: 4 };
        let results = table(
            "table-2",
            &["dataset", "mode", "roc_auc"],
            vec![
                vec![text("Hateful Memes"), text("FC"), number(0.589)],
                vec![text("Hateful Memes"), text("PE"), number(0.9905)],
                vec![text("Hateful Memes"), text("Full-FT"), number(0.9892)],
                vec![text("MMHS150K"), text("FC"), number(0.5)],
                vec![text("MMHS150K"), text("PE"), Cell::Missing("no run".into())],
            ],
        );
        let difference = |value| Cell::Difference { value, places: 4 };
        let tests = table(
            "table-2-tests",
            &["dataset", "modes", "difference", "verdict"],
            vec![
                vec![
                    text("Hateful Memes"),
                    text("PE \u{2212} Full-FT"),
                    difference(0.0013),
                    text("not significant"),
                ],
                vec![text("Hateful Memes"), text("PE \u{2212} FC"), difference(0.4015), text("greater")],
            ],
        );
        let data = [("hmd", "Hateful Memes"), ("mmh", "MMHS150K")];
        let data = data.map(|(short, title)| (short.to_owned(), title.to_owned())).into();
        let names = Names { data, ..Names::default() };
        assert_eq!(
            modes(&results, Some(&tests), &names),
            "ROC-AUC on Hateful Memes: PE 0.9905, Full-FT 0.9892 (difference +0.0013, not significant), \
             FC 0.5890 (difference +0.4015, significant)."
        );
        assert_eq!(
            modes(&results, None, &names),
            "ROC-AUC on Hateful Memes: PE 0.9905, Full-FT 0.9892, FC 0.5890."
        );
    }

    #[test]
    fn claims_are_counted_by_verdict() {
        let row = |logs: Cell, ours: &str| vec![logs, text(ours)];
        let claims_table = table(
            "claims",
            &["logs_verdict", "verdict"],
            vec![
                row(text("holds"), "holds"),
                row(text("holds"), "not on the paper's data"),
                row(text("undecided at this sample size"), "holds"),
                vec![Cell::None, Cell::None],
            ],
        );
        assert_eq!(
            claims(&claims_table),
            "Of the paper's 3 claims, 2 hold and 1 is not on the paper's data in this run; \
             2 hold and 1 is undecided at this sample size in the paper's own logs."
        );
    }
}
