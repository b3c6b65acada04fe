//! Sequences of a batch as rows of a matrix: padded to one length, or one after the other without padding.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{Device, Error, Result, Tensor};

use super::compute::Compute;
use super::embeddings::{scatter_rows, select_rows};

/// Rows of a batch of padded sequences without those that are padding. They are numbered anew; what depends on a number, as a mask
/// of dropout does and the grouping of a sum, goes by the number that a row has where the sequences are padded. So leaving out
/// the padding changes no bit of a result.
#[derive(Debug)]
pub struct Packing {
    /// The number of each row where the sequences are padded, ascending.
    places: Vec<u32>,
    /// Where the rows of each sequence begin, and where those of the last end.
    starts: Vec<usize>,
    /// Positions of a padded sequence.
    length: usize,
    /// `places`, u32, on the device: for passes that run there.
    places_table: Tensor,
    /// `starts`, in the same way.
    starts_table: Tensor,
}

/// Positions next to each other of which none is padding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// The first, counted without padding.
    pub packed: usize,
    /// The first, counted with it.
    pub padded: usize,
    /// How many there are.
    pub length: usize,
}

impl Packing {
    /// Of sequences of `length` positions whose `mask` is 0 where one is padding, for passes on `device`; nothing if none is, or if
    /// the first position of a sequence is, which layers need.
    ///
    /// # Errors
    /// Only if the device fails.
    pub(super) fn new(mask: &[f32], length: usize, device: &Device) -> Result<Option<Self>> {
        let is_there = |place: &u32| mask[*place as usize] != 0.0;
        let places: Vec<u32> = (0..mask.len() as u32).filter(is_there).collect();
        if places.len() == mask.len() || mask.iter().step_by(length).any(|first| *first == 0.0) {
            return Ok(None);
        }
        let ends = (0..=mask.len()).step_by(length);
        let starts: Vec<usize> =
            ends.map(|end| places.partition_point(|place| (*place as usize) < end)).collect();
        // Both at once: a copy to the device takes as long for a few bytes as for a few thousand.
        let words = places.iter().copied().chain(starts.iter().map(|start| *start as u32));
        let tables = Tensor::from_iter(words, device)?;
        let places_table = tables.narrow(0, 0, places.len())?;
        let starts_table = tables.narrow(0, places.len(), starts.len())?;
        Ok(Some(Self { places, starts, length, places_table, starts_table }))
    }

    /// Rows of all sequences.
    pub fn rows(&self) -> usize {
        self.places.len()
    }

    /// Rows of all sequences where they are padded.
    pub fn padded_rows(&self) -> usize {
        (self.starts.len() - 1) * self.length
    }

    /// The number of row `row` where the sequences are padded.
    pub fn place(&self, row: usize) -> usize {
        self.places[row] as usize
    }

    /// How many rows come before row `place` of the padded ones.
    pub fn before(&self, place: usize) -> usize {
        self.places.partition_point(|&other| (other as usize) < place)
    }

    /// The rows of sequence `b`.
    pub fn sequence(&self, b: usize) -> Range<usize> {
        self.starts[b]..self.starts[b + 1]
    }

    /// The positions of sequence `b`.
    pub fn runs(&self, b: usize) -> Vec<Run> {
        let rows = &self.places[self.sequence(b)];
        let mut runs: Vec<Run> = Vec::new();
        for (packed, place) in rows.iter().enumerate() {
            let padded = *place as usize - b * self.length;
            match runs.last_mut() {
                Some(run) if run.padded + run.length == padded => run.length += 1,
                _ => runs.push(Run { packed, padded, length: 1 }),
            }
        }
        runs
    }

    /// The number of each row where the sequences are padded: u32 on the device.
    pub fn places_table(&self) -> &Tensor {
        &self.places_table
    }

    /// Where the rows of each sequence begin, and where those of the last end: u32 on the device.
    pub fn starts_table(&self) -> &Tensor {
        &self.starts_table
    }
}

/// The sequences of a batch, as layers read them.
#[derive(Debug, Clone)]
pub struct Sequences {
    /// How many there are.
    pub(super) batch: usize,
    /// Positions of each, with padding.
    pub(super) length: usize,
    /// What is added to the scores of keys, [B, S], where padding is among them.
    pub(super) bias: Option<Tensor>,
    /// Where padding is left out.
    pub(super) packing: Option<Arc<Packing>>,
}

