//! The differences between two states of a project: the steps of two pipelines with their params, and the numbers of
//! two sets of JSON reports. It knows neither git nor the disk.

mod steps;
mod values;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

pub use steps::{Change, StepChange, steps};
pub use values::{Certainty, ValueChange};

/// JSON reports by file, relative to the reports of the profile.
pub type JsonReports = BTreeMap<String, Value>;

/// Two sets of reports compared.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ReportDiff {
    /// The number of values that have an interval in both, whether or not they differ.
    pub intervals: usize,
    /// The values that differ, by report.
    pub values: Vec<ValueChange>,
}

impl ReportDiff {
    /// Compares every report of either set.
    pub fn compare(old: &JsonReports, new: &JsonReports) -> Self {
        let files: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
        let mut diff = Self::default();
        for file in files {
            let (intervals, values) = values::compare(file, old.get(file), new.get(file));
            diff.intervals += intervals;
            diff.values.extend(values);
        }
        diff
    }

    /// The values whose difference is significant.
    pub fn significant(&self) -> impl Iterator<Item = &ValueChange> {
        self.values.iter().filter(|change| change.is_significant())
    }

    /// The result in a few words: `56 intervals compared, none significantly different`.
    pub fn verdict(&self) -> String {
        let significant = self.significant().count();
        match (self.intervals, self.values.len(), significant) {
            (0, 0, _) => "no reported value differs".to_owned(),
            (0, 1, _) => "1 value differs; it has no interval".to_owned(),
            (0, values, _) => format!("{values} values differ; none has an interval"),
            (1, _, 0) => "1 interval compared, not significantly different".to_owned(),
            (1, _, _) => "1 interval compared, significantly different".to_owned(),
            (intervals, _, 0) => format!("{intervals} intervals compared, none significantly different"),
            (intervals, _, _) => {
                format!("{intervals} intervals compared, {significant} significantly different")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn report(aucs: &[f64]) -> JsonReports {
        let row = |(at, auc): (usize, &f64)| {
            json!([{"text": format!("run {at}")},
                {"estimate": {"value": auc, "low": auc - 0.03, "high": auc + 0.03, "places": 4}}])
        };
        let rows: Vec<Value> = aucs.iter().enumerate().map(row).collect();
        let table = json!({"columns": [{"key": "run"}, {"key": "auc"}], "rows": rows});
        JsonReports::from([("t.json".to_owned(), table)])
    }

    #[test]
    fn the_verdict_counts_intervals_and_significant_differences() {
        let verdict = |old: &[f64], new: &[f64]| ReportDiff::compare(&report(old), &report(new)).verdict();
        let old = [0.5, 0.7, 0.9];
        assert_eq!(verdict(&old, &old), "3 intervals compared, none significantly different");
        assert_eq!(verdict(&old, &[0.51, 0.7, 0.9]), "3 intervals compared, none significantly different");
        assert_eq!(verdict(&old, &[0.6, 0.7, 0.8]), "3 intervals compared, 2 significantly different");
        // A row that only one of them has is not compared.
        assert_eq!(verdict(&old[..2], &[0.6]), "1 interval compared, significantly different");
        assert_eq!(verdict(&old[..1], &old), "1 interval compared, not significantly different");
        let plain = |value: f64| JsonReports::from([("m.json".to_owned(), json!({"f1": value, "n": value}))]);
        let verdict = |new| ReportDiff::compare(&plain(0.5), &plain(new)).verdict();
        assert_eq!(verdict(0.5), "no reported value differs");
        assert_eq!(verdict(0.6), "2 values differ; none has an interval");
    }
}
