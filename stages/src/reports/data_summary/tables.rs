//! The tables of a summary.

use crate::artifacts::data_summary::{DataSummary, Spread};
use crate::reports::table::{Cell, Column, Table};

/// Every table that has rows.
pub fn all(summaries: &[DataSummary]) -> Vec<Table> {
    let mut tables = vec![splits(summaries), sizes(summaries), overlaps(summaries)];
    tables.push(anomalies(summaries));
    tables.retain(|table| !table.rows.is_empty());
    tables
}

fn data(summary: &DataSummary) -> Cell {
    Cell::Text(summary.dataset.to_uppercase())
}

fn count(count: usize) -> Cell {
    Cell::Count(count as u64)
}

fn splits(summaries: &[DataSummary]) -> Table {
    if summaries.iter().any(|summary| !summary.classes.names.is_empty()) {
        return splits_by_class(summaries);
    }
    let mut rows = Vec::new();
    let mut notes = Vec::new();
    for summary in summaries {
        for split in &summary.splits {
            let labelled = split.hateful + split.harmless;
            let share = split.hateful as f64 / labelled.max(1) as f64;
            rows.push(vec![
                data(summary),
                Cell::Text(split.file.clone()),
                count(split.listed),
                count(split.samples),
                count(split.hateful),
                count(split.harmless),
                count(split.unlabelled),
                if labelled == 0 { Cell::None } else { Cell::Share { value: share, places: 1 } },
            ]);
        }
        notes.extend(choices(summary));
    }
    let columns = vec![
        Column::words("data", "Data"),
        Column::words("split", "Split"),
        Column::numbers("listed", "", "Listed"),
        Column::numbers("samples", "", "Kept"),
        Column::numbers("hateful", "", "Hateful"),
        Column::numbers("harmless", "", "Not"),
        Column::numbers("unlabelled", "", "No label"),
        Column::numbers("share", "", "Hateful share"),
    ];
    table_of_splits(columns, rows, notes)
}

/// The rules in force, and what was compared with published figures.
fn choices(summary: &DataSummary) -> Vec<String> {
    let choices: Vec<String> =
        summary.choices.iter().map(|(name, rule)| format!("{name} ({rule})")).collect();
    let rules = format!("{}: {}.", summary.dataset.to_uppercase(), choices.join("; "));
    std::iter::once(rules).chain(summary.checks.iter().cloned()).collect()
}

fn table_of_splits(columns: Vec<Column>, rows: Vec<Vec<Cell>>, notes: Vec<String>) -> Table {
    Table {
        name: "data-splits".to_owned(),
        place: 0,
        title: "Splits and class balance of the data".to_owned(),
        caption: "Entries that the split files list, samples that are kept, and their labels.".to_owned(),
        columns,
        rows,
        notes,
    }
}

/// The splits of data sets whose classes have names: a row for each class.
fn splits_by_class(summaries: &[DataSummary]) -> Table {
    let mut rows = Vec::new();
    for summary in summaries {
        for split in &summary.splits {
            let names = summary.classes.titles();
            let counts = if split.by_class.is_empty() {
                &[split.harmless, split.hateful]
            } else {
                &split.by_class[..]
            };
            // Where a sample may have several classes, their counts add up to more.
            let labelled = split.samples - split.unlabelled;
            for (at, (name, of_class)) in names.into_iter().zip(counts).enumerate() {
                let once = |number: usize| if at == 0 { count(number) } else { Cell::None };
                let share = *of_class as f64 / labelled.max(1) as f64;
                rows.push(vec![
                    data(summary),
                    Cell::Text(split.file.clone()),
                    once(split.listed),
                    once(split.samples),
                    once(split.unlabelled),
                    Cell::Text(name.to_owned()),
                    count(*of_class),
                    if labelled == 0 { Cell::None } else { Cell::Share { value: share, places: 1 } },
                ]);
            }
        }
    }
    let columns = vec![
        Column::words("data", "Data"),
        Column::words("split", "Split"),
        Column::numbers("listed", "", "Listed"),
        Column::numbers("samples", "", "Kept"),
        Column::numbers("unlabelled", "", "No label"),
        Column::words("class", "Class"),
        Column::numbers("of_class", "", "Of the class"),
        Column::numbers("share", "", "Share"),
    ];
    table_of_splits(columns, rows, summaries.iter().flat_map(choices).collect())
}

