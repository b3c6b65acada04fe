//! What candle's operations cannot say on an NVIDIA GPU without a detour over the host: the masks of dropout. The
//! kernel is compiled for the GPU at hand when it is first needed. It knows no layer.

use std::sync::OnceLock;

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{LaunchConfig, PushKernelArg};
use candle_core::cuda_backend::cudarc::nvrtc;
use candle_core::{CpuStorage, CudaStorage, CustomOp1, Error, Layout, Result, Shape, Tensor};

use super::dropout::Mask;

/// `x` under `mask`, as a graph node; `x` is contiguous and on a GPU.
///
/// # Errors
/// What the GPU reports.
pub fn dropout(x: &Tensor, mask: Mask) -> Result<Tensor> {
    x.contiguous()?.apply_op1(Dropout(mask))
}

struct Dropout(Mask);

impl CustomOp1 for Dropout {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        Err(Error::msg("this dropout is for GPUs"))
    }

    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let Some((start, end)) = layout.contiguous_offsets() else {
            return Err(Error::msg("dropout needs a contiguous tensor"));
        };
        let device = x.device();
        let function = device.get_or_load_custom_func("dropout", "dropout", compiled()?)?;
        let x = x.as_cuda_slice::<f32>()?.slice(start..end);
        let count = (end - start) as u32;
        let Mask { threshold, scale, keys: [key0, key1], first, .. } = self.0;
        // SAFETY: the kernel writes every one of the `count` elements before anything reads them.
        #[allow(unsafe_code)]
        let y = unsafe { device.alloc::<f32>(end - start)? };
        let mut launch = function.builder();
        launch.arg(&y).arg(&x).arg(&count).arg(&first).arg(&key0).arg(&key1).arg(&threshold).arg(&scale);
        // SAFETY: the arguments are those of the kernel, and `x` and `y` hold `count` elements.
        #[allow(unsafe_code)]
        unsafe { launch.launch(LaunchConfig::for_num_elems(count)) }.w()?;
        Ok((CudaStorage::wrap_cuda_slice(y, device.clone()), layout.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        dropout(grad, self.0).map(Some)
    }
}

/// The kernel's assembly.
fn compiled() -> Result<&'static str> {
    static COMPILED: OnceLock<std::result::Result<String, String>> = OnceLock::new();
    let compile = || {
        let assembly = nvrtc::compile_ptx(include_str!("dropout.cu"));
        assembly.map(|assembly| assembly.to_src()).map_err(|error| format!("compiling dropout: {error:?}"))
    };
    COMPILED.get_or_init(compile).as_deref().map_err(|error| Error::msg(error.clone()))
}
