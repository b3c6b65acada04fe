//! From a picture file to red, green and blue bytes, as the published features were made: palettes and greys
//! become colours, transparency is dropped. It does not know the detector. JPEG is decoded here, the other formats by the crate `image`.

mod jpeg;

use std::io::Cursor;
use std::path::Path;

use image::{ImageReader, Limits};

use crate::models::faster_rcnn::Picture;

/// More pixels than this on a side are a damaged or hostile file, not a meme.
pub(crate) const MOST_PIXELS: u32 = 20_000;

/// Reads a picture file; see [`decode`].
pub(crate) fn read_picture(path: &Path) -> Result<Picture, String> {
    decode(&std::fs::read(path).map_err(|error| error.to_string())?)
}

/// Decodes a picture; the format is found by its content, since names often lie. Of an animation the first frame
/// is taken; a turn that EXIF asks for is not made: the original (PIL without further calls) does the same.
///
/// An alpha channel is dropped without blending: hidden colours show, as they do in the original.
pub(crate) fn decode(bytes: &[u8]) -> Result<Picture, String> {
    let refuse = |problem: String| {
        format!("cannot be read as a picture (replace the file or leave the sample out): {problem}")
    };
    if bytes.starts_with(jpeg::START) {
        return jpeg::decode(bytes).map_err(refuse);
    }
    let mut reader =
        ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|error| error.to_string())?;
    let mut limits = Limits::default();
    limits.max_image_width = Some(MOST_PIXELS);
    limits.max_image_height = Some(MOST_PIXELS);
    reader.limits(limits);
    let rgb = reader.decode().map_err(|error| refuse(error.to_string()))?.into_rgb8();
    let (width, height) = rgb.dimensions();
    Ok(Picture { width: width as usize, height: height as usize, rgb: rgb.into_raw() })
}
