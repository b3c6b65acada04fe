//! An NVIDIA GPU as a driver: candle's device with one stream, kernels compiled for the GPU at hand, products by cuBLAS.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::backend::BackendDevice;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::cublas::{self, CudaBlas, sys as blas};
use candle_core::cuda_backend::cudarc::driver::{
    CudaFunction, CudaSlice, CudaStream, DevicePtr, DeviceRepr, PinnedHostSlice, result, sys,
};
use candle_core::cuda_backend::cudarc::nvrtc::{self, CompileError, CompileOptions, Ptx};
use candle_core::{CudaDevice, CudaStorage, Device, DeviceLocation, Error, Result};
use rayon::prelude::*;

use super::driver::{Driver, Factor, Gemm, Launch, Numbers};
use super::kernels::{SOURCES, Source};
use super::memory::{Address, Buffer, View, Words};

/// Bytes that cuBLAS may use within a product: what NVIDIA recommends for its newest GPUs. It then allocates nothing itself.
const WORKSPACE: usize = 32 << 20;
/// The least compute capability that the kernels are written for.
const LEAST: (i32, i32) = (7, 0);

/// A GPU. All that is queued goes to one stream, so memory that is freed is used again without waiting.
#[derive(Debug)]
struct Nvidia {
    device: CudaDevice,
    stream: Arc<CudaStream>,
    kernels: HashMap<&'static str, CudaFunction>,
    has_tf32: bool,
    /// A handle is one thread's at a time.
    blas: Mutex<Arc<CudaBlas>>,
    _workspace: CudaSlice<u8>,
}

/// The GPUs that are open, by number.
static OPEN: Mutex<BTreeMap<usize, Arc<Nvidia>>> = Mutex::new(BTreeMap::new());

/// Opens GPU `ordinal`, or returns the device that is open.
///
/// # Errors
/// There is none, it is too old, or its driver, cuBLAS or NVRTC are missing or fail.
pub fn open(ordinal: usize) -> Result<Device> {
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(nvidia) = open.get(&ordinal) {
        return Ok(Device::Cuda(nvidia.device.clone()));
    }
    let nvidia = Nvidia::new(ordinal)?;
    let device = nvidia.device.clone();
    open.insert(ordinal, Arc::new(nvidia));
    Ok(Device::Cuda(device))
}

/// The driver of a device that [`open`] returned.
///
/// # Errors
/// It was opened in another way, with a stream of its own.
pub fn driver_of(device: &CudaDevice) -> Result<Arc<dyn Driver>> {
    let DeviceLocation::Cuda { gpu_id } = device.location() else {
        return Err(Error::msg("a CUDA device without a number"));
    };
    let open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    let found = open.get(&gpu_id).filter(|nvidia| nvidia.device.id() == device.id());
    let found = found.ok_or_else(|| Error::msg("a GPU's passes need a device that they opened"))?;
    Ok(Arc::clone(found) as Arc<dyn Driver>)
}

impl Nvidia {
    fn new(ordinal: usize) -> Result<Self> {
        let device = CudaDevice::new_with_stream(ordinal)?;
        let stream = device.cuda_stream();
        let context = stream.context();
        let capability = context.compute_capability().w()?;
        if capability < LEAST {
            let name = context.name().w()?;
            return Err(Error::msg(format!(
                "{name} has compute capability {}.{}; the kernels need {}.{} or later",
                capability.0, capability.1, LEAST.0, LEAST.1
            )));
        }
        // SAFETY: everything on this device goes to its one stream, but for uploads, which order themselves by events.
        #[allow(unsafe_code)]
        unsafe {
            device.disable_event_tracking();
        }
        if context.has_async_alloc() {
            keep_freed_memory(context.cu_device())?;
        }
        let compiled: Vec<Ptx> =
            SOURCES.par_iter().map(|source| compile(source, capability)).collect::<Result<_>>()?;
        let mut kernels = HashMap::new();
        for (source, compiled) in SOURCES.iter().zip(compiled) {
            let module = context.load_module(compiled).w()?;
            for &kernel in source.kernels {
                kernels.insert(kernel, module.load_function(kernel).w()?);
            }
        }
        let workspace = alloc::<u8>(&stream, WORKSPACE)?;
        let blas = device.cublas_handle();
        // SAFETY: the handle is candle's, the workspace is there as long as `Self` is, and so is the device.
        #[allow(unsafe_code)]
        unsafe {
            let (address, _guard) = workspace.device_ptr(&stream);
            blas::cublasSetWorkspace_v2(*blas.handle(), address as *mut _, WORKSPACE).result().w()?;
        }
        let has_tf32 = capability >= (8, 0);
        Ok(Self { device, stream, kernels, has_tf32, blas: Mutex::new(blas), _workspace: workspace })
    }

