//! Dropout without stored randomness: whether an element is kept is a hash of (seed, update, site, element).
//!
//! So masks do not depend on threads or on the order in which sites are computed, the backward pass computes the
//! mask again instead of keeping it.

use candle_core::{Error, Result, Tensor};

use super::backend::RowMask;
use super::cpu::per_instruction_set;

/// Dropout of a training run.
#[derive(Debug, Clone, Copy)]
pub struct Dropout {
    threshold: u32,
    scale: f32,
    seed: u64,
}

impl Dropout {
    /// Drops each element with probability `p` and scales the kept ones by 1 / (1 − `p`).
    ///
    /// # Errors
    /// `p` is not in [0, 1).
    pub fn new(p: f64, seed: u64) -> Result<Self> {
        if !(0.0..1.0).contains(&p) {
            return Err(Error::msg(format!("a dropout probability must be at least 0 and below 1, not {p}")));
        }
        let threshold = (p * (1u64 << 32) as f64).round().min(f64::from(u32::MAX)) as u32;
        Ok(Self { threshold, scale: (1.0 / (1.0 - p)) as f32, seed })
    }

    /// The dropout of update `update`.
    pub fn at(&self, update: u64) -> DropoutAt {
        let key = mix(mix(self.seed) ^ update);
        DropoutAt { threshold: self.threshold, scale: self.scale, key, micro_batch: MicroBatch::WHOLE }
    }
}

/// Which rows of the batch are computed at once: `rows` of them, after the first `before`.
#[derive(Debug, Clone, Copy)]
pub(super) struct MicroBatch {
    before: usize,
    rows: usize,
}

impl MicroBatch {
    const WHOLE: Self = Self { before: 0, rows: 1 };
}

/// A place of dropout in a model: the 64-bit FNV-1a hash of its path, so that it does not depend on what other places
/// there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Site(u64);

impl Site {
    /// The place at `path`.
    pub fn new(path: &str) -> Self {
        let hash = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        Self(path.as_bytes().iter().fold(0xcbf2_9ce4_8422_2325, hash))
    }
}

/// Dropout within one update.
#[derive(Debug, Clone, Copy)]
pub struct DropoutAt {
    threshold: u32,
    scale: f32,
    key: u64,
    micro_batch: MicroBatch,
}

impl DropoutAt {
    /// The dropout of `rows` rows of the batch, those that follow the first `before`: the masks are the whole
    /// batch's at these rows, so that a batch computed in micro-batches drops what it would have dropped as a whole.
    pub fn micro_batch(self, before: usize, rows: usize) -> Self {
        Self { micro_batch: MicroBatch { before, rows: rows.max(1) }, ..self }
    }

    /// The mask of the place `site` of the model.
    pub fn site(&self, site: Site) -> Mask {
        let key = mix(self.key ^ site.0);
        let keys = [key as u32, (key >> 32) as u32];
        Mask { threshold: self.threshold, scale: self.scale, keys, micro_batch: self.micro_batch, first: 0 }
    }
}

/// A dropout mask over elements 0, 1, 2, … of a contiguous tensor.
#[derive(Debug, Clone, Copy)]
pub struct Mask {
    pub(super) threshold: u32,
    pub(super) scale: f32,
    pub(super) keys: [u32; 2],
    pub(super) micro_batch: MicroBatch,
    /// What the tensor's element 0 is in the whole batch's tensor; see [`Mask::over`].
    pub(super) first: u32,
}

impl Mask {
    /// The mask over a tensor of `elements` elements, whose first dimension is the batch's rows.
    pub(super) fn over(self, elements: usize) -> Self {
        Self { first: (self.micro_batch.before * (elements / self.micro_batch.rows)) as u32, ..self }
    }

