//! What follows a convolution's sums: bias, an addend and ReLU, while the sums are in a cache. It knows no convolution.

use std::mem::MaybeUninit;

use super::cpu::per_instruction_set;
use super::cpu_tensor::rectified;

/// Each sum v becomes v + bias, or v + (addend + bias), and the ReLU of that.
#[derive(Debug, Clone, Copy)]
pub struct Epilogue<'a> {
    /// One value a channel.
    pub bias: &'a [f32],
    /// One value an output, channel by channel.
    pub addend: Option<&'a [f32]>,
    /// Whether a ReLU ends it.
    pub relu: bool,
    /// Outputs of a channel.
    pub plane: usize,
}

impl Epilogue<'_> {
    /// That of the outputs from number `place` of `channel` on.
    pub fn from(self, channel: usize, place: usize) -> Self {
        let addend = self.addend.map(|addend| &addend[channel * self.plane + place..]);
        Self { bias: &self.bias[channel..], addend, ..self }
    }

    /// Finishes `sums`, outputs of `channel` from number `place` on.
    pub fn finish(&self, channel: usize, place: usize, sums: &mut [f32]) {
        let addend = self.addend.map(|addend| &addend[channel * self.plane + place..][..sums.len()]);
        finish(sums, self.bias[channel], addend, self.relu);
    }

    /// Finishes `sums`, outputs of the first channel from number `place` on, and writes them to `y`.
    pub fn write(&self, y: &mut [MaybeUninit<f32>], sums: &mut [f32], place: usize) {
        self.finish(0, place, sums);
        y.write_copy_of_slice(sums);
    }
}

per_instruction_set! {
    /// Finishes sums of one channel.
    fn finish(sums: &mut [f32], bias: f32, addend: Option<&[f32]>, relu: bool) {
        match (addend, relu) {
            (None, false) => sums.iter_mut().for_each(|sum| *sum += bias),
            (None, true) => sums.iter_mut().for_each(|sum| *sum = rectified(*sum + bias)),
            (Some(addend), false) => sums.iter_mut().zip(addend).for_each(|(sum, add)| *sum += add + bias),
            (Some(addend), true) => {
                sums.iter_mut().zip(addend).for_each(|(sum, add)| *sum = rectified(*sum + (add + bias)));
            }
        }
    }
}
