//! What an error of a device means to the person who runs the program: which kind of failure, and what to do next. It does not
//! know what was being computed.

use std::fmt;

use candle_core::Error;

/// A failure of a GPU or of its software that the person can do something about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeviceFault {
    /// The program was built without support for this kind of device.
    NotBuilt,
    /// No device has this number, or the driver shows none.
    NotFound,
    /// The kernels or libraries do not support the GPU.
    GpuTooOld,
    /// The driver does not support the program's version of CUDA.
    DriverTooOld,
    /// CUDA's libraries did not start with the device; they do not report why.
    NotStarted,
    /// NVRTC, which compiles the kernels at the start, is not installed as a whole.
    NoNvrtc,
    /// NVRTC cannot compile for the GPU.
    NvrtcUnfit,
    /// The device's memory does not hold what was requested.
    OutOfMemory,
    /// The device or its driver failed. No other call of this process can use it.
    Lost,
}

use DeviceFault::{
    DriverTooOld, GpuTooOld, Lost, NoNvrtc, NotBuilt, NotFound, NotStarted, NvrtcUnfit, OutOfMemory,
};

/// Parts of an error's text, and what they mean; the first that fits decides. candle passes errors on as text: the names of
/// codes as cudarc prints them (`DriverError(CUDA_ERROR_…, "…")`, `CublasError(…)`), and what NVRTC writes into its log.
const TEXTS: [(&str, DeviceFault); 43] = [
    ("built with cuda support", NotBuilt),
    ("built with metal support", NotBuilt),
    // NVRTC, whose errors print the log of the compilation.
    ("failed to open libnvrtc-builtins", NoNvrtc),
    ("NVRTC_ERROR_BUILTIN_OPERATION_FAILURE", NoNvrtc),
    ("invalid value for --gpu-architecture", NvrtcUnfit),
    // What opens a GPU says of its compute capability.
    ("the kernels need", GpuTooOld),
    // The driver.
    ("CUDA_ERROR_NO_DEVICE", NotFound),
    ("CUDA_ERROR_INVALID_DEVICE", NotFound),
    ("CUDA_ERROR_STUB_LIBRARY", NotFound),
    ("CUDA_ERROR_NO_BINARY_FOR_GPU", GpuTooOld),
    ("CUDA_ERROR_INVALID_PTX", GpuTooOld),
    ("CUDA_ERROR_UNSUPPORTED_PTX_VERSION", DriverTooOld),
    ("CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", DriverTooOld),
    ("CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE", DriverTooOld),
    ("CUDA_ERROR_OUT_OF_MEMORY", OutOfMemory),
    ("CUDA_ERROR_DEVICE_UNAVAILABLE", Lost),
    ("CUDA_ERROR_ECC_UNCORRECTABLE", Lost),
    ("CUDA_ERROR_NVLINK_UNCORRECTABLE", Lost),
    ("CUDA_ERROR_ILLEGAL_ADDRESS", Lost),
    ("CUDA_ERROR_LAUNCH_TIMEOUT", Lost),
    ("CUDA_ERROR_CONTEXT_IS_DESTROYED", Lost),
    ("CUDA_ERROR_ASSERT", Lost),
    ("CUDA_ERROR_HARDWARE_STACK_ERROR", Lost),
    ("CUDA_ERROR_ILLEGAL_INSTRUCTION", Lost),
    ("CUDA_ERROR_MISALIGNED_ADDRESS", Lost),
    ("CUDA_ERROR_INVALID_ADDRESS_SPACE", Lost),
    ("CUDA_ERROR_INVALID_PC", Lost),
    ("CUDA_ERROR_LAUNCH_FAILED", Lost),
    ("CUDA_ERROR_EXTERNAL_DEVICE", Lost),
    ("CUDA_ERROR_UNKNOWN", Lost),
    // cuBLAS and cuRAND, which start with the device.
    ("CUBLAS_STATUS_NOT_INITIALIZED", NotStarted),
    ("CURAND_STATUS_INITIALIZATION_FAILED", NotStarted),
    ("CURAND_STATUS_VERSION_MISMATCH", NotStarted),
    ("CUBLAS_STATUS_ARCH_MISMATCH", GpuTooOld),
    ("CURAND_STATUS_ARCH_MISMATCH", GpuTooOld),
    ("CUBLAS_STATUS_ALLOC_FAILED", OutOfMemory),
    ("CURAND_STATUS_ALLOCATION_FAILED", OutOfMemory),
    ("CUBLAS_STATUS_EXECUTION_FAILED", Lost),
    ("CUBLAS_STATUS_MAPPING_ERROR", Lost),
    ("CUBLAS_STATUS_INTERNAL_ERROR", Lost),
    ("CURAND_STATUS_LAUNCH_FAILURE", Lost),
    ("CURAND_STATUS_PREEXISTING_FAILURE", Lost),
    ("out of memory", OutOfMemory),
];

