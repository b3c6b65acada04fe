//! A device that computes nothing and counts: launches, products, bytes, waits. Its memory is zeros that the system maps when they
//! are touched, so a step of full size fits anywhere; what the host reads of it is noise. It may refuse memory.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use candle_core::{Error, Result, Storage};

use crate::nn::gpu::driver::{Driver, Gemm, Launch};
use crate::nn::gpu::memory::{Buffer, View, Words};

/// What was queued since the last [`Counting::take`].
#[derive(Debug, Clone, Default)]
pub struct Counts {
    /// By kernel: launches, and bytes that they read and write, each once.
    pub kernels: BTreeMap<&'static str, (u64, u64)>,
    /// Products, of which some are several of one size.
    pub products: u64,
    /// Multiplications and additions of the products.
    pub flops: u64,
    /// Bytes that products read and write, each once.
    pub product_bytes: u64,
    /// Memory that was set to zero, or copied within the device: how often, and bytes.
    pub fills: (u64, u64),
    /// Copies from the host, and bytes.
    pub uploads: (u64, u64),
    /// Allocations.
    pub allocations: u64,
    /// Times that the host waited for the device.
    pub waits: u64,
    /// Results that became tensors, and their bytes.
    pub tensors: (u64, u64),
}

impl Counts {
    /// Kernels and products.
    pub fn launches(&self) -> u64 {
        self.products + self.kernels.values().map(|(launches, _)| launches).sum::<u64>()
    }

    /// Bytes of kernels, products, fills, copies.
    pub fn bytes(&self) -> u64 {
        let kernels: u64 = self.kernels.values().map(|(_, bytes)| bytes).sum();
        kernels + self.product_bytes + self.fills.1
    }
}

/// The device.
#[derive(Debug)]
pub struct Counting {
    counts: Mutex<Counts>,
    /// Words of the largest allocation that is not refused.
    largest: usize,
}

impl Default for Counting {
    fn default() -> Self {
        Self::refusing_beyond(usize::MAX)
    }
}

impl Counting {
    /// A device that has no memory for more than `largest` words in one piece.
    pub fn refusing_beyond(largest: usize) -> Self {
        Self { counts: Mutex::default(), largest }
    }

    /// What was counted, and counts from zero again.
    pub fn take(&self) -> Counts {
        self.count(std::mem::take)
    }

    /// Results that became tensors since the last [`Counting::take`], and their bytes.
    pub fn tensors(&self) -> (u64, u64) {
        self.count(|counts| counts.tensors)
    }

    fn count<R>(&self, count: impl FnOnce(&mut Counts) -> R) -> R {
        count(&mut self.counts.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn add((times, bytes): &mut (u64, u64), words: usize) {
    *times += 1;
    *bytes += 4 * words as u64;
}

impl Driver for Counting {
    fn has_tf32(&self) -> bool {
        true
    }

    fn alloc(&self, words: usize) -> Result<Buffer> {
        if words > self.largest {
            return Err(Error::msg(format!(
                "out of memory: {words} words of {} that are free",
                self.largest
            )));
        }
        self.count(|counts| counts.allocations += 1);
        Ok(Buffer { words: Words::Host(vec![0.0; words]), len: words })
    }

    fn clear(&self, buffer: &mut Buffer) -> Result<()> {
        self.count(|counts| add(&mut counts.fills, buffer.len()));
        Ok(())
    }

    fn copy(&self, from: View<'_>, _: &mut Buffer) -> Result<()> {
        self.count(|counts| add(&mut counts.fills, 2 * from.len()));
        Ok(())
    }

    fn upload(&self, words: &[u32]) -> Result<Buffer> {
        self.count(|counts| add(&mut counts.uploads, words.len()));
        self.alloc(words.len())
    }

    fn download(&self, from: &Buffer) -> Result<Vec<f32>> {
        self.wait()?;
        // Without order, so that a choice by these numbers chooses from everywhere.
        let value = |at: usize| (at as u32).wrapping_mul(0x9e37_79b9) as f32 / (1u64 << 31) as f32 - 1.0;
        Ok((0..from.len()).map(value).collect())
    }

    fn launch(&self, launch: &mut Launch) -> Result<()> {
        self.count(|counts| {
            let (launches, bytes) = counts.kernels.entry(launch.kernel).or_default();
            *launches += 1;
            *bytes += launch.args.bytes();
        });
        Ok(())
    }

    fn gemm(&self, gemm: &Gemm<'_>) -> Result<()> {
        self.count(|counts| {
            counts.products += 1;
            counts.flops += gemm.flops();
            counts.product_bytes += gemm.bytes();
        });
        Ok(())
    }

    fn wait(&self) -> Result<()> {
        self.count(|counts| counts.waits += 1);
        Ok(())
    }

    fn storage_of(&self, buffer: Buffer) -> Storage {
        self.count(|counts| add(&mut counts.tensors, buffer.len()));
        buffer.into_storage()
    }
}
