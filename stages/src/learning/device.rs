//! The device a job was given, by name. It does not choose one.

use candle_core::Device;
use stage_api::StageError;

/// Opens `cpu`, `cuda:N` or `metal`.
///
/// # Errors
/// An unknown name, or a device that this program was not built for or that is not there.
pub(crate) fn open(name: &str) -> Result<Device, StageError> {
    let fail = |problem: &dyn std::fmt::Display| StageError::failed(format!("device `{name}`: {problem}"));
    match name.split_once(':').unwrap_or((name, "0")) {
        ("cpu", _) => Ok(Device::Cpu),
        ("cuda", number) => {
            let number = number.parse().map_err(|error| fail(&error))?;
            Device::new_cuda(number).map_err(|error| fail(&error))
        }
        ("metal", _) => Device::new_metal(0).map_err(|error| fail(&error)),
        _ => Err(fail(&"is not one of cpu, cuda:0, metal")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_devices_are_opened() {
        assert!(open("cpu").unwrap().is_cpu());
        for name in ["gpu", "", "cuda:x"] {
            assert!(open(name).unwrap_err().to_string().contains(name));
        }
    }
}