impl DeviceFault {
    /// The fault that `error` reports; `None` if it is about something else.
    pub(crate) fn from_error(error: &Error) -> Option<Self> {
        let text = error.to_string();
        TEXTS.iter().find(|(part, _)| text.contains(part)).map(|&(_, fault)| fault)
    }

    /// What to do next.
    pub(crate) fn hint(self) -> &'static str {
        match self {
            NotBuilt => {
                "build the program with `--features cuda` (NVIDIA) or `--features metal` (Apple), or compute on the CPU with \
                 `--gpus none`"
            }
            NotFound => {
                "`nvidia-smi -L` lists the GPUs that the driver shows; name one of them with `--gpus`, or compute on the CPU \
                 with `--gpus none`"
            }
            GpuTooOld => {
                "compute capability 7.0 (V100) is the oldest; `nvidia-smi --query-gpu=name,compute_cap --format=csv` prints \
                 that of each GPU. For one from 7.0 on, build the program for it with CUDA_COMPUTE_CAP (70, 75, 80 …); else \
                 choose another GPU with `--gpus`, or the CPU with `--gpus none`"
            }
            DriverTooOld => {
                "update the NVIDIA driver, or build the program with a version of CUDA no newer than the one that `nvidia-smi` \
                 prints. If the driver was just updated, restart the machine"
            }
            NotStarted => {
                "compare with `nvidia-smi`: it prints the newest version of CUDA that the driver supports, which must not be \
                 older than the program's, and the GPU's free memory"
            }
            NoNvrtc => {
                "install NVRTC of the CUDA version that the program was built with (libnvrtc and libnvrtc-builtins, part of the \
                 CUDA toolkit), in a folder that LD_LIBRARY_PATH names"
            }
            NvrtcUnfit => {
                "build the program with another version of CUDA: 12 for compute capability 7.0 to 7.4, for a GPU newer than \
                 the program a newer version"
            }
            OutOfMemory => {
                "`nvidia-smi` lists the processes that use the GPU's memory: end those, or choose another GPU with `--gpus`; a \
                 smaller `batch` of `evaluate` or `predict` needs less"
            }
            Lost => {
                "run the same command again: finished steps are kept, training resumes from its last checkpoint. If it fails \
                 again, `dmesg | grep -i xid` shows what the driver reports of the GPU; without such a line it is a defect of \
                 this program: please report it"
            }
        }
    }
}

