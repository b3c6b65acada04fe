//! Predictions of others, assigned to the rows of a split by their ids. It does not know which system gave them.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use stage_api::{Job, StageError};

use super::PREDICTIONS;
use super::scored_rows::Scored;
use crate::artifacts::history::{ParameterCounts, RunInfo};
use crate::artifacts::labels::{Label, predicted_label};
use crate::artifacts::predictions;
use crate::artifacts::samples::Split;
use crate::artifacts::scores::Score;
use crate::artifacts::token_set::TokenSet;
use crate::metrics;
use crate::training::dataset::TOKENS;

/// How many of the ids that are missing a message names.
const NAMED: usize = 3;

/// The rows of `split` with the predictions of `file`, whose labels are those of the data set.
///
/// # Errors
/// A file that cannot be read; an id that it lacks or that the split does not have, with its line; a row without label.
pub(super) fn scored(name: &str, file: &Path, split: Split, job: &Job) -> Result<Scored, StageError> {
    let tokens = job.inputs.one(TOKENS)?;
    let from_tokens = |problem: String| StageError::input(TOKENS, tokens, problem);
    let data =
        TokenSet::read(tokens).map_err(|error| StageError::input(TOKENS, error.path, error.problem))?;
    let refuse = |problem: String| StageError::input(PREDICTIONS, file, problem);
    let given = predictions::read(file, &data.info.classes).map_err(|error| refuse(error.problem))?;

    let (rows, dataset, in_split) = (data.rows_of(split), &data.info.dataset, split.as_str());
    if rows.is_empty() {
        return Err(from_tokens(format!("the split `{in_split}` has no rows")));
    }
    let known: HashSet<&str> = rows.iter().map(|&row| data.rows[row].id.as_str()).collect();
    for (line, prediction) in &given {
        let id = prediction.id.as_str();
        if !known.contains(id) {
            let problem = match data.rows.iter().find(|row| row.id == id) {
                Some(row) => {
                    format!("`{id}` is in the split `{}`, not in `{in_split}`", row.split.as_str())
                }
                None => format!("`{id}` is not an id of `{dataset}`"),
            };
            return Err(refuse(format!("line {line}: {problem}")));
        }
    }
    let given: HashMap<&str, _> =
        given.iter().map(|(_, prediction)| (prediction.id.as_str(), prediction)).collect();
    let missing: Vec<&str> =
        rows.iter().map(|&row| data.rows[row].id.as_str()).filter(|id| !given.contains_key(id)).collect();
    if !missing.is_empty() {
        let first: Vec<String> = missing.iter().take(NAMED).map(|id| format!("`{id}`")).collect();
        return Err(refuse(format!(
            "lacks {} of the {} ids of the split `{in_split}` of `{dataset}`, first {}",
            missing.len(),
            rows.len(),
            first.join(", ")
        )));
    }

    let (mut scores, mut predicted, mut others) = (Vec::new(), Vec::new(), 0);
    for row in rows {
        let prediction = given[data.rows[row].id.as_str()];
        let probabilities = match prediction.probabilities[..] {
            [proba] => vec![(1.0 - proba) as f32, proba as f32],
            ref several => several.iter().map(|p| *p as f32).collect(),
        };
        let label = data.label(row).map_err(from_tokens)?;
        let predicted_here = predicted_label(&probabilities, data.info.classes.multi_label);
        others += usize::from(prediction.label.is_some_and(|label| label != predicted_here));
        predicted.push(predicted_here);
        scores.push(Score { id: prediction.id.clone(), label, probabilities });
    }
    if others > 0 {
        job.progress.note(&format!(
            "{others} of {} rows have another `label` than their more probable class, which is what counts here",
            scores.len()
        ));
    }
    let losses = scores.iter().map(log_loss);
    Ok(Scored {
        run: RunInfo::for_predictions(dataset, name),
        parameters: ParameterCounts { total: 0, trained: 0, adapters: 0 },
        best_update: 0,
        dataset: dataset.clone(),
        classes: data.info.classes.clone(),
        predicted,
        loss: losses.sum::<f64>() / scores.len() as f64,
        scores,
    })
}

/// The cross-entropy of a row's probabilities; of a row that may have several classes, the mean of theirs.
fn log_loss(score: &Score) -> f64 {
    match score.label {
        Label::One(class) => metrics::log_loss(score.of(class.into())),
        Label::Several(_) => {
            let of_class = |(class, &p): (usize, &f32)| {
                metrics::log_loss(if score.label.has(class) { p } else { 1.0 - p })
            };
            score.probabilities.iter().enumerate().map(of_class).sum::<f64>()
                / score.probabilities.len() as f64
        }
    }
}