impl Sequences {
    /// Those of which `mask` [B, S], in host memory, says 1 where a position is there and 0 where it is padding.
    ///
    /// # Errors
    /// A mask of another rank, or a device that fails.
    pub fn new(compute: &Compute, mask: &Tensor) -> Result<Self> {
        let ((batch, length), device) = (mask.dims2()?, compute.device());
        let values: Vec<f32> = mask.flatten_all()?.to_vec1()?;
        let packing = if compute.packs() { Packing::new(&values, length, device)? } else { None };
        let has_padding = packing.is_none() && values.contains(&0.0);
        // −10000 rather than −∞, as the original: added to a score it makes the probability exactly 0 in f32.
        let bias = || mask.affine(10_000.0, -10_000.0)?.contiguous()?.to_device(device);
        let bias = if has_padding { Some(bias()?) } else { None };
        Ok(Self { batch, length, bias, packing: packing.map(Arc::new) })
    }

    /// `x` [B, S, H] without padding, as layers read it: [rows, H] or, where nothing is padding, as it is.
    ///
    /// # Errors
    /// Another shape.
    pub fn pack(&self, compute: &Compute, x: &Tensor) -> Result<Tensor> {
        let (batch, length, _) = x.dims3()?;
        if (batch, length) != (self.batch, self.length) {
            let (found, mask) = (x.dims(), [self.batch, self.length]);
            return Err(Error::msg(format!("sequences of shape {found:?} have a mask of shape {mask:?}")));
        }
        match &self.packing {
            Some(packing) => select_rows(compute, &x.flatten(0, 1)?, packing.places_table()),
            None => Ok(x.clone()),
        }
    }

    /// `x` as layers return it, padded with zeros: [B, S, H].
    ///
    /// # Errors
    /// Another shape.
    pub fn unpack(&self, compute: &Compute, x: &Tensor) -> Result<Tensor> {
        match &self.packing {
            Some(packing) => {
                let x = scatter_rows(compute, x, packing.places_table(), packing.padded_rows())?;
                x.reshape((self.batch, self.length, ()))
            }
            None => Ok(x.clone()),
        }
    }

    /// The shape of these sequences with rows of `width`.
    pub(super) fn shape(&self, width: usize) -> Vec<usize> {
        match &self.packing {
            Some(packing) => vec![packing.rows(), width],
            None => vec![self.batch, self.length, width],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::Precision;

    #[test]
    fn rows_keep_the_numbers_of_padded_ones() {
        let mask = [1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0];
        let packing = Packing::new(&mask, 4, &Device::Cpu).unwrap().unwrap();
        assert_eq!((packing.rows(), packing.padded_rows()), (8, 12));
        assert_eq!((0..8).map(|row| packing.place(row)).collect::<Vec<_>>(), [0, 1, 3, 4, 7, 8, 9, 10]);
        assert_eq!((0..3).map(|b| packing.sequence(b)).collect::<Vec<_>>(), [0..3, 3..5, 5..8]);
        assert_eq!(packing.places_table().to_vec1::<u32>().unwrap(), [0, 1, 3, 4, 7, 8, 9, 10]);
        assert_eq!(packing.starts_table().to_vec1::<u32>().unwrap(), [0, 3, 5, 8]);
        assert_eq!([0, 2, 3, 5, 7, 12].map(|place| packing.before(place)), [0, 2, 2, 4, 4, 8]);
        let run = |packed, padded, length| Run { packed, padded, length };
        assert_eq!(packing.runs(0), [run(0, 0, 2), run(2, 3, 1)]);
        assert_eq!(packing.runs(1), [run(0, 0, 1), run(1, 3, 1)]);
        assert_eq!(packing.runs(2), [run(0, 0, 3)]);
    }

    #[test]
    fn nothing_is_left_out_where_nothing_is_padding_or_a_first_position_is() {
        for (mask, length) in [(&[1.0; 6][..], 3), (&[1.0, 0.0, 0.0, 1.0], 2)] {
            assert!(Packing::new(mask, length, &Device::Cpu).unwrap().is_none(), "{mask:?}");
        }
    }

    #[test]
    fn scores_get_a_bias_only_where_padding_stays() {
        let packing = Compute::for_device(&Device::Cpu, Precision::F32).unwrap();
        let padding = Compute::padded(Precision::F32).unwrap();
        let bias = |compute: &Compute, mask: &[[f32; 3]; 2]| {
            let sequences = Sequences::new(compute, &Tensor::new(mask, &Device::Cpu).unwrap()).unwrap();
            sequences.bias.map(|bias| bias.to_vec2::<f32>().unwrap())
        };
        let padded = [[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]];
        let rest = vec![vec![0.0; 3], vec![0.0, 0.0, -10_000.0]];
        assert_eq!((bias(&packing, &padded), bias(&padding, &padded)), (None, Some(rest)));
        let first = [[1.0, 1.0, 1.0], [0.0, 1.0, 1.0]];
        assert_eq!(bias(&packing, &first), Some(vec![vec![0.0; 3], vec![-10_000.0, 0.0, 0.0]]));
        assert_eq!((bias(&packing, &[[1.0; 3]; 2]), bias(&padding, &[[1.0; 3]; 2])), (None, None));
    }
}
