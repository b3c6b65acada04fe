//! Embeddings and what joins them: a text's, tables whose first row is added to every row, sequences one after the other.

use candle_core::{Error, Result, Tensor};

use super::Param;
use super::backend::{Backend, TextTables};
use super::composed::Composed;
use super::compute::Compute;
use super::op::{Forward, Op};

impl TextTables {
    /// `words[id] + positions[t] + types[0]` for `ids`, u32 [B, T]: [B, T, H]. All tokens have type 0.
    ///
    /// # Errors
    /// Ids of another rank, or texts longer than there are positions.
    pub fn embed(&self, compute: &Compute, ids: &Tensor) -> Result<Tensor> {
        let (rows, tokens) = ids.dims2()?;
        let (longest, width) = self.positions.value().dims2()?;
        if tokens > longest {
            return Err(Error::msg(format!(
                "a text of {tokens} tokens is longer than the model's {longest}"
            )));
        }
        let op = EmbedOp { ids: ids.contiguous()?, tables: self.clone() };
        compute.apply(op, &[], &[rows, tokens, width])
    }
}

struct EmbedOp {
    ids: Tensor,
    tables: TextTables,
}

impl Op for EmbedOp {
    type Saved<B: Backend> = ();

    fn params(&self) -> Vec<&Param> {
        let TextTables { words, positions, types, .. } = &self.tables;
        vec![words, positions, types]
    }

