//! The backend that computes on a GPU: kernels and matrix products that a [`Driver`] queues.
//!
//! `driver.rs` says what a GPU must do; `nvidia.rs` has one do it. The passes are in `product.rs`, `norm.rs`, `attention.rs`,
//! `rows.rs`, `gradients.rs` and `adamw.rs`; `kernels/` holds what they launch.

mod adamw;
mod attention;
pub mod driver;
mod factors;
mod geometry;
mod gradients;
pub mod kernels;
mod maps;
pub mod memory;
mod norm;
#[cfg(feature = "cuda")]
mod nvidia;
#[cfg(feature = "cuda")]
mod pinned;
mod product;
mod rows;
pub mod testing;
mod upload;

use std::ops::Range;
use std::sync::Arc;

use candle_core::{Device, Error, Result, Storage, Tensor};

use super::backend::{
    AdamWSlot, AttentionShape, Backend, Memory, NormGradients, NormInput, Normal, Normed,
    ProjectionGradients, Projections, RowMask, TextTables,
};
use super::packing::Packing;
use super::{Activation, LayerNorm, Linear, Mask, Param, Precision};
use driver::{Args, Driver, Dropped, Launch, args};
use geometry::Geometry;
pub use memory::{Buffer, View};
use memory::{storage_address, view};
pub use product::Product;
pub use upload::{Staged, Upload};

/// The passes over a driver's memory.
#[derive(Debug, Clone)]
pub struct Gpu {
    driver: Arc<dyn Driver>,
    way: factors::Way,
    /// Products of a narrower dimension are not split.
    split_from: usize,
    /// Gradients that are left in parts.
    pending: gradients::Pending,
}

impl Gpu {
    /// Passes whose products round their factors to `precision`. In [`Precision::F32`] a device with TF32 cores multiplies by
    /// them, in three products of split factors, where `splits`; else on its float32 cores.
    ///
    /// # Errors
    /// The device cannot multiply numbers of this precision.
    pub fn new(driver: Arc<dyn Driver>, precision: Precision, splits: bool) -> Result<Self> {
        let way = factors::Way::of(precision, splits, driver.has_tf32())?;
        Ok(Self { driver, way, split_from: factors::SPLIT_FROM, pending: gradients::Pending::default() })
    }

    /// Splits the factors of products whose dimensions are all at least `narrowest`: for tests, whose products are narrow.
    pub fn splitting_from(self, narrowest: usize) -> Self {
        Self { split_from: narrowest, ..self }
    }

    /// The fastest passes on a device that [`open`] returned.
    ///
    /// # Errors
    /// Those of [`driver_of`] and [`Gpu::new`].
    pub fn open(device: &Device, precision: Precision) -> Result<Self> {
        Self::new(driver_of(device)?, precision, true)
    }

    /// Queues a kernel, unless it has nothing to do.
    fn launch(&self, kernel: &'static str, geometry: Geometry, args: Args) -> Result<()> {
        args.check()?;
        let Geometry { grid, block } = geometry;
        if grid.contains(&0) {
            return Ok(());
        }
        self.driver.launch(&mut Launch { kernel, grid, block, args })
    }

    /// The value of a parameter, whose memory is there as long as it is.
    fn param<'a>(&self, param: &'a Param) -> Result<View<'a>> {
        view(param.value())
    }
}

/// Opens GPU `ordinal` for passes; opened again, it is the same device.
///
/// # Errors
/// This program was built without CUDA; there is no such GPU, it is too old, or its driver, cuBLAS or NVRTC fail.
pub fn open(ordinal: usize) -> Result<Device> {
    #[cfg(feature = "cuda")]
    return nvidia::open(ordinal);
    // candle reports that it was built without CUDA.
    #[cfg(not(feature = "cuda"))]
    Device::new_cuda(ordinal)
}

/// The driver of a device that [`open`] returned.
///
/// # Errors
/// The device is another.
pub fn driver_of(device: &Device) -> Result<Arc<dyn Driver>> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => nvidia::driver_of(device),
        _ => Err(Error::msg("a GPU's passes need a device that they opened")),
    }
}

