//! What an operation is: a whole part of a layer. It says what it keeps for its backward pass, adds the gradients of its trained
//! parameters to their own buffers, and hands on those of its inputs. It knows no graph.

use std::ops::Range;

use candle_core::{Error, Result, StorageRef, Tensor};

use super::Param;
use super::backend::Backend;
use super::composed::Composed;

/// The result of an operation, and what its backward pass needs where there will be one.
pub(super) type Forward<B, S> = Result<(<B as Backend>::Buffer, Option<S>)>;

/// An operation with its backward pass, written once for all backends.
pub(super) trait Op: Send + Sync + 'static {
    /// What the backward pass needs in addition to the inputs.
    type Saved<B: Backend>: Send + Sync + 'static;

    /// Its parameters.
    fn params(&self) -> Vec<&Param>;

    /// Whether the backward pass reads the inputs. An operation that returns `false` gets none there.
    fn reads_inputs(&self) -> bool {
        true
    }

    /// The result again, from what was saved, where that is a pass over memory; `None` where it is not.
    ///
    /// # Errors
    /// Only if the device fails.
    fn result_again<B: Backend>(&self, _: &B, _: &Self::Saved<B>) -> Result<Option<B::Buffer>> {
        Ok(None)
    }

    /// Whether there is a [`result_again`](Op::result_again).
    fn has_result_again(&self) -> bool {
        false
    }

    /// The result. Where there will be a backward pass, `keep` says which inputs need a gradient, and what that pass needs is
    /// returned too.
    fn forward<B: Backend>(
        &self,
        on: &B,
        inputs: &[B::View<'_>],
        keep: Option<&[bool]>,
    ) -> Forward<B, Self::Saved<B>>;

    /// The gradient of each input that is `needs_grad`, given that of the result. Those of trained parameters are added to the
    /// parameters' own buffers.
    fn backward<B: Backend>(
        &self,
        on: &B,
        inputs: &[B::View<'_>],
        saved: Self::Saved<B>,
        grad: B::View<'_>,
        needs_grad: &[bool],
    ) -> Result<Vec<Option<B::Buffer>>>;

    /// The same by candle's operations, which give the gradients too: the reference, and the way of devices without kernels.
    fn composed(&self, on: &Composed, inputs: &[Tensor]) -> Result<Tensor>;
}

/// A contiguous tensor, locked for reading.
pub(super) struct Locked<'a> {
    storage: StorageRef<'a>,
    range: Range<usize>,
}

impl<'a> Locked<'a> {
    /// # Errors
    /// A tensor that is not contiguous.
    pub(super) fn new(tensor: &'a Tensor) -> Result<Self> {
        let (storage, layout) = tensor.storage_and_layout();
        let Some((start, end)) = layout.contiguous_offsets() else {
            return Err(Error::msg("an operation needs contiguous tensors"));
        };
        Ok(Self { storage, range: start..end })
    }

    /// Its values for `on`.
    ///
    /// # Errors
    /// A tensor that is not f32 on the backend's device.
    pub(super) fn view<'b, B: Backend>(&'b self, on: &B) -> Result<B::View<'b>> {
        on.view_storage(&self.storage, self.range.clone())
    }
}
