//! The split files of MMHS150K: an id is digits, and no line is lost.

#![no_main]

#[path = "../../stages/src/formats/file_kind.rs"]
#[allow(dead_code)]
mod file_kind;
#[path = "../../stages/src/formats/dataset_files.rs"]
#[allow(dead_code)]
mod dataset_files;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let text = dataset_files::text(bytes);
    for (number, line) in text.lines() {
        assert!(number > 0 && !line.is_empty());
        if dataset_files::is_tweet_id(line) {
            assert!(line.parse::<u128>().is_ok());
        }
    }
});
