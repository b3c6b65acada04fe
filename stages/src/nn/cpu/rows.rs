//! Tables and rows: a text's embeddings, and rows that are added to all others.

use candle_core::{Error, Result, Tensor};

use super::products::replace_or_add;
use super::{Cpu, Values, indices, parallel};
use crate::nn::Param;
use crate::nn::backend::{Backend, TextTables};

/// words[id] + positions[t] + types[0], for `ids` [batch, tokens].
pub fn embed(ids: &Tensor, tables: &TextTables) -> Result<Vec<f32>> {
    let (tokens, width) = (ids.dim(1)?, tables.words.value().dim(1)?);
    let (words, positions, types) = (
        Values::lock(tables.words.value())?,
        Values::lock(tables.positions.value())?,
        Values::lock(tables.types.value())?,
    );
    let (ids, count) = (indices(ids)?, words.len() / width);
    if let Some(id) = ids.iter().find(|id| **id >= count) {
        return Err(Error::msg(format!("token {id} where there are {count} words")));
    }
    let mut x = vec![0f32; ids.len() * width];
    parallel::rows(&mut x, width, |first, x| {
        for (at, x) in (first..).zip(x.chunks_exact_mut(width)) {
            let (word, position) =
                (&words[ids[at] * width..][..width], &positions[at % tokens * width..][..width]);
            for (((x, word), position), kind) in x.iter_mut().zip(word).zip(position).zip(&types[..width]) {
                *x = word + position + kind;
            }
        }
    });
    Ok(x)
}

/// Adds the gradients of the tables that are trained.
pub fn embed_gradients(on: &Cpu, grad: &[f32], ids: &Tensor, tables: &TextTables) -> Result<()> {
    let (tokens, width) = (ids.dim(1)?, tables.words.value().dim(1)?);
    if let Some(gradient) = tables.words.gradient() {
        let ids = indices(ids)?;
        gradient.accumulate(on, tables.words.value().elem_count(), |sum, add| {
            if !add {
                on.clear(sum)?;
            }
            for (id, grad) in ids.into_iter().zip(grad.chunks_exact(width)) {
                if id != tables.pad as usize {
                    sum[id * width..][..width].iter_mut().zip(grad).for_each(|(sum, grad)| *sum += grad);
                }
            }
            Ok(())
        })?;
    }
    add_row_sums(on, grad, tokens * width, &tables.positions)?;
    add_row_sums(on, grad, width, &tables.types)
}

/// `x` ← `x` plus the first row of `table`, in every row.
pub fn add_first_row(x: &mut [f32], table: &Param) -> Result<()> {
    let width = table.value().dim(1)?;
    let table = Values::lock(table.value())?;
    parallel::rows(x, width, |_, x| {
        for x in x.chunks_exact_mut(width) {
            x.iter_mut().zip(&table[..width]).for_each(|(x, added)| *x += added);
        }
    });
    Ok(())
}

/// Adds the sum of the rows of `grad`, `width` wide, to the first `width` values of the gradient of `table`, if it is trained.
pub fn add_row_sums(on: &Cpu, grad: &[f32], width: usize, table: &Param) -> Result<()> {
    let Some(gradient) = table.gradient() else { return Ok(()) };
    gradient.accumulate(on, table.value().elem_count(), |sum, add| {
        if !add {
            on.clear(sum)?;
        }
        let sums = parallel::sum_rows(grad.len() / width, width, width, None, |first, end, sums| {
            for grad in grad[first * width..end * width].chunks_exact(width) {
                sums.iter_mut().zip(grad).for_each(|(sum, grad)| *sum += grad);
            }
        });
        replace_or_add(&mut sum[..width], &sums, add);
        Ok(())
    })
}
