//! Lines of Hateful Memes: whatever the bytes are, every line is a meme or has a reason.

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
    for (_, line) in text.lines() {
        if let Ok(meme) = dataset_files::meme(line) {
            assert!(meme.label.is_none_or(|label| label <= 1));
            assert!(meme.id.bytes().all(|byte| byte.is_ascii_digit()));
        }
        let _ = dataset_files::picture_text(line);
    }
});
