//! Operations on the CPU: passes over f32 slices in host memory, in the instructions of the CPU at hand, on several threads
//! where it pays. Every CPU and every number of threads gives the same bits (`docs/arithmetic.md`). It knows no operation.

mod activation;
mod adamw;
mod attention;
mod instruction_set;
mod loss;
mod maps;
pub mod math;
mod norm;
pub mod parallel;
mod products;
mod rows;

use std::borrow::Cow;
use std::ops::{Deref, Range};

use candle_core::{CpuStorage, Error, Result, Storage, StorageRef, Tensor};

pub(crate) use instruction_set::per_instruction_set;
pub use instruction_set::{InstructionSet, VARIABLE, select, selected};
use loss::softmax_rows;
pub(super) use maps::canvas;

use super::backend::{
    AdamWSlot, AttentionShape, Backend, Memory, NormGradients, NormInput, Normal, Normed,
    ProjectionGradients, Projections, RowMask, TextTables,
};
use super::packing::Packing;
use super::{Activation, LayerNorm, Linear, Mask, Param, Precision};

/// The backend of host memory.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cpu {
    /// What the factors of products are rounded to.
    pub precision: Precision,
}

impl Cpu {
    /// A factor of a product, rounded.
    fn factor<'a>(&self, values: &'a [f32]) -> Cow<'a, [f32]> {
        match self.precision {
            Precision::F32 => Cow::Borrowed(values),
            precision => Cow::Owned(values.iter().map(|&value| precision.round(value)).collect()),
        }
    }
}

/// The values of a contiguous f32 tensor in host memory, locked for reading.
pub(super) struct Values<'a> {
    storage: StorageRef<'a>,
    range: Range<usize>,
}

impl<'a> Values<'a> {
    pub(super) fn lock(tensor: &'a Tensor) -> Result<Self> {
        let (storage, layout) = tensor.storage_and_layout();
        let Some((start, end)) = layout.contiguous_offsets() else {
            return Err(Error::msg("expected a contiguous tensor"));
        };
        slice(&storage, start..end)?;
        Ok(Self { range: start..end, storage })
    }
}

impl Deref for Values<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        slice(&self.storage, self.range.clone()).unwrap_or_default()
    }
}

fn slice(storage: &Storage, range: Range<usize>) -> Result<&[f32]> {
    match storage {
        Storage::Cpu(CpuStorage::F32(values)) => Ok(&values[range]),
        _ => Err(Error::msg("expected f32 values in host memory")),
    }
}

/// The ids, places or labels of a u32 tensor.
fn indices(tensor: &Tensor) -> Result<Vec<usize>> {
    Ok(tensor.flatten_all()?.to_vec1::<u32>()?.into_iter().map(|index| index as usize).collect())
}

impl Backend for Cpu {
    type Attended = Vec<f32>;
    type Buffer = Vec<f32>;
    type Product<'a> = Vec<f32>;
    type View<'a> = &'a [f32];

