//! The training loss as the original logs it: single batches are sampled, the line shows the lower median of
//! the last 20 samples and the mean of all. It does not know when a sample is due.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// Samples the median is taken over.
const WINDOW: usize = 20;

/// Sampled batch losses.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct LossMeter {
    recent: VecDeque<f64>,
    sum: f64,
    rows: f64,
}

impl LossMeter {
    /// Takes the mean loss of a batch of `rows` rows.
    pub(crate) fn add(&mut self, loss: f64, rows: usize) {
        if self.recent.len() == WINDOW {
            self.recent.pop_front();
        }
        self.recent.push_back(loss);
        self.sum += loss * rows as f64;
        self.rows += rows as f64;
    }

    /// Lower median of the last 20 samples: the smaller of the two middle ones when their number is even.
    /// 0 without samples.
    pub(crate) fn median(&self) -> f64 {
        let mut sorted: Vec<f64> = self.recent.iter().copied().collect();
        sorted.sort_unstable_by(f64::total_cmp);
        sorted.get(sorted.len().saturating_sub(1) / 2).copied().unwrap_or(0.0)
    }

    /// Mean of all samples, weighted by rows. 0 without samples.
    pub(crate) fn average(&self) -> f64 {
        if self.rows > 0.0 { self.sum / self.rows } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_lower_one_of_the_last_twenty() {
        let mut meter = LossMeter::default();
        for (loss, median) in [(5.0, 5.0), (1.0, 1.0), (3.0, 3.0), (2.0, 2.0)] {
            meter.add(loss, 16);
            assert_eq!(meter.median(), median);
        }
        for loss in 10..30 {
            meter.add(f64::from(loss), 16);
        }
        // 10 to 29 are left: the middle ones are 19 and 20.
        assert_eq!(meter.median(), 19.0);
    }

    #[test]
    fn the_average_weighs_a_short_batch_by_its_rows() {
        let mut meter = LossMeter::default();
        meter.add(1.0, 12);
        meter.add(2.0, 4);
        assert_eq!(meter.average(), 1.25);
    }
}
