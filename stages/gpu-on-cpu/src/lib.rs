//! Runs the CUDA kernels of `stages/src/nn/gpu/kernels` on a CPU, so that tests of the GPU code need no GPU.
//!
//! The build script compiles every `.cu` file with a C++17 compiler, through a header that gives CUDA's words a meaning on a
//! CPU. Each CUDA thread is a fiber; barriers, warp exchanges and the tensor cores' TF32 product work as on a GPU. Between two
//! places where threads wait, they run in an order that a seed shuffles. So wrong indices, a wrong order or number of
//! arguments, a missing barrier and threads that wait for ever are found in `cargo test`. Speed, the memory model of a GPU and
//! races within a warp are not.
//!
//! A kernel named in the files is there under its name. Files that compute otherwise before sm_80 are there as such a GPU runs
//! them too, under `name@sm70`; and, for tests that show that a missing barrier is noticed, with one barrier left out, under
//! `name@file-without-barrier-0` and so on.
//!
//! # Accesses out of bounds
//! `.ci/kernels-asan` builds the kernels with the address sanitizer of GCC (`GPU_ON_CPU_ASAN=1`), whose library must be loaded
//! first, and runs the tests of kernels.
#![allow(unsafe_code, reason = "kernels are C++ and take pointers")]

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};

unsafe extern "C" {
    fn gpu_on_cpu_launch(
        name: *const c_char,
        grid: *const c_uint,
        block: c_uint,
        arguments: *const *mut c_void,
        count: usize,
        seed: u64,
        error: *mut c_char,
        length: usize,
    ) -> c_int;
    fn gpu_on_cpu_parameters(name: *const c_char, sizes: *mut *const usize) -> c_int;
    fn gpu_on_cpu_name(i: usize) -> *const c_char;
}

/// Runs `kernel` with `grid` blocks of `block` threads, and waits for it. `args` are pointers to the arguments' values, as
/// `cuLaunchKernel` takes them. `seed` shuffles the order of threads; 0 keeps them in theirs.
///
/// # Errors
/// There is no such kernel, its parameters are more or fewer, CUDA has no such grid or the kernel no such block, or threads
/// wait for each other for ever. The memory that the kernel writes then has any values.
///
/// # Safety
/// Each of `args` points to a value of its parameter's size ([`parameters`]), and each pointer among them to memory that the
/// kernel may read or write as far as its other arguments say.
pub unsafe fn launch(
    kernel: &str,
    grid: [u32; 3],
    block: u32,
    args: &[*mut c_void],
    seed: u64,
) -> Result<(), String> {
    let name = CString::new(kernel).map_err(|_| format!("{kernel:?} is no name of a kernel"))?;
    let mut error = [0 as c_char; 256];
    // SAFETY: the lengths are those of the slices; the caller answers for the arguments.
    let failed = unsafe {
        gpu_on_cpu_launch(
            name.as_ptr(),
            grid.as_ptr(),
            block,
            args.as_ptr(),
            args.len(),
            seed,
            error.as_mut_ptr(),
            error.len(),
        )
    };
    if failed == 0 {
        return Ok(());
    }
    // SAFETY: a message with a zero at its end was written.
    let message = unsafe { CStr::from_ptr(error.as_ptr()) }.to_string_lossy();
    Err(format!("{kernel}: {message}"))
}

/// The sizes in bytes of a kernel's parameters, in order; none if there is no such kernel.
pub fn parameters(kernel: &str) -> Option<Vec<usize>> {
    let name = CString::new(kernel).ok()?;
    let mut sizes = std::ptr::null();
    // SAFETY: both pointers are valid.
    let count = unsafe { gpu_on_cpu_parameters(name.as_ptr(), &mut sizes) };
    let count = usize::try_from(count).ok()?;
    // SAFETY: `sizes` points to so many constants.
    Some(unsafe { std::slice::from_raw_parts(sizes, count) }.to_vec())
}

/// The names of all kernels.
pub fn kernels() -> Vec<String> {
    // SAFETY: a name is a constant with a zero at its end; after the last one there is null.
    let name = |i| unsafe {
        let name = gpu_on_cpu_name(i);
        (!name.is_null()).then(|| CStr::from_ptr(name).to_string_lossy().into_owned())
    };
    (0..).map_while(name).collect()
}
