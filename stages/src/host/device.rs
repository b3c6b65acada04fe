//! What computes: the device a job was given, by name, and the CPU's instructions. It does not choose a device.

use candle_core::Device;
use stage_api::{HostError, StageError};

use crate::nn::cpu::{self, InstructionSet};

/// Opens `cpu`, `cuda:N` or `metal:N`; N is 0 where it is left out. Never another device than the named one.
///
/// # Errors
/// An unknown name, or a device that this program was not built for or that is not there.
pub(crate) fn open(name: &str) -> Result<Device, StageError> {
    let fail = |problem: &dyn std::fmt::Display| StageError::failed(format!("device `{name}`: {problem}"));
    let (kind, number) = name.split_once(':').unwrap_or((name, "0"));
    match (kind, number.parse()) {
        ("cpu", Ok(0)) => Ok(Device::Cpu),
        ("cuda", Ok(number)) => Device::new_cuda(number).map_err(|error| fail(&error)),
        ("metal", Ok(number)) => Device::new_metal(number).map_err(|error| fail(&error)),
        _ => Err(fail(&"is not cpu, cuda:0 or metal")),
    }
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
}