    fn buffer(&self, words: CudaSlice<f32>, len: usize) -> Buffer {
        Buffer { words: Words::Nvidia(words, self.device.clone()), len }
    }
}

/// Lets the device's pool keep memory that is free: by default it gives all of it back whenever the host waits, and a step takes
/// gigabytes again.
fn keep_freed_memory(device: sys::CUdevice) -> Result<()> {
    let mut most = u64::MAX;
    let threshold = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: the device is one that the driver named, and the attribute is a 64-bit number.
    #[allow(unsafe_code)]
    unsafe {
        let pool = result::device::get_default_mem_pool(device).w()?;
        result::mem_pool::set_attribute(pool, threshold, (&raw mut most).cast()).w()
    }
}

fn compile(source: &Source, (major, minor): (i32, i32)) -> Result<Ptx> {
    let options = CompileOptions {
        options: vec![format!("--gpu-architecture=compute_{major}{minor}")],
        name: Some(source.file.to_owned()),
        ..CompileOptions::default()
    };
    nvrtc::compile_ptx_with_opts(source.text, options).map_err(|error| {
        let reason = match &error {
            CompileError::CompileError { log, .. } => log.to_string_lossy().into_owned(),
            _ => error.to_string(),
        };
        Error::msg(format!(
            "NVRTC cannot compile {} for compute capability {major}.{minor}: {reason}",
            source.file
        ))
    })
}

/// Memory of any content.
pub(super) fn alloc<T: DeviceRepr>(stream: &Arc<CudaStream>, len: usize) -> Result<CudaSlice<T>> {
    // SAFETY: a pass writes its results before anything reads them; the tests fill new memory with NaN to show it.
    #[allow(unsafe_code)]
    unsafe { stream.alloc(len.max(1)) }.w()
}

/// Memory of the host that the GPU reads by itself, with zeros.
pub(super) fn pinned(stream: &CudaStream, words: usize) -> Result<PinnedHostSlice<u32>> {
    // SAFETY: it is filled below, before anything reads it.
    #[allow(unsafe_code)]
    let mut memory = unsafe { stream.context().alloc_pinned::<u32>(words.max(1)) }.w()?;
    memory.as_mut_slice().w()?.fill(0);
    Ok(memory)
}

/// Queues a copy of `words` words within the device.
pub(super) fn copy(stream: &CudaStream, from: u64, to: u64, words: usize) -> Result<()> {
    stream.context().bind_to_thread().w()?;
    // SAFETY: the callers name memory of so many words, which is freed in the order of its stream, after the copy.
    #[allow(unsafe_code)]
    unsafe { result::memcpy_dtod_async(to, from, 4 * words, stream.cu_stream()) }.w()
}

/// Where memory is.
pub(super) fn address<T>(memory: &CudaSlice<T>) -> u64 {
    let (address, _guard) = memory.device_ptr(memory.stream());
    address
}

/// Where the words of a storage are.
pub(super) fn storage_address(storage: &CudaStorage) -> Result<Address> {
    match storage.as_cuda_slice::<f32>() {
        Ok(words) => Ok(Address { address: address(words), words: words.len() }),
        Err(_) => {
            let words = storage.as_cuda_slice::<u32>()?;
            Ok(Address { address: address(words), words: words.len() })
        }
    }
}

/// The memory of a buffer of this driver.
fn words(buffer: &Buffer) -> Result<&CudaSlice<f32>> {
    match &buffer.words {
        Words::Nvidia(words, _) => Ok(words),
        Words::Host(_) => Err(Error::msg("this memory is not on the GPU")),
    }
}

impl Driver for Nvidia {
    fn has_tf32(&self) -> bool {
        self.has_tf32
    }

    fn alloc(&self, words: usize) -> Result<Buffer> {
        Ok(self.buffer(alloc(&self.stream, words)?, words))
    }

