//! `repro regions`: the regions that a detector finds in pictures, drawn on them, so that a person can look. It writes
//! pictures outside the store and changes nothing in it.

use std::path::{Path, PathBuf};

use clap::Args;
use font8x8::UnicodeFonts;
use image::{Rgb, RgbImage, imageops};
use serde_json::json;
use stage_api::{Answer, StageError, Tool, ToolContext};

use crate::artifacts::region_features::PictureRegions;
use crate::artifacts::{mmf_writer, read_json, weights};
use crate::formats::image_decode::read_picture;
use crate::host::device;
use crate::models::faster_rcnn::{Config, FasterRcnn, Region};
use crate::nn::ParamStore;

/// The tool.
pub(crate) struct ShowRegions;

/// The step whose detector is used unless another is named.
const DETECTOR: &str = "detector";
/// Regions that are drawn unless the caller says how many.
const DRAWN: u16 = 8;
const MAX_DRAWN: i64 = 1000;
/// A smaller picture is enlarged, so that names can be read on it.
const SHORTEST: u32 = 480;
/// Side of a letter, in pixels.
const LETTER: u32 = 8;

/// Colours of the palette of Okabe and Ito, one after the other.
const COLOURS: [[u8; 3]; 7] = [
    [0xe6, 0x9f, 0x00],
    [0x56, 0xb4, 0xe9],
    [0x00, 0x9e, 0x73],
    [0xf0, 0xe4, 0x42],
    [0x00, 0x72, 0xb2],
    [0xd5, 0x5e, 0x00],
    [0xcc, 0x79, 0xa7],
];

/// Draw what the detector finds in pictures
///
/// Writes NAME.regions.png for each picture: its most telling regions with the name and the score of what is seen there;
/// classes that the detector has no names for have numbers.
#[derive(Args)]
pub struct RegionsArgs {
    /// A picture.
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<PathBuf>,
    /// The step whose output is the detector.
    #[arg(long, value_name = "STEP", default_value = DETECTOR)]
    detector: String,
    /// Regions a picture.
    #[arg(long, value_name = "N", default_value_t = DRAWN, value_parser = clap::value_parser!(u16).range(1..=MAX_DRAWN))]
    most: u16,
    /// Where to write; the folder of each picture by default.
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Write the features of the picture's regions there instead of drawing them, as NumPy reads them: [regions, values].
    #[arg(long, value_name = "FILE", conflicts_with = "out")]
    npy: Option<PathBuf>,
}

impl Tool for ShowRegions {
    type Args = RegionsArgs;
    const NAME: &'static str = "regions";

    fn run(&self, args: &RegionsArgs, context: &ToolContext) -> Result<Answer, StageError> {
        let dir = context.results.output(&args.detector)?;
        let device = device::open(&context.host.device)?;
        let config: Config = weights::read_config(&dir)?;
        let tensors = device::upload(weights::read_tensors(&dir)?, &device)?;
        let detector = ParamStore::new(tensors, |_| false)
            .and_then(|params| FasterRcnn::build(&config, &params))
            .map_err(|error| StageError::input("detector", &dir, error))?;
        let classes = dir.join("classes.json");
        let names: Vec<String> = if classes.exists() { read_json(&classes)? } else { Vec::new() };
        if args.npy.is_some() && args.images.len() > 1 {
            return Err(StageError::Params("--npy writes the features of one picture; name one".to_owned()));
        }
        let (mut text, mut found) = (String::new(), Vec::new());
        for path in &args.images {
            let unreadable = |problem: String| StageError::input("image", path, problem);
            let picture = read_picture(path).map_err(unreadable)?;
            let regions = detector
                .detect(&picture, usize::from(args.most), usize::MAX)
                .map_err(|error| device::failed(path.display(), &error))?;
            let named: Vec<(String, Region)> =
                regions.into_iter().map(|region| (name(&names, region.object), region)).collect();
            let (width, height) = (picture.width as u32, picture.height as u32);
            let failed = |out: &Path, error: &dyn std::fmt::Display| {
                StageError::failed(format!("{}: {error}", out.display()))
            };
            let out = match &args.npy {
                Some(file) => {
                    std::fs::write(file, npy(&named)).map_err(|error| failed(file, &error))?;
                    file.clone()
                }
                None => {
                    let out = target(path, args.out.as_deref())?;
                    let pixels = RgbImage::from_raw(width, height, picture.rgb)
                        .ok_or_else(|| unreadable("its pixels do not fit its size".to_owned()))?;
                    draw(pixels, &named).save(&out).map_err(|error| failed(&out, &error))?;
                    out
                }
            };
            text += &format!("{}\n", out.display());
            let listed = named.iter().map(|(name, region)| {
                json!({"object": name, "class": region.object, "score": region.confidence, "box": region.corners})
            });
            found.push(json!({"image": path, "out": out, "regions": listed.collect::<Vec<_>>()}));
        }
        Ok(Answer { text, json: serde_json::Value::from(found).to_string(), stale: false })
    }
}

