//! Attention and its gradients: kernels that keep the scores on the chip.

use candle_core::{Error, Result};

use super::driver::{Dropped, Tables, args};
use super::memory::{Buffer, View};
use super::rows::tables;
use super::{Geometry, Gpu};
use crate::nn::Mask;
use crate::nn::backend::{AttentionShape, Columns, ProjectionGradients, Projections};
use crate::nn::packing::Packing;

/// What the backward pass needs of the forward one.
pub(super) struct Kept<'a> {
    /// ln Σ exp(score), [batch, heads, queries]; the values of a sequence without padding come first in its row.
    pub logsum: View<'a>,
    /// [rows of queries, heads · width]
    pub result: View<'a>,
}

/// The kernels of one padded width of heads.
struct Kernels {
    width: usize,
    forward: &'static str,
    queries: &'static str,
    keys: &'static str,
    /// Rows and threads of a block of the gradients' kernels.
    gradient_block: (usize, u32),
}

/// Queries and threads of a block of the forward kernel.
const FORWARD_BLOCK: (usize, u32) = (64, 128);

macro_rules! kernels {
    ($width:literal, $block:expr) => {
        Kernels {
            width: $width,
            forward: concat!("attention_forward_", $width),
            queries: concat!("attention_backward_queries_", $width),
            keys: concat!("attention_backward_keys_", $width),
            gradient_block: $block,
        }
    };
}

/// The narrowest first.
const KERNELS: [Kernels; 4] =
    [kernels!(16, (64, 128)), kernels!(32, (64, 128)), kernels!(64, (64, 128)), kernels!(128, (32, 64))];

/// The kernels for heads of `width`.
///
/// # Errors
/// A head that is too wide.
fn kernels(width: usize) -> Result<&'static Kernels> {
    let found = KERNELS.iter().find(|kernels| width <= kernels.width);
    let widest = KERNELS[KERNELS.len() - 1].width;
    found.ok_or_else(|| {
        Error::msg(format!("attention on a GPU takes heads of at most {widest} columns, not {width}"))
    })
}

impl AttentionShape<'_> {
    /// Columns of a matrix of all heads.
    fn columns(&self) -> usize {
        self.heads * self.width
    }

    /// Blocks of `size` rows for each head.
    fn grid(&self, rows: usize, (size, threads): (usize, u32)) -> Geometry {
        Geometry::new([rows.div_ceil(size), self.heads, self.batch], threads)
    }

    /// 1 / √width.
    fn scale(&self) -> f32 {
        (1.0 / (self.width as f64).sqrt()) as f32
    }

    /// Queries, keys and values where the kernels read them.
    fn read<'a>(&self, of: &Projections<View<'a>>) -> [View<'a>; 3] {
        let read = |columns: &Columns<View<'a>>, rows: usize| {
            columns.values.after(columns.first).reading(rows * self.columns())
        };
        let (queries, keys) = (self.query_rows(), self.key_rows());
        [read(&of.query, queries), read(&of.key, keys), read(&of.value, keys)]
    }

    /// Rows of queries of all sequences.
    fn query_rows(&self) -> usize {
        self.packed_queries.map_or(self.batch * self.queries, Packing::rows)
    }

    /// Rows of keys of all sequences.
    fn key_rows(&self) -> usize {
        self.packed_keys.map_or(self.batch * self.keys, Packing::rows)
    }

    /// Where the rows of queries and of keys are.
    fn tables(&self) -> Result<[Tables<'_>; 2]> {
        Ok([tables(self.packed_queries)?, tables(self.packed_keys)?])
    }
}

/// The distance of rows of keys and values.
///
/// # Errors
/// The two differ.
fn key_stride(of: &Projections<View<'_>>) -> Result<usize> {
    if of.key.stride != of.value.stride {
        return Err(Error::msg("attention on a GPU needs keys and values in one matrix"));
    }
    Ok(of.key.stride)
}

impl Gpu {
    pub(super) fn attention(
        &self,
        shape: AttentionShape<'_>,
        of: &Projections<View<'_>>,
        bias: Option<View<'_>>,
        mask: Option<Mask>,
        keep: bool,
    ) -> Result<(Buffer, Option<Buffer>)> {
        let AttentionShape { batch, heads, width, queries, keys, .. } = shape;
        let ([q, k, v], [of_queries, of_keys]) = (shape.read(of), shape.tables()?);
        let mut context = self.driver.alloc(shape.query_rows() * shape.columns())?;
        let mut logsum = keep.then(|| self.driver.alloc(batch * heads * queries)).transpose()?;
        let args = args![
            &mut context,
            logsum.as_mut(),
            q,
            k,
            v,
            bias,
            Dropped(mask),
            of_queries,
            of_keys,
            queries,
            keys,
            heads,
            width,
            of.query.stride,
            key_stride(of)?,
            shape.scale(),
        ];
        self.launch(kernels(width)?.forward, shape.grid(queries, FORWARD_BLOCK), args)?;
        Ok((context, logsum))
    }

    #[allow(clippy::too_many_arguments, reason = "what the pass reads")]
    pub(super) fn attention_gradients(
        &self,
        shape: AttentionShape<'_>,
        of: &Projections<View<'_>>,
        bias: Option<View<'_>>,
        mask: Option<Mask>,
        kept: &Kept<'_>,
        grad: View<'_>,
        together: bool,
    ) -> Result<ProjectionGradients<Buffer>> {
        let AttentionShape { batch, heads, width, queries, keys, .. } = shape;
        let kernels = kernels(width)?;
        let columns = shape.columns();
        let ([q, k, v], [of_queries, of_keys]) = (shape.read(of), shape.tables()?);
        let (q_stride, kv_stride) = (of.query.stride, key_stride(of)?);
        let (rows, key_rows) = (shape.query_rows(), shape.key_rows());
        let mut delta = self.driver.alloc(batch * heads * queries)?;
        let args = args![&mut delta, grad, kept.result, of_queries, rows, queries, heads, width];
        self.launch("attention_delta", Geometry::rows(rows * heads), args)?;

        // Gradients are where the projections were in their matrix.
        let stride = if together { 3 * columns } else { 2 * columns };
        let mut all = self.driver.alloc(key_rows * stride)?;
        let at = |all: &mut Buffer, first: usize, rows: usize| all.at().after(first).writing(rows * columns);
        let mut query = (!together).then(|| self.driver.alloc(rows * columns)).transpose()?;
        let (grad_q, gq_stride) = match &mut query {
            Some(query) => (query.at(), columns),
            None => (at(&mut all, of.query.first, rows), stride),
        };
        let args = args![
            grad_q,
            q,
            k,
            v,
            bias,
            kept.logsum,
            delta.view(),
            grad,
            Dropped(mask),
            of_queries,
            of_keys,
            queries,
            keys,
            heads,
            width,
            q_stride,
            kv_stride,
            gq_stride,
            shape.scale(),
        ];
        self.launch(kernels.queries, shape.grid(queries, kernels.gradient_block), args)?;
        let args = args![
            at(&mut all, of.key.first, key_rows),
            at(&mut all, of.value.first, key_rows),
            q,
            k,
            v,
            bias,
            kept.logsum,
            delta.view(),
            grad,
            Dropped(mask),
            of_queries,
            of_keys,
            queries,
            keys,
            heads,
            width,
            q_stride,
            kv_stride,
            stride,
            shape.scale(),
        ];
        self.launch(kernels.keys, shape.grid(keys, kernels.gradient_block), args)?;
        Ok(ProjectionGradients { together: all, query })
    }
}
