//! The split files of MMHS150K: an id is digits, and no line is lost.

#![no_main]

#[path = "../../stages/src/file_kind.rs"]
#[allow(dead_code)]
mod file_kind;
#[path = "../../stages/src/indexing/read.rs"]
#[allow(dead_code)]
mod read;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let text = read::text(bytes);
    for (number, line) in text.lines() {
        assert!(number > 0 && !line.is_empty());
        if read::is_tweet_id(line) {
            assert!(line.parse::<u128>().is_ok());
        }
    }
});
