//! Archives for the tests of the `index` stages: pictures of every kind, in a zip.

use std::fs::File;
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};

use image::{DynamicImage, ImageFormat, Rgb, RgbImage};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

/// A picture of one colour, which `shade` chooses.
pub fn picture(shade: u8, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Vec::new();
    let image = RgbImage::from_pixel(12, 8, Rgb([shade, 90, 200]));
    DynamicImage::from(image).write_to(&mut Cursor::new(&mut bytes), format).unwrap();
    bytes
}

/// A PNG of one colour.
pub fn png(shade: u8) -> Vec<u8> {
    picture(shade, ImageFormat::Png)
}

/// A JPEG of one colour.
pub fn jpeg(shade: u8) -> Vec<u8> {
    picture(shade, ImageFormat::Jpeg)
}

/// Writes a zip archive of `files` into `dir`.
pub fn zip(dir: &Path, files: &[(String, Vec<u8>)]) -> PathBuf {
    let path = dir.join("archive.zip");
    let mut zip = ZipWriter::new(File::create(&path).unwrap());
    for (name, bytes) in files {
        zip.start_file(name.as_str(), SimpleFileOptions::default()).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap();
    path
}
