//! Makes samples of the rows of tables, by the one policy for what is invalid. It does not open pictures.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use stage_api::StageError;

use super::IndexTableParams;
use super::columns::Places;
use super::pictures::{FileNames, PictureNames};
use super::tables::{Source, split_named, split_of_path};
use crate::artifacts::labels::{Classes, Label};
use crate::artifacts::samples::{Sample, Split};
use crate::dataset::indexing::data_quality::Anomaly;
use crate::dataset::indexing::{Entries, Row, SplitFile};
use crate::formats::archive::Archive;
use crate::formats::table_file::{self, Cell};
use crate::formats::{dataset_files, file_kind};

/// The longest id.
const LONGEST_ID: usize = 500;

/// Reads tables one after the other.
pub(super) struct Reader<'a> {
    params: &'a IndexTableParams,
    pictures: PictureNames<'a>,
    entries: Entries,
    /// The table and the split of each row of `entries`.
    places: Vec<(usize, Split)>,
    /// How many rows are listed for each split, and by which tables.
    listed: BTreeMap<Split, (usize, BTreeSet<usize>)>,
    ids: HashSet<(Split, String)>,
    /// The split of each group, and where it was first met.
    groups: HashMap<String, (Split, String)>,
    tables: usize,
}

/// Why a row is dropped.
type Bad = (Anomaly, String);

impl<'a> Reader<'a> {
    /// A reader that has read nothing.
    pub(super) fn new(params: &'a IndexTableParams, archive: &'a Archive) -> Self {
        let entries = Entries { classes: params.classes(), rule: params.split.clone(), ..Entries::default() };
        Self {
            params,
            pictures: PictureNames::new(archive),
            entries,
            places: Vec::new(),
            listed: BTreeMap::new(),
            ids: HashSet::new(),
            groups: HashMap::new(),
            tables: 0,
        }
    }

    /// Reads a table.
    ///
    /// # Errors
    /// A file that is no table, a column that is not there, rows of which nothing says the split, a group in two splits.
    pub(super) fn read(&mut self, source: &Source) -> Result<(), StageError> {
        let text = dataset_files::text(&source.bytes);
        self.entries.note_form(&source.name, &text);
        let table = table_file::read(&source.name, &text).map_err(|problem| source.error(problem))?;
        let columns = self.params.columns.places(&table.columns).map_err(|problem| source.error(problem))?;
        self.note_columns(&table.columns, &columns);
        let rule = self.params.split.as_ref();
        let says_split = source.split.is_some() || source.split_by_folder || columns.split.is_some();
        if !says_split && rule.is_none() {
            return Err(source.error(
                "nothing says which split its rows are in: name a column (`columns: (split: \"…\")`), connect `train`, `val` \
                 and `test` in place of `table`, or give shares (`split: (val: 0.1, test: 0.1)`)",
            ));
        }
        for row in table.rows {
            let place = || format!("{} line {}", source.name, row.line);
            let split = self.split(&row, &columns, source);
            let listed = self.listed.entry(*split.as_ref().unwrap_or(&Split::Train)).or_default();
            listed.0 += 1;
            listed.1.insert(self.tables);
            let sample = match &row.cells {
                Err(problem) => Err((Anomaly::InvalidLine, problem.clone())),
                Ok(_) => split.and_then(|split| self.sample(&row, &columns, split, source)),
            };
            let (sample, picture, group) = match sample {
                Ok(sample) => sample,
                Err((anomaly, problem)) => {
                    self.entries.ledger.add(anomaly, || format!("{}: {problem}", place()));
                    continue;
                }
            };
            if let Some(rule) = rule.filter(|rule| sample.split != Split::Train && rule.makes(sample.split)) {
                let (split, rule) = (sample.split.as_str(), rule.in_words());
                return Err(source.error(format!(
                    "line {} is in the split `{split}`, of which `split` makes another ({rule}); leave one of both out",
                    row.line
                )));
            }
            if let Some(name) = &group {
                let (first, where_first) =
                    self.groups.entry(name.clone()).or_insert_with(|| (sample.split, place()));
                if *first != sample.split {
                    let (name, split, first) =
                        (file_kind::shown(name), sample.split.as_str(), first.as_str());
                    return Err(source.error(format!(
                        "the group `{name}` is in two splits: `{first}` in {where_first}, `{split}` in line {}",
                        row.line
                    )));
                }
            }
            self.ids.insert((sample.split, sample.id.clone()));
            self.places.push((self.tables, sample.split));
            // The file and the name of its picture are given when all are known.
            self.entries.rows.push(Row { file: 0, line: row.line, picture, group, sample });
        }
        self.tables += 1;
        Ok(())
    }

