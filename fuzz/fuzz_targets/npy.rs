//! `.npy` files: an array has as many numbers as its shape says.

#![no_main]

#[path = "../../stages/src/formats/npy.rs"]
#[allow(dead_code)]
mod npy;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(npy::Npy::Array(array)) = npy::read(bytes) {
        assert_eq!(array.to_f32().len(), array.shape.iter().product::<usize>());
    }
});