    fn view<'a>(&self, buffer: &'a Vec<f32>) -> &'a [f32] {
        buffer
    }

    fn reborrow<'a, 'b: 'a>(&self, view: &'b [f32]) -> &'a [f32] {
        view
    }

    fn view_storage<'a>(&self, storage: &'a Storage, range: Range<usize>) -> Result<&'a [f32]> {
        slice(storage, range)
    }

    fn storage_of(&self, buffer: Vec<f32>) -> Storage {
        Storage::Cpu(CpuStorage::F32(buffer))
    }

    fn zeros(&self, count: usize) -> Result<Vec<f32>> {
        Ok(vec![0.0; count])
    }

    fn copy(&self, values: &[f32]) -> Result<Vec<f32>> {
        Ok(parallel::copied(values, 1, |_, _| ()))
    }

    fn clear(&self, buffer: &mut Vec<f32>) -> Result<()> {
        buffer.fill(0.0);
        Ok(())
    }

    fn memory_of(&self, buffer: Vec<f32>) -> Memory {
        Memory::Cpu(buffer)
    }

    fn buffer_in<'a>(&self, memory: &'a mut Memory) -> Result<&'a mut Vec<f32>> {
        match memory {
            Memory::Cpu(values) => Ok(values),
            _ => Err(Error::msg("memory of another device")),
        }
    }

    fn values(&self, buffer: &Vec<f32>) -> Result<Vec<f32>> {
        Ok(buffer.clone())
    }

    fn linear(&self, x: &[f32], layers: &[&Linear]) -> Result<Vec<f32>> {
        products::linear(self, x, layers)
    }

    fn linear_of(&self, x: Vec<f32>, layers: &[&Linear]) -> Result<Vec<f32>> {
        products::linear(self, &x, layers)
    }

    fn input_gradient(&self, grad: &[f32], layers: &[&Linear], plus: Option<Vec<f32>>) -> Result<Vec<f32>> {
        products::input_gradient(self, grad, layers, plus)
    }

    fn input_gradient_of(
        &self,
        grad: Vec<f32>,
        layers: &[&Linear],
        plus: Option<Vec<f32>>,
    ) -> Result<Vec<f32>> {
        products::input_gradient(self, &grad, layers, plus)
    }

    fn linear_gradients(
        &self,
        grad: &[f32],
        x: &[f32],
        layers: &[&Linear],
        packing: Option<&Packing>,
    ) -> Result<()> {
        products::linear_gradients(self, grad, x, layers, packing)
    }

    fn finish(&self, product: Vec<f32>) -> Result<Vec<f32>> {
        Ok(product)
    }

    fn as_product<'a>(&self, values: Self::View<'a>) -> Result<Self::Product<'a>> {
        self.copy(values)
    }

    fn product_of(&self, buffer: Vec<f32>) -> Vec<f32> {
        buffer
    }

    fn activate(
        &self,
        x: Vec<f32>,
        activation: Activation,
        keep: bool,
    ) -> Result<(Vec<f32>, Option<Vec<f32>>)> {
        Ok(activation::forward(activation, x, keep))
    }

    fn activate_backward(
        &self,
        mut grad: Vec<f32>,
        mut x: Vec<f32>,
        activation: Activation,
        again: bool,
    ) -> Result<(Vec<f32>, Option<Vec<f32>>)> {
        activation::backward(activation, &mut x, &mut grad);
        Ok((grad, again.then_some(x)))
    }

    fn norm(
        &self,
        x: Vec<f32>,
        input: NormInput<'_, &[f32]>,
        norm: &LayerNorm,
        keep: bool,
    ) -> Result<Normed<Vec<f32>>> {
        norm::forward(x, input, norm, keep)
    }

    fn norm_apart(
        &self,
        x: Vec<f32>,
        rows: RowMask<'_>,
        residual: &[f32],
        norm: &LayerNorm,
        keep: bool,
    ) -> Result<(Vec<f32>, Vec<f32>, Option<Normal<Vec<f32>>>)> {
        norm::apart(x, rows, residual, norm, keep)
    }

    fn norm_again(&self, normal: &Normal<Vec<f32>>, norm: &LayerNorm) -> Result<Vec<f32>> {
        norm::again(normal, norm)
    }

    fn norm_backward(
        &self,
        grad: Vec<f32>,
        normal: &Normal<Vec<f32>>,
        norm: &LayerNorm,
        plus: Option<&[f32]>,
        rows: RowMask<'_>,
        keep_sum: bool,
    ) -> Result<NormGradients<Vec<f32>>> {
        norm::backward(self, grad, normal, norm, plus, rows, keep_sum)
    }

    fn attend(
        &self,
        shape: AttentionShape<'_>,
        of: &Projections<&[f32]>,
        bias: Option<&[f32]>,
        mask: Option<Mask>,
        keep: bool,
    ) -> Result<(Vec<f32>, Option<Vec<f32>>)> {
        Ok(attention::Attention { on: self, shape, of: *of, mask }.forward(bias, keep))
    }

    fn attend_backward(
        &self,
        shape: AttentionShape<'_>,
        of: &Projections<&[f32]>,
        _bias: Option<&[f32]>,
        mask: Option<Mask>,
        attended: &Vec<f32>,
        _result: &[f32],
        grad: &[f32],
        together: bool,
    ) -> Result<ProjectionGradients<Vec<f32>>> {
        Ok(attention::Attention { on: self, shape, of: *of, mask }.backward(attended, grad, together))
    }

    fn embed(&self, ids: &Tensor, tables: &TextTables) -> Result<Vec<f32>> {
        rows::embed(ids, tables)
    }

    fn embed_gradients(&self, grad: &[f32], ids: &Tensor, tables: &TextTables) -> Result<()> {
        rows::embed_gradients(self, grad, ids, tables)
    }

    fn add_first_row(&self, x: &mut Vec<f32>, table: &Param) -> Result<()> {
        rows::add_first_row(x, table)
    }

    fn first_row_gradient(&self, grad: &[f32], table: &Param) -> Result<()> {
        rows::add_row_sums(self, grad, table.value().dim(1)?, table)
    }

    fn concat(&self, a: &[f32], b: &[f32], (n, m): (usize, usize)) -> Result<Vec<f32>> {
        let parts = a.chunks_exact(n).zip(b.chunks_exact(m));
        Ok(parts.flat_map(|(a, b)| [a, b]).collect::<Vec<_>>().concat())
    }

    fn split(&self, x: &[f32], (n, m): (usize, usize)) -> Result<(Vec<f32>, Vec<f32>)> {
        let (a, b): (Vec<_>, Vec<_>) = x.chunks_exact(n + m).map(|row| row.split_at(n)).unzip();
        Ok((a.concat(), b.concat()))
    }

    fn first_rows(&self, x: &[f32], shape: AttentionShape<'_>, width: usize) -> Result<Vec<f32>> {
        let rows = (0..shape.batch).map(|b| &x[shape.first_key(b) * width..][..width]);
        Ok(rows.collect::<Vec<_>>().concat())
    }

    fn add_to_first_rows(
        &self,
        x: &mut Vec<f32>,
        rows: &[f32],
        shape: AttentionShape<'_>,
        width: usize,
    ) -> Result<()> {
        for (b, row) in rows.chunks_exact(width).enumerate() {
            let x = &mut x[shape.first_key(b) * width..][..width];
            x.iter_mut().zip(row).for_each(|(x, row)| *x += row);
        }
        Ok(())
    }

    fn select_rows(&self, x: &[f32], places: &Tensor, width: usize) -> Result<Vec<f32>> {
        let rows = indices(places)?.into_iter().map(|place| &x[place * width..][..width]);
        Ok(rows.collect::<Vec<_>>().concat())
    }

    fn scatter_rows(&self, rows: &[f32], places: &Tensor, width: usize, count: usize) -> Result<Vec<f32>> {
        let mut x = vec![0.0; count];
        for (place, row) in indices(places)?.into_iter().zip(rows.chunks_exact(width)) {
            x[place * width..][..width].copy_from_slice(row);
        }
        Ok(x)
    }

    fn dropout(&self, x: &mut Vec<f32>, mask: Mask) -> Result<()> {
        parallel::rows(x, 1, |first, x| super::dropout::scale(&mask, first, x));
        Ok(())
    }

    fn multiply(&self, a: &[f32], b: &[f32]) -> Result<Vec<f32>> {
        Ok(a.iter().zip(b).map(|(a, b)| a * b).collect())
    }

    fn scale_by(&self, x: &mut Vec<f32>, factor: &[f32]) -> Result<()> {
        if factor[0] != 1.0 {
            x.iter_mut().for_each(|x| *x *= factor[0]);
        }
        Ok(())
    }

    fn cross_entropy(
        &self,
        logits: &[f32],
        labels: &Tensor,
        classes: usize,
        total: usize,
        keep: bool,
    ) -> Result<(Vec<f32>, Option<Vec<f32>>)> {
        let labels = indices(labels)?;
        if let Some(label) = labels.iter().find(|label| **label >= classes) {
            return Err(Error::msg(format!("label {label} where there are {classes} classes")));
        }
        let (loss, grad) = loss::cross_entropy(logits, &labels, classes, total);
        Ok((vec![loss], keep.then_some(grad)))
    }

    fn binary_cross_entropy(
        &self,
        logits: &[f32],
        targets: &[f32],
        classes: usize,
        total: usize,
        keep: bool,
    ) -> Result<(Vec<f32>, Option<Vec<f32>>)> {
        let (loss, grad) = loss::binary_cross_entropy(logits, targets, classes * total, keep);
        Ok((vec![loss], grad))
    }

    fn adamw(&self, slots: &mut [AdamWSlot<'_>], betas: (f64, f64), eps: f64) -> Result<()> {
        slots.iter_mut().try_for_each(|slot| adamw::update(self, slot, betas, eps))
    }
}
