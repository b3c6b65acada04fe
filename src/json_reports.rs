//! Reads the JSON and CSV reports of a profile, as they are on disk and as a git revision has them. It does not know what
//! they mean.

use std::fs;
use std::path::Path;

use serde_json::{Map, Number, Value};

use crate::diff::JsonReports;
use crate::git::{Git, GitError};

/// Reports, and what is wrong with those that are left out.
#[derive(Debug, Default)]
pub struct ReadReports {
    /// What could be read.
    pub reports: JsonReports,
    /// A sentence for each file that is not JSON or cannot be read.
    pub problems: Vec<String>,
}

impl ReadReports {
    /// The reports below `reports/PROFILE/` on disk. No link is followed: it may lead out of the reports, or round in a
    /// circle.
    pub fn on_disk(root: &Path, profile: &str) -> Self {
        let below = root.join("reports").join(profile);
        let (mut found, mut folders) = (Self::default(), vec![below.clone()]);
        while let Some(folder) = folders.pop() {
            for item in fs::read_dir(&folder).into_iter().flatten().flatten() {
                let path = item.path();
                let Ok(kind) = item.file_type() else { continue };
                if kind.is_dir() {
                    folders.push(path);
                } else if kind.is_file() && is_report(&path) {
                    let name = path.strip_prefix(&below).unwrap_or(&path).to_string_lossy().into_owned();
                    match fs::read(&path) {
                        Ok(bytes) => found.add(&name, &bytes, "now"),
                        Err(error) => {
                            found.problems.push(format!("{name} cannot be read and is left out: {error}"));
                        }
                    }
                }
            }
        }
        found.without_copies()
    }

    /// The reports below `reports/PROFILE/` at a revision.
    ///
    /// # Errors
    /// When git cannot be run or refuses.
    pub fn at_revision(git: &Git, revision: &str, profile: &str) -> Result<Self, GitError> {
        let below = format!("reports/{profile}");
        let mut found = Self::default();
        let mut files: Vec<(String, String)> = git.objects(revision, &below)?.into_iter().collect();
        files.retain(|(path, _)| is_report(Path::new(path)));
        let objects: Vec<&str> = files.iter().map(|(_, object)| object.as_str()).collect();
        for ((path, _), bytes) in files.iter().zip(git.contents(&objects)?) {
            let name = path.strip_prefix(&below).unwrap_or(path).trim_start_matches('/');
            found.add(name, &bytes, revision);
        }
        Ok(found.without_copies())
    }

    /// Adds the report `name`. `when` names its state in the problem of one that cannot be read.
    pub fn add(&mut self, name: &str, bytes: &[u8], when: &str) {
        let (read, form) = match name.ends_with(".csv") {
            true => (table(bytes).map_err(|error| error.to_string()), "a table"),
            false => (serde_json::from_slice(bytes).map_err(|error| error.to_string()), "JSON"),
        };
        match read {
            Ok(value) => drop(self.reports.insert(name.to_owned(), value)),
            Err(error) => {
                self.problems.push(format!("{name} ({when}) is not {form} and is left out: {error}"));
            }
        }
    }

    /// Without tables that are JSON files of the same name too, which say more.
    pub fn without_copies(mut self) -> Self {
        let names: Vec<String> = self.reports.keys().cloned().collect();
        let is_copy = |name: &String| {
            name.strip_suffix(".csv").is_some_and(|stem| names.contains(&format!("{stem}.json")))
        };
        self.reports.retain(|name, _| !is_copy(name));
        self
    }
}

/// Whether a file is compared, by its name.
pub fn is_report(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "json" || extension == "csv")
}

/// The rows of a CSV file, each with its cells by column; cells that are numbers as numbers.
fn table(bytes: &[u8]) -> Result<Value, csv::Error> {
    let mut reader = csv::Reader::from_reader(bytes);
    let columns = reader.headers()?.clone();
    let cell = |text: &str| {
        let number = text.trim().parse::<f64>().ok().and_then(Number::from_f64);
        number.map_or_else(|| Value::from(text), Value::Number)
    };
    let row = |record: csv::StringRecord| -> Value {
        columns
            .iter()
            .zip(&record)
            .map(|(column, text)| (column.to_owned(), cell(text)))
            .collect::<Map<_, _>>()
            .into()
    };
    reader.records().map(|record| record.map(row)).collect::<Result<Vec<_>, _>>().map(Value::Array)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_table_has_its_cells_by_column_and_is_left_out_next_to_its_json() {
        let mut found = ReadReports::default();
        found.add("m.csv", b"model,auc,n\nfc,0.5,10\npe,x,\n", "now");
        assert_eq!(
            found.reports["m.csv"],
            json!([{"model": "fc", "auc": 0.5, "n": 10.0}, {"model": "pe", "auc": "x", "n": ""}])
        );
        found.add("wrong.csv", b"a,b\n1\n", "now");
        assert!(
            found.problems[0].starts_with("wrong.csv (now) is not a table and is left out: "),
            "{:?}",
            found.problems
        );
        found.add("m.json", b"{}", "now");
        assert_eq!(found.without_copies().reports.into_keys().collect::<Vec<_>>(), ["m.json"]);
    }
}
