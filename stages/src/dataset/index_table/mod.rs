//! `index-table`: reads a table with named columns (CSV, TSV, JSON lines) and the pictures that it names into samples, pictures
//! and a summary. It knows tables and the layout of Hugging Face's image folders, not what is done with the samples.
//!
//! A table comes in by the port `table`, or one for each split by `train`, `val` and `test`. Without any of these the pictures are
//! an image folder as Hugging Face's `datasets` reads it: `metadata.csv` or `metadata.jsonl` next to the pictures, with a column
//! `file_name`, in folders that may be named after splits (`train/`, `validation/`, `test/`).

mod columns;
mod pictures;
mod rows;
mod tables;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stage_api::{Job, Port, Stage, StageError};

use self::columns::Columns;
use self::rows::Reader;
use self::tables::{IMAGES, TABLE, TABLES};
use crate::artifacts::labels::Classes;
use crate::dataset::indexing::split_rule::SplitRule;
use crate::dataset::indexing::{self, Look, MAX_DROPPED};
use crate::formats::archive::Archive;

/// The stage.
pub struct IndexTable;

/// The longest name of a data set.
const LONGEST_NAME: usize = 40;

/// Params of [`IndexTable`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IndexTableParams {
    /// What steps, files and tables call the data set: `shapes`.
    pub name: String,
    /// Which columns hold what.
    #[serde(default)]
    pub columns: Columns,
    /// The classes by name, that of label 0 first. Without names, labels are 0 (not hateful) and 1 (hateful).
    #[serde(default)]
    pub classes: Vec<String>,
    /// Whether a sample may have any number of the classes: its label is a list in JSON, else names with `;` or `|` between them.
    #[serde(default)]
    pub multi_label: bool,
    /// Divides the rows of training, or of a table that says nothing of splits, by shares: `(val: 0.1, test: 0.1)`.
    #[serde(default)]
    pub split: Option<SplitRule>,
    /// How closely pictures are looked at.
    #[serde(default)]
    pub pictures: Look,
    /// The share of entries that may be dropped, from 0 to 1; above it the step fails.
    #[serde(default = "max_dropped")]
    pub max_dropped: f64,
}

impl IndexTableParams {
    /// The classes of the data set.
    fn classes(&self) -> Classes {
        Classes { names: self.classes.clone(), multi_label: self.multi_label }
    }
}

fn max_dropped() -> f64 {
    MAX_DROPPED
}

impl Stage for IndexTable {
    type Params = IndexTableParams;
    const NAME: &'static str = "index-table";
    const ABOUT: &'static str =
        "reads a table (CSV, TSV, JSON lines) and its pictures into samples, pictures and a summary";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Port] = &[
        Port::one(IMAGES),
        Port::optional(TABLE),
        Port::optional(TABLES[0].0),
        Port::optional(TABLES[1].0),
        Port::optional(TABLES[2].0),
    ];

    fn check(&self, params: &IndexTableParams) -> Result<(), String> {
        let IndexTableParams { name, split, max_dropped, .. } = params;
        let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_');
        if name.is_empty() || name.len() > LONGEST_NAME || !name.chars().all(is_plain) {
            return Err(format!(
                "`name` is `{name}`; it may have up to {LONGEST_NAME} of a to z, 0 to 9, `-` and `_`"
            ));
        }
        params.classes().check()?;
        let is_apart = |name: &&String| params.multi_label && name.contains(rows::SEPARATORS);
        if let Some(name) = params.classes.iter().find(is_apart) {
            let problem = "where a row may have several classes, `;` and `|` separate them";
            return Err(format!("`classes` names `{name}`: {problem}"));
        }
        split.as_ref().map_or(Ok(()), SplitRule::check)?;
        indexing::check_share(*max_dropped)
    }

    fn check_wiring(&self, params: &IndexTableParams, ports: &[&str]) -> Result<(), String> {
        let by_file = TABLES.iter().any(|(port, _)| ports.contains(port));
        if by_file && ports.contains(&TABLE) {
            return Err(format!("it reads either `{TABLE}`, or a table for each split"));
        }
        if by_file && params.columns.split.is_some() {
            return Err("`columns` names one for the split, which the tables' ports already say".to_owned());
        }
        Ok(())
    }

    fn run(&self, params: &IndexTableParams, job: &Job) -> Result<(), StageError> {
        let archive = Archive::open_any(IMAGES, job.inputs.one(IMAGES)?, job.scratch)?;
        let tables = tables::find(job.inputs, &archive)?;
        let mut reader = Reader::new(params, &archive);
        for table in &tables {
            job.check_cancelled()?;
            reader.read(table)?;
        }
        let entries = reader.finish(&tables)?;
        indexing::write(&params.name, entries, &archive, (params.pictures, params.max_dropped), job)
    }
}

#[cfg(test)]
mod tests;
