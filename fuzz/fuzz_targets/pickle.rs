//! Pickles: data or a reason, in memory that the input's length bounds.

#![no_main]

#[path = "../../stages/src/formats/pickle/mod.rs"]
#[allow(dead_code)]
mod pickle;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok((pickle, length)) = pickle::Pickle::read(bytes) {
        assert!(length <= bytes.len());
        let _ = pickle.get(pickle.root(), "features");
        if let Some(items) = pickle.items(pickle.root()) {
            assert!(items.count() <= bytes.len());
        }
    }
});
