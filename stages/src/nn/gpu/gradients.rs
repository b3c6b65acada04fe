//! Gradients that are sums over rows: of biases and of LayerNorms. Passes leave them in parts, which are added up by one launch for
//! all of them before anything reads them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{Error, Result};

use super::driver::args;
use super::memory::{Address, Buffer};
use super::{Geometry, Gpu};
use crate::nn::Param;

/// Values that a block adds up.
const BLOCK: usize = 256;

/// Gradients left in parts.
#[derive(Debug, Clone, Default)]
pub(super) struct Pending(Arc<Mutex<Vec<PartialSum>>>);

#[derive(Debug)]
struct PartialSum {
    /// Keeps the gradient's memory.
    _param: Param,
    out: Address,
    /// The parts, which several sums may share.
    partial: Arc<Buffer>,
    /// The first value of the first part.
    first: usize,
    /// Values from one part to the next.
    stride: usize,
    parts: usize,
    accumulate: bool,
}

impl Pending {
    fn lock(&self) -> MutexGuard<'_, Vec<PartialSum>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gpu {
    /// Leaves the gradients of `params`, `size` values each and side by side, in `parts` parts; those of frozen ones go nowhere.
    pub(super) fn add_gradients(
        &self,
        params: &[&Param],
        size: usize,
        partial: Buffer,
        parts: usize,
    ) -> Result<()> {
        let partial = Arc::new(partial);
        for (place, &param) in params.iter().enumerate() {
            let Some(gradient) = param.gradient() else { continue };
            gradient.accumulate(self, size, |gradient, accumulate| {
                let out = gradient.at();
                // One launch adds to no place twice.
                if self.pending.lock().iter().any(|sum| sum.out.address == out.address) {
                    self.finish_gradients()?;
                }
                self.pending.lock().push(PartialSum {
                    _param: param.clone(),
                    out,
                    partial: partial.clone(),
                    first: place * size,
                    stride: params.len() * size,
                    parts,
                    accumulate,
                });
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Adds up all gradients that are left in parts.
    pub(super) fn finish_gradients(&self) -> Result<()> {
        let sums = std::mem::take(&mut *self.pending.lock());
        let (mut table, mut first_blocks) = (Vec::new(), Vec::new());
        let (mut blocks, mut moved) = (0, 0);
        for PartialSum { out, partial, first, stride, parts, accumulate, .. } in &sums {
            first_blocks.push(blocks as u32);
            blocks += out.words.div_ceil(BLOCK);
            moved += (parts + 1 + usize::from(*accumulate)) * out.words;
            for address in [out.address, partial.view().after(*first).at().address] {
                table.extend([address as u32, (address >> 32) as u32]);
            }
            let sizes = [*parts, *stride, out.words].map(u32::try_from);
            for size in sizes {
                table.push(size.map_err(Error::wrap)?);
            }
            table.push(u32::from(*accumulate));
        }
        if first_blocks.is_empty() {
            return Ok(());
        }
        let count = first_blocks.len();
        let (table, first_blocks) = (self.driver.upload(&table)?, self.driver.upload(&first_blocks)?);
        let args = args![table.view().reading(moved), first_blocks.view(), count];
        self.launch("add_gradients", Geometry::new([blocks, 1, 1], BLOCK as u32), args)
    }
}
