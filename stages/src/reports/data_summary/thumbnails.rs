//! A sheet of small pictures, blurred unless that is turned off: each is reduced to a few pixels, and the viewer's own
//! smoothing makes a blur of them. What the few pixels do not hold cannot be recovered from the page.

use std::fmt::Write;
use std::io::Cursor;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use image::imageops::{FilterType, resize};
use image::{ImageFormat, RgbImage};

use super::DataParams;
use crate::artifacts::samples::{Sample, SampleSet, Split};
use crate::formats::image_decode::read_picture;

/// Longest side of a blurred picture in pixels.
const BLURRED: u32 = 10;
/// Longest side of a picture that is not blurred.
const SHARP: u32 = 160;
/// A place on the sheet, and the space around it.
const CELL: usize = 96;
const GAP: usize = 8;

/// The first pictures of each class of the training split as SVG, a row for each; the last class is in the uppermost.
///
/// # Errors
/// A picture that cannot be read.
pub fn sheet(set: &SampleSet, images: &Path, params: &DataParams) -> Result<String, String> {
    let classes = set.classes.titles();
    let across = params.pictures.max(1) * (CELL + GAP) + GAP;
    let row_height = CELL + GAP + 16;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {across} {}\" font-family=\"sans-serif\" font-size=\"11\">\n",
        classes.len() * row_height
    );
    for (row, (label, name)) in
        classes.into_iter().enumerate().collect::<Vec<_>>().into_iter().rev().enumerate()
    {
        let name = escape(name);
        let top = row * row_height;
        let _ = writeln!(svg, "<text x=\"{GAP}\" y=\"{}\" fill=\"#444\">{name}</text>", top + 12);
        let of_class =
            |sample: &&Sample| sample.split == Split::Train && sample.label.is_some_and(|of| of.has(label));
        for (at, sample) in set.samples.iter().filter(of_class).take(params.pictures).enumerate() {
            let path = images.join(&sample.image);
            let small = small(&path, if params.blur { BLURRED } else { SHARP })
                .map_err(|problem| format!("{}: {problem}", path.display()))?;
            let (width, height) = (small.width() as usize, small.height() as usize);
            let longest = width.max(height).max(1);
            let (width, height) = (width * CELL / longest, height * CELL / longest);
            let mut png = Vec::new();
            small
                .write_to(&mut Cursor::new(&mut png), ImageFormat::Png)
                .map_err(|error| error.to_string())?;
            let _ = writeln!(
                svg,
                "<image x=\"{}\" y=\"{}\" width=\"{width}\" height=\"{height}\" preserveAspectRatio=\"none\" \
                 href=\"data:image/png;base64,{}\"/>",
                GAP + at * (CELL + GAP) + (CELL - width) / 2,
                top + 18 + (CELL - height) / 2,
                STANDARD.encode(&png)
            );
        }
    }
    svg.push_str("</svg>\n");
    Ok(svg)
}

/// Text between elements of XML.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

fn small(path: &Path, side: u32) -> Result<RgbImage, String> {
    let picture = read_picture(path)?;
    let (width, height) = (picture.width as u32, picture.height as u32);
    let rgb = RgbImage::from_raw(width, height, picture.rgb).ok_or("has fewer pixels than it says")?;
    let longest = width.max(height).max(1);
    if longest <= side {
        return Ok(rgb);
    }
    let scaled = |length: u32| (u64::from(length) * u64::from(side) / u64::from(longest)).max(1) as u32;
    Ok(resize(&rgb, scaled(width), scaled(height), FilterType::Triangle))
}
