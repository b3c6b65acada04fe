//! What a GPU must do for the passes: hold memory, launch kernels, multiply matrices. An NVIDIA GPU does it, and in tests the CPU.
//!
//! Launches and products name memory by its address, as a GPU's driver
//! takes it, so whether they stay within it is not checked here: the passes vouch for that, and only this folder can reach them.

use std::ffi::c_void;
use std::fmt::Debug;

use candle_core::{Error, Result, Storage};

use super::memory::{Address, Buffer, View};
use crate::nn::Mask;

/// A device: memory, and a queue of launches, products, copies that it works off in order.
#[allow(clippy::wrong_self_convention, reason = "`into` is what becomes of a buffer")]
pub trait Driver: Send + Sync + Debug {
    /// Whether its tensor cores multiply TF32 numbers.
    fn has_tf32(&self) -> bool;
    /// Memory of `words` words of any content.
    fn alloc(&self, words: usize) -> Result<Buffer>;
    /// Sets all words to zero.
    fn clear(&self, buffer: &mut Buffer) -> Result<()>;
    /// Copies within the device; `to` is as long as `from`.
    fn copy(&self, from: View<'_>, to: &mut Buffer) -> Result<()>;
    /// Copies from the host into new memory.
    fn upload(&self, words: &[u32]) -> Result<Buffer>;
    /// Copies to the host, after all that is queued.
    fn download(&self, from: &Buffer) -> Result<Vec<f32>>;
    /// Queues a kernel.
    fn launch(&self, launch: &mut Launch) -> Result<()>;
    /// Queues a product.
    fn gemm(&self, gemm: &Gemm<'_>) -> Result<()>;
    /// Waits for all that is queued.
    fn wait(&self) -> Result<()>;
    /// The memory as a tensor's, without a copy.
    fn storage_of(&self, buffer: Buffer) -> Storage {
        buffer.into_storage()
    }
}

/// One launch of a kernel.
#[derive(Debug)]
pub struct Launch {
    /// Its name.
    pub kernel: &'static str,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: u32,
    /// In the order of the kernel's parameters.
    pub args: Args,
}

/// The arguments of a launch.
#[derive(Debug, Default)]
pub struct Args {
    values: Vec<[u64; 3]>,
    widths: Vec<usize>,
    words: usize,
    is_too_large: bool,
}

impl Args {
    /// Adds an argument of `width` bytes.
    fn add(&mut self, value: [u64; 3], width: usize) {
        self.values.push(value);
        self.widths.push(width);
    }

    /// Adds an argument.
    pub fn push(&mut self, argument: impl Argument) {
        argument.push(self);
    }

    /// The addresses of the values, as a launch takes them; good as long as `self`.
    pub fn pointers(&mut self) -> Vec<*mut c_void> {
        self.values.iter_mut().map(|value| value.as_mut_ptr().cast()).collect()
    }

    /// The bytes of each value.
    pub fn widths(&self) -> &[usize] {
        &self.widths
    }

    /// Bytes that the launch reads and writes, each word once.
    pub fn bytes(&self) -> u64 {
        4 * self.words as u64
    }

    /// # Errors
    /// A size that a kernel cannot count.
    pub fn check(&self) -> Result<()> {
        if self.is_too_large { Err(Error::msg("a tensor is too large for a GPU's kernel")) } else { Ok(()) }
    }
}

/// What a kernel takes.
pub trait Argument {
    /// Adds it to `to`.
    fn push(self, to: &mut Args);
}

impl Argument for Address {
    fn push(self, to: &mut Args) {
        to.words += self.words;
        to.add([self.address, 0, 0], 8);
    }
}

impl Argument for View<'_> {
    fn push(self, to: &mut Args) {
        self.at().push(to);
    }
}

impl Argument for &mut Buffer {
    fn push(self, to: &mut Args) {
        self.at().push(to);
    }
}

/// A null pointer where there is none.
impl<A: Argument> Argument for Option<A> {
    fn push(self, to: &mut Args) {
        match self {
            Some(argument) => argument.push(to),
            None => to.add([0; 3], 8),
        }
    }
}

impl Argument for u32 {
    fn push(self, to: &mut Args) {
        to.add([u64::from(self), 0, 0], 4);
    }
}

/// A size: kernels count in 32 bits.
impl Argument for usize {
    fn push(self, to: &mut Args) {
        to.is_too_large |= u32::try_from(self).is_err();
        (self as u32).push(to);
    }
}

impl Argument for bool {
    fn push(self, to: &mut Args) {
        u32::from(self).push(to);
    }
}

impl Argument for f32 {
    fn push(self, to: &mut Args) {
        self.to_bits().push(to);
    }
}

/// A distance in memory: 64 bits.
#[derive(Debug, Clone, Copy)]
pub struct Stride(pub usize);

impl Argument for Stride {
    fn push(self, to: &mut Args) {
        to.add([self.0 as u64, 0, 0], 8);
    }
}

/// A struct of six sizes of 32 bits.
#[derive(Debug, Clone, Copy)]
pub struct Pairs(pub [usize; 6]);

impl Argument for Pairs {
    fn push(self, to: &mut Args) {
        to.is_too_large |= self.0.iter().any(|size| u32::try_from(*size).is_err());
        let pair = |i: usize| u64::from(self.0[2 * i] as u32) | u64::from(self.0[2 * i + 1] as u32) << 32;
        to.add([pair(0), pair(1), pair(2)], 24);
    }
}

/// A struct of three distances in memory.
#[derive(Debug, Clone, Copy)]
pub struct Steps(pub [usize; 3]);

impl Argument for Steps {
    fn push(self, to: &mut Args) {
        to.add(self.0.map(|step| step as u64), 24);
    }
}

/// `struct Mask` of the kernels: first, both keys, threshold, scale. A threshold of 0 drops nothing.
#[derive(Debug, Clone, Copy)]
pub struct Dropped(pub Option<Mask>);

impl Argument for Dropped {
    fn push(self, to: &mut Args) {
        let [first, key0, key1, threshold, scale] = match self.0 {
            Some(Mask { threshold, scale, keys: [key0, key1], first, .. }) => {
                [first, key0, key1, threshold, scale.to_bits()].map(u64::from)
            }
            None => [0; 5],
        };
        to.add([first | (key0 << 32), key1 | (threshold << 32), scale], 20);
    }
}

/// `struct Packing` of the kernels: where sequences begin, and which rows theirs are with padding. Nulls where they are padded.
#[derive(Debug, Clone, Copy)]
pub struct Tables<'a>(pub Option<[View<'a>; 2]>);

