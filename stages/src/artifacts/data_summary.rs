//! The summary of a data set: what an `index` stage found, kept and dropped, and how its splits relate. Written
//! next to the samples; a researcher looks here first.
//!
//! ```text
//! <tree>/summary.json
//! ```

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::labels::Classes;
use super::samples::Split;
use super::{Result, read_json, write_json};

/// The summary of a data set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DataSummary {
    /// Short name of the data set.
    pub dataset: String,
    /// Its classes.
    #[serde(flatten)]
    pub classes: Classes,
    /// The rules in force, by name: `labels` `any`.
    pub choices: BTreeMap<String, String>,
    /// What was compared with published figures, and how it came out.
    pub checks: Vec<String>,
    /// The splits in the order train, validation, test.
    pub splits: Vec<SplitSummary>,
    /// The pictures of the samples that were kept, each counted once.
    pub pictures: PictureSummary,
    /// How many entries the split files list.
    pub listed: usize,
    /// How many of them were dropped.
    pub dropped: usize,
    /// The share of dropped entries above which the step fails.
    pub max_dropped: f64,
    /// What was odd, kind by kind.
    #[serde(rename = "dirt")]
    pub anomalies: Vec<AnomalyCount>,
    /// What splits have in common.
    pub overlaps: Vec<Overlap>,
}

/// One split.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SplitSummary {
    /// Which one.
    pub split: Split,
    /// The file that lists it.
    pub file: String,
    /// Entries of that file.
    pub listed: usize,
    /// Samples that were kept.
    pub samples: usize,
    /// Samples with label 1.
    pub hateful: usize,
    /// Samples with label 0.
    pub harmless: usize,
    /// Samples by label, where the classes have names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub by_class: Vec<usize>,
    /// Samples without a label.
    pub unlabelled: usize,
    /// Characters of a text.
    pub characters: Spread,
    /// Words of a text, as whitespace parts them.
    pub words: Spread,
}

/// How a whole number is spread over its cases. Percentiles are those of the nearest rank.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The smallest.
    pub min: u64,
    /// The one in the middle.
    pub median: u64,
    /// The mean.
    pub mean: f64,
    /// 95 of 100 are not above it.
    pub p95: u64,
    /// The largest.
    pub max: u64,
}

impl Spread {
    /// The spread of `values`; all zero for none.
    pub fn from_values(mut values: Vec<u64>) -> Self {
        if values.is_empty() {
            return Self::default();
        }
        values.sort_unstable();
        let rank = |percent: usize| values[(values.len() * percent).div_ceil(100).max(1) - 1];
        let mean = values.iter().map(|value| *value as f64).sum::<f64>() / values.len() as f64;
        Self { min: values[0], median: rank(50), mean, p95: rank(95), max: values[values.len() - 1] }
    }
}

/// The pictures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PictureSummary {
    /// Files.
    pub files: usize,
    /// Different contents among them.
    pub distinct: usize,
    /// Bytes of all files.
    pub bytes: u64,
    /// Files by format, as their content says.
    pub formats: BTreeMap<String, usize>,
    /// Pixels across.
    pub width: Spread,
    /// Pixels down.
    pub height: Spread,
}

/// One kind of oddity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnomalyCount {
    /// Its name.
    pub kind: String,
    /// What is done about it.
    pub rule: String,
    /// Whether the samples are dropped.
    pub dropped: bool,
    /// How many there are.
    pub count: usize,
    /// Where: all that were dropped, the first few of what was kept.
    pub cases: Vec<String>,
}

/// What two splits have in common: samples of the second that are in the first, too. Files that were read for
/// comparison alone have ids only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overlap {
    /// The file of the split that comes first.
    pub first: String,
    /// The file of the split that comes second, whose samples are counted.
    pub second: String,
    /// Samples whose id the first has, too.
    pub ids: usize,
    /// Samples whose text the first has, too, but for case and spacing; empty texts do not count.
    pub texts: Option<usize>,
    /// Samples whose picture the first has, too, byte for byte.
    pub pictures: Option<usize>,
    /// Samples that share text and picture with one and the same sample of the first.
    pub both: Option<usize>,
}

impl DataSummary {
    /// The file's name within an index step's tree.
    pub const FILE: &'static str = "summary.json";

    /// Writes `summary.json` into `dir`.
    pub fn write(&self, dir: &Path) -> Result<()> {
        write_json(&dir.join(Self::FILE), self)
    }

    /// Reads `summary.json` of `dir`.
    pub fn read(dir: &Path) -> Result<Self> {
        read_json(&dir.join(Self::FILE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spreads_are_those_of_the_nearest_rank() {
        let spread = Spread::from_values((1..=20).rev().collect());
        assert_eq!((spread.min, spread.median, spread.p95, spread.max), (1, 10, 19, 20));
        assert_eq!(spread.mean, 10.5);
        assert_eq!(Spread::from_values(vec![7]), Spread { min: 7, median: 7, mean: 7.0, p95: 7, max: 7 });
        assert_eq!(Spread::from_values(Vec::new()), Spread::default());
    }
}
