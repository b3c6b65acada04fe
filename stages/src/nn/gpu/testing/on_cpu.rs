//! A device that is the CPU: its memory is the host's, its kernels are the same text compiled for the CPU, its products are the CPU's own.

use std::ffi::c_void;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use candle_core::{Error, Result};

use crate::nn::gemm::{self, Matrix};
use crate::nn::gpu::driver::{Driver, Factor, Gemm, Launch, Numbers};
use crate::nn::gpu::memory::{Address, Buffer, View, Words};

/// Runs a kernel: its name, grid, block, arguments as `cuLaunchKernel` takes them, and a seed for the order of threads.
pub type Run = fn(&str, [u32; 3], u32, &[*mut c_void], u64) -> std::result::Result<(), String>;

/// The device.
pub struct OnCpu {
    run: Run,
    /// The bytes of each parameter of a kernel, if there is one of this name.
    parameters: fn(&str) -> Option<Vec<usize>>,
    has_tf32: bool,
    launches: AtomicU64,
}

impl fmt::Debug for OnCpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnCpu").field("has_tf32", &self.has_tf32).finish_non_exhaustive()
    }
}

impl OnCpu {
    /// A device that runs kernels by `run`, with or without TF32 cores.
    pub fn new(run: Run, parameters: fn(&str) -> Option<Vec<usize>>, has_tf32: bool) -> Self {
        Self { run, parameters, has_tf32, launches: AtomicU64::new(0) }
    }
}

impl Driver for OnCpu {
    fn has_tf32(&self) -> bool {
        self.has_tf32
    }

    /// Filled with NaN, so that a pass shows that reads what none wrote.
    fn alloc(&self, words: usize) -> Result<Buffer> {
        Ok(Buffer { words: Words::Host(vec![f32::NAN; words]), len: words })
    }

    fn clear(&self, buffer: &mut Buffer) -> Result<()> {
        write(buffer.at()).fill(0.0);
        Ok(())
    }

    fn copy(&self, from: View<'_>, to: &mut Buffer) -> Result<()> {
        write(to.at()).copy_from_slice(read(from.at()));
        Ok(())
    }

    fn upload(&self, words: &[u32]) -> Result<Buffer> {
        let words: Vec<f32> = words.iter().copied().map(f32::from_bits).collect();
        Ok(Buffer { len: words.len(), words: Words::Host(words) })
    }

    fn download(&self, from: &Buffer) -> Result<Vec<f32>> {
        Ok(read(from.view().at()).to_vec())
    }

    fn launch(&self, launch: &mut Launch) -> Result<()> {
        // Below compute capability 8.0, what multiplies on tensor cores is compiled to another text.
        let before_tf32 = format!("{}@sm70", launch.kernel);
        let is_there = !self.has_tf32 && (self.parameters)(&before_tf32).is_some();
        let kernel = if is_there { before_tf32 } else { launch.kernel.to_owned() };
        let expected = (self.parameters)(&kernel);
        let widths = launch.args.widths();
        if expected.as_deref() != Some(widths) {
            return Err(Error::msg(format!("`{kernel}` takes {expected:?} bytes, not {widths:?}")));
        }
        let seed = self.launches.fetch_add(1, Ordering::Relaxed);
        (self.run)(&kernel, launch.grid, launch.block, &launch.args.pointers(), seed).map_err(Error::msg)
    }

    fn gemm(&self, gemm: &Gemm<'_>) -> Result<()> {
        let Gemm { numbers, rows, columns, inner, out_stride, accumulate, .. } = *gemm;
        check_strides(gemm)?;
        for p in 0..gemm.batch {
            let left = row_major(&gemm.left, numbers, p, rows, inner);
            let right = row_major(&gemm.right, numbers, p, columns, inner);
            let (left, right) =
                (Matrix::new(&left, rows, inner, inner), Matrix::new(&right, columns, inner, inner));
            let out = gemm.out.after(p * gemm.out_batch_stride).writing((rows - 1) * out_stride + columns);
            gemm::product(write(out), out_stride, left, right.t(), 1.0, accumulate);
        }
        Ok(())
    }

    fn wait(&self) -> Result<()> {
        Ok(())
    }
}

/// Refuses what cuBLAS refuses: rows that begin nearer to each other than they are long, even where there is only one.
/// <https://docs.nvidia.com/cuda/cublas/#cublasgemmstridedbatchedex>
fn check_strides(gemm: &Gemm<'_>) -> Result<()> {
    let Gemm { rows, columns, inner, .. } = *gemm;
    let of_factor =
        |factor: &Factor<'_>, count| (factor.stride, if factor.is_inner_major { inner } else { count });
    let matrices = [of_factor(&gemm.left, rows), of_factor(&gemm.right, columns), (gemm.out_stride, columns)];
    match matrices.into_iter().find(|(stride, length)| stride < length) {
        Some((stride, length)) => {
            Err(Error::msg(format!("a product of rows of {length} values, {stride} apart")))
        }
        None => Ok(()),
    }
}

/// Matrix `p` of a factor, [count, inner], as the numbers that are multiplied.
fn row_major(factor: &Factor<'_>, numbers: Numbers, p: usize, count: usize, inner: usize) -> Vec<f32> {
    let (row, step) = if factor.is_inner_major { (factor.stride, 1) } else { (1, factor.stride) };
    let first = p * factor.batch_stride;
    let places = (0..count).flat_map(|i| (0..inner).map(move |k| first + i * row + k * step));
    let end = first + (count - 1) * row + (inner - 1) * step + 1;
    let at = factor.values.at();
    match numbers {
        Numbers::F32 => places.map(|place| read(at.writing(end))[place]).collect(),
        Numbers::Tf32 => {
            places.map(|place| f32::from_bits(read(at.writing(end))[place].to_bits() & !0x1fff)).collect()
        }
        Numbers::Bf16 => {
            places.map(|place| f32::from_bits(u32::from(halves(at, end)[place]) << 16)).collect()
        }
    }
}

/// Words to read.
fn read<'a>(at: Address) -> &'a [f32] {
    // SAFETY: the passes name memory that is there until the call returns, and nothing writes to it meanwhile.
    #[allow(unsafe_code)]
    unsafe {
        std::slice::from_raw_parts(at.address as *const f32, at.words)
    }
}

/// Numbers of 16 bits to read.
fn halves<'a>(at: Address, count: usize) -> &'a [u16] {
    // SAFETY: as in `read`.
    #[allow(unsafe_code)]
    unsafe {
        std::slice::from_raw_parts(at.address as *const u16, count)
    }
}

/// Words to write.
fn write<'a>(at: Address) -> &'a mut [f32] {
    // SAFETY: the passes name memory that is there until the call returns, and nothing else uses it meanwhile.
    #[allow(unsafe_code)]
    unsafe {
        std::slice::from_raw_parts_mut(at.address as *mut f32, at.words)
    }
}
