//! The way from a tensor to its values in host memory. It knows no network.

use std::mem::MaybeUninit;

use candle_core::{CpuStorage, Error, Result, Storage, Tensor};

/// Calls `f` with the values of a contiguous `f32` tensor in host memory.
///
/// # Errors
/// A tensor of another kind or place, or one that is not contiguous.
pub fn with_cpu_values<T>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> T) -> Result<T> {
    let (storage, layout) = tensor.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(CpuStorage::F32(values)), Some((start, end))) => Ok(f(&values[start..end])),
        _ => Err(Error::Msg(format!(
            "expected a contiguous f32 tensor in host memory, got {:?} on {:?}",
            tensor.dtype(),
            tensor.device()
        ))),
    }
}

/// `count` values that `fill` writes, in memory that was not filled with zeros before.
///
/// # Errors
/// Those of `fill`.
///
/// # Safety
/// `fill` writes all values, or returns an error.
#[allow(unsafe_code, reason = "clearing large results costs a pass of one thread")]
pub unsafe fn new_values(
    count: usize,
    fill: impl FnOnce(&mut [MaybeUninit<f32>]) -> Result<()>,
) -> Result<Vec<f32>> {
    let mut values = Vec::with_capacity(count);
    fill(&mut values.spare_capacity_mut()[..count])?;
    // SAFETY: the caller vouches for it.
    unsafe { values.set_len(count) };
    Ok(values)
}

/// The values of an `f32` tensor as a host vector in row-major order, from any device.
///
/// # Errors
/// A tensor of another kind.
pub fn cpu_vec(tensor: &Tensor) -> Result<Vec<f32>> {
    tensor.flatten_all()?.to_vec1()
}

/// ReLU. What is not a number stays so, or damaged weights would pass for zeros.
pub fn rectified(value: f32) -> f32 {
    if value > 0.0 || value.is_nan() { value } else { 0.0 }
}
