//! Matrix products: linear layers, and their gradients.

use std::ops::Range;

use candle_core::{Error, Result};

use super::driver::{Gemm, args};
use super::factors::{CUT, Matrices, Ready, Way};
use super::memory::{Address, Buffer, View};
use super::{Geometry, Gpu};
use crate::nn::{Linear, Param};

/// The most layers side by side that the kernels take.
const MOST_LAYERS: usize = 3;

/// The result of a product, [rows, columns]: the sum of its parts, plus the biases side by side.
#[derive(Debug)]
pub struct Product<'a> {
    values: Values<'a>,
    parts: usize,
    biases: Vec<View<'a>>,
    rows: usize,
    columns: usize,
}

#[derive(Debug)]
enum Values<'a> {
    Own(Buffer),
    Lent(View<'a>),
}

/// A product as a kernel reads it, and memory for a result of its size, which is the product's own where that is whole.
pub(super) struct Opened<'a> {
    pub at: Address,
    pub parts: usize,
    pub bias: Option<View<'a>>,
    pub rows: usize,
    pub columns: usize,
    pub out: Buffer,
    /// Kept until the kernel is queued.
    _parts: Option<Buffer>,
}

impl<'a> Product<'a> {
    /// Values that are there.
    pub(super) fn of(values: View<'a>) -> Self {
        Self { rows: 1, columns: values.len(), values: Values::Lent(values), parts: 1, biases: Vec::new() }
    }

    /// A buffer of such values.
    pub(super) fn from(values: Buffer) -> Self {
        Self { rows: 1, columns: values.len(), values: Values::Own(values), parts: 1, biases: Vec::new() }
    }

    /// A buffer of `parts` to be added up.
    #[cfg(test)]
    pub(super) fn of_parts(values: Buffer, parts: usize) -> Self {
        let columns = values.len() / parts;
        Self { rows: 1, columns, values: Values::Own(values), parts, biases: Vec::new() }
    }

    /// To be read by a kernel that adds at most one bias.
    pub(super) fn open(self, gpu: &Gpu) -> Result<Opened<'a>> {
        let Self { values, parts, biases, rows, columns } = self;
        debug_assert!(biases.len() <= 1, "a kernel adds one bias");
        let bias = biases.first().copied();
        let (at, out, rest) = match values {
            Values::Own(mut buffer) if parts == 1 => (buffer.at(), buffer, None),
            Values::Own(mut buffer) => (buffer.at(), gpu.driver.alloc(rows * columns)?, Some(buffer)),
            Values::Lent(view) => (view.at(), gpu.driver.alloc(rows * columns)?, None),
        };
        Ok(Opened { at, parts, bias, rows, columns, out, _parts: rest })
    }
}

/// Where a product's result goes, and whether it is added to what is there.
#[derive(Clone, Copy)]
struct Target {
    at: Address,
    stride: usize,
    accumulate: bool,
}

