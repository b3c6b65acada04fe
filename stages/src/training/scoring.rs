//! Scores a split with a model in evaluation mode: logits, and the metrics over all of them at once, as the
//! original computes them. It does not know which update the model is at.

use std::cmp::Reverse;

use candle_core::Device;
use stage_api::{Job, StageError};

use super::dataset::MemeDataset;
use super::prefetch::prefetch;
use crate::metrics;
use crate::models::Model;

/// The logits of some rows.
pub(crate) struct Scores {
    /// One pair a row, in the order of the rows.
    pub logits: Vec<[f32; 2]>,
}

/// Metrics over all rows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Summary {
    /// Mean cross-entropy a row.
    pub loss: f64,
    /// Accuracy, from 0 to 1.
    pub accuracy: f64,
    /// F1 of class 1.
    pub f1: f64,
    /// ROC-AUC; `None` where it is undefined.
    pub roc_auc: Option<f64>,
}

/// What to score.
pub(crate) struct Rows<'a> {
    /// The data set.
    pub memes: &'a MemeDataset<'a>,
    /// Its rows.
    pub rows: &'a [usize],
    /// How many at a time.
    pub batch: usize,
}

impl Scores {
    /// Runs `model`, which is on `device`, without dropout.
    ///
    /// # Errors
    /// A request to stop, or a model that fails.
    pub(crate) fn compute(
        model: &dyn Model,
        device: &Device,
        Rows { memes, rows, batch }: Rows,
        job: &Job,
    ) -> Result<Self, StageError> {
        // Texts of one length share a batch, so that next to nothing is padding; the longest come first, so that a batch
        // that is too large for the device fails at once.
        let mut order: Vec<usize> = (0..rows.len()).collect();
        order.sort_by_key(|&at| Reverse(memes.length(rows[at])));
        let mut logits = vec![[0.0; 2]; rows.len()];
        let batches = order.chunks(batch).map(|places| {
            let rows: Vec<usize> = places.iter().map(|&at| rows[at]).collect();
            memes.plain_batch(&rows).map(|batch| (places, batch))
        });
        prefetch(batches, |batches| {
            for batch in batches {
                job.check_cancelled()?;
                let scored = batch.and_then(|(places, batch)| {
                    let pairs = model.logits(&batch.to_device(device)?, None)?.to_vec2::<f32>()?;
                    places.iter().zip(pairs).for_each(|(&at, pair)| logits[at] = [pair[0], pair[1]]);
                    Ok(())
                });
                scored.map_err(|error| StageError::failed(format!("evaluation: {error}")))?;
            }
            Ok(Self { logits })
        })
    }

    /// P(class 0) and P(class 1) by row.
    pub(crate) fn probabilities(&self) -> Vec<[f32; 2]> {
        self.logits.iter().map(|&pair| metrics::softmax(pair)).collect()
    }

    /// The metrics against `labels`.
    pub(crate) fn summary(&self, labels: &[u8]) -> Summary {
        let predicted: Vec<u8> = self.logits.iter().map(|&pair| metrics::argmax(pair)).collect();
        let losses =
            self.logits.iter().zip(labels).map(|(&pair, &label)| metrics::cross_entropy(pair, label));
        Summary {
            loss: losses.sum::<f64>() / labels.len().max(1) as f64,
            accuracy: metrics::accuracy(&predicted, labels),
            f1: metrics::binary_f1(&predicted, labels),
            roc_auc: metrics::roc_auc(&self.probabilities(), labels),
        }
    }
}
