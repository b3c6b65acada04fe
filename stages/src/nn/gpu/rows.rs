//! Embeddings with their gradients, and the losses.

use candle_core::{Result, Tensor};

use super::driver::{Tables, args};
use super::memory::{Buffer, View, view};
use super::{Geometry, Gpu};
use crate::nn::Param;
use crate::nn::backend::{Backend, TextTables};
use crate::nn::packing::Packing;

/// The batch and (n, m, width) of joined rows of n · width and m · width values, `count` in all. The width is the largest that
/// divides both, so that a kernel's threads have many columns.
pub(super) fn joined(count: usize, (a, b): (usize, usize)) -> (usize, [usize; 3]) {
    let (mut width, mut rest) = (a, b);
    while rest > 0 {
        (width, rest) = (rest, width % rest);
    }
    let width = width.max(1);
    (count / (a + b).max(1), [a / width, b / width, width])
}

/// Which rows those of `packing` are with padding, where there is one.
pub(super) fn places(packing: Option<&Packing>) -> Result<Option<View<'_>>> {
    packing.map(|packing| view(packing.places_table())).transpose()
}

/// Where the sequences of `packing` begin, where there is one.
pub(super) fn starts(packing: Option<&Packing>) -> Result<Option<View<'_>>> {
    packing.map(|packing| view(packing.starts_table())).transpose()
}

/// Both.
pub(super) fn tables(packing: Option<&Packing>) -> Result<Tables<'_>> {
    Ok(Tables(starts(packing)?.zip(places(packing)?).map(<[_; 2]>::from)))
}

impl Gpu {
    pub(super) fn embed_text(&self, ids: &Tensor, tables: &TextTables) -> Result<Buffer> {
        let (batch, tokens) = ids.dims2()?;
        let (_, width) = tables.words.value().dims2()?;
        let rows = batch * tokens;
        let mut out = self.driver.alloc(rows * width)?;
        let args = args![
            &mut out,
            view(ids)?,
            self.param(&tables.words)?.reading(rows * width),
            self.param(&tables.positions)?.reading(tokens * width),
            self.param(&tables.types)?.reading(width),
            rows,
            tokens,
            width,
        ];
        self.launch("embed_text", Geometry::matrix(rows, width), args)?;
        Ok(out)
    }

    pub(super) fn text_gradients(&self, grad: View<'_>, ids: &Tensor, tables: &TextTables) -> Result<()> {
        let (batch, tokens) = ids.dims2()?;
        let (words, width) = tables.words.value().dims2()?;
        let rows = batch * tokens;
        if let Some(gradient) = tables.words.gradient() {
            gradient.accumulate(self, words * width, |gradient, accumulate| {
                if !accumulate {
                    self.clear(gradient)?;
                }
                let written = gradient.at().writing(rows * width);
                let args = args![written, view(ids)?, grad, rows, width, tables.pad];
                self.launch("embed_gradient", Geometry::new([rows, 1, 1], 256), args)
            })?;
        }
        if let Some(gradient) = tables.positions.gradient() {
            gradient.accumulate(self, tables.positions.value().elem_count(), |gradient, accumulate| {
                if !accumulate {
                    self.clear(gradient)?;
                }
                // The texts of the batch are the parts.
                self.add_parts(gradient.at(), grad.at(), (batch, tokens, width), &[], true)
            })?;
        }
        self.row_gradient(grad, &tables.types)
    }

    pub(super) fn row_gradient(&self, grad: View<'_>, table: &Param) -> Result<()> {
        let Some(gradient) = table.gradient() else { return Ok(()) };
        let (rows, width) = table.value().dims2()?;
        let (mut partial, count) = self.column_sums(grad, grad.len() / width, width, width)?;
        gradient.accumulate(self, rows * width, |gradient, accumulate| {
            if !accumulate {
                self.clear(gradient)?;
            }
            self.add_parts(gradient.at(), partial.at(), (count, 1, width), &[], true)
        })
    }

    pub(super) fn single_label_loss(
        &self,
        logits: View<'_>,
        labels: &Tensor,
        classes: usize,
        total: usize,
        keep: bool,
    ) -> Result<(Buffer, Option<Buffer>)> {
        let rows = logits.len() / classes;
        let share = (1.0 / total as f64) as f32;
        let mut losses = self.driver.alloc(rows)?;
        let mut grad = keep.then(|| self.driver.alloc(rows * classes)).transpose()?;
        let args = args![&mut losses, grad.as_mut(), logits, view(labels)?, rows, classes, share];
        self.launch("cross_entropy", Geometry::new([rows, 1, 1], 256), args)?;
        Ok((self.mean_loss(&losses, share)?, grad))
    }

    pub(super) fn multi_label_loss(
        &self,
        logits: View<'_>,
        targets: View<'_>,
        classes: usize,
        total: usize,
        keep: bool,
    ) -> Result<(Buffer, Option<Buffer>)> {
        let rows = logits.len() / classes;
        let share = (1.0 / (classes as f64 * total as f64)) as f32;
        let mut losses = self.driver.alloc(rows)?;
        let mut grad = keep.then(|| self.driver.alloc(rows * classes)).transpose()?;
        let args = args![&mut losses, grad.as_mut(), logits, targets, rows, classes, share];
        self.launch("binary_cross_entropy", Geometry::new([rows, 1, 1], 256), args)?;
        Ok((self.mean_loss(&losses, share)?, grad))
    }

    /// The sum of `losses` times `share`.
    fn mean_loss(&self, losses: &Buffer, share: f32) -> Result<Buffer> {
        let mut loss = self.driver.alloc(1)?;
        let args = args![&mut loss, losses.view(), losses.len(), share];
        self.launch("mean_loss", Geometry::new([1, 1, 1], 256), args)?;
        Ok(loss)
    }
}