impl Argument for Tables<'_> {
    fn push(self, to: &mut Args) {
        let [starts, places] = self.0.map_or([0; 2], |tables| {
            let at = tables.map(View::at);
            to.words += at.iter().map(|at| at.words).sum::<usize>();
            at.map(|at| at.address)
        });
        to.add([starts, places, 0], 16);
    }
}

/// Arguments in the order of a kernel's parameters.
macro_rules! args {
    ($($argument:expr),* $(,)?) => {{
        let mut args = $crate::nn::gpu::driver::Args::default();
        $(args.push($argument);)*
        args
    }};
}
pub(super) use args;

/// What a product computes with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Numbers {
    /// float32.
    F32,
    /// float32 rounded to TF32; sums in float32.
    Tf32,
    /// bfloat16, two in a word; sums in float32.
    Bf16,
}

/// A factor of a product: element (i, k) of matrix `p`, where k is summed over.
#[derive(Debug, Clone, Copy)]
pub struct Factor<'a> {
    /// Its memory.
    pub values: View<'a>,
    /// Values from one i to the next, where those of k are next to each other, or the other way round.
    pub stride: usize,
    /// Whether the values of k are next to each other.
    pub is_inner_major: bool,
    /// Values from one matrix to the next.
    pub batch_stride: usize,
}

/// `out[p][i][j] = Σₖ left[p][i][k] right[p][j][k]`, added to what is there where `accumulate`.
#[derive(Debug, Clone, Copy)]
pub struct Gemm<'a> {
    /// Of the factors.
    pub numbers: Numbers,
    /// How many i.
    pub rows: usize,
    /// How many j.
    pub columns: usize,
    /// How many k.
    pub inner: usize,
    /// How many p.
    pub batch: usize,
    /// [p][rows, inner]
    pub left: Factor<'a>,
    /// [p][columns, inner]
    pub right: Factor<'a>,
    /// Row-major.
    pub out: Address,
    /// Words from one row of the result to the next.
    pub out_stride: usize,
    /// Words from one result to the next.
    pub out_batch_stride: usize,
    /// Whether the result is added to what is there.
    pub accumulate: bool,
}

impl Gemm<'_> {
    /// Multiplications and additions.
    pub fn flops(&self) -> u64 {
        2 * (self.batch * self.rows * self.columns) as u64 * self.inner as u64
    }

    /// Bytes read and written, each once.
    pub fn bytes(&self) -> u64 {
        let factors = (self.batch * (self.rows + self.columns) * self.inner) as u64;
        let results = (self.batch * self.rows * self.columns) as u64;
        let width = if self.numbers == Numbers::Bf16 { 2 } else { 4 };
        width * factors + 4 * results * (1 + u64::from(self.accumulate))
    }
}
