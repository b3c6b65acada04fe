//! What computes: the device a job was given, by name, and the CPU's instructions. It does not choose a device.

use std::collections::HashMap;
use std::fmt::Display;

use candle_core::{Device, Error, Tensor};
use stage_api::{HostError, StageError};

use super::device_fault::DeviceFault;
use crate::nn::cpu::{self, InstructionSet};
use crate::nn::gpu;

/// Opens `cpu`, `cuda:N` or `metal:N`; N is 0 where it is left out. Never another device than the named one.
///
/// # Errors
/// An unknown name; a device that this program was not built for, that is not there, or that cannot compute.
pub(crate) fn open(name: &str) -> Result<Device, StageError> {
    let fail = |error| failed(format_args!("device `{name}`"), &error);
    let (kind, number) = name.split_once(':').unwrap_or((name, "0"));
    match (kind, number.parse()) {
        ("cpu", Ok(0)) => Ok(Device::Cpu),
        ("cuda", Ok(number)) => gpu::open(number).map_err(fail),
        ("metal", Ok(number)) => Device::new_metal(number).map_err(fail),
        _ => Err(StageError::failed(format!("device `{name}`: is not cpu, cuda:0 or metal"))),
    }
}

/// Copies tensors to `device`.
///
/// # Errors
/// A device that has no room for them, or that fails.
pub(crate) fn upload(
    mut tensors: HashMap<String, Tensor>,
    device: &Device,
) -> Result<HashMap<String, Tensor>, StageError> {
    for tensor in tensors.values_mut() {
        *tensor =
            tensor.to_device(device).map_err(|error| failed("copying the weights to the device", &error))?;
    }
    Ok(tensors)
}

/// The error for a computation that failed: what was done, what kind of failure it is, and what to do next.
pub(crate) fn failed(what: impl Display, error: &Error) -> StageError {
    StageError::failed(match DeviceFault::from_error(error) {
        Some(fault) => format!("{what}: {fault}: {error}\n\nhint: {}", fault.hint()),
        None => format!("{what}: {error}"),
    })
}

/// The instruction set that kernels use on this CPU, and those that it supports: `avx2 (of avx2, scalar)`.
///
/// # Errors
/// The environment names one that is unknown or not supported.
pub(crate) fn cpu_kernels() -> Result<String, HostError> {
    let hint = || format!("unset {} to use the fastest that this CPU supports", cpu::VARIABLE);
    let set = InstructionSet::from_environment().map_err(|message| HostError { message, hint: hint() })?;
    let mut supported: Vec<&str> = InstructionSet::supported().map(InstructionSet::name).collect();
    supported.reverse();
    Ok(format!("{set} (of {})", supported.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_devices_are_opened() {
        assert!(open("cpu").unwrap().is_cpu());
        for name in ["gpu", "", "cuda:x", "cuda:", "cpu:1", "metal:-1"] {
            assert!(open(name).unwrap_err().to_string().contains(name));
        }
    }

    #[test]
    fn a_failed_computation_says_what_it_was_why_it_failed_and_what_to_do() {
        let lost = r#"DriverError(CUDA_ERROR_LAUNCH_FAILED, "unspecified launch failure")"#;
        let error = failed("update 41", &Error::Cuda(lost.into())).to_string();
        let (problem, hint) = error.split_once("\n\nhint: ").unwrap();
        assert_eq!(problem, format!("update 41: the GPU or its driver failed: {lost}"));
        assert!(hint.contains("training resumes from its last checkpoint"), "{hint}");

        let error = failed("update 41", &Error::Msg("shape mismatch".to_owned())).to_string();
        assert_eq!(error, "update 41: shape mismatch");
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_build_without_cuda_says_how_to_build_with_it() {
        let error = open("cuda:0").unwrap_err().to_string();
        assert!(
            error.starts_with("device `cuda:0`: this program was built without support for it"),
            "{error}"
        );
        assert!(error.contains("\n\nhint: build the program with `--features cuda`"), "{error}");
    }
}
