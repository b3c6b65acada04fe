//! Uploads to an NVIDIA GPU beside its computations: through memory that it reads by itself, on a stream of their own.
//!
//! A place has memory on the host, which the preparing thread fills, and on the GPU, to which the second stream copies it. The
//! first stream then copies from there into tensors of its own, within the GPU, which takes some microseconds.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{CudaEvent, CudaSlice, CudaStream, PinnedHostSlice};
use candle_core::{CpuStorage, CudaDevice, CudaStorage, DType, Error, Result, Shape, Storage, Tensor};

use super::nvidia::{address, alloc, copy, pinned};

/// The places of a device.
#[derive(Debug)]
pub struct Stage {
    device: CudaDevice,
    uploads: Arc<CudaStream>,
    free: Mutex<Vec<Place>>,
}

#[derive(Debug)]
struct Place {
    host: PinnedHostSlice<u32>,
    /// Of the second stream.
    gpu: CudaSlice<u32>,
    uploads: Arc<CudaStream>,
    /// When the first stream has read it.
    read: Option<CudaEvent>,
}

impl Drop for Place {
    /// The memory on the GPU is freed in the order of the second stream.
    fn drop(&mut self) {
        if let Some(read) = &self.read {
            let context = self.uploads.context();
            context.record_err(self.uploads.wait(read));
        }
    }
}

/// Tensors on their way through a place.
#[derive(Debug)]
pub struct Staged {
    stage: Arc<Stage>,
    place: Place,
    /// When they are on the GPU.
    there: CudaEvent,
    tensors: Vec<(DType, Shape)>,
}

impl Stage {
    /// # Errors
    /// The device fails.
    pub fn new(device: &CudaDevice) -> Result<Self> {
        let uploads = device.cuda_stream().context().new_stream().w()?;
        Ok(Self { device: device.clone(), uploads, free: Mutex::default() })
    }

    /// A place of at least `words` words.
    fn place(&self, words: usize) -> Result<Place> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = free.pop().filter(|place| place.host.len() >= words) {
            return Ok(place);
        }
        // Batches differ in length: room for one that is longer.
        let words = words + words / 4;
        let (host, gpu) = (pinned(&self.uploads, words)?, alloc(&self.uploads, words)?);
        Ok(Place { host, gpu, uploads: self.uploads.clone(), read: None })
    }

    /// # Errors
    /// A tensor is not on the host, not contiguous, or of another type than f32 and u32; or the device fails.
    pub fn stage(self: &Arc<Self>, tensors: &[&Tensor]) -> Result<Staged> {
        let words = tensors.iter().map(|tensor| tensor.elem_count()).sum();
        let mut place = self.place(words)?;
        let mut rest = place.host.as_mut_slice().w()?;
        for tensor in tensors {
            let (part, after) = rest.split_at_mut(tensor.elem_count());
            fill(part, tensor)?;
            rest = after;
        }
        if let Some(read) = place.read.take() {
            self.uploads.wait(&read).w()?;
        }
        self.uploads.memcpy_htod(&place.host, &mut place.gpu).w()?;
        let there = self.uploads.record_event(None).w()?;
        let tensors = tensors.iter().map(|tensor| (tensor.dtype(), tensor.shape().clone())).collect();
        Ok(Staged { stage: Arc::clone(self), place, there, tensors })
    }
}

/// Copies the words of a tensor.
fn fill(words: &mut [u32], tensor: &Tensor) -> Result<()> {
    let (storage, layout) = tensor.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(CpuStorage::F32(values)), Some((start, end))) => {
            for (word, value) in words.iter_mut().zip(&values[start..end]) {
                *word = value.to_bits();
            }
        }
        (Storage::Cpu(CpuStorage::U32(values)), Some((start, end))) => {
            words.copy_from_slice(&values[start..end]);
        }
        _ => return Err(Error::msg("an upload needs contiguous tensors of f32 or u32 on the host")),
    }
    Ok(())
}

impl Staged {
    /// # Errors
    /// The device fails.
    pub fn tensors(self) -> Result<Vec<Tensor>> {
        let Self { stage, mut place, there, tensors } = self;
        let stream = stage.device.cuda_stream();
        stream.wait(&there).w()?;
        let mut from = address(&place.gpu);
        let mut moved = Vec::with_capacity(tensors.len());
        for (kind, shape) in tensors {
            let words = shape.elem_count();
            let storage = if kind == DType::F32 {
                let values = alloc::<f32>(&stream, words)?;
                copy(&stream, from, address(&values), words)?;
                CudaStorage::wrap_cuda_slice(values, stage.device.clone())
            } else {
                let values = alloc::<u32>(&stream, words)?;
                copy(&stream, from, address(&values), words)?;
                CudaStorage::wrap_cuda_slice(values, stage.device.clone())
            };
            from += 4 * words as u64;
            moved.push(Tensor::from((Storage::Cuda(storage), shape)));
        }
        place.read = Some(stream.record_event(None).w()?);
        stage.free.lock().unwrap_or_else(PoisonError::into_inner).push(place);
        Ok(moved)
    }
}
