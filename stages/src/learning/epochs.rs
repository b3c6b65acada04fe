//! The order in which training sees its rows: a fresh shuffle each epoch, cut into batches, the short last one
//! kept (as the original does). It does not know what a row is.

use rand::seq::SliceRandom;

use crate::nn::rng;

/// Batches of row numbers without end. The order of an epoch depends on the seed and the epoch alone.
pub(crate) struct Epochs {
    rows: Vec<usize>,
    order: Vec<usize>,
    batch: usize,
    seed: u64,
    next: usize,
    epoch: u64,
}

impl Epochs {
    /// Batches of at most `batch` of `rows`, neither of which may be empty or zero.
    pub(crate) fn new(rows: &[usize], batch: usize, seed: u64) -> Self {
        Self { rows: rows.to_vec(), order: Vec::new(), batch, seed, next: 0, epoch: 0 }
    }

    /// The rows of the next batch.
    pub(crate) fn next_batch(&mut self) -> &[usize] {
        if self.next >= self.order.len() {
            self.order.clone_from(&self.rows);
            self.order.shuffle(&mut rng::generator(self.seed, &format!("order of epoch {}", self.epoch)));
            self.epoch += 1;
            self.next = 0;
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
        let mut epochs = Epochs::new(&rows, 4, 1);
        let mut seen = Vec::new();
        for _ in 0..2 {
            let batches: Vec<Vec<usize>> = (0..3).map(|_| epochs.next_batch().to_vec()).collect();
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
        let first = |seed| Epochs::new(&rows, 50, seed).next_batch().to_vec();
        assert_eq!(first(1), first(1));
        assert_ne!(first(1), first(2));
    }
}
