//! A table added to every matrix of a batch: positions and types of embeddings.

use candle_core::{Error, Result, Tensor};

use super::fused::{self, Kernel, parallel};

/// `x` [.., n, d] + `rows` [n, d] as a graph node, for tensors on the CPU. [1, d] is added to every row.
///
/// # Errors
/// Shapes that do not fit.
pub fn fused(x: &Tensor, rows: &Tensor) -> Result<Tensor> {
    let (found, added) = (x.dims(), rows.dims());
    let fits = match (found, added) {
        ([.., n, d], [rows, width]) => width == d && (rows == n || *rows == 1),
        _ => false,
    };
    if !fits {
        return Err(Error::msg(format!("adding rows of shape {added:?} to a tensor of shape {found:?}")));
    }
    fused::apply(AddRows, &[x, rows], found)
}

struct AddRows;

impl Kernel for AddRows {
    type Saved = ();

    fn forward(&self, inputs: &[&[f32]], _: bool) -> (Vec<f32>, ()) {
        let &[x, added] = inputs else { return Default::default() };
        let mut y = x.to_vec();
        parallel::rows(&mut y, added.len(), |_, y| {
            for y in y.chunks_exact_mut(added.len()) {
                y.iter_mut().zip(added).for_each(|(y, added)| *y += added);
            }
        });
        (y, ())
    }

    fn backward(
        &self,
        inputs: &[&[f32]],
        (): &(),
        grad: &[f32],
        needs_grad: &[bool],
    ) -> Vec<Option<Vec<f32>>> {
        let &[_, added] = inputs else { return Vec::new() };
        let width = added.len();
        let sum = || {
            parallel::sum_rows(grad.len() / width, width, width, |first, end, sums| {
                for grad in grad[first * width..end * width].chunks_exact(width) {
                    sums.iter_mut().zip(grad).for_each(|(sum, grad)| *sum += grad);
                }
            })
        };
        vec![needs_grad[0].then(|| grad.to_vec()), needs_grad[1].then(sum)]
    }
}
