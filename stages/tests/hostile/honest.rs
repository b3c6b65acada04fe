//! Honest archives, written by the libraries that everybody uses: every kind that `unpack` promises to read.

use std::io::{Cursor, Write};

use zip::unstable::write::FileOptionsExt;
use zip::write::SimpleFileOptions;
use zip::{AesMode, CompressionMethod, ZipWriter};

/// The files of every one of them.
pub const FILES: &[(&str, &str)] = &[("data/img/1.png", "png"), ("data/train.jsonl", "lines"), ("é.txt", "")];

fn packed(options: SimpleFileOptions) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, text) in FILES {
        zip.start_file(*name, options).unwrap();
        zip.write_all(text.as_bytes()).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// With a password, in AES.
pub fn encrypted(password: &'static str) -> Vec<u8> {
    packed(SimpleFileOptions::default().with_aes_encryption(AesMode::Aes256, password))
}

/// A name and the bytes of each kind; those with a password have `one`.
pub fn archives() -> Vec<(&'static str, Vec<u8>)> {
    let plain = SimpleFileOptions::default();
    let mut tar = tar::Builder::new(Vec::new());
    for (name, text) in FILES {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        tar.append_data(&mut header, name, text.as_bytes()).unwrap();
    }
    let tar = tar.into_inner().unwrap();
    vec![
        ("stored", packed(plain.compression_method(CompressionMethod::Stored))),
        ("deflate", packed(plain.compression_method(CompressionMethod::Deflated))),
        ("zip64", packed(plain.large_file(true))),
        ("aes", encrypted("one")),
        ("zip-crypto", packed(plain.with_deprecated_encryption(b"one").unwrap())),
        ("tar.gz", super::forge::gzip(&tar)),
        ("tar", tar),
    ]
}
