//! Predictions of others, assigned to the rows of a split by their ids. It does not know which system gave them.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use stage_api::{Job, StageError};

use super::PREDICTIONS;
use super::scored_rows::Scored;
use crate::artifacts::history::{ParameterCounts, RunInfo};
use crate::artifacts::predictions;
use crate::artifacts::samples::Split;
use crate::artifacts::scores::Score;
use crate::artifacts::token_set::TokenSet;
use crate::metrics::{self, argmax};
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
    let given = predictions::read(file).map_err(|error| refuse(error.problem))?;

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

    let (mut scores, mut others) = (Vec::new(), 0);
    for row in rows {
        let prediction = given[data.rows[row].id.as_str()];
        let (p1, p0) = (prediction.proba as f32, (1.0 - prediction.proba) as f32);
        let label = data.label(row).map_err(from_tokens)?;
        others += usize::from(prediction.label.is_some_and(|label| label != argmax([p0, p1])));
        scores.push(Score { id: prediction.id.clone(), label, p0, p1 });
    }
    if others > 0 {
        job.progress.note(&format!(
            "{others} of {} rows have another `label` than their more probable class, which is what counts here",
            scores.len()
        ));
    }
    let losses = scores.iter().map(|score| metrics::log_loss([score.p0, score.p1], score.label));
    Ok(Scored {
        run: RunInfo::for_predictions(dataset, name),
        parameters: ParameterCounts { total: 0, trained: 0, adapters: 0 },
        best_update: 0,
        dataset: dataset.clone(),
        classes: data.info.classes.clone(),
        guesses: scores.iter().map(|score| argmax([score.p0, score.p1])).collect(),
        loss: losses.sum::<f64>() / scores.len() as f64,
        scores,
    })
}
