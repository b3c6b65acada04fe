//! Advice to the memory allocator for training. It knows nothing of tensors.

/// Keeps freed memory in the process: a training step allocates and frees the same large buffers every time, and
/// by default glibc hands each back to the system, which then clears its pages again (about half the time of a
/// step). To be called once, when training starts. It does nothing where there is no glibc.
pub fn tune_allocator() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // 1 GiB: above any buffer of a step. The limit is an int of bytes.
        const LARGEST: libc::c_int = 1 << 30;
        // Never give back the end of the heap: what a step frees there may be several GiB, more than an int can say.
        const NEVER: libc::c_int = -1;
        // SAFETY: `mallopt` only sets two thresholds of the allocator; a value it does not accept is ignored.
        #[allow(unsafe_code)]
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, LARGEST);
            libc::mallopt(libc::M_TRIM_THRESHOLD, NEVER);
        }
    }
}