impl Backend for Gpu {
    type Buffer = Buffer;
    type View<'a> = View<'a>;
    type Product<'a> = Product<'a>;
    type Attended = Buffer;

    fn view<'a>(&self, buffer: &'a Buffer) -> View<'a> {
        buffer.view()
    }

    fn reborrow<'a, 'b: 'a>(&self, view: View<'b>) -> View<'a> {
        view
    }

    fn view_storage<'a>(&self, storage: &'a Storage, range: Range<usize>) -> Result<View<'a>> {
        let at = storage_address(storage)?;
        Ok(View::new(at.address, at.words).after(range.start).reading(range.len()))
    }

    fn storage_of(&self, buffer: Buffer) -> Storage {
        self.driver.storage_of(buffer)
    }

    fn zeros(&self, count: usize) -> Result<Buffer> {
        let mut buffer = self.driver.alloc(count)?;
        self.driver.clear(&mut buffer)?;
        Ok(buffer)
    }

    fn copy(&self, values: View<'_>) -> Result<Buffer> {
        let mut buffer = self.driver.alloc(values.len())?;
        self.driver.copy(values, &mut buffer)?;
        Ok(buffer)
    }

    fn clear(&self, buffer: &mut Buffer) -> Result<()> {
        self.driver.clear(buffer)
    }

    fn memory_of(&self, buffer: Buffer) -> Memory {
        Memory::Gpu(buffer)
    }

    fn buffer_in<'a>(&self, memory: &'a mut Memory) -> Result<&'a mut Buffer> {
        match memory {
            Memory::Gpu(buffer) => Ok(buffer),
            _ => Err(Error::msg("this memory is not on the GPU")),
        }
    }

    fn values(&self, buffer: &Buffer) -> Result<Vec<f32>> {
        self.finish_gradients()?;
        self.driver.download(buffer)
    }

    fn linear<'a>(&self, x: View<'_>, layers: &[&'a Linear]) -> Result<Product<'a>> {
        self.linear_product(x, layers, None)
    }

    fn linear_of<'a>(&self, x: Buffer, layers: &[&'a Linear]) -> Result<Product<'a>> {
        let at = x.view().at();
        self.linear_product(View::new(at.address, at.words), layers, Some(x))
    }

    fn input_gradient(
        &self,
        grad: View<'_>,
        layers: &[&Linear],
        plus: Option<Buffer>,
    ) -> Result<Product<'static>> {
        self.input_gradient_product(grad, layers, plus, None)
    }

    fn input_gradient_of(
        &self,
        grad: Buffer,
        layers: &[&Linear],
        plus: Option<Buffer>,
    ) -> Result<Product<'static>> {
        let at = grad.view().at();
        self.input_gradient_product(View::new(at.address, at.words), layers, plus, Some(grad))
    }

    fn linear_gradients(
        &self,
        grad: View<'_>,
        x: View<'_>,
        layers: &[&Linear],
        _: Option<&Packing>,
    ) -> Result<()> {
        self.weight_gradients(grad, x, layers)?;
        self.bias_gradients(grad, layers)
    }

    fn finish(&self, product: Product<'_>) -> Result<Buffer> {
        self.finish_product(product)
    }

    fn as_product<'a>(&self, values: Self::View<'a>) -> Result<Self::Product<'a>> {
        Ok(Product::of(values))
    }

    fn product_of(&self, buffer: Buffer) -> Product<'static> {
        Product::from(buffer)
    }

    fn activate(
        &self,
        x: Product<'_>,
        activation: Activation,
        keep: bool,
    ) -> Result<(Buffer, Option<Buffer>)> {
        let x = self.with_one_bias(x)?.open(self)?;
        let (rows, columns) = (x.rows, x.columns);
        let other = keep.then(|| self.driver.alloc(rows * columns)).transpose()?;
        // What is kept may take the place of the product, so that a whole product is not copied.
        let (mut y, mut before) = match other {
            Some(y) => (y, Some(x.out)),
            None => (x.out, None),
        };
        let args = args![&mut y, before.as_mut(), x.at, x.parts, x.bias, rows, columns, kind(activation)];
        self.launch("activate", Geometry::matrix(rows, columns), args)?;
        Ok((y, before))
    }

    fn activate_backward(
        &self,
        grad: Product<'_>,
        mut x: Buffer,
        activation: Activation,
        again: bool,
    ) -> Result<(Buffer, Option<Buffer>)> {
        let mut grad = grad.open(self)?;
        let (rows, columns) = (grad.rows, grad.columns);
        let before = x.at();
        let y = again.then_some(before);
        let args = args![&mut grad.out, y, grad.at, grad.parts, before, rows, columns, kind(activation)];
        self.launch("activate_backward", Geometry::matrix(rows, columns), args)?;
        Ok((grad.out, again.then_some(x)))
    }

    fn norm(
        &self,
        x: Product<'_>,
        input: NormInput<'_, View<'_>>,
        norm: &LayerNorm,
        keep: bool,
    ) -> Result<Normed<Buffer>> {
        self.norm_forward(x, input, norm, keep)
    }

    fn norm_apart(
        &self,
        x: Product<'_>,
        rows: RowMask<'_>,
        residual: View<'_>,
        norm: &LayerNorm,
        keep: bool,
    ) -> Result<(Buffer, Buffer, Option<Normal<Buffer>>)> {
        self.norm_forward_apart(x, rows, residual, norm, keep)
    }

    fn norm_again(&self, normal: &Normal<Buffer>, norm: &LayerNorm) -> Result<Buffer> {
        self.norm_output(normal, norm)
    }

    fn norm_backward(
        &self,
        grad: Product<'_>,
        normal: &Normal<Buffer>,
        norm: &LayerNorm,
        plus: Option<View<'_>>,
        rows: RowMask<'_>,
        keep_sum: bool,
    ) -> Result<NormGradients<Buffer>> {
        self.norm_gradients(grad, normal, norm, plus, rows, keep_sum)
    }

    fn attend(
        &self,
        shape: AttentionShape<'_>,
        of: &Projections<View<'_>>,
        bias: Option<View<'_>>,
        mask: Option<Mask>,
        keep: bool,
    ) -> Result<(Buffer, Option<Buffer>)> {
        self.attention(shape, of, bias, mask, keep)
    }

    fn attend_backward(
        &self,
        shape: AttentionShape<'_>,
        of: &Projections<View<'_>>,
        bias: Option<View<'_>>,
        mask: Option<Mask>,
        attended: &Buffer,
        result: View<'_>,
        grad: View<'_>,
        together: bool,
    ) -> Result<ProjectionGradients<Buffer>> {
        let kept = attention::Kept { logsum: attended.view(), result };
        self.attention_gradients(shape, of, bias, mask, &kept, grad, together)
    }

    fn embed(&self, ids: &Tensor, tables: &TextTables) -> Result<Buffer> {
        self.embed_text(ids, tables)
    }

    fn embed_gradients(&self, grad: View<'_>, ids: &Tensor, tables: &TextTables) -> Result<()> {
        self.text_gradients(grad, ids, tables)
    }

    fn add_first_row(&self, x: &mut Buffer, table: &Param) -> Result<()> {
        let (_, width) = table.value().dims2()?;
        let rows = x.len() / width;
        let args = args![x, rows, width, self.param(table)?.reading(width), 1u32];
        self.launch("add_rows", Geometry::matrix(rows, width), args)
    }

    fn first_row_gradient(&self, grad: View<'_>, table: &Param) -> Result<()> {
        self.row_gradient(grad, table)
    }

    fn concat(&self, a: View<'_>, b: View<'_>, sizes: (usize, usize)) -> Result<Buffer> {
        let mut out = self.driver.alloc(a.len() + b.len())?;
        let (batch, [n, m, width]) = rows::joined(out.len(), sizes);
        let args = args![&mut out, a, b, batch, n, m, width];
        self.launch("concat", Geometry::matrix(batch * (n + m), width), args)?;
        Ok(out)
    }

    fn split(&self, x: View<'_>, sizes: (usize, usize)) -> Result<(Buffer, Buffer)> {
        let (batch, [n, m, width]) = rows::joined(x.len(), sizes);
        let mut a = self.driver.alloc(batch * n * width)?;
        let mut b = self.driver.alloc(batch * m * width)?;
        let args = args![&mut a, &mut b, x, batch, n, m, width];
        self.launch("split_concat", Geometry::matrix(batch * (n + m), width), args)?;
        Ok((a, b))
    }

    fn first_rows(&self, x: View<'_>, shape: AttentionShape<'_>, width: usize) -> Result<Buffer> {
        let AttentionShape { batch, keys, .. } = shape;
        let mut out = self.driver.alloc(batch * width)?;
        let starts = rows::starts(shape.packed_keys)?;
        let args = args![&mut out, x.reading(batch * width), starts, batch, keys, width];
        self.launch("first_rows", Geometry::matrix(batch, width), args)?;
        Ok(out)
    }

    fn add_to_first_rows(
        &self,
        x: &mut Buffer,
        rows: View<'_>,
        shape: AttentionShape<'_>,
        width: usize,
    ) -> Result<()> {
        let AttentionShape { batch, keys, .. } = shape;
        let starts = rows::starts(shape.packed_keys)?;
        let args = args![x.at().writing(batch * width), rows, starts, batch, keys, width];
        self.launch("add_first_rows", Geometry::matrix(batch, width), args)
    }

    fn select_rows(&self, x: View<'_>, places: &Tensor, width: usize) -> Result<Buffer> {
        let count = places.elem_count();
        let mut out = self.driver.alloc(count * width)?;
        let args = args![&mut out, x.reading(count * width), view(places)?, count, width];
        self.launch("select_rows", Geometry::matrix(count, width), args)?;
        Ok(out)
    }

    fn scatter_rows(&self, rows: View<'_>, places: &Tensor, width: usize, count: usize) -> Result<Buffer> {
        let mut out = self.zeros(count)?;
        let selected = places.elem_count();
        let args = args![out.at().writing(rows.len()), rows, view(places)?, selected, width];
        self.launch("scatter_rows", Geometry::matrix(selected, width), args)?;
        Ok(out)
    }

    fn dropout(&self, x: &mut Buffer, mask: Mask) -> Result<()> {
        let at = x.at();
        self.launch("dropout", Geometry::flat(at.words), args![at, at, Dropped(Some(mask)), at.words])
    }

    fn multiply(&self, a: View<'_>, b: View<'_>) -> Result<Buffer> {
        let mut out = self.driver.alloc(a.len())?;
        self.launch("multiply", Geometry::flat(a.len()), args![&mut out, a, b, a.len()])?;
        Ok(out)
    }

    fn scale_by(&self, x: &mut Buffer, factor: View<'_>) -> Result<()> {
        let at = x.at();
        self.launch("scale_by", Geometry::flat(at.words), args![at, factor, at.words])
    }

    fn cross_entropy(
        &self,
        logits: View<'_>,
        labels: &Tensor,
        classes: usize,
        total: usize,
        keep: bool,
    ) -> Result<(Buffer, Option<Buffer>)> {
        self.single_label_loss(logits, labels, classes, total, keep)
    }

    fn binary_cross_entropy(
        &self,
        logits: View<'_>,
        targets: View<'_>,
        classes: usize,
        total: usize,
        keep: bool,
    ) -> Result<(Buffer, Option<Buffer>)> {
        self.multi_label_loss(logits, targets, classes, total, keep)
    }

    fn adamw(&self, slots: &mut [AdamWSlot<'_>], betas: (f64, f64), eps: f64) -> Result<()> {
        self.adamw_update(slots, betas, eps)
    }
}

/// What the kernels call an activation.
fn kind(activation: Activation) -> u32 {
    match activation {
        Activation::Gelu => 0,
        Activation::Relu => 1,
        Activation::Tanh => 2,
    }
}

#[cfg(test)]
mod tests;