    /// What element `element` is multiplied by: 0, or 1 / (1 − p).
    #[inline(always)]
    pub fn factor(&self, element: u32) -> f32 {
        // A 32-bit avalanche hash (two multiplications, three shifts; the constants are those of the
        // "lowbias32" search), keyed before and between the rounds. All steps exist as vector instructions.
        let mut x = element.wrapping_add(self.first) ^ self.keys[0];
        x = (x ^ (x >> 16)).wrapping_mul(0x7feb_352d);
        x = (x ^ (x >> 15) ^ self.keys[1]).wrapping_mul(0x846c_a68b);
        x ^= x >> 16;
        if x >= self.threshold { self.scale } else { 0.0 }
    }

    /// `x` under this mask, by candle's operations. They have none to hash with: the factors are computed on the host.
    ///
    /// # Errors
    /// Only if the device fails.
    pub fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let factors: Vec<f32> = (0..x.elem_count()).map(|element| self.factor(element as u32)).collect();
        x.mul(&Tensor::from_vec(factors, x.dims(), x.device())?)
    }
}

per_instruction_set! {
    /// `x` ← `x` under `mask`, where `x` begins at element `first`.
    pub fn scale(mask: &Mask, first: usize, x: &mut [f32]) {
        for (i, x) in x.iter_mut().enumerate() {
            *x *= mask.factor((first + i) as u32);
        }
    }
}

per_instruction_set! {
    /// `factors` ← what the elements from `first` on are multiplied by.
    pub fn factors(mask: &Mask, first: usize, factors: &mut [f32]) {
        for (i, factor) in factors.iter_mut().enumerate() {
            *factor = mask.factor((first + i) as u32);
        }
    }
}

/// Rows of `width` values, from row `first` of those of `rows` on, under their mask.
pub fn scale_rows(rows: RowMask<'_>, first: usize, width: usize, x: &mut [f32]) {
    let Some(mask) = &rows.mask else { return };
    match rows.packing {
        None => scale(mask, first * width, x),
        Some(packing) => {
            for (row, x) in (first..).zip(x.chunks_exact_mut(width)) {
                scale(mask, packing.place(row) * width, x);
            }
        }
    }
}

/// The finaliser of SplitMix64: every bit of the result depends on every bit of `x`.
fn mix(x: u64) -> u64 {
    let mut x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(mask: &Mask, count: u32) -> Vec<bool> {
        (0..count).map(|element| mask.factor(element) > 0.0).collect()
    }

    #[test]
    fn keeps_the_expected_share_and_scales_it() {
        let mask = Dropout::new(0.1, 7).unwrap().at(3).site(Site::new("a"));
        let count = 100_000u32;
        let share = kept(&mask, count).iter().filter(|&&kept| kept).count() as f64 / f64::from(count);
        // Four standard errors of a share of 0.9.
        assert!((share - 0.9).abs() < 4.0 * (0.09 / f64::from(count)).sqrt(), "{share}");
        let kept = (0..20).map(|element| mask.factor(element)).find(|&factor| factor > 0.0);
        assert_eq!(kept, Some(1.0 / 0.9));
    }

    #[test]
    fn seeds_updates_and_sites_have_independent_masks() {
        let mask = |seed, update, site| {
            kept(&Dropout::new(0.5, seed).unwrap().at(update).site(Site::new(site)), 10_000)
        };
        let first = mask(1, 1, "a");
        assert_eq!(first, mask(1, 1, "a"));
        let shifted: Vec<bool> = first.iter().cycle().skip(1).take(first.len()).copied().collect();
        for other in [mask(2, 1, "a"), mask(1, 2, "a"), mask(1, 1, "b"), shifted] {
            let agree = first.iter().zip(&other).filter(|(a, b)| a == b).count() as f64 / 10_000.0;
            assert!((agree - 0.5).abs() < 0.02, "masks agree on {agree}");
        }
    }

    #[test]
    fn nothing_is_dropped_at_probability_zero_and_nonsense_is_refused() {
        assert!(
            kept(&Dropout::new(0.0, 1).unwrap().at(0).site(Site::new("a")), 1000).iter().all(|&kept| kept)
        );
        for p in [1.0, -0.1, f64::NAN] {
            assert!(Dropout::new(p, 1).is_err(), "{p}");
        }
    }
}
