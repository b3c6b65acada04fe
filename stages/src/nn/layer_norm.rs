//! Layer normalisation: of a tensor or a sum of two, and as the end of a part of a layer, with an adapter if there is one.

use candle_core::{Error, Result, Tensor};

use super::backend::{Backend, NormGradients, NormInput, Normal, RowMask};
use super::composed::Composed;
use super::compute::Compute;
use super::op::{Forward, Op};
use super::{Activation, Linear, Mask, Param};

/// Normalises the last dimension to mean 0 and variance 1 (biased), then scales and shifts it.
#[derive(Debug, Clone)]
pub struct LayerNorm {
    /// What scales, `[size]`.
    pub weight: Param,
    /// What shifts, `[size]`.
    pub bias: Param,
    /// Width of a row.
    pub size: usize,
    /// Added to the variance.
    pub eps: f64,
}

impl LayerNorm {
    pub(super) fn params(&self) -> [&Param; 2] {
        [&self.weight, &self.bias]
    }

    /// dropout(LayerNorm(`x` + `residual`)), all [.., size].
    ///
    /// # Errors
    /// The last dimension is another, or the two shapes differ.
    pub fn forward(
        &self,
        compute: &Compute,
        x: &Tensor,
        residual: Option<&Tensor>,
        mask: Option<Mask>,
    ) -> Result<Tensor> {
        let same = residual.is_none_or(|residual| residual.dims() == x.dims());
        if x.dims().last() != Some(&self.size) || !same {
            let (size, found, residual) = (self.size, x.dims(), residual.map(Tensor::dims));
            return Err(Error::msg(format!("a LayerNorm of {size} got tensors {found:?} and {residual:?}")));
        }
        let mask = mask.map(|mask| mask.over(x.elem_count()));
        let inputs: Vec<&Tensor> = [x].into_iter().chain(residual).collect();
        compute.apply(NormOp { norm: self.clone(), mask }, &inputs, x.dims())
    }
}

struct NormOp {
    norm: LayerNorm,
    mask: Option<Mask>,
}

impl Op for NormOp {
    type Saved<B: Backend> = Option<Normal<B::Buffer>>;

    fn params(&self) -> Vec<&Param> {
        self.norm.params().to_vec()
    }

