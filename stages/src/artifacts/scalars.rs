//! The values that a step measured while it ran, kept next to its log. Tools read them, no stage does: they differ
//! from run to run. It does not know who measured them.

use std::fs;
use std::path::Path;

use serde::Deserialize;
pub use stage_api::Scalars;

/// What a training run calls its speed.
pub const RATE: &str = "updates per second";
/// What it calls the loss of the update's own batch.
pub const BATCH_LOSS: &str = "batch loss";
/// What it calls its training loss, the median of such.
pub const LOSS: &str = "loss";
/// What it calls the learning rate of the next update.
pub const LEARNING_RATE: &str = "lr";
/// What it calls the ROC-AUC of a validation.
pub const ROC_AUC: &str = "val roc_auc";
/// How many rows it computes side by side, from an update on at which the device's memory held no more.
pub const ROWS_AT_ONCE: &str = "rows at once";

#[derive(Deserialize)]
struct Line {
    scalar: Scalar,
}

#[derive(Deserialize)]
struct Scalar {
    name: String,
    step: u64,
    value: Option<f64>,
}

/// The values next to `log`, by name, in the order in which the names first came; none where there is no such file. Of an
/// update that was done again, after a kill, the later value counts.
pub fn read(log: &Path) -> Vec<Scalars> {
    let bytes = fs::read(log.with_extension("jsonl")).unwrap_or_default();
    let mut found: Vec<Scalars> = Vec::new();
    // The last line may be half written.
    let lines =
        bytes.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice::<Line>(line).ok());
    for Line { scalar: Scalar { name, step, value } } in lines {
        let place = found.iter().position(|scalars| scalars.name == name).unwrap_or_else(|| {
            found.push(Scalars { name, points: Vec::new() });
            found.len() - 1
        });
        let points = &mut found[place].points;
        points.truncate(points.partition_point(|(at, _)| *at < step));
        points.push((step, value));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_line_is_none_and_what_was_done_again_counts_once() {
        let dir = tempfile::tempdir().unwrap();
        let line = |step: u64, value: &str| {
            format!("{{\"scalar\":{{\"name\":\"loss\",\"step\":{step},\"value\":{value}}}}}\n")
        };
        let lines =
            [line(1, "0.5"), line(2, "0.4"), line(3, "0.3"), line(2, "null"), line(3, "0.25")[..20].into()];
        fs::write(dir.path().join("log.jsonl"), lines.concat()).unwrap();
        let found = read(&dir.path().join("log"));
        assert_eq!(found, [Scalars { name: "loss".into(), points: vec![(1, Some(0.5)), (2, None)] }]);
        assert_eq!(read(&dir.path().join("none")), []);
    }
}
