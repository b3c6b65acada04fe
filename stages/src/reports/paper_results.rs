//! What a paper's own runs gave and what its README says, read from files such as those in `paper/`. It does not know who asks.

use std::collections::BTreeSet;
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::artifacts::{ArtifactError, Result};
use crate::formats::file_kind;

/// One run of the paper: `paper/runs.csv`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// Short name of the data set.
    pub dataset: String,
    /// Short name of the training mode.
    pub mode: String,
    /// Updates it was trained for.
    pub updates: u64,
    /// Parameters of its model.
    pub total_parameters: u64,
    /// Parameters that were trained.
    pub trained_parameters: u64,
    /// Update of the validation with the greatest ROC-AUC.
    pub best_update: u64,
    /// ROC-AUC of that validation, from 0 to 1.
    pub best_roc_auc: f64,
    /// Its accuracy, from 0 to 1.
    pub best_accuracy: f64,
    /// Its F1 of class 1, from 0 to 1.
    pub best_f1: f64,
    /// ROC-AUC after the last update, from 0 to 1.
    pub final_roc_auc: f64,
    /// Greatest memory allocated, in MiB.
    pub max_memory_mib: u64,
    /// Time of the whole run, in seconds.
    pub wall_seconds: f64,
    /// Mean of the logged rates.
    pub mean_updates_per_second: f64,
}

/// A share that the authors' README quotes: `paper/quoted.csv`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quote {
    /// What it is a share of.
    pub claim: Claim,
    /// Short name of the data set; empty where it is about the model.
    pub dataset: String,
    /// Short name of the training mode.
    pub mode: String,
    /// The share.
    pub value: Quoted,
}

/// What the authors' README says in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Claim {
    /// How many fewer parameters PE trains than Full-FT.
    FewerTrained,
    /// How many parameters PE adds.
    Increase,
    /// How many PE adds to the second model.
    IncreaseVilbert,
    /// By how much PE is better than FC.
    Gain,
    /// Which share of the state of the art is reached.
    ShareOfStateOfTheArt,
}

/// A share as it was printed: above 0, at most 1.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(try_from = "String")]
pub struct Quoted {
    /// The share.
    pub value: f64,
    /// Its decimals: how exact it claims to be.
    pub places: u8,
}

impl TryFrom<String> for Quoted {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        let decimals = text.split_once('.').map_or(0, |(_, decimals)| decimals.len());
        match text.parse() {
            Ok(value) if value > 0.0 && value <= 1.0 && decimals <= 9 => {
                Ok(Self { value, places: decimals as u8 })
            }
            _ => Err(format!("`{text}` is not a share above 0 and at most 1 with at most 9 decimals")),
        }
    }
}

impl Quoted {
    /// Half a unit of the last decimal: what is nearer than this is printed the same.
    pub fn rounding(self) -> f64 {
        // A hair more, for the binary fraction of a number at the edge itself.
        0.5 * libm::exp10(-f64::from(self.places)) + 1e-12
    }

    /// Decimals of the percentage.
    pub fn percent_places(self) -> u8 {
        self.places.saturating_sub(2)
    }
}

/// A validation split of the paper: `paper/splits.csv`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ValidationSplit {
    /// Short name of the data set.
    pub dataset: String,
    /// Its rows.
    pub rows: u64,
    /// Hateful ones among them.
    pub positives: u64,
}

/// What a paper says of its results: nothing, where there is no paper.
#[derive(Debug, Clone, Default)]
pub struct Paper {
    /// Its runs.
    pub runs: Vec<Run>,
    /// The numbers in its README.
    pub quotes: Vec<Quote>,
    /// Its validation splits.
    pub splits: Vec<ValidationSplit>,
}

