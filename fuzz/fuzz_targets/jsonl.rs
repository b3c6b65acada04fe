//! Lines of Hateful Memes: whatever the bytes are, every line is a meme or has a reason.

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
    for (_, line) in text.lines() {
        if let Ok(meme) = read::meme(line) {
            assert!(meme.label.is_none_or(|label| label <= 1));
            assert!(meme.id.bytes().all(|byte| byte.is_ascii_digit()));
        }
        let _ = read::picture_text(line);
    }
});
