//! Batch normalisation whose statistics no longer move: an affine map a channel. It does not know how the
//! statistics came about.

use candle_core::{Result, Tensor};

use super::Loader;
use super::cpu_tensor::cpu_vec;

/// The scale and shift of each channel: `y = x · s + (b − mean · s)` with `s = w / sqrt(var)`.
///
/// There is no epsilon, as in the detectors whose checkpoints this reads.
#[derive(Debug, Clone, PartialEq)]
pub struct FrozenBatchNorm {
    /// `s`, one value a channel.
    pub scale: Vec<f32>,
    /// `b − mean · s`, one value a channel.
    pub shift: Vec<f32>,
}

impl FrozenBatchNorm {
    /// Reads `weight`, `bias`, `running_mean` and `running_var` of `channels` values each.
    ///
    /// # Errors
    /// A tensor that is missing or of another shape.
    pub fn load(loader: &Loader, channels: usize) -> Result<Self> {
        let read = |name: &str| loader.tensor(name, &[channels]).and_then(|tensor| cpu_vec(&tensor));
        let (weight, bias) = (read("weight")?, read("bias")?);
        let (mean, var) = (read("running_mean")?, read("running_var")?);
        let scale: Vec<f32> = weight.iter().zip(&var).map(|(w, var)| w / var.sqrt()).collect();
        let shift = bias.iter().zip(&mean).zip(&scale).map(|((b, mean), s)| b - mean * s).collect();
        Ok(Self { scale, shift })
    }

    /// The weight and bias of the one convolution that does what `weight` (`[channels, …]`, no bias) and then
    /// this normalisation do.
    ///
    /// # Errors
    /// Another number of channels.
    pub fn fold_into(&self, weight: &Tensor) -> Result<(Tensor, Tensor)> {
        let (channels, device) = (self.scale.len(), weight.device());
        let mut shape = vec![1; weight.rank()];
        shape[0] = channels;
        let scale = Tensor::from_slice(&self.scale, shape, device)?;
        let bias = Tensor::from_slice(&self.shift, channels, device)?;
        Ok((weight.broadcast_mul(&scale)?, bias))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use candle_core::{DType, Device};

    use super::super::ParamStore;
    use super::*;

    #[test]
    fn has_no_epsilon() {
        let tensor = |values: &[f32]| Tensor::from_slice(values, values.len(), &Device::Cpu).unwrap();
        let tensors = HashMap::from([
            ("weight".to_owned(), tensor(&[2.0, 1.0])),
            ("bias".to_owned(), tensor(&[0.5, 0.0])),
            ("running_mean".to_owned(), tensor(&[3.0, -1.0])),
            ("running_var".to_owned(), tensor(&[1e-6, 4.0])),
        ]);
        let params = ParamStore::new(tensors, |_| false).unwrap();
        let norm = FrozenBatchNorm::load(&Loader::new(&params), 2).unwrap();
        assert!((norm.scale[0] - 2000.0).abs() < 0.01 && norm.scale[1] == 0.5);
        assert!((norm.shift[0] - (0.5 - 6000.0)).abs() < 0.05 && norm.shift[1] == 0.5);
        let weight = Tensor::ones((2, 3, 1, 1), DType::F32, &Device::Cpu).unwrap();
        let (folded, bias) = norm.fold_into(&weight).unwrap();
        assert_eq!(cpu_vec(&folded).unwrap()[3..], [0.5, 0.5, 0.5]);
        assert_eq!(cpu_vec(&bias).unwrap(), norm.shift);
    }
}