/// The features as a `.npy` file, [regions, values].
fn npy(regions: &[(String, Region)]) -> Vec<u8> {
    let picture = PictureRegions {
        features: regions.iter().flat_map(|(_, region)| region.feature.iter().copied()).collect(),
        boxes: regions.iter().map(|(_, region)| region.corners).collect(),
        scores: vec![0.0; regions.len()],
        objects: vec![0; regions.len()],
        size: PictureRegions::UNKNOWN_SIZE,
    };
    mmf_writer::files(&picture, None).0
}

fn name(names: &[String], object: u32) -> String {
    names.get(object as usize).cloned().unwrap_or_else(|| format!("class {object}"))
}

/// `NAME.regions.png` in `folder`, which is created, or next to the picture.
fn target(picture: &Path, folder: Option<&Path>) -> Result<PathBuf, StageError> {
    let name = format!("{}.regions.png", picture.file_stem().unwrap_or_default().to_string_lossy());
    let Some(folder) = folder else { return Ok(picture.with_file_name(name)) };
    std::fs::create_dir_all(folder)
        .map_err(|error| StageError::failed(format!("{}: {error}", folder.display())))?;
    Ok(folder.join(name))
}

/// The picture with boxes and names; the most telling region is drawn last, on top.
fn draw(picture: RgbImage, regions: &[(String, Region)]) -> RgbImage {
    let (width, height) = picture.dimensions();
    let factor = SHORTEST.div_ceil(width.min(height)).clamp(1, (4096 / width.max(height)).max(1));
    let mut canvas =
        imageops::resize(&picture, width * factor, height * factor, imageops::FilterType::Nearest);
    for (number, (name, region)) in regions.iter().enumerate().rev() {
        let colour = Rgb(COLOURS[number % COLOURS.len()]);
        let limit = |value: f32, size: u32| (value.max(0.0) * factor as f32).min(size as f32 - 1.0) as u32;
        let [x1, y1, x2, y2] = region.corners;
        let (left, right) = (limit(x1, canvas.width()), limit(x2 + 1.0, canvas.width()));
        let (top, bottom) = (limit(y1, canvas.height()), limit(y2 + 1.0, canvas.height()));
        fill(&mut canvas, (left, top, right, top + 2), colour);
        fill(&mut canvas, (left, bottom.saturating_sub(2), right, bottom), colour);
        fill(&mut canvas, (left, top, left + 2, bottom), colour);
        fill(&mut canvas, (right.saturating_sub(2), top, right, bottom), colour);
        label(&mut canvas, left, top, &format!("{name} {:.2}", region.confidence), colour);
    }
    canvas
}

/// Fills a rectangle: left, top, right, bottom, the latter two not included.
fn fill(canvas: &mut RgbImage, (left, top, right, bottom): (u32, u32, u32, u32), colour: Rgb<u8>) {
    for y in top..bottom.min(canvas.height()) {
        for x in left..right.min(canvas.width()) {
            canvas.put_pixel(x, y, colour);
        }
    }
}

/// Writes into the corner of a box, in black on its colour.
fn label(canvas: &mut RgbImage, left: u32, top: u32, text: &str, colour: Rgb<u8>) {
    let wide = LETTER * text.chars().count() as u32 + 4;
    let left = left.min(canvas.width().saturating_sub(wide));
    let top = top.min(canvas.height().saturating_sub(LETTER + 4));
    fill(canvas, (left, top, left + wide, top + LETTER + 4), colour);
    for (number, letter) in text.chars().enumerate() {
        let rows = font8x8::BASIC_FONTS.get(letter).unwrap_or([0xff; 8]);
        for (row, bits) in rows.iter().enumerate() {
            for column in (0..LETTER).filter(|column| bits >> column & 1 == 1) {
                let (x, y) = (left + 2 + LETTER * number as u32 + column, top + 2 + row as u32);
                if x < canvas.width() && y < canvas.height() {
                    canvas.put_pixel(x, y, Rgb([0; 3]));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(corners: [f32; 4], object: u32) -> Region {
        Region { corners, confidence: 0.875, object, feature: Vec::new() }
    }

    #[test]
    fn boxes_are_drawn_where_they_are_and_names_within_the_picture() {
        let names = ["red disc".to_owned()];
        let regions = [region([10.0, 20.0, 49.0, 59.0], 0), region([90.0, 90.0, 200.0, 200.0], 7)];
        let named: Vec<_> = regions.map(|region| (name(&names, region.object), region)).into();
        assert_eq!(named[1].0, "class 7");
        let drawn = draw(RgbImage::new(100, 120), &named);
        assert_eq!(drawn.dimensions(), (500, 600));
        assert_eq!(drawn[(50, 299)].0, COLOURS[0]);
        assert_eq!(drawn[(150, 298)].0, COLOURS[0]);
        assert_eq!(drawn[(150, 200)].0, [0; 3]);
        assert_eq!(drawn[(498, 590)].0, COLOURS[1]);
        for (width, height) in [(1, 1), (5000, 20), (20, 5000)] {
            draw(RgbImage::new(width, height), &named);
        }
    }
}
