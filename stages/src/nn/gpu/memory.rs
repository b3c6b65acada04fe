//! Memory of a device, whichever it is, and places in it. It is counted in words of 32 bits, whatever they hold.

use std::marker::PhantomData;

use candle_core::{CpuStorage, Error, Result, Storage, Tensor};

/// Memory of a device. What is queued before it is dropped may still use it.
#[derive(Debug)]
pub struct Buffer {
    pub(super) words: Words,
    pub(super) len: usize,
}

/// Where the words are.
#[derive(Debug)]
pub(super) enum Words {
    /// In host memory: the devices of tests.
    Host(Vec<f32>),
    /// On an NVIDIA GPU.
    #[cfg(feature = "cuda")]
    Nvidia(candle_core::cuda_backend::cudarc::driver::CudaSlice<f32>, candle_core::CudaDevice),
}

impl Buffer {
    /// Words of it.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no words.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// As a tensor's memory, without a copy.
    pub fn into_storage(self) -> Storage {
        match self.words {
            Words::Host(words) => Storage::Cpu(CpuStorage::F32(words)),
            #[cfg(feature = "cuda")]
            Words::Nvidia(words, device) => {
                Storage::Cuda(candle_core::CudaStorage::wrap_cuda_slice(words, device))
            }
        }
    }

    /// All of it, to read.
    pub fn view(&self) -> View<'_> {
        let address = match &self.words {
            Words::Host(words) => words.as_ptr() as u64,
            #[cfg(feature = "cuda")]
            Words::Nvidia(words, _) => super::nvidia::address(words),
        };
        View { at: Address { address, words: self.len }, memory: PhantomData }
    }

    /// All of it, to write.
    pub fn at(&mut self) -> Address {
        let address = match &mut self.words {
            Words::Host(words) => words.as_mut_ptr() as u64,
            #[cfg(feature = "cuda")]
            Words::Nvidia(words, _) => super::nvidia::address(words),
        };
        Address { address, words: self.len }
    }
}

/// Words to read, of memory that is there for `'a`.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    at: Address,
    memory: PhantomData<&'a f32>,
}

impl<'a> View<'a> {
    /// `words` words at `address`, which stay there for `'a`.
    pub(super) fn new(address: u64, words: usize) -> Self {
        Self { at: Address { address, words }, memory: PhantomData }
    }

    /// Words of it.
    pub fn len(self) -> usize {
        self.at.words
    }

    /// Whether it has no words.
    pub fn is_empty(self) -> bool {
        self.at.words == 0
    }

    /// Without the first `words`.
    pub fn after(self, words: usize) -> Self {
        Self { at: self.at.after(words), ..self }
    }

    /// Without the first `halves` numbers of 16 bits.
    pub fn after_halves(self, halves: usize) -> Self {
        Self { at: Address { address: self.at.address + 2 * halves as u64, ..self.at }, ..self }
    }

    /// The same place, where a kernel reads `words` words: what is counted as moved.
    pub fn reading(self, words: usize) -> Self {
        Self { at: Address { words, ..self.at }, ..self }
    }

    /// Its place.
    pub fn at(self) -> Address {
        self.at
    }
}

/// A place in a device's memory, and how many words from there a kernel reads or writes.
#[derive(Debug, Clone, Copy)]
pub struct Address {
    /// As the device counts.
    pub address: u64,
    /// Words.
    pub words: usize,
}

impl Address {
    /// Without the first `words`.
    pub fn after(self, words: usize) -> Self {
        Self { address: self.address + 4 * words as u64, words: self.words.saturating_sub(words) }
    }

    /// The same place, where `words` words are written.
    pub fn writing(self, words: usize) -> Self {
        Self { words, ..self }
    }
}

/// The words of a contiguous tensor of f32 or u32. Its memory does not move, so it need not stay locked: what changes it in place
/// is queued like everything else.
pub(super) fn view(tensor: &Tensor) -> Result<View<'_>> {
    let (storage, layout) = tensor.storage_and_layout();
    let Some((start, end)) = layout.contiguous_offsets() else {
        return Err(Error::msg("a GPU's pass needs contiguous tensors"));
    };
    let at = storage_address(&storage)?;
    Ok(View::new(at.address, at.words).after(start).reading(end - start))
}

/// The words of a storage.
pub(super) fn storage_address(storage: &Storage) -> Result<Address> {
    match storage {
        Storage::Cpu(CpuStorage::F32(values)) => {
            Ok(Address { address: values.as_ptr() as u64, words: values.len() })
        }
        Storage::Cpu(CpuStorage::U32(values)) => {
            Ok(Address { address: values.as_ptr() as u64, words: values.len() })
        }
        #[cfg(feature = "cuda")]
        Storage::Cuda(storage) => super::nvidia::storage_address(storage),
        _ => Err(Error::msg("a GPU's pass needs its tensors there, in f32 or u32")),
    }
}
