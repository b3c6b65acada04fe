//! The truth file of MMHS150K: whatever the bytes are, there are tweets with labels in range, or a reason.

#![no_main]

#[path = "../../stages/src/formats/file_kind.rs"]
#[allow(dead_code)]
mod file_kind;
#[path = "../../stages/src/formats/dataset_files.rs"]
#[allow(dead_code)]
mod dataset_files;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(truth) = dataset_files::truth(&dataset_files::text(bytes).text) {
        let labels = truth.tweets.values().flatten().flat_map(|tweet| tweet.labels);
        assert!(labels.into_iter().all(|label| label <= 5));
    }
});
