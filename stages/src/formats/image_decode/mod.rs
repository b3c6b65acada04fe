//! From a picture file to red, green and blue bytes, as for the published features: palettes and greys
//! become colours, transparency is dropped. It does not know the detector. JPEG is decoded here, the other formats by the crate `image`.

mod jpeg;

use std::io::Cursor;
use std::path::Path;

use image::{ImageReader, Limits};

use crate::formats::file_kind;

/// More pixels than this on a side are a damaged or hostile file, not a meme.
pub(crate) const MAX_PIXELS: u32 = 20_000;

/// Bytes of pixels that a byte of a file may stand for: deflate packs to a thousandth, LZW to a 2,700th.
const MAX_RATIO: u64 = 4096;
/// Pixels of a small file, however well it is packed, and of any file.
const HARMLESS: u64 = 16 << 20;
const LARGEST: u64 = 512 << 20;

/// A picture: 8-bit red, green, blue, row by row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// Pixels across.
    pub width: usize,
    /// Pixels down.
    pub height: usize,
    /// `height · width · 3` values.
    pub rgb: Vec<u8>,
}

/// Reads a picture file; see [`decode`].
pub(crate) fn read_picture(path: &Path) -> Result<Picture, String> {
    decode(&std::fs::read(path).map_err(|error| error.to_string())?)
}

/// Decodes a picture; the format is found by its content, since names often lie. Of an animation the first frame
/// is taken; a turn that EXIF requests is ignored: the original (PIL without further calls) does the same.
///
/// An alpha channel is dropped without blending: hidden colours show, as they do in the original.
pub(crate) fn decode(bytes: &[u8]) -> Result<Picture, String> {
    if let Some(problem) = file_kind::placeholder(bytes) {
        return Err(problem);
    }
    let refuse = |problem: String| {
        format!("cannot be read as a picture (replace the file or leave the sample out): {problem}")
    };
    if bytes.starts_with(jpeg::START) {
        return jpeg::decode(bytes).map_err(refuse);
    }
    let mut reader =
        ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|error| error.to_string())?;
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_PIXELS);
    limits.max_image_height = Some(MAX_PIXELS);
    limits.max_alloc = Some((bytes.len() as u64).saturating_mul(MAX_RATIO).clamp(HARMLESS, LARGEST));
    reader.limits(limits);
    let rgb = reader.decode().map_err(|error| refuse(error.to_string()))?.into_rgb8();
    let (width, height) = rgb.dimensions();
    Ok(Picture { width: width as usize, height: height as usize, rgb: rgb.into_raw() })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A PNG that claims so many pixels, and has no more than a few bytes of them.
    fn claims(width: u32, height: u32) -> Vec<u8> {
        let mut bytes = b"\x89PNG\r\n\x1a\n".to_vec();
        let sides = [width.to_be_bytes(), height.to_be_bytes()].concat();
        for (kind, data) in [
            (&b"IHDR"[..], [&sides[..], &[8, 6, 0, 0, 0]].concat()),
            (b"IDAT", b"\x78\x9c\x63\0\0".to_vec()),
            (b"IEND", vec![]),
        ] {
            let chunk = [kind, &data].concat();
            bytes.extend((data.len() as u32).to_be_bytes());
            bytes.extend(&chunk);
            bytes.extend(crc32fast::hash(&chunk).to_be_bytes());
        }
        bytes
    }

    #[test]
    fn pixels_that_a_small_file_cannot_hold_are_not_made_room_for() {
        for (width, height) in [(65_535, 65_535), (20_000, 20_000), (11_000, 11_000)] {
            let error = decode(&claims(width, height)).unwrap_err();
            assert!(error.contains("limit"), "{width} × {height}: {error}");
        }
    }

    #[test]
    fn what_is_there_instead_of_a_picture_is_named() {
        let error = decode(b"<html><title>Log in</title>").unwrap_err();
        assert!(error.contains("web page (`Log in`)"), "{error}");
    }
}