    /// The split of a row: what its port, its column or its folder says; training where a rule divides that.
    fn split(&self, row: &table_file::Row, columns: &Places, source: &Source) -> Result<Split, Bad> {
        if let Some(split) = source.split {
            return Ok(split);
        }
        let of_column = match columns.split.map(|column| row.cell(column)) {
            Some(Cell::Text(word)) if !word.trim().is_empty() => {
                Some(split_named(word).ok_or_else(|| {
                    let word = file_kind::shown(word);
                    (Anomaly::BadSplit, format!("split is `{word}`; it may be train, val or test"))
                })?)
            }
            _ => None,
        };
        let by_folder = || {
            let Cell::Text(image) = row.cell(columns.image) else { return None };
            split_of_path(&format!("{}{image}", source.folder)).filter(|_| source.split_by_folder)
        };
        let fallback = self.params.split.as_ref().map(|_| Split::Train);
        of_column.or_else(by_folder).or(fallback).ok_or_else(|| {
            let problem =
                "nothing says which split it is in; to divide such rows, give `split: (val: 0.1, test: 0.1)`";
            (Anomaly::BadSplit, problem.to_owned())
        })
    }

    /// The sample of a row, the path of its picture in the archive, and its group.
    fn sample(
        &self,
        row: &table_file::Row,
        columns: &Places,
        split: Split,
        source: &Source,
    ) -> Result<(Sample, String, Option<String>), Bad> {
        let text = |what: &str, column: usize| match row.cell(column) {
            Cell::Text(text) => Ok(text.as_str()),
            Cell::Missing => Err((Anomaly::InvalidLine, format!("has no {what}"))),
            Cell::List(_) => Err((Anomaly::InvalidLine, format!("its {what} is a list"))),
        };
        let image = text("image", columns.image)?;
        let id = columns.id.map_or(Ok(image), |column| text("id", column))?.trim();
        if id.is_empty() || id.len() > LONGEST_ID || id.chars().any(char::is_control) {
            let id = file_kind::shown(id);
            return Err((
                Anomaly::InvalidLine,
                format!("its id is `{id}`; it must be a line of some letters"),
            ));
        }
        if self.ids.contains(&(split, id.to_owned())) {
            let problem = format!("{}: an earlier line of the split has this id", file_kind::shown(id));
            return Err((Anomaly::Twice, problem));
        }
        let with_id = |problem: String| format!("{}: {problem}", file_kind::shown(id));
        let label = label(row.cell(columns.label), &self.entries.classes)
            .map_err(|problem| (Anomaly::BadLabel, with_id(problem)))?;
        let picture = self
            .pictures
            .find(&source.folder, image)
            .map_err(|problem| (Anomaly::BadName, with_id(problem)))?;
        let group = columns.group.and_then(|column| match row.cell(column) {
            Cell::Text(group) if !group.trim().is_empty() => Some(group.trim().to_owned()),
            _ => None,
        });
        let (id, text) = (id.to_owned(), text("text", columns.text)?.to_owned());
        Ok((Sample { id, image: String::new(), text, label, soft: None, split }, picture, group))
    }

    fn note_columns(&mut self, names: &[String], columns: &Places) {
        let places = [
            ("id", columns.id),
            ("image", Some(columns.image)),
            ("text", Some(columns.text)),
            ("label", Some(columns.label)),
            ("split", columns.split),
            ("group", columns.group),
        ];
        let named =
            places.into_iter().filter_map(|(what, place)| Some(format!("{what} in `{}`", names[place?])));
        self.entries.choose("columns", named.collect::<Vec<_>>().join(", "));
    }

