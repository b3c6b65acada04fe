//! LayerNorm, over dropout and a residual, with its gradients.

use candle_core::Result;

use super::driver::{Dropped, args};
use super::memory::{Buffer, View};
use super::product::Product;
use super::rows::places;
use super::{Geometry, Gpu};
use crate::nn::LayerNorm;
use crate::nn::backend::{NormGradients, NormInput, Normal, Normed, RowMask};

impl Gpu {
    pub(super) fn norm_forward(
        &self,
        x: Product<'_>,
        input: NormInput<'_, View<'_>>,
        norm: &LayerNorm,
        keep: bool,
    ) -> Result<Normed<Buffer>> {
        self.norm_pass(x, input, None, norm, keep)
    }

    pub(super) fn norm_forward_apart(
        &self,
        x: Product<'_>,
        rows: RowMask<'_>,
        residual: View<'_>,
        norm: &LayerNorm,
        keep: bool,
    ) -> Result<(Buffer, Buffer, Option<Normal<Buffer>>)> {
        let mut sum = self.driver.alloc(residual.len())?;
        let input = NormInput { rows, residual: Some(residual) };
        let (y, normal) = self.norm_pass(x, input, Some(&mut sum), norm, keep)?;
        Ok((y, sum, normal))
    }

    /// The norm of the sum, or with a place for the sum that of what dropout leaves.
    fn norm_pass(
        &self,
        x: Product<'_>,
        input: NormInput<'_, View<'_>>,
        sum: Option<&mut Buffer>,
        norm: &LayerNorm,
        keep: bool,
    ) -> Result<Normed<Buffer>> {
        let mut x = self.with_one_bias(x)?.open(self)?;
        let (width, rows) = (norm.size, x.out.len() / norm.size);
        let mut normal = match keep {
            true => Some(Normal { rows: self.driver.alloc(rows * width)?, scale: self.driver.alloc(rows)? }),
            false => None,
        };
        let (values, scale) = normal.as_mut().map(|normal| (&mut normal.rows, &mut normal.scale)).unzip();
        let is_apart = sum.is_some();
        let args = args![
            &mut x.out,
            values,
            scale,
            sum,
            x.at,
            x.parts,
            x.bias,
            Dropped(input.rows.mask),
            places(input.rows.packing)?,
            input.residual,
            is_apart,
            self.param(&norm.weight)?,
            self.param(&norm.bias)?,
            rows,
            width,
            norm.eps as f32,
        ];
        self.launch("norm_forward", Geometry::rows(rows), args)?;
        Ok((x.out, normal))
    }

    pub(super) fn norm_output(&self, normal: &Normal<Buffer>, norm: &LayerNorm) -> Result<Buffer> {
        let (width, rows) = (norm.size, normal.scale.len());
        let mut y = self.driver.alloc(rows * width)?;
        let (weight, bias) = (self.param(&norm.weight)?, self.param(&norm.bias)?);
        let args = args![&mut y, normal.rows.view(), weight, bias, rows, width];
        self.launch("norm_output", Geometry::matrix(rows, width), args)?;
        Ok(y)
    }

    pub(super) fn norm_gradients(
        &self,
        grad: Product<'_>,
        normal: &Normal<Buffer>,
        norm: &LayerNorm,
        plus: Option<View<'_>>,
        rows: RowMask<'_>,
        keep_sum: bool,
    ) -> Result<NormGradients<Buffer>> {
        let RowMask { mask, packing } = rows;
        let (width, rows) = (norm.size, normal.scale.len());
        let mut grad = grad.open(self)?;
        if norm.weight.is_trained() || norm.bias.is_trained() {
            let count = Geometry::sums_of(rows);
            let mut partial = self.driver.alloc(count * 2 * width)?;
            let args = args![&mut partial, grad.at, grad.parts, normal.rows.view(), rows, width];
            self.launch("norm_parameter_sums", Geometry::sums(rows, width), args)?;
            self.add_gradients(&[&norm.weight, &norm.bias], width, partial, count)?;
        }
        // Under a mask the product's gradient is another than the sum's.
        let mut sum = (mask.is_some() && keep_sum).then(|| self.driver.alloc(rows * width)).transpose()?;
        let (sum_out, dropped) = match (&mut sum, mask) {
            (_, None) => (Some(grad.out.at()), None),
            (sum, Some(_)) => (sum.as_mut().map(Buffer::at), Some(grad.out.at())),
        };
        let args = args![
            sum_out,
            dropped,
            grad.at,
            grad.parts,
            normal.rows.view(),
            normal.scale.view(),
            self.param(&norm.weight)?,
            plus,
            Dropped(mask),
            places(packing)?,
            rows,
            width,
        ];
        self.launch("norm_backward", Geometry::rows(rows), args)?;
        Ok(NormGradients { product: grad.out, sum })
    }
}
