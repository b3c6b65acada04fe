//! Paints a scene and writes a caption over it. It knows shapes and pixels, not what anything means.

use std::f32::consts::{PI, TAU};

use font8x8::UnicodeFonts;
use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, ImageEncoder, ImageError};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tiny_skia::{Color, FillRule, Paint, Path, PathBuilder, Pixmap, Stroke, Transform};

use super::scene::{Kind, Object, SIDE, Scene};

/// Height of a line of text and the distance of text from the picture's edge, in pixels.
const LINE: usize = 9;
const MARGIN: usize = 2;
/// Width of a space, in pixels.
const SPACE: usize = 4;
const JPEG_QUALITY: u8 = 90;

/// A painted picture: rows of red, green, blue, [`SIDE`] × [`SIDE`].
pub struct Picture(Vec<u8>);

impl Picture {
    /// Paints `scene`, with `caption` at the top and the bottom when there is one.
    pub fn draw(scene: &Scene, caption: Option<&str>) -> Self {
        let mut picture = Self(paint(scene));
        if let Some(caption) = caption {
            picture.write(caption);
        }
        picture
    }

    /// The picture as a PNG file.
    pub fn png(&self) -> Result<Vec<u8>, ImageError> {
        let mut file = Vec::new();
        PngEncoder::new_with_quality(&mut file, CompressionType::Fast, FilterType::Up).write_image(
            &self.0,
            SIDE,
            SIDE,
            ExtendedColorType::Rgb8,
        )?;
        Ok(file)
    }

    /// The picture as a JPEG file.
    pub fn jpeg(&self) -> Result<Vec<u8>, ImageError> {
        let mut file = Vec::new();
        JpegEncoder::new_with_quality(&mut file, JPEG_QUALITY).write_image(
            &self.0,
            SIDE,
            SIDE,
            ExtendedColorType::Rgb8,
        )?;
        Ok(file)
    }

    /// Writes the first half of the caption's lines at the top and the rest at the bottom, as memes do.
    fn write(&mut self, caption: &str) {
        let lines = wrap(caption);
        let top = lines.len().div_ceil(2);
        for (number, line) in lines.iter().enumerate() {
            let y = if number < top {
                MARGIN + LINE * number
            } else {
                SIDE as usize - MARGIN - LINE * (lines.len() - number)
            };
            let x = (SIDE as usize).saturating_sub(width(line)) / 2;
            // First all outlines, so that no letter's outline covers its neighbour.
            self.write_line(line, x, y, [16, 16, 16], &[-1, 0, 1]);
            self.write_line(line, x, y, [255, 255, 255], &[0]);
        }
    }

    fn write_line(&mut self, line: &str, mut x: usize, y: usize, colour: [u8; 3], spread: &[isize]) {
        for letter in line.chars() {
            if let Some((rows, first, _)) = glyph(letter) {
                for (row, bits) in rows.iter().enumerate() {
                    for column in (0..8).filter(|column| bits >> column & 1 == 1) {
                        for dy in spread {
                            for dx in spread {
                                let at_x = (x + column - first).wrapping_add_signed(*dx);
                                self.set(at_x, (y + row).wrapping_add_signed(*dy), colour);
                            }
                        }
                    }
                }
            }
            x += advance(letter);
        }
    }

    fn set(&mut self, x: usize, y: usize, colour: [u8; 3]) {
        let side = SIDE as usize;
        if x < side && y < side {
            self.0[3 * (y * side + x)..][..3].copy_from_slice(&colour);
        }
    }
}

/// A letter's rows (lowest bit on the left) with its first and last inked column.
fn glyph(letter: char) -> Option<([u8; 8], usize, usize)> {
    let rows = font8x8::BASIC_FONTS.get(letter)?;
    let ink = rows.iter().fold(0, |all, row| all | row);
    (ink != 0).then(|| (rows, ink.trailing_zeros() as usize, 7 - ink.leading_zeros() as usize))
}

/// How far the next letter is. A letter that the font lacks takes no room.
fn advance(letter: char) -> usize {
    match (letter, glyph(letter)) {
        (' ', _) => SPACE,
        (_, Some((_, first, last))) => last - first + 2,
        (_, None) => 0,
    }
}

fn width(line: &str) -> usize {
    line.chars().map(advance).sum()
}