    /// All that was read, with the names of files of splits and pictures.
    ///
    /// # Errors
    /// Tables without any row.
    pub(super) fn finish(self, tables: &[Source]) -> Result<Entries, StageError> {
        let Self { params, mut entries, places, listed, .. } = self;
        if listed.is_empty() {
            return Err(tables[0].error("holds no rows"));
        }
        let name = |split: Split, of: &BTreeSet<usize>| match of.iter().collect::<Vec<_>>()[..] {
            [only] if tables[*only].split.is_some() => tables[*only].name.clone(),
            [only] => format!("{} ({})", tables[*only].name, split.as_str()),
            _ => format!("{} tables ({})", of.len(), split.as_str()),
        };
        for (split, (listed, of)) in &listed {
            entries.files.push(SplitFile { name: name(*split, of), split: *split, listed: *listed });
        }
        let order: Vec<Split> = listed.into_keys().collect();
        let paths: BTreeSet<String> = entries.rows.iter().map(|row| row.picture.clone()).collect();
        let names = FileNames::new(paths.iter().map(String::as_str));
        let mut owners: HashMap<String, &str> = HashMap::new();
        let mut rows = Vec::with_capacity(entries.rows.len());
        for (mut row, (table, split)) in std::mem::take(&mut entries.rows).into_iter().zip(places) {
            row.file = order.iter().position(|other| *other == split).unwrap_or_default();
            row.sample.image = names.of(&row.picture);
            let path = paths.get(&row.picture).map_or("", String::as_str);
            let owner = *owners.entry(row.sample.image.clone()).or_insert(path);
            if owner != path {
                let (table, id) = (&tables[table].name, file_kind::shown(&row.sample.id));
                entries.ledger.add(Anomaly::BadName, || {
                    format!("{table} line {}: {id}: `{owner}` and `{path}` would be one file", row.line)
                });
                continue;
            }
            rows.push(row);
        }
        entries.rows = rows;
        entries.choose("text", "as it is");
        entries.choose(
            "splits",
            match &params.split {
                Some(rule) => rule.in_words(),
                None => "as the data say".to_owned(),
            },
        );
        if !params.classes.is_empty() {
            let any = if params.multi_label { "any of " } else { "" };
            entries.choose("classes", format!("{any}{}", params.classes.join(", ")));
        }
        Ok(entries)
    }
}

/// Separators of the classes in a cell.
pub(super) const SEPARATORS: [char; 2] = [';', '|'];

/// The label in a cell; nothing where it has none. A cell that names no class is none of several, and no label of one.
///
/// # Errors
/// It names something else than the classes.
fn label(cell: &Cell, classes: &Classes) -> Result<Option<Label>, String> {
    let several = |words: &mut dyn Iterator<Item = &str>| -> Result<Option<Label>, String> {
        let words = words.map(str::trim).filter(|word| !word.is_empty());
        Ok(Some(Label::Several(words.map(|word| class(word, classes)).collect::<Result<_, _>>()?)))
    };
    match cell {
        Cell::Missing => Ok(None),
        Cell::List(words) if classes.multi_label => several(&mut words.iter().map(String::as_str)),
        Cell::List(_) => {
            Err("its label is a list; where a sample may have several classes, say `multi_label: true`"
                .to_owned())
        }
        Cell::Text(text) if classes.multi_label => several(&mut text.split(SEPARATORS)),
        Cell::Text(text) if text.trim().is_empty() => Ok(None),
        Cell::Text(text) => class(text.trim(), classes).map(Label::One).map(Some),
    }
}

/// The class of this name or number.
fn class(text: &str, classes: &Classes) -> Result<u8, String> {
    if let Some(class) = classes.names.iter().position(|name| name == text) {
        return Ok(class as u8);
    }
    // pandas writes whole numbers next to gaps as 1.0.
    match text.strip_suffix(".0").unwrap_or(text).parse::<u8>() {
        Ok(class) if usize::from(class) < classes.count() => Ok(class),
        _ if classes.names.is_empty() => {
            Err(format!("label is `{}`; it may be 0 or 1", file_kind::shown(text)))
        }
        _ => {
            let named: Vec<String> = classes.names.iter().map(|name| format!("`{name}`")).collect();
            Err(format!("label is `{}`; it may be {}", file_kind::shown(text), named.join(" or ")))
        }
    }
}
