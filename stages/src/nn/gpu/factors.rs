//! Factors of matrix products, as a GPU multiplies them.
//!
//! Tensor cores multiply TF32 numbers, of 11 bits, and truncate when they add. A product of float32 numbers is computed by three
//! of TF32: each factor is split into high + low, and low · high, high · low, high · high are added in this order, the small ones
//! first. The inner dimension is cut into parts of at most 384, whose sums the next pass adds in float32: uncut, truncation costs
//! more than 1e-5 over a model of 12 layers. Gradients of weights are not cut: they end there, and what truncation
//! takes of them, 1e-5 of their length, is a tenth of what their tests allow.

use candle_core::{Error, Result};

use super::driver::{Factor, Numbers, Stride, args};
use super::memory::{Buffer, View};
use super::{Geometry, Gpu};
use crate::nn::Precision;

/// The most of the inner dimension that tensor cores add up.
pub(super) const CUT: usize = 384;
/// A part is a multiple of this, so that rows of factors begin where tensor cores can load them.
const ALIGNED: usize = 8;
/// Products of a narrower dimension multiply their factors as they are. Splitting moves 16 bytes a value of both factors, at
/// some 3.5 TB/s, and multiplies at some 130 TFLOP/s in place of 45: it breaks even at 160 rows or columns. Estimated, not measured.
pub(super) const SPLIT_FROM: usize = 129;
/// Rows and columns of a block of the kernels that prepare factors.
const TILE: usize = 32;

/// How a product is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Three TF32 products of split factors.
    Split,
    /// Factors rounded to bfloat16 before.
    Rounded,
    /// Of factors as they are in memory.
    Plain(Numbers),
}

impl Way {
    /// The way to a precision on a device with or without TF32 cores.
    ///
    /// # Errors
    /// There is none.
    pub fn of(precision: Precision, splits: bool, has_tf32: bool) -> Result<Self> {
        match precision {
            Precision::F32 if splits && has_tf32 => Ok(Self::Split),
            Precision::F32 => Ok(Self::Plain(Numbers::F32)),
            _ if !has_tf32 => Err(Error::msg(
                "tf32 and bf16 need a GPU of compute capability 8.0 or later; f32 runs on this one",
            )),
            Precision::Tf32 => Ok(Self::Plain(Numbers::Tf32)),
            Precision::Bf16 => Ok(Self::Rounded),
        }
    }
}

/// One to three equal matrices side by side as a factor F(i, k), `count` i and `inner` k in all; k is summed over. Element (i, k)
/// of one of them is at i · strides.0 + k · strides.1.
#[derive(Debug, Clone)]
pub(super) struct Matrices<'a> {
    pub values: Vec<View<'a>>,
    pub along_inner: bool,
    pub count: usize,
    pub inner: usize,
    pub strides: (usize, usize),
}

impl<'a> Matrices<'a> {
    pub fn one(values: View<'a>, count: usize, inner: usize, strides: (usize, usize)) -> Self {
        Self { values: vec![values], along_inner: false, count, inner, strides }
    }

    /// The part `s` of `n` along the inner dimension of a single matrix.
    pub fn inner_part(&self, s: usize, n: usize) -> Self {
        let inner = self.inner / n;
        let values = self.values.iter().map(|values| values.after(s * inner * self.strides.1)).collect();
        Self { values, inner, ..*self }
    }

    /// Matrix `s` alone.
    pub fn source(&self, s: usize) -> Self {
        let n = self.values.len();
        let (count, inner) =
            if self.along_inner { (self.count, self.inner / n) } else { (self.count / n, self.inner) };
        Self::one(self.values[s], count, inner, self.strides)
    }
}

/// A factor that [`super::driver::Driver::gemm`] can read.
pub(super) struct Ready<'a> {
    pub numbers: Numbers,
    memory: Option<Buffer>,
    lent: View<'a>,
    stride: usize,
    is_inner_major: bool,
    batch_stride: usize,
    pub inner: usize,
    pub batch: usize,
}

impl Ready<'_> {
    /// From row `first` on.
    pub fn from(&self, first: usize) -> Factor<'_> {
        let values = self.memory.as_ref().map_or(self.lent, Buffer::view);
        let first = if self.is_inner_major { first * self.stride } else { first };
        let values =
            if self.numbers == Numbers::Bf16 { values.after_halves(first) } else { values.after(first) };
        let Self { stride, is_inner_major, batch_stride, .. } = *self;
        Factor { values, stride, is_inner_major, batch_stride }
    }
}

impl Gpu {
    /// Splitting the factors of a narrow product takes longer than multiplying them as they are.
    pub(super) fn way_of(&self, left: &Matrices<'_>, right: &Matrices<'_>) -> Way {
        let narrowest = left.count.min(right.count).min(left.inner);
        match self.way {
            Way::Split if narrowest < self.split_from => Way::Plain(Numbers::F32),
            way => way,
        }
    }

    /// A factor as `way` multiplies it; split ones are cut to parts of at most `most` of the inner dimension.
    pub(super) fn ready<'a>(
        &self,
        way: Way,
        of: &Matrices<'a>,
        is_right: bool,
        most: usize,
    ) -> Result<Ready<'a>> {
        let &Matrices { ref values, along_inner, count, inner, strides } = of;
        let sources = values.len();
        let source = |s: usize| values.get(s).map(|values| values.reading(count * inner / sources));
        let (count_stride, inner_stride) = (Stride(strides.0), Stride(strides.1));
        let lent = values[0];
        let ready = |numbers, memory, stride, inner, batch| Ready {
            numbers,
            memory: Some(memory),
            lent,
            stride,
            is_inner_major: true,
            batch_stride: count * stride,
            inner,
            batch,
        };
        match way {
            Way::Plain(numbers) => {
                let is_inner_major = strides.1 == 1;
                // cuBLAS refuses rows that begin nearer to each other than they are long, even where there is only one: the
                // gradient of a layer's single output.
                let stride = if is_inner_major { strides.0.max(inner) } else { strides.1 };
                Ok(Ready {
                    numbers,
                    memory: None,
                    lent,
                    stride,
                    is_inner_major,
                    batch_stride: 0,
                    inner,
                    batch: 1,
                })
            }
            Way::Split => {
                let cut = inner.div_ceil(inner.div_ceil(most)).next_multiple_of(ALIGNED);
                let parts = inner.div_ceil(cut);
                let mut out = self.driver.alloc(parts * count * 3 * cut)?;
                let args = args![
                    &mut out,
                    source(0),
                    source(1),
                    source(2),
                    sources,
                    along_inner,
                    count,
                    inner,
                    count_stride,
                    inner_stride,
                    cut,
                    is_right,
                ];
                let grid = [(parts * cut).div_ceil(TILE), count.div_ceil(TILE), 1];
                self.launch("split_factor", Geometry::new(grid, 256), args)?;
                Ok(ready(Numbers::Tf32, out, 3 * cut, 3 * cut, parts))
            }
            Way::Rounded => {
                let mut out = self.driver.alloc((count * inner).div_ceil(2))?;
                let args = args![
                    &mut out,
                    source(0),
                    source(1),
                    source(2),
                    sources,
                    along_inner,
                    count,
                    inner,
                    count_stride,
                    inner_stride,
                ];
                let grid = [inner.div_ceil(TILE), count.div_ceil(TILE), 1];
                self.launch("round_factor", Geometry::new(grid, 256), args)?;
                Ok(ready(Numbers::Bf16, out, inner, inner, 1))
            }
        }
    }
}