impl fmt::Display for DeviceFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NotBuilt => "this program was built without support for it",
            NotFound => "there is no such GPU",
            GpuTooOld => "the program has no kernels for this GPU",
            DriverTooOld => "the driver does not support the program's version of CUDA",
            NotStarted => "CUDA's libraries did not start",
            NoNvrtc => "NVRTC cannot compile the kernels: it is not installed as a whole",
            NvrtcUnfit => "NVRTC cannot compile the kernels for this GPU",
            OutOfMemory => "the device has not enough free memory",
            Lost => "the GPU or its driver failed",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An error as candle passes on the text of one of CUDA's.
    fn found(text: &str) -> Option<DeviceFault> {
        DeviceFault::from_error(&Error::Cuda(text.into()))
    }

    #[test]
    fn texts_of_the_driver_are_recognised() {
        // As cudarc 0.19 prints them: the code, and the driver's sentence where it has one.
        for (text, fault) in [
            (r#"DriverError(CUDA_ERROR_NO_DEVICE, "no CUDA-capable device is detected")"#, NotFound),
            (r#"DriverError(CUDA_ERROR_INVALID_DEVICE, "invalid device ordinal")"#, NotFound),
            (r#"DriverError(CUDA_ERROR_OUT_OF_MEMORY, "out of memory")"#, OutOfMemory),
            (
                r#"DriverError(CUDA_ERROR_OUT_OF_MEMORY, "<Failure when calling cuGetErrorString()>")"#,
                OutOfMemory,
            ),
            (r#"DriverError(CUDA_ERROR_ILLEGAL_ADDRESS, "an illegal memory access was encountered")"#, Lost),
            (r#"DriverError(CUDA_ERROR_LAUNCH_FAILED, "unspecified launch failure")"#, Lost),
            (r#"DriverError(CUDA_ERROR_ECC_UNCORRECTABLE, "uncorrectable ECC error encountered")"#, Lost),
            (r#"DriverError(CUDA_ERROR_UNKNOWN, "unknown error")"#, Lost),
            (
                r#"DriverError(CUDA_ERROR_UNSUPPORTED_PTX_VERSION, "the provided PTX was compiled with an unsupported toolchain.") when loading unary"#,
                DriverTooOld,
            ),
            (
                r#"DriverError(CUDA_ERROR_NO_BINARY_FOR_GPU, "no kernel image is available for execution on the device") when loading cast"#,
                GpuTooOld,
            ),
            (
                r#"DriverError(CUDA_ERROR_SYSTEM_DRIVER_MISMATCH, "system has unsupported display driver / cuda driver combination")"#,
                DriverTooOld,
            ),
        ] {
            assert_eq!(found(text), Some(fault), "{text}");
        }
    }

    #[test]
    fn texts_of_the_libraries_are_recognised() {
        for (text, fault) in [
            ("CublasError(CUBLAS_STATUS_NOT_INITIALIZED)", NotStarted),
            ("CublasError(CUBLAS_STATUS_ALLOC_FAILED)", OutOfMemory),
            ("CublasError(CUBLAS_STATUS_EXECUTION_FAILED)", Lost),
            ("CublasError(CUBLAS_STATUS_ARCH_MISMATCH)", GpuTooOld),
            ("CurandError(CURAND_STATUS_ALLOCATION_FAILED)", OutOfMemory),
            ("CurandError(CURAND_STATUS_INITIALIZATION_FAILED)", NotStarted),
            // NVRTC 13.0 without its second library, and on a V100.
            (
                "NVRTC cannot compile adamw.cu for compute capability 9.0: nvrtc: error: failed to open \
                 libnvrtc-builtins.so.13.0.\n  Make sure that libnvrtc-builtins.so.13.0 is installed correctly.",
                NoNvrtc,
            ),
            (
                "NVRTC cannot compile adamw.cu for compute capability 7.0: nvrtc: error: invalid value for \
                 --gpu-architecture (-arch)\n",
                NvrtcUnfit,
            ),
            ("Quadro P6000 has compute capability 6.1; the kernels need 7.0 or later", GpuTooOld),
        ] {
            assert_eq!(found(text), Some(fault), "{text}");
        }
    }

    #[test]
    fn errors_of_candle_itself_are_told_apart() {
        assert_eq!(DeviceFault::from_error(&Error::NotCompiledWithCudaSupport), Some(NotBuilt));
        assert_eq!(DeviceFault::from_error(&Error::NotCompiledWithMetalSupport), Some(NotBuilt));
        for text in [
            "shape mismatch in matmul, lhs: [2, 3], rhs: [4, 5]",
            // A kernel's own mistake, the compiler's memory and a wrong call are no fault of the device.
            "NVRTC cannot compile adamw.cu for compute capability 9.0: adamw.cu(7): error: identifier \"x\" is undefined",
            "CompileError { nvrtc: NvrtcError(NVRTC_ERROR_OUT_OF_MEMORY), options: [], log: \"\" }",
            r#"DriverError(CUDA_ERROR_INVALID_VALUE, "invalid argument")"#,
            "CublasError(CUBLAS_STATUS_INVALID_VALUE)",
        ] {
            assert_eq!(found(text), None, "{text}");
        }
    }
}