    fn forward<B: Backend>(
        &self,
        on: &B,
        inputs: &[B::View<'_>],
        keep: Option<&[bool]>,
    ) -> Forward<B, Self::Saved<B>> {
        let input = NormInput { rows: RowMask::default(), residual: inputs.get(1).copied() };
        let (mut y, normal) = on.norm(on.as_product(inputs[0])?, input, &self.norm, keep.is_some())?;
        if let Some(mask) = self.mask {
            on.dropout(&mut y, mask)?;
        }
        Ok((y, keep.map(|_| normal)))
    }

    fn backward<B: Backend>(
        &self,
        on: &B,
        _: &[B::View<'_>],
        saved: Self::Saved<B>,
        grad: B::View<'_>,
        needs_grad: &[bool],
    ) -> Result<Vec<Option<B::Buffer>>> {
        let Some(normal) = saved else { return Err(Error::msg("a LayerNorm kept nothing")) };
        let mut grad = on.copy(grad)?;
        if let Some(mask) = self.mask {
            on.dropout(&mut grad, mask)?;
        }
        let sum = on
            .norm_backward(on.product_of(grad), &normal, &self.norm, None, RowMask::default(), false)?
            .product;
        let first = if needs_grad.len() > 1 { Some(on.copy(on.view(&sum))?) } else { None };
        Ok(first
            .into_iter()
            .chain([sum])
            .zip(needs_grad)
            .map(|(grad, needs)| needs.then_some(grad))
            .collect())
    }

    fn composed(&self, on: &Composed, inputs: &[Tensor]) -> Result<Tensor> {
        let x = match inputs.get(1) {
            Some(residual) => (&inputs[0] + residual)?,
            None => inputs[0].clone(),
        };
        on.dropout(&on.norm(&x, &self.norm)?, self.mask)
    }
}

/// A bottleneck of two linear layers with a ReLU between them.
#[derive(Debug, Clone)]
pub struct Adapter {
    /// To the bottleneck.
    pub down: Linear,
    /// From it.
    pub up: Linear,
}

/// How a part of a layer ends: LayerNorm(dropout(x) + residual). An adapter, if there is one, reads what the same LayerNorm
/// returns of dropout(x) alone, and its result is added to the sum before that is normalised.
#[derive(Debug, Clone)]
pub struct ResidualNorm {
    /// Both norms.
    pub norm: LayerNorm,
    /// The adapter.
    pub adapter: Option<Adapter>,
}

/// What the backward pass of a [`ResidualNorm`] needs.
pub(super) struct SavedNorm<B> {
    /// Of the last norm.
    normal: Normal<B>,
    adapter: Option<SavedAdapter<B>>,
}

struct SavedAdapter<B> {
    /// Of the norm that the adapter reads.
    normal: Normal<B>,
    /// What the bottleneck's activation read.
    before: B,
}

fn kept<T>(saved: Option<T>) -> Result<T> {
    saved.ok_or_else(|| Error::msg("a pass kept nothing for its backward pass"))
}

impl ResidualNorm {
    pub(super) fn params(&self) -> Vec<&Param> {
        let adapter =
            self.adapter.iter().flat_map(|adapter| [&adapter.down, &adapter.up]).flat_map(Linear::params);
        self.norm.params().into_iter().chain(adapter).collect()
    }

    /// The result for the product `x`.
    pub(super) fn forward<B: Backend>(
        &self,
        on: &B,
        x: B::Product<'_>,
        rows: RowMask<'_>,
        residual: B::View<'_>,
        keep: bool,
    ) -> Forward<B, SavedNorm<B::Buffer>> {
        let Some(Adapter { down, up }) = &self.adapter else {
            let input = NormInput { rows, residual: Some(residual) };
            let (y, normal) = on.norm(x, input, &self.norm, keep)?;
            return Ok((y, normal.map(|normal| SavedNorm { normal, adapter: None })));
        };
        let (read, sum, first) = on.norm_apart(x, rows, residual, &self.norm, keep)?;
        let (inner, before) = on.activate(on.linear(on.view(&read), &[down])?, Activation::Relu, keep)?;
        let change = on.linear(on.view(&inner), &[up])?;
        let input = NormInput { rows: rows.unmasked(), residual: Some(on.view(&sum)) };
        let (y, normal) = on.norm(change, input, &self.norm, keep)?;
        if !keep {
            return Ok((y, None));
        }
        let adapter = Some(SavedAdapter { normal: kept(first)?, before: kept(before)? });
        Ok((y, Some(SavedNorm { normal: kept(normal)?, adapter })))
    }

    /// The result again.
    pub(super) fn result_again<B: Backend>(&self, on: &B, saved: &SavedNorm<B::Buffer>) -> Result<B::Buffer> {
        on.norm_again(&saved.normal, &self.norm)
    }

    /// The gradients of the product and of the residual.
    pub(super) fn backward<B: Backend>(
        &self,
        on: &B,
        saved: SavedNorm<B::Buffer>,
        rows: RowMask<'_>,
        grad: B::View<'_>,
    ) -> Result<NormGradients<B::Buffer>> {
        let grad = on.as_product(grad)?;
        let (Some(Adapter { down, up }), Some(saved_adapter)) = (&self.adapter, saved.adapter) else {
            return on.norm_backward(grad, &saved.normal, &self.norm, None, rows, true);
        };
        let SavedAdapter { normal, before } = saved_adapter;
        let sum = on.norm_backward(grad, &saved.normal, &self.norm, None, rows.unmasked(), false)?.product;
        drop(saved.normal);
        let grad = on.input_gradient(on.view(&sum), &[up], None)?;
        let (grad, inner) = on.activate_backward(grad, before, Activation::Relu, up.is_trained())?;
        if let Some(inner) = inner {
            on.linear_gradients(on.view(&sum), on.view(&inner), &[up], rows.packing)?;
        }
        if down.is_trained() {
            let read = on.norm_again(&normal, &self.norm)?;
            on.linear_gradients(on.view(&grad), on.view(&read), &[down], rows.packing)?;
        }
        let grad = on.input_gradient_of(grad, &[down], None)?;
        let product = on.norm_backward(grad, &normal, &self.norm, Some(on.view(&sum)), rows, false)?.product;
        Ok(NormGradients { product, sum: Some(sum) })
    }

    pub(super) fn composed(
        &self,
        on: &Composed,
        x: &Tensor,
        mask: Option<Mask>,
        residual: &Tensor,
    ) -> Result<Tensor> {
        let x = on.dropout(x, mask)?;
        let sum = (&x + residual)?;
        let Some(Adapter { down, up }) = &self.adapter else { return on.norm(&sum, &self.norm) };
        let inner = on.activate(&on.linear(&on.norm(&x, &self.norm)?, down)?, Activation::Relu)?;
        on.norm(&(on.linear(&inner, up)? + sum)?, &self.norm)
    }
}