    fn clear(&self, buffer: &mut Buffer) -> Result<()> {
        match &mut buffer.words {
            Words::Nvidia(words, _) => self.stream.memset_zeros(words).w(),
            Words::Host(_) => Err(Error::msg("this memory is not on the GPU")),
        }
    }

    fn copy(&self, from: View<'_>, to: &mut Buffer) -> Result<()> {
        copy(&self.stream, from.at().address, to.at().address, from.len())
    }

    fn upload(&self, words: &[u32]) -> Result<Buffer> {
        let values: Vec<f32> = words.iter().copied().map(f32::from_bits).collect();
        Ok(self.buffer(self.stream.clone_htod(&values).w()?, values.len()))
    }

    fn download(&self, from: &Buffer) -> Result<Vec<f32>> {
        let values = self.stream.clone_dtoh(&words(from)?.slice(..from.len)).w()?;
        self.wait()?;
        Ok(values)
    }

    fn launch(&self, launch: &mut Launch) -> Result<()> {
        let unknown = || Error::msg(format!("there is no kernel `{}`", launch.kernel));
        let kernel = self.kernels.get(launch.kernel).ok_or_else(unknown)?.cu_function();
        let [x, y, z] = launch.grid;
        let mut pointers = launch.args.pointers();
        self.stream.context().bind_to_thread().w()?;
        // SAFETY: the passes give each kernel the arguments that it takes, and memory of the sizes that it computes from them; the
        // tests run every one with its arguments checked. The values are copied before the call returns.
        #[allow(unsafe_code)]
        unsafe {
            let (grid, block) = ((x, y, z), (launch.block, 1, 1));
            result::launch_kernel(kernel, grid, block, 0, self.stream.cu_stream(), &mut pointers).w()
        }
    }

    /// cuBLAS counts down columns, so the result that it sees is transposed: right leftᵀ.
    fn gemm(&self, gemm: &Gemm<'_>) -> Result<()> {
        use blas::cublasComputeType_t::{CUBLAS_COMPUTE_32F, CUBLAS_COMPUTE_32F_FAST_TF32};
        use blas::cublasOperation_t::{CUBLAS_OP_N, CUBLAS_OP_T};
        use blas::cudaDataType_t::{CUDA_R_16BF, CUDA_R_32F};
        let (number, compute) = match gemm.numbers {
            Numbers::F32 => (CUDA_R_32F, CUBLAS_COMPUTE_32F),
            Numbers::Tf32 => (CUDA_R_32F, CUBLAS_COMPUTE_32F_FAST_TF32),
            Numbers::Bf16 => (CUDA_R_16BF, CUBLAS_COMPUTE_32F),
        };
        let size = |size: usize| i32::try_from(size).map_err(Error::wrap);
        let operation = |is_transposed: bool| if is_transposed { CUBLAS_OP_T } else { CUBLAS_OP_N };
        let at = |factor: &Factor<'_>| factor.values.at().address as *const _;
        let (left, right) = (&gemm.left, &gemm.right);
        let (scale, keep) = (1.0f32, if gemm.accumulate { 1.0f32 } else { 0.0 });
        let blas = self.blas.lock().unwrap_or_else(PoisonError::into_inner);
        self.stream.context().bind_to_thread().w()?;
        // SAFETY: the handle is candle's and locked; the passes name memory that holds the factors and the result; both scalars are
        // read before the call returns.
        #[allow(unsafe_code)]
        unsafe {
            cublas::result::gemm_strided_batched_ex(
                *blas.handle(),
                operation(right.is_inner_major),
                operation(!left.is_inner_major),
                size(gemm.columns)?,
                size(gemm.rows)?,
                size(gemm.inner)?,
                (&raw const scale).cast(),
                at(right),
                number,
                size(right.stride)?,
                right.batch_stride as i64,
                at(left),
                number,
                size(left.stride)?,
                left.batch_stride as i64,
                (&raw const keep).cast(),
                gemm.out.address as *mut _,
                CUDA_R_32F,
                size(gemm.out_stride)?,
                gemm.out_batch_stride as i64,
                size(gemm.batch)?,
                compute,
                blas::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
            .w()
        }
    }

    fn wait(&self) -> Result<()> {
        self.stream.synchronize().w()
    }
}
