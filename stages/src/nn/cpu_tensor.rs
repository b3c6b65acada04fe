//! The way from a tensor to its values in host memory, and the detector's affine map on them. It knows no network.

use candle_core::{CpuStorage, D, Error, Result, Storage, Tensor};

use std::mem::MaybeUninit;

use super::cpu::{self, parallel};
use super::gemm::{Matrix, PICTURE_WORTH_SHARING, new_affine};

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

/// `relu(x · weightᵀ + bias)` or, without `relu`, the plain affine map, of `x` `[n, in]` with `weight`
/// `[out, in]`.
///
/// # Errors
/// Shapes that do not fit together.
pub fn affine(x: &Tensor, weight: &Tensor, bias: &Tensor, relu: bool) -> Result<Tensor> {
    let ((n, depth), (width, weight_depth)) = (x.dims2()?, weight.dims2()?);
    if depth != weight_depth || bias.dims() != [width] {
        let (x, w, b) = (x.shape(), weight.shape(), bias.shape());
        return Err(Error::Msg(format!("an affine map of {x:?} with weight {w:?} and bias {b:?}")));
    }
    if !x.device().is_cpu() {
        let y = x.matmul(&weight.t()?)?.broadcast_add(bias)?;
        return if relu { y.relu() } else { Ok(y) };
    }
    let bias = cpu_vec(bias)?;
    let mut y = with_cpu_values(&x.contiguous()?, |x| {
        with_cpu_values(weight, |weight| {
            let (x, weight) = (Matrix::new(x, n, depth, depth), Matrix::new(weight, width, depth, depth));
            new_affine(PICTURE_WORTH_SHARING, x, &[(weight.t(), &bias)])
        })
    })??;
    if relu {
        parallel::rows(&mut y, width, |_, y| y.iter_mut().for_each(|y| *y = rectified(*y)));
    }
    Tensor::from_vec(y, (n, width), x.device())
}

/// The softmax of each row of `x` `[n, columns]`, without gradients.
///
/// # Errors
/// A tensor of another rank or kind.
pub fn softmax(x: &Tensor) -> Result<Tensor> {
    let (rows, columns) = x.dims2()?;
    if rows == 0 {
        return Ok(x.clone());
    }
    if !x.device().is_cpu() {
        let shifted = x.broadcast_sub(&x.max_keepdim(D::Minus1)?)?.exp()?;
        return shifted.broadcast_div(&shifted.sum_keepdim(D::Minus1)?);
    }
    let mut values = cpu_vec(x)?;
    cpu::softmax_rows(&mut values, &mut vec![0f32; rows], columns);
    Tensor::from_vec(values, (rows, columns), x.device())
}

/// ReLU. What is not a number stays so, or damaged weights would pass for zeros.
pub fn rectified(value: f32) -> f32 {
    if value > 0.0 || value.is_nan() { value } else { 0.0 }
}