/// Breaks a caption into as few lines as fit, all about equally long.
fn wrap(caption: &str) -> Vec<String> {
    let widest = SIDE as usize - 2 * MARGIN;
    let mut lines = wrap_at(caption, widest);
    for limit in (0..widest).rev() {
        let narrower = wrap_at(caption, limit);
        if narrower.len() > lines.len() || narrower.iter().any(|line| width(line) > limit) {
            break;
        }
        lines = narrower;
    }
    lines
}

fn wrap_at(caption: &str, limit: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in caption.split_whitespace() {
        match lines.last_mut() {
            Some(line) if width(line) + SPACE + width(word) <= limit => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

fn paint(scene: &Scene) -> Vec<u8> {
    let mut pixels = background(scene.look);
    let Some(mut canvas) = Pixmap::new(SIDE, SIDE) else { return pixels };
    for object in &scene.objects {
        let [r, g, b] = object.thing.colour.rgb();
        let Some(path) = path(object) else { continue };
        let mut paint = Paint::default();
        paint.set_color_rgba8(r, g, b, 255);
        canvas.fill_path(&path, &paint, FillRule::EvenOdd, Transform::identity(), None);
        // A darker rim, as things have in drawings; it keeps yellow apart from a light background.
        paint.set_color(Color::from_rgba8(r / 2, g / 2, b / 2, 255));
        let rim = Stroke { width: 1.2, ..Stroke::default() };
        canvas.stroke_path(&path, &paint, &rim, Transform::identity(), None);
    }
    for (pixel, layer) in pixels.chunks_exact_mut(3).zip(canvas.pixels()) {
        let behind = 255 - u32::from(layer.alpha());
        for (value, over) in pixel.iter_mut().zip([layer.red(), layer.green(), layer.blue()]) {
            // The layer is premultiplied by its alpha.
            *value = over.saturating_add((u32::from(*value) * behind / 255) as u8);
        }
    }
    pixels
}

/// A soft gradient between two pale greys with a tint, and a little grain.
fn background(look: u64) -> Vec<u8> {
    let mut rng = ChaCha8Rng::seed_from_u64(look);
    let base: f32 = rng.random_range(150.0..215.0);
    let mut corner = || -> [f32; 3] { std::array::from_fn(|_| base + rng.random_range(-22.0..22.0)) };
    let (from, to) = (corner(), corner());
    let angle = rng.random_range(0.0..TAU);
    let (dx, dy) = (libm::cosf(angle), libm::sinf(angle));
    let side = SIDE as f32;
    let mut grain = rng.random::<u64>() | 1;
    let mut pixels = Vec::with_capacity((3 * SIDE * SIDE) as usize);
    for y in 0..SIDE {
        for x in 0..SIDE {
            let along = ((x as f32 / side - 0.5) * dx + (y as f32 / side - 0.5) * dy) / 1.42 + 0.5;
            // Xorshift: grain needs to be cheap, not good.
            grain ^= grain << 13;
            grain ^= grain >> 7;
            grain ^= grain << 17;
            let noise = (grain >> 62) as f32 - 1.5;
            pixels.extend((0..3).map(|c| (from[c] + (to[c] - from[c]) * along + noise) as u8));
        }
    }
    pixels
}

/// The outline of an object, in pixels.
fn path(object: &Object) -> Option<Path> {
    let (sin, cos) = libm::sincosf(object.angle);
    // The rim is drawn half outside.
    let r = object.radius - 0.6;
    let mut builder = PathBuilder::new();
    for contour in contours(object.thing.kind) {
        for (number, (x, y)) in contour.into_iter().enumerate() {
            let at = (object.centre.0 + r * (x * cos - y * sin), object.centre.1 + r * (x * sin + y * cos));
            if number == 0 { builder.move_to(at.0, at.1) } else { builder.line_to(at.0, at.1) }
        }
        builder.close();
    }
    builder.finish()
}

/// The closed outlines of a kind within the unit circle, y downwards; a second outline is a hole.
fn contours(kind: Kind) -> Vec<Vec<(f32, f32)>> {
    let arc = |radius: f32, centre: f32, from: f32, to: f32| -> Vec<(f32, f32)> {
        let point = |i: u32| {
            let angle = from + (to - from) * i as f32 / 36.0;
            (centre + radius * libm::cosf(angle), radius * libm::sinf(angle))
        };
        (0..=36).map(point).collect()
    };
    let spokes = |count: u32, radius: &dyn Fn(u32) -> f32, turn: f32| -> Vec<(f32, f32)> {
        let point = |i: u32| {
            let angle = turn + TAU * i as f32 / count as f32;
            (radius(i) * libm::cosf(angle), radius(i) * libm::sinf(angle))
        };
        (0..count).map(point).collect()
    };
    match kind {
        Kind::Circle => vec![arc(0.95, 0.0, 0.0, TAU)],
        Kind::Square => vec![spokes(4, &|_| 1.0, PI / 4.0)],
        Kind::Triangle => vec![spokes(3, &|_| 1.0, -PI / 2.0)],
        Kind::Star => vec![spokes(10, &|i| if i % 2 == 0 { 1.0 } else { 0.45 }, -PI / 2.0)],
        Kind::Cross => {
            let (long, wide) = (0.93, 0.33);
            let corners = [(long, -wide), (long, wide), (wide, wide)];
            // Three corners an arm, turned by a quarter from arm to arm.
            let arm = |turns: usize| corners.map(|(x, y)| (0..turns).fold((x, y), |(x, y), _| (-y, x)));
            vec![(0..4).flat_map(arm).collect()]
        }
        Kind::Ring => vec![arc(1.0, 0.0, 0.0, TAU), arc(0.55, 0.0, 0.0, TAU)],
        Kind::Heart => {
            let point = |i: u32| {
                let t = TAU * i as f32 / 48.0;
                let cos = |times: f32| libm::cosf(times * t);
                let y = 13.0 * cos(1.0) - 5.0 * cos(2.0) - 2.0 * cos(3.0) - cos(4.0);
                let sin = libm::sinf(t);
                (sin * sin * sin * 16.0 / 17.0, -(y + 2.5) / 17.0)
            };
            vec![(0..48).map(point).collect()]
        }
        Kind::Moon => {
            // The outer circle from tip to tip the long way round, and back along a circle through both tips.
            let (tip, centre) = (0.9f32, 0.55f32);
            let (x, y) = (libm::cosf(tip) - centre, libm::sinf(tip));
            let mut outline = arc(1.0, 0.0, tip, TAU - tip);
            let angle = libm::atan2f(y, x);
            outline.extend(arc(libm::hypotf(x, y), centre, TAU - angle, angle));
            vec![outline]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::captions::JOKES;
    use super::super::scene::{Colour, STRIP, Thing};
    use super::*;

    #[test]
    fn every_joke_fits_above_and_below_the_things() {
        let longest = Colour::ALL.into_iter().flat_map(|colour| {
            Kind::ALL.into_iter().map(move |kind| format!("{} {}", colour.name(), kind.name()))
        });
        let mut too_long = Vec::new();
        for noun in longest.chain(["purple thing".to_owned()]) {
            for joke in JOKES {
                let lines = wrap(&joke.replace("{}", &noun));
                let fits = lines.len() <= 2 * (STRIP as usize / LINE)
                    && lines.iter().all(|line| width(line) <= SIDE as usize - 2);
                if !fits {
                    too_long.push(lines);
                }
            }
        }
        assert!(too_long.is_empty(), "{too_long:#?}");
    }

    #[test]
    fn lines_are_about_equally_long() {
        assert_eq!(
            wrap("mom can we keep the red one at home"),
            ["mom can we", "keep the red", "one at home"]
        );
        assert_eq!(wrap("hello"), ["hello"]);
        assert!(wrap("  ").is_empty());
    }

    #[test]
    fn outlines_stay_within_the_unit_circle() {
        for kind in Kind::ALL {
            for (x, y) in contours(kind).concat() {
                assert!(libm::hypotf(x, y) < 1.08, "{kind:?} at {x}, {y}");
            }
        }
    }

    #[test]
    fn a_thing_has_its_colour_at_its_place_and_the_rest_is_pale() {
        for colour in Colour::ALL {
            let thing = Thing { kind: Kind::Circle, colour };
            let object = Object { thing, centre: (50.0, 50.0), radius: 14.0, angle: 0.0 };
            let picture = Picture::draw(&Scene { objects: vec![object], look: 3 }, None);
            let at = |x: usize, y: usize| &picture.0[3 * (y * SIDE as usize + x)..][..3];
            assert_eq!(at(50, 50), colour.rgb());
            assert!(at(10, 10).iter().all(|value| (120..=245).contains(value)), "{:?}", at(10, 10));
        }
    }

    #[test]
    fn files_read_back_as_the_size_they_should_have() {
        let picture = Picture::draw(&Scene { objects: Vec::new(), look: 1 }, Some("hello 😂 there"));
        for file in [picture.png().unwrap(), picture.jpeg().unwrap()] {
            let read = image::load_from_memory(&file).unwrap();
            assert_eq!((read.width(), read.height()), (SIDE, SIDE));
        }
    }
}
