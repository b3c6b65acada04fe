//! The order in which training sees its rows, epoch after epoch, cut into batches, the short last one kept (as
//! the original does). It does not know what a row is.

use rand::seq::SliceRandom;
use schemars::JsonSchema;
use stage_api::ParamEnum;

use crate::nn::rng;

/// The order of rows within an epoch: `"shuffled"` again in each epoch, or `"sequential"`, as in the data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, JsonSchema, ParamEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Order {
    /// A fresh shuffle each epoch, as the original.
    #[default]
    Shuffled,
    /// The data set's own.
    Sequential,
}

/// Batches of row numbers without end. The order of an epoch depends on the seed and the epoch alone.
pub(crate) struct BatchSampler {
    rows: Vec<usize>,
    order: Vec<usize>,
    kind: Order,
    batch: usize,
    seed: u64,
    next: usize,
    epoch: u64,
}

impl BatchSampler {
    /// Batches of at most `batch` of `rows`, neither of which may be empty or zero.
    pub(crate) fn new(rows: &[usize], batch: usize, kind: Order, seed: u64) -> Self {
        Self { rows: rows.to_vec(), order: Vec::new(), kind, batch, seed, next: 0, epoch: 0 }
    }

    /// The same batches without the first `done`.
    pub(crate) fn after(mut self, done: u64) -> Self {
        let an_epoch = self.rows.len().div_ceil(self.batch) as u64;
        // The last batch of an epoch leaves the order used up, as `next_batch` does.
        if let Some(last) = done.checked_sub(1) {
            self.epoch = last / an_epoch;
            self.begin_epoch();
            self.next = ((last % an_epoch) as usize + 1).saturating_mul(self.batch).min(self.order.len());
        }
        self
    }

    fn begin_epoch(&mut self) {
        self.order.clone_from(&self.rows);
        if self.kind == Order::Shuffled {
            self.order.shuffle(&mut rng::generator(self.seed, &format!("order of epoch {}", self.epoch)));
        }
        self.epoch += 1;
        self.next = 0;
    }

    /// The rows of the next batch.
    pub(crate) fn next_batch(&mut self) -> &[usize] {
        if self.next >= self.order.len() {
            self.begin_epoch();
        }
        let start = self.next;
        self.next = (start + self.batch).min(self.order.len());
        &self.order[start..self.next]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_holds_every_row_once_and_keeps_the_short_batch() {
        let rows: Vec<usize> = (100..110).collect();
        let mut sampler = BatchSampler::new(&rows, 4, Order::Shuffled, 1);
        let mut seen = Vec::new();
        for _ in 0..2 {
            let batches: Vec<Vec<usize>> = (0..3).map(|_| sampler.next_batch().to_vec()).collect();
            assert_eq!(batches.iter().map(Vec::len).collect::<Vec<_>>(), [4, 4, 2]);
            seen.push(batches.concat());
        }
        assert_ne!(seen[0], seen[1], "each epoch has its own order");
        for mut epoch in seen {
            epoch.sort_unstable();
            assert_eq!(epoch, rows);
        }
    }

    #[test]
    fn the_seed_decides_the_order() {
        let rows: Vec<usize> = (0..50).collect();
        let first = |seed| BatchSampler::new(&rows, 50, Order::Shuffled, seed).next_batch().to_vec();
        assert_eq!(first(1), first(1));
        assert_ne!(first(1), first(2));
    }

    #[test]
    fn a_sequence_is_the_data_sets_own_in_every_epoch() {
        let rows = [7, 3, 5];
        let mut sampler = BatchSampler::new(&rows, 2, Order::Sequential, 1);
        let batches: Vec<Vec<usize>> = (0..4).map(|_| sampler.next_batch().to_vec()).collect();
        assert_eq!(batches, [vec![7, 3], vec![5], vec![7, 3], vec![5]]);
    }

    #[test]
    fn what_follows_is_the_same_after_any_number_of_batches() {
        let rows: Vec<usize> = (0..11).collect();
        let new = || BatchSampler::new(&rows, 4, Order::Shuffled, 3);
        let all: Vec<Vec<usize>> =
            (0..20).scan(new(), |sampler, _| Some(sampler.next_batch().to_vec())).collect();
        for done in 0..15 {
            let mut sampler = new().after(done);
            for expected in &all[done as usize..] {
                assert_eq!(sampler.next_batch(), expected, "after {done}");
            }
        }
    }
}