fn sizes(summaries: &[DataSummary]) -> Table {
    let mut rows = Vec::new();
    let mut notes = Vec::new();
    for summary in summaries {
        let mut row = |what: String, spread: &Spread| {
            rows.push(vec![
                data(summary),
                Cell::Text(what),
                Cell::Count(spread.min),
                Cell::Count(spread.median),
                Cell::Number { value: spread.mean, places: 1 },
                Cell::Count(spread.p95),
                Cell::Count(spread.max),
            ]);
        };
        for split in &summary.splits {
            row(format!("characters, {}", split.file), &split.characters);
            row(format!("words, {}", split.file), &split.words);
        }
        row("picture width in pixels".to_owned(), &summary.pictures.width);
        row("picture height in pixels".to_owned(), &summary.pictures.height);
        let pictures = &summary.pictures;
        let formats: Vec<String> =
            pictures.formats.iter().map(|(format, count)| format!("{count} {format}")).collect();
        notes.push(format!(
            "{}: {} picture files ({}) with {} different contents, {:.1} MB.",
            summary.dataset.to_uppercase(),
            pictures.files,
            formats.join(", "),
            pictures.distinct,
            pictures.bytes as f64 / 1e6
        ));
    }
    Table {
        name: "data-sizes".to_owned(),
        place: 1,
        title: "Text lengths and picture sizes".to_owned(),
        caption: "Of what is kept; each picture counts once.".to_owned(),
        columns: vec![
            Column::words("data", "Data"),
            Column::words("what", "What"),
            Column::numbers("min", "", "Least"),
            Column::numbers("median", "", "Median"),
            Column::numbers("mean", "", "Mean"),
            Column::numbers("p95", "", "95 %"),
            Column::numbers("max", "", "Most"),
        ],
        rows,
        notes,
    }
}

fn overlaps(summaries: &[DataSummary]) -> Table {
    let maybe = |count: Option<usize>| count.map_or(Cell::None, |count| Cell::Count(count as u64));
    let rows = summaries.iter().flat_map(|summary| {
        summary.overlaps.iter().map(|overlap| {
            vec![
                data(summary),
                Cell::Text(overlap.second.clone()),
                Cell::Text(overlap.first.clone()),
                count(overlap.ids),
                maybe(overlap.texts),
                maybe(overlap.pictures),
                maybe(overlap.both),
            ]
        })
    });
    Table {
        name: "data-leakage".to_owned(),
        place: 2,
        title: "What splits share".to_owned(),
        caption: "Samples of one split whose id, text (but for case and spacing) or picture (byte for byte) another \
                  has, too. What an evaluation split shares with the training split is leakage."
            .to_owned(),
        columns: vec![
            Column::words("data", "Data"),
            Column::words("second", "Samples of"),
            Column::words("first", "shared with"),
            Column::numbers("ids", "", "Id"),
            Column::numbers("texts", "", "Text"),
            Column::numbers("pictures", "", "Picture"),
            Column::numbers("both", "", "Text and picture"),
        ],
        rows: rows.collect(),
        notes: Vec::new(),
    }
}

fn anomalies(summaries: &[DataSummary]) -> Table {
    let rows = summaries.iter().flat_map(|summary| {
        summary.anomalies.iter().map(|anomaly| {
            vec![
                data(summary),
                Cell::Text(anomaly.kind.clone()),
                count(anomaly.count),
                Cell::Text(anomaly.rule.clone()),
                Cell::Text(anomaly.cases.first().cloned().unwrap_or_default()),
            ]
        })
    });
    let drops = summaries.iter().map(|summary| {
        format!(
            "{}: {} of {} entries dropped; up to {:.2} % may be.",
            summary.dataset.to_uppercase(),
            summary.dropped,
            summary.listed,
            100.0 * summary.max_dropped
        )
    });
    Table {
        name: "data-dirt".to_owned(),
        place: 3,
        title: "What was odd in the data".to_owned(),
        caption: "By kind, with the rule for it; the index step's summary.json lists the cases.".to_owned(),
        columns: vec![
            Column::words("data", "Data"),
            Column::words("kind", "What"),
            Column::numbers("count", "", "Count"),
            Column::words("rule", "Rule"),
            Column::words("first", "First"),
        ],
        rows: rows.collect(),
        notes: drops.collect(),
    }
}
