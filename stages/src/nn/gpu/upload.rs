//! Batches on their way to a device, ahead of their use.

use candle_core::{Device, Result, Tensor};

/// Moves tensors from the host to a device. Two threads share it: one stages the next batches, one computes with those staged.
#[derive(Debug, Clone)]
pub struct Upload {
    device: Device,
    #[cfg(feature = "cuda")]
    nvidia: Option<std::sync::Arc<super::pinned::Stage>>,
}

/// Tensors on their way.
#[derive(Debug)]
pub struct Staged(Kind);

#[derive(Debug)]
enum Kind {
    /// Moved when they are asked for.
    Host(Vec<Tensor>, Device),
    #[cfg(feature = "cuda")]
    Nvidia(super::pinned::Staged),
}

impl Upload {
    /// To `device`. Only an NVIDIA GPU gets its tensors ahead.
    ///
    /// # Errors
    /// The GPU cannot be opened.
    pub fn new(device: &Device) -> Result<Self> {
        Ok(Self {
            device: device.clone(),
            #[cfg(feature = "cuda")]
            nvidia: match device {
                Device::Cuda(device) => Some(super::pinned::Stage::new(device)?.into()),
                _ => None,
            },
        })
    }

    /// Begins to move contiguous `tensors` of f32 or u32, which are on the host: copies them to memory that the GPU reads by itself.
    ///
    /// # Errors
    /// Only if the device fails.
    pub fn stage(&self, tensors: &[&Tensor]) -> Result<Staged> {
        #[cfg(feature = "cuda")]
        if let Some(stage) = &self.nvidia {
            return Ok(Staged(Kind::Nvidia(stage.stage(tensors)?)));
        }
        Ok(Staged(Kind::Host(tensors.iter().map(|&tensor| tensor.clone()).collect(), self.device.clone())))
    }
}

impl Staged {
    /// The tensors on the device, in their order. What is queued from now on finds them there.
    ///
    /// # Errors
    /// Only if the device fails.
    pub fn tensors(self) -> Result<Vec<Tensor>> {
        match self.0 {
            Kind::Host(tensors, device) => tensors.iter().map(|tensor| tensor.to_device(&device)).collect(),
            #[cfg(feature = "cuda")]
            Kind::Nvidia(staged) => staged.tensors(),
        }
    }
}