impl Paper {
    /// Reads what there is of `runs.csv`, `quoted.csv` and `splits.csv`.
    ///
    /// # Errors
    /// A file that cannot be read; a line that does not parse or leaves its range.
    pub fn read(runs: Option<&Path>, quoted: Option<&Path>, splits: Option<&Path>) -> Result<Self> {
        let has_both = |split: &ValidationSplit| match split.positives > 0 && split.positives < split.rows {
            true => Ok(()),
            false => Err("a class has no rows".to_owned()),
        };
        Ok(Self {
            runs: runs.map(read_runs).transpose()?.unwrap_or_default(),
            quotes: quoted.map(|path| read(path, |_| Ok(()))).transpose()?.unwrap_or_default(),
            splits: splits.map(|path| read(path, has_both)).transpose()?.unwrap_or_default(),
        })
    }

    /// The run of a data set and mode.
    pub fn run(&self, dataset: &str, mode: &str) -> Option<&Run> {
        self.runs.iter().find(|run| (run.dataset.as_str(), run.mode.as_str()) == (dataset, mode))
    }

    /// The validation split of a data set.
    pub fn split(&self, dataset: &str) -> Option<&ValidationSplit> {
        self.splits.iter().find(|split| split.dataset == dataset)
    }

    /// What the README quotes for a claim.
    pub fn quotes(&self, claim: Claim) -> impl Iterator<Item = &Quote> {
        self.quotes.iter().filter(move |quote| quote.claim == claim)
    }

    /// The state of the art of a data set as far as the quoted share implies it; no value is named.
    pub fn state_of_the_art(&self, dataset: &str) -> Option<f64> {
        let quote = self.quotes(Claim::ShareOfStateOfTheArt).find(|quote| quote.dataset == dataset)?;
        Some(self.run(dataset, &quote.mode)?.best_roc_auc / quote.value.value)
    }
}

/// Parameters of the paper's second model in one mode: `paper/vilbert.csv`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quantities {
    /// Short name of the training mode.
    pub mode: String,
    /// All parameters.
    pub total_parameters: u64,
    /// Those that are trained.
    pub trained_parameters: u64,
    /// Those that sit in adapters.
    pub adapters: u64,
}

/// The split a point of a curve was logged for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// Training batches.
    Train,
    /// The validation split.
    Val,
}

/// One logged point of a run: `paper/curves.csv`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Point {
    /// Short name of the data set.
    pub dataset: String,
    /// Short name of the training mode.
    pub mode: String,
    /// What it was computed on.
    pub split: Split,
    /// Updates done.
    pub update: u64,
    /// Cross-entropy in nats.
    pub loss: f64,
    /// ROC-AUC from 0 to 1; `val` only.
    pub roc_auc: Option<f64>,
}

/// Reads `runs.csv`.
///
/// # Errors
/// A file that cannot be read; a line that does not parse, leaves its range or repeats a run, with its number.
pub fn read_runs(path: &Path) -> Result<Vec<Run>> {
    let mut seen = BTreeSet::new();
    read(path, |run: &Run| {
        let shares = [run.best_roc_auc, run.best_accuracy, run.best_f1, run.final_roc_auc];
        if shares.iter().any(|share| !(0.0..=1.0).contains(share)) {
            return Err("a metric is not between 0 and 1".to_owned());
        }
        if run.trained_parameters > run.total_parameters || run.best_update > run.updates {
            return Err("a part is greater than its whole (parameters or updates)".to_owned());
        }
        if !(run.wall_seconds > 0.0 && run.mean_updates_per_second > 0.0 && run.updates > 0) {
            return Err("a time, a rate or the number of updates is not above 0".to_owned());
        }
        if !seen.insert((run.dataset.clone(), run.mode.clone())) {
            return Err(format!("the run {}/{} is given twice", run.dataset, run.mode));
        }
        Ok(())
    })
}

/// Reads `vilbert.csv`.
///
/// # Errors
/// A file that cannot be read; a line that does not parse or whose parts exceed the whole.
pub fn read_quantities(path: &Path) -> Result<Vec<Quantities>> {
    read(path, |row: &Quantities| {
        let whole = row.total_parameters;
        if row.trained_parameters > whole || row.adapters >= whole {
            return Err("a part is greater than its whole".to_owned());
        }
        Ok(())
    })
}

