//! Matrix products on host memory, and the way from a tensor to its host values. It knows no layer.

use candle_core::{CpuStorage, Error, Result, Storage, Tensor};
use gemm::Parallelism;

/// From this many multiplications on a product is worth the start of other threads; small networks, whose
/// pictures are spread over the threads instead, stay below it.
const PARALLEL_FROM: usize = 1 << 27;

/// `dst += lhs · rhs` with `dst` of `rows` rows that lie `dst_stride` values apart and are as long as `rhs` is
/// wide; `lhs` is `rows × depth`, row-major.
///
/// The sum over `depth` is taken in an order that does not depend on the number of threads.
pub fn add_product(dst: &mut [f32], dst_stride: usize, lhs: &[f32], rhs: Rhs, rows: usize, depth: usize) {
    let columns = rhs.columns;
    let (rhs_column, rhs_row) = if rhs.transposed { (depth, 1) } else { (1, columns) };
    if rows == 0 || columns == 0 || depth == 0 {
        return;
    }
    assert!(dst.len() >= (rows - 1) * dst_stride + columns && dst_stride >= columns);
    assert!(lhs.len() >= rows * depth && rhs.values.len() >= columns * depth);
    let work = rows * columns * depth;
    let parallelism = if work < PARALLEL_FROM { Parallelism::None } else { Parallelism::Rayon(0) };
    // SAFETY: the assertions above keep every address the strides can reach inside the three slices.
    #[allow(unsafe_code)]
    unsafe {
        gemm::gemm(
            rows,
            columns,
            depth,
            dst.as_mut_ptr(),
            1,
            dst_stride as isize,
            true,
            lhs.as_ptr(),
            1,
            depth as isize,
            rhs.values.as_ptr(),
            rhs_column as isize,
            rhs_row as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// The right-hand matrix of a product, `depth × columns`.
#[derive(Clone, Copy)]
pub struct Rhs<'a> {
    values: &'a [f32],
    columns: usize,
    transposed: bool,
}

impl<'a> Rhs<'a> {
    /// A matrix stored row by row.
    pub fn rows(values: &'a [f32], columns: usize) -> Self {
        Self { values, columns, transposed: false }
    }

    /// A matrix stored column by column, as linear layers store their weights.
    pub fn columns(values: &'a [f32], columns: usize) -> Self {
        Self { values, columns, transposed: true }
    }
}

/// Calls `f` with the values of a contiguous `f32` tensor in host memory.
///
/// # Errors
/// A tensor of another kind or place, or one that is not contiguous.
pub fn with_host_values<T>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> T) -> Result<T> {
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

/// The values of an `f32` tensor as a host vector in row-major order, from any device.
///
/// # Errors
/// A tensor of another kind.
pub fn host_vec(tensor: &Tensor) -> Result<Vec<f32>> {
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
    let mut y = host_vec(bias)?.repeat(n);
    with_host_values(&x.contiguous()?, |x| {
        with_host_values(weight, |w| add_product(&mut y, width, x, Rhs::columns(w, width), n, depth))
    })??;
    if relu {
        rectify(&mut y);
    }
    Tensor::from_vec(y, (n, width), x.device())
}

/// Sets negative values to zero. What is not a number stays so, or damaged weights would pass for zeros.
pub fn rectify(values: &mut [f32]) {
    for value in values {
        *value = if *value > 0.0 || value.is_nan() { *value } else { 0.0 };
    }
}