impl Gpu {
    /// x Wᵀ + b. `own` is the memory of x where nothing else reads it.
    pub(super) fn linear_product<'a>(
        &self,
        x: View<'_>,
        layers: &[&'a Linear],
        own: Option<Buffer>,
    ) -> Result<Product<'a>> {
        let (inputs, outputs) = sizes(layers)?;
        let (rows, columns) = (x.len() / inputs, outputs * layers.len());
        let weights = layers.iter().map(|layer| self.param(&layer.weight)).collect::<Result<_>>()?;
        let biases = layers.iter().map(|layer| self.param(&layer.bias)).collect::<Result<_>>()?;
        let left = Matrices::one(x, rows, inputs, (inputs, 1));
        let right = Matrices {
            values: weights,
            along_inner: false,
            count: columns,
            inner: inputs,
            strides: (inputs, 1),
        };
        let (values, parts) = self.multiply_matrices(&left, &right, None, own)?;
        Ok(Product { values: Values::Own(values), parts, biases, rows, columns })
    }

    /// Σ gᵢ Wᵢ. `own` is the memory of g where nothing else reads it.
    pub(super) fn input_gradient_product(
        &self,
        grad: View<'_>,
        layers: &[&Linear],
        plus: Option<Buffer>,
        own: Option<Buffer>,
    ) -> Result<Product<'static>> {
        let (inputs, outputs) = sizes(layers)?;
        let inner = outputs * layers.len();
        let rows = grad.len() / inner;
        let weights = layers.iter().map(|layer| self.param(&layer.weight)).collect::<Result<_>>()?;
        let left = Matrices::one(grad, rows, inner, (inner, 1));
        let right =
            Matrices { values: weights, along_inner: true, count: inputs, inner, strides: (1, inputs) };
        let (values, parts) = self.multiply_matrices(&left, &right, plus, own)?;
        Ok(Product { values: Values::Own(values), parts, biases: Vec::new(), rows, columns: inputs })
    }

    pub(super) fn weight_gradients(&self, grad: View<'_>, x: View<'_>, layers: &[&Linear]) -> Result<()> {
        let (inputs, outputs) = sizes(layers)?;
        let Some(trained) = trained(layers, |layer| &layer.weight) else { return Ok(()) };
        let stride = outputs * layers.len();
        let rows = grad.len() / stride;
        let count = trained.len() * outputs;
        let grad = grad.after(trained.start * outputs).reading(rows * count);
        let left = Matrices::one(grad, count, rows, (1, stride));
        let right = Matrices::one(x, inputs, rows, (1, inputs));
        let way = self.way_of(&left, &right);
        let (left, right) =
            (self.ready(way, &left, false, usize::MAX)?, self.ready(way, &right, true, usize::MAX)?);
        let layers = &layers[trained];
        for (place, layer) in layers.iter().enumerate() {
            let Some(gradient) = layer.weight.gradient() else { continue };
            gradient.accumulate(self, outputs * inputs, |gradient, accumulate| {
                let target = Target { at: gradient.at(), stride: inputs, accumulate };
                self.gemm(&left, (place * outputs, outputs), &right, inputs, target)
            })?;
        }
        Ok(())
    }

    pub(super) fn bias_gradients(&self, grad: View<'_>, layers: &[&Linear]) -> Result<()> {
        let (_, outputs) = sizes(layers)?;
        let Some(trained) = trained(layers, |layer| &layer.bias) else { return Ok(()) };
        let stride = outputs * layers.len();
        let rows = grad.len() / stride;
        let columns = trained.len() * outputs;
        let grad = grad.after(trained.start * outputs).reading(rows * columns);
        let (partial, parts) = self.column_sums(grad, rows, columns, stride)?;
        let params: Vec<&Param> = layers[trained].iter().map(|layer| &layer.bias).collect();
        self.add_gradients(&params, outputs, partial, parts)
    }

    pub(super) fn finish_product(&self, product: Product<'_>) -> Result<Buffer> {
        match product {
            Product { values: Values::Own(buffer), parts: 1, biases, .. } if biases.is_empty() => Ok(buffer),
            mut product => {
                let biases = std::mem::take(&mut product.biases);
                let mut opened = product.open(self)?;
                let (rows, columns) = (opened.rows, opened.columns);
                let sizes = (opened.parts, rows, columns);
                self.add_parts(opened.out.at(), opened.at, sizes, &biases, false)?;
                Ok(opened.out)
            }
        }
    }

    /// The product with at most one bias: what other kernels than `add_parts` can add.
    pub(super) fn with_one_bias<'a>(&self, product: Product<'a>) -> Result<Product<'a>> {
        if product.biases.len() <= 1 {
            return Ok(product);
        }
        let (rows, columns) = (product.rows, product.columns);
        let values = Values::Own(self.finish_product(product)?);
        Ok(Product { values, parts: 1, biases: Vec::new(), rows, columns })
    }

    /// Sums over each 128 of `rows` rows, [parts, columns], and how many parts there are.
    pub(super) fn column_sums(
        &self,
        x: View<'_>,
        rows: usize,
        columns: usize,
        stride: usize,
    ) -> Result<(Buffer, usize)> {
        let parts = Geometry::sums_of(rows);
        let mut partial = self.driver.alloc(parts * columns)?;
        self.launch(
            "column_sums",
            Geometry::sums(rows, columns),
            args![&mut partial, x, rows, columns, stride],
        )?;
        Ok((partial, parts))
    }

    /// Adds up `parts` of [rows, columns], and biases side by side.
    pub(super) fn add_parts(
        &self,
        out: Address,
        of: Address,
        (parts, rows, columns): (usize, usize, usize),
        biases: &[View<'_>],
        accumulate: bool,
    ) -> Result<()> {
        let bias = |place: usize| biases.get(place).copied();
        let size = rows * columns;
        let args = args![
            out.writing(size),
            of.writing(parts * size),
            parts,
            bias(0),
            bias(1),
            bias(2),
            biases.len().max(1),
            rows,
            columns,
            accumulate,
        ];
        self.launch("add_parts", Geometry::matrix(rows, columns), args)
    }

    /// left rightᵀ, [parts, left.count, right.count], and how many parts there are; with a `plus` it is added to that, whole. `own`
    /// is the memory of left where nothing else reads it: it is free once its factor is there.
    fn multiply_matrices(
        &self,
        left: &Matrices<'_>,
        right: &Matrices<'_>,
        plus: Option<Buffer>,
        own: Option<Buffer>,
    ) -> Result<(Buffer, usize)> {
        let (rows, columns) = (left.count, right.count);
        let way = self.way_of(left, right);
        if let Way::Plain(_) = way {
            return Ok((self.multiply_each(way, left, right, plus)?, 1));
        }
        let left = self.ready(way, left, false, CUT)?;
        drop(own);
        let right = self.ready(way, right, true, CUT)?;
        let parts = left.batch;
        let multiply = |out: &mut Buffer, accumulate| {
            let target = Target { at: out.at(), stride: columns, accumulate };
            self.gemm(&left, (0, rows), &right, columns, target)
        };
        match plus {
            Some(mut plus) if parts == 1 => {
                multiply(&mut plus, true)?;
                Ok((plus, 1))
            }
            plus => {
                let mut out = self.driver.alloc(parts * rows * columns)?;
                multiply(&mut out, false)?;
                let Some(mut plus) = plus else { return Ok((out, parts)) };
                self.add_parts(plus.at(), out.at(), (parts, rows, columns), &[], true)?;
                Ok((plus, 1))
            }
        }
    }

    /// The same of matrices as they are in memory, one product for each of the right ones.
    fn multiply_each(
        &self,
        way: Way,
        left: &Matrices<'_>,
        right: &Matrices<'_>,
        plus: Option<Buffer>,
    ) -> Result<Buffer> {
        let (rows, stride, sources) = (left.count, right.count, right.values.len());
        let mut accumulate = plus.is_some();
        let mut out = plus.map_or_else(|| self.driver.alloc(rows * stride), Ok)?;
        for s in 0..sources {
            let source = right.source(s);
            let (part, first) = match right.along_inner {
                true => (left.inner_part(s, sources), 0),
                false => (left.clone(), s * source.count),
            };
            let target = Target { at: out.at().after(first), stride, accumulate };
            let (part, ready) = (self.ready(way, &part, false, CUT)?, self.ready(way, &source, true, CUT)?);
            self.gemm(&part, (0, rows), &ready, source.count, target)?;
            accumulate |= right.along_inner;
        }
        Ok(out)
    }

    /// Queues one product.
    fn gemm(
        &self,
        left: &Ready<'_>,
        (first, rows): (usize, usize),
        right: &Ready<'_>,
        columns: usize,
        target: Target,
    ) -> Result<()> {
        if rows == 0 || columns == 0 {
            return Ok(());
        }
        self.driver.gemm(&Gemm {
            numbers: left.numbers,
            rows,
            columns,
            inner: left.inner,
            batch: left.batch,
            left: left.from(first),
            right: right.from(0),
            out: target.at,
            out_stride: target.stride,
            out_batch_stride: rows * target.stride,
            accumulate: target.accumulate,
        })
    }
}

/// Inputs and outputs of each of `layers`.
///
/// # Errors
/// They differ, or there are more than kernels take.
fn sizes(layers: &[&Linear]) -> Result<(usize, usize)> {
    match layers {
        [first, ..] if layers.len() <= MOST_LAYERS => {
            let sizes = |layer: &Linear| (layer.inputs, layer.outputs);
            let are_equal = layers.iter().all(|layer| sizes(layer) == sizes(first));
            are_equal.then_some(sizes(first)).ok_or_else(|| Error::msg("layers side by side differ in size"))
        }
        _ => Err(Error::msg(format!("a product of {} layers", layers.len()))),
    }
}

/// From the first to the last of `layers` whose parameter is trained.
fn trained(layers: &[&Linear], param: impl Fn(&Linear) -> &Param) -> Option<Range<usize>> {
    let is_trained = |layer: &&Linear| param(layer).is_trained();
    let first = layers.iter().position(is_trained)?;
    Some(first..layers.iter().rposition(is_trained)? + 1)
}