    fn forward<B: Backend>(&self, on: &B, _: &[B::View<'_>], keep: Option<&[bool]>) -> Forward<B, ()> {
        Ok((on.embed(&self.ids, &self.tables)?, keep.map(|_| ())))
    }

    fn backward<B: Backend>(
        &self,
        on: &B,
        _: &[B::View<'_>],
        (): (),
        grad: B::View<'_>,
        _: &[bool],
    ) -> Result<Vec<Option<B::Buffer>>> {
        on.embed_gradients(grad, &self.ids, &self.tables)?;
        Ok(Vec::new())
    }

    fn composed(&self, on: &Composed, _: &[Tensor]) -> Result<Tensor> {
        let (rows, tokens) = self.ids.dims2()?;
        let words = on.param(&self.tables.words);
        let words = words.index_select(&self.ids.flatten_all()?, 0)?.reshape((rows, tokens, ()))?;
        // The row of the padding is read like any other and receives no gradient.
        let padding = self.ids.eq(self.tables.pad)?.to_dtype(words.dtype())?.unsqueeze(2)?;
        let frozen = words.detach().broadcast_mul(&padding)?;
        let words = words.broadcast_mul(&(1.0 - padding)?)?.add(&frozen)?;
        let positions = on.param(&self.tables.positions).narrow(0, 0, tokens)?;
        words.broadcast_add(&positions)?.broadcast_add(&on.param(&self.tables.types).narrow(0, 0, 1)?)
    }
}

/// `x` [.., H] plus the first row of each of `tables` [n, H].
///
/// # Errors
/// Shapes that do not fit.
pub fn add_first_rows(compute: &Compute, x: &Tensor, tables: &[&Param]) -> Result<Tensor> {
    let width = x.dims().last().copied();
    if tables.iter().any(|table| table.value().dims().get(1).copied() != width) {
        return Err(Error::msg(format!("adding rows of another width to a tensor of shape {:?}", x.dims())));
    }
    let tables = tables.iter().map(|&table| table.clone()).collect();
    compute.apply(AddFirstRowsOp { tables }, &[x], x.dims())
}

struct AddFirstRowsOp {
    tables: Vec<Param>,
}

impl Op for AddFirstRowsOp {
    type Saved<B: Backend> = ();

    fn params(&self) -> Vec<&Param> {
        self.tables.iter().collect()
    }

    fn forward<B: Backend>(&self, on: &B, inputs: &[B::View<'_>], keep: Option<&[bool]>) -> Forward<B, ()> {
        let mut y = on.copy(inputs[0])?;
        self.tables.iter().try_for_each(|table| on.add_first_row(&mut y, table))?;
        Ok((y, keep.map(|_| ())))
    }

    fn backward<B: Backend>(
        &self,
        on: &B,
        _: &[B::View<'_>],
        (): (),
        grad: B::View<'_>,
        needs_grad: &[bool],
    ) -> Result<Vec<Option<B::Buffer>>> {
        self.tables.iter().try_for_each(|table| on.first_row_gradient(grad, table))?;
        Ok(vec![if needs_grad[0] { Some(on.copy(grad)?) } else { None }])
    }

    fn composed(&self, on: &Composed, inputs: &[Tensor]) -> Result<Tensor> {
        self.tables
            .iter()
            .try_fold(inputs[0].clone(), |x, table| x.broadcast_add(&on.param(table).narrow(0, 0, 1)?))
    }
}

/// The rows of `a` [B, N, H], then those of `b` [B, M, H]: [B, N + M, H].
///
/// # Errors
/// Shapes that do not fit.
pub fn concat(compute: &Compute, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let ((batch, n, width), (other, m, other_width)) = (a.dims3()?, b.dims3()?);
    if batch != other || width != other_width {
        let (a, b) = (a.dims(), b.dims());
        return Err(Error::msg(format!("a batch of texts of shape {a:?} has regions of shape {b:?}")));
    }
    compute.apply(ConcatOp { sizes: (n * width, m * width) }, &[a, b], &[batch, n + m, width])
}

struct ConcatOp {
    sizes: (usize, usize),
}

impl Op for ConcatOp {
    type Saved<B: Backend> = ();

    fn params(&self) -> Vec<&Param> {
        Vec::new()
    }

    fn forward<B: Backend>(&self, on: &B, inputs: &[B::View<'_>], keep: Option<&[bool]>) -> Forward<B, ()> {
        Ok((on.concat(inputs[0], inputs[1], self.sizes)?, keep.map(|_| ())))
    }

    fn backward<B: Backend>(
        &self,
        on: &B,
        _: &[B::View<'_>],
        (): (),
        grad: B::View<'_>,
        needs_grad: &[bool],
    ) -> Result<Vec<Option<B::Buffer>>> {
        let (a, b) = on.split(grad, self.sizes)?;
        Ok(vec![needs_grad[0].then_some(a), needs_grad[1].then_some(b)])
    }

    fn composed(&self, _: &Composed, inputs: &[Tensor]) -> Result<Tensor> {
        Tensor::cat(inputs, 1)
    }
}

/// The rows of `x` [N, H] at `places`, u32 `[n]`, all distinct: `[n, H]`.
///
/// # Errors
/// Shapes that do not fit.
pub fn select_rows(compute: &Compute, x: &Tensor, places: &Tensor) -> Result<Tensor> {
    let ((rows, width), count) = (x.dims2()?, places.dims1()?);
    let op = RowsOp { places: places.clone(), rows, width, selects: true };
    compute.apply(op, &[x], &[count, width])
}

/// `x` [n, H] as the rows at `places`, u32 `[n]`, all distinct, of `rows` rows, the others zeros: [rows, H].
///
/// # Errors
/// Shapes that do not fit.
pub fn scatter_rows(compute: &Compute, x: &Tensor, places: &Tensor, rows: usize) -> Result<Tensor> {
    let width = x.dim(1)?;
    let op = RowsOp { places: places.clone(), rows, width, selects: false };
    compute.apply(op, &[x], &[rows, width])
}

/// Selects rows or, the other way round, puts them back; either is the other's gradient.
struct RowsOp {
    places: Tensor,
    /// Of those that are selected from.
    rows: usize,
    width: usize,
    selects: bool,
}

impl RowsOp {
    fn moved<B: Backend>(&self, on: &B, x: B::View<'_>, selects: bool) -> Result<B::Buffer> {
        if selects {
            on.select_rows(x, &self.places, self.width)
        } else {
            on.scatter_rows(x, &self.places, self.width, self.rows * self.width)
        }
    }
}

impl Op for RowsOp {
    type Saved<B: Backend> = ();

    fn params(&self) -> Vec<&Param> {
        Vec::new()
    }

    fn forward<B: Backend>(&self, on: &B, inputs: &[B::View<'_>], keep: Option<&[bool]>) -> Forward<B, ()> {
        Ok((self.moved(on, inputs[0], self.selects)?, keep.map(|_| ())))
    }

    fn backward<B: Backend>(
        &self,
        on: &B,
        _: &[B::View<'_>],
        (): (),
        grad: B::View<'_>,
        _: &[bool],
    ) -> Result<Vec<Option<B::Buffer>>> {
        Ok(vec![Some(self.moved(on, grad, !self.selects)?)])
    }

    fn composed(&self, _: &Composed, inputs: &[Tensor]) -> Result<Tensor> {
        let x = &inputs[0];
        if self.selects {
            return x.index_select(&self.places, 0);
        }
        Tensor::zeros((self.rows, self.width), x.dtype(), x.device())?.index_add(&self.places, x, 0)
    }
}

/// `a` · `b` of one shape, under `mask`.
///
/// # Errors
/// Shapes that differ.
pub fn multiply(compute: &Compute, a: &Tensor, b: &Tensor, mask: Option<super::Mask>) -> Result<Tensor> {
    if a.dims() != b.dims() {
        return Err(Error::msg(format!(
            "the product of tensors of shapes {:?} and {:?}",
            a.dims(),
            b.dims()
        )));
    }
    let mask = mask.map(|mask| mask.over(a.elem_count()));
    compute.apply(MultiplyOp { mask }, &[a, b], a.dims())
}

struct MultiplyOp {
    mask: Option<super::Mask>,
}

impl Op for MultiplyOp {
    type Saved<B: Backend> = ();

    fn params(&self) -> Vec<&Param> {
        Vec::new()
    }

    fn forward<B: Backend>(&self, on: &B, inputs: &[B::View<'_>], keep: Option<&[bool]>) -> Forward<B, ()> {
        let mut y = on.multiply(inputs[0], inputs[1])?;
        if let Some(mask) = self.mask {
            on.dropout(&mut y, mask)?;
        }
        Ok((y, keep.map(|_| ())))
    }

    fn backward<B: Backend>(
        &self,
        on: &B,
        inputs: &[B::View<'_>],
        (): (),
        grad: B::View<'_>,
        needs_grad: &[bool],
    ) -> Result<Vec<Option<B::Buffer>>> {
        let mut grad = on.copy(grad)?;
        if let Some(mask) = self.mask {
            on.dropout(&mut grad, mask)?;
        }
        let gradient = |needs: bool, factor: B::View<'_>| {
            if needs { on.multiply(on.view(&grad), factor).map(Some) } else { Ok(None) }
        };
        Ok(vec![gradient(needs_grad[0], inputs[1])?, gradient(needs_grad[1], inputs[0])?])
    }

    fn composed(&self, on: &Composed, inputs: &[Tensor]) -> Result<Tensor> {
        on.dropout(&(&inputs[0] * &inputs[1])?, self.mask)
    }
}
