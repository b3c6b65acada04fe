//! Values of MMF's LMDB, its list of keys, and info files: features that fit together, or a reason.

#![no_main]

#[path = "../../stages/src/formats/mmf_features/mod.rs"]
#[allow(dead_code)]
mod mmf_features;
#[path = "../../stages/src/formats/npy.rs"]
#[allow(dead_code)]
mod npy;
#[path = "../../stages/src/formats/pickle/mod.rs"]
#[allow(dead_code)]
mod pickle;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(read) = mmf_features::read_value(bytes) {
        let rows = read.features.shape[0];
        assert_eq!(read.features.to_f32().len(), read.features.shape.iter().product::<usize>());
        assert!(read.info.boxes.is_none_or(|boxes| boxes.to_f32().len() == 4 * rows));
    }
    let _ = mmf_features::read_keys(bytes);
    let features = b"\x93NUMPY\x01\x00\x38\x00{'descr': '<f4', 'fortran_order': False, 'shape': (1,1)}\0\0\0\0";
    let _ = mmf_features::read_files(features, Some(bytes));
});
