//! The optimizer: one launch for all parameters.

use candle_core::{CpuStorage, CudaStorage, Error, InplaceOp1, Layout, Result};
use std::cell::Cell;

use super::driver::args;
use super::memory::Address;
use super::{Geometry, Gpu};
use crate::nn::Param;
use crate::nn::backend::{AdamWSlot, Backend};

/// Values that a block updates.
const BLOCK: usize = 1024;

impl Gpu {
    /// The kernel reads a table of `struct Slot` and, of each slot, the number of its first block.
    pub(super) fn adamw_update(
        &self,
        slots: &mut [AdamWSlot<'_>],
        (beta1, beta2): (f64, f64),
        eps: f64,
    ) -> Result<()> {
        self.finish_gradients()?;
        let (mut table, mut first_blocks) = (Vec::new(), Vec::new());
        let (mut blocks, mut moved) = (0, 0);
        for slot in slots {
            let Some(gradient) = slot.param.gradient() else { continue };
            let p = place(slot.param)?;
            let Some(g) = gradient.read(self, |gradient| Ok(gradient.at()))? else { continue };
            if p.words == 0 {
                continue;
            }
            let [m, v] = [self.buffer_in(slot.m)?.at(), self.buffer_in(slot.v)?.at()];
            let count = u32::try_from(p.words).map_err(Error::wrap)?;
            first_blocks.push(blocks as u32);
            blocks += p.words.div_ceil(BLOCK);
            // Read and written, but the gradient, which is only read.
            moved += 7 * p.words;
            for address in [p, m, v, g] {
                table.extend([address.address as u32, (address.address >> 32) as u32]);
            }
            table.extend([count, (slot.step as f32).to_bits(), (slot.shrink as f32).to_bits(), 0]);
        }
        if first_blocks.is_empty() {
            return Ok(());
        }
        let count = first_blocks.len();
        let (table, first_blocks) = (self.driver.upload(&table)?, self.driver.upload(&first_blocks)?);
        let args = args![
            table.view().reading(moved),
            first_blocks.view(),
            count,
            beta1 as f32,
            (1.0 - beta1) as f32,
            beta2 as f32,
            (1.0 - beta2) as f32,
            eps as f32,
        ];
        self.launch("adamw", Geometry::new([blocks, 1, 1], 256), args)
    }
}

/// The memory of a parameter, to be written: asked for as an operation in place, which alone may have it.
fn place(param: &Param) -> Result<Address> {
    let place = Place(Cell::new(None));
    param.value().inplace_op1(&place)?;
    place.0.get().ok_or_else(|| Error::msg("a GPU's optimizer needs contiguous parameters in f32"))
}

struct Place(Cell<Option<Address>>);

impl InplaceOp1 for Place {
    fn name(&self) -> &'static str {
        "address"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        if let (CpuStorage::F32(values), Some((start, end))) = (storage, layout.contiguous_offsets()) {
            let values = &mut values[start..end];
            self.0.set(Some(Address { address: values.as_mut_ptr() as u64, words: values.len() }));
        }
        Ok(())
    }

    #[cfg_attr(not(feature = "cuda"), allow(unused_variables, reason = "there is no such storage"))]
    fn cuda_fwd(&self, storage: &mut CudaStorage, layout: &Layout) -> Result<()> {
        #[cfg(feature = "cuda")]
        if let Some((start, end)) = layout.contiguous_offsets() {
            self.0.set(Some(super::nvidia::storage_address(storage)?.after(start).writing(end - start)));
        }
        Ok(())
    }
}