/// Reads `curves.csv`.
///
/// # Errors
/// A file that cannot be read; a line that does not parse or leaves its range, with its number.
pub fn read_curves(path: &Path) -> Result<Vec<Point>> {
    read(path, |point: &Point| match (point.split, point.roc_auc) {
        (Split::Val, None) => Err("a validation needs `roc_auc`".to_owned()),
        (_, Some(auc)) if !(0.0..=1.0).contains(&auc) => Err("`roc_auc` is not between 0 and 1".to_owned()),
        _ if !point.loss.is_finite() => Err("`loss` is not a finite number".to_owned()),
        _ => Ok(()),
    })
}

fn read<T: DeserializeOwned>(
    path: &Path,
    mut check: impl FnMut(&T) -> std::result::Result<(), String>,
) -> Result<Vec<T>> {
    let head = file_kind::head(path).map_err(|error| ArtifactError::new(path, error))?;
    if let Some(problem) = file_kind::placeholder(&head) {
        return Err(ArtifactError::new(path, problem));
    }
    // The csv crate's own message holds the line of a record that does not parse.
    let mut file = csv::Reader::from_path(path).map_err(|error| ArtifactError::new(path, error))?;
    let headers = file.headers().map_err(|error| ArtifactError::new(path, error))?.clone();
    let mut rows = Vec::new();
    for record in file.records() {
        let record = record.map_err(|error| ArtifactError::new(path, error))?;
        let row = record.deserialize(Some(&headers)).map_err(|error| ArtifactError::new(path, error))?;
        check(&row).map_err(|problem| {
            let line = record.position().map_or(0, csv::Position::line);
            ArtifactError::new(path, format!("line {line}: {problem}"))
        })?;
        rows.push(row);
    }
    if rows.is_empty() {
        return Err(ArtifactError::new(path, "holds no rows; restore it from the repository"));
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str) -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../paper").join(name)
    }

    #[test]
    fn the_committed_files_hold_the_six_runs_whole() {
        let runs = read_runs(&file("runs.csv")).unwrap();
        let curves = read_curves(&file("curves.csv")).unwrap();
        assert_eq!(runs.len(), 6);
        for run in &runs {
            let of = |split| {
                let points = curves.iter().filter(move |point| point.split == split);
                points.filter(|point| point.dataset == run.dataset && point.mode == run.mode)
            };
            assert_eq!(of(Split::Train).count(), 220, "{run:?}");
            assert_eq!(of(Split::Val).count(), 22, "{run:?}");
            // The best validation of the curve is the one that runs.csv names, to the four decimals of the log.
            let best = of(Split::Val).max_by(|a, b| a.roc_auc.partial_cmp(&b.roc_auc).unwrap()).unwrap();
            assert_eq!(best.update, run.best_update);
            assert!((best.roc_auc.unwrap() - run.best_roc_auc).abs() < 6e-5);
        }
    }

    #[test]
    fn an_error_names_file_and_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("curves.csv");
        for (line, word) in [
            ("hmd,fc,train,many,0.7,", "line: 3"),
            ("hmd,fc,val,100,0.7,", "line 3: a validation needs `roc_auc`"),
            ("hmd,fc,val,100,0.7,1.5", "line 3: `roc_auc` is not between"),
            ("hmd,fc,val,100", "line: 3"),
        ] {
            std::fs::write(
                &path,
                format!("dataset,mode,split,update,loss,roc_auc\nhmd,fc,val,1,0.7,0.5\n{line}\n"),
            )
            .unwrap();
            let message = read_curves(&path).unwrap_err().to_string();
            assert!(message.contains(word) && message.contains("curves.csv"), "{message}");
        }
    }
}
