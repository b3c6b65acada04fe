//! JPEG files (ITU-T T.81) to red, green and blue, each sample as libjpeg-turbo with its defaults computes it, which PIL and OpenCV
//! decode with: the accurate integer transform, triangle filters for colours sampled at half, integer conversion of colours.
//! All arithmetic is in integers, so the bits are the same on every CPU.
//!
//! Sequential and progressive files with Huffman codes and 8 bits, all sampling factors that libjpeg takes, grey, colours and inks.
//! Arithmetic codes, lossless and hierarchical files and 12 bits are refused by name; a file without its end is refused.

mod bits;
mod color;
mod header;
mod idct;
mod scan;
mod upsample;

use super::{MAX_PIXELS, Picture};
use color::Colors;
use header::{Tables, be16};
use scan::next_marker;
use upsample::Plane;

/// How every JPEG file begins.
pub(super) const START: &[u8] = b"\xff\xd8";

/// The first byte of every marker.
const MARKER: u8 = 0xff;

/// More scans than any writer's script; a hostile file could have a scan every few bytes.
const MAX_SCANS: usize = 100;

/// Bytes of samples, pixels and coefficients, at most.
const MAX_MEMORY: usize = 1 << 30;

/// One of the components of a frame.
struct Component {
    id: u8,
    /// Blocks across and down in an MCU.
    sampling: (usize, usize),
    /// The number of its quantisation table.
    table: usize,
    /// Quantisation steps by place in a block, as the table was when its first scan began.
    steps: [i16; 64],
    has_steps: bool,
    /// Samples across and down that belong to the picture.
    size: (usize, usize),
    /// Blocks across and down that hold these.
    own_blocks: (usize, usize),
    /// Blocks across and down of whole MCUs.
    blocks: (usize, usize),
    samples: Vec<u8>,
    /// Of a progressive frame, 64 for each block.
    coefficients: Vec<i16>,
}

/// What a frame header says.
struct Frame {
    width: usize,
    height: usize,
    is_progressive: bool,
    /// The largest factors of sampling.
    max_sampling: (usize, usize),
    /// MCUs across and down.
    mcus: (usize, usize),
    components: Vec<Component>,
}

/// Decodes a JPEG file.
///
/// # Errors
/// What is wrong with the file, or which kind it is that is not decoded.
pub(super) fn decode(bytes: &[u8]) -> Result<Picture, String> {
    let mut tables = Tables::default();
    let mut frame: Option<Frame> = None;
    let mut scans = 0;
    let mut at = 2;
    loop {
        let (place, kind) = next_marker(bytes, at).ok_or("the file ends early")?;
        at = place + 2;
        if matches!(kind, 0x01 | 0xd0..=0xd8) {
            continue;
        }
        if kind == 0xd9 {
            break;
        }
        if matches!(kind, 0x02..=0xbf | 0xde | 0xdf | 0xf0..=0xfd) {
            return Err(format!("an unknown marker, {kind:#x}"));
        }
        let length = bytes.get(at..at + 2).map(be16).ok_or("the file ends early")?;
        let data = bytes.get(at + 2..at + length.max(2)).ok_or("the file ends early")?;
        at += length.max(2);
        match kind {
            0xc4 => tables.add_huffman(data)?,
            0xdb => tables.add_steps(data)?,
            0xdd => tables.restart = data.get(..2).map(be16).ok_or("a restart interval without a number")?,
            0xe0 | 0xee => tables.note_application(kind, data),
            0xc0..=0xc2 if frame.is_some() => return Err("two frames".into()),
            0xc0..=0xc2 => frame = Some(Frame::read(data, kind == 0xc2, bytes.len())?),
            0xc3 => return Err("a lossless JPEG is not decoded".into()),
            0xc5..=0xc7 => return Err("a hierarchical JPEG is not decoded".into()),
            0xc8..=0xcb | 0xcd..=0xcf => return Err("a JPEG with arithmetic coding is not decoded".into()),
            0xda => {
                let frame = frame.as_mut().ok_or("a scan before the frame")?;
                scans += 1;
                if scans > MAX_SCANS {
                    return Err(format!("more than {MAX_SCANS} scans"));
                }
                let scan = tables.scan(data, frame)?;
                at = scan.decode(bytes, at, &mut frame.components)?;
            }
            _ => {}
        }
    }
    let mut frame = frame.ok_or("no frame")?;
    if scans == 0 {
        return Err("no scan".into());
    }
    frame.draw_coefficients();
    let colors = tables.colors(&frame.components);
    Ok(Picture { rgb: frame.pixels(colors), width: frame.width, height: frame.height })
}

impl Frame {
    /// Reads a frame header (T.81, B.2.2) of a file of `length` bytes and makes room.
    fn read(data: &[u8], is_progressive: bool, length: usize) -> Result<Self, String> {
        let (head, rest) = data.split_at_checked(6).ok_or("a short frame header")?;
        let (height, width) = (be16(&head[1..]), be16(&head[3..]));
        if head[0] != 8 {
            return Err(format!("a JPEG of {} bits is not decoded, only of 8", head[0]));
        }
        let most_pixels = MAX_PIXELS as usize;
        if !(1..=most_pixels).contains(&width) || !(1..=most_pixels).contains(&height) {
            return Err(format!("{width} × {height} pixels; 1 to {MAX_PIXELS} a side can be read"));
        }
        let count = usize::from(head[5]);
        if !matches!(count, 1 | 3 | 4) || rest.len() != 3 * count {
            return Err(format!("{count} components in {} bytes", rest.len()));
        }
        let factors = |entry: &[u8]| (usize::from(entry[1] >> 4), usize::from(entry[1] & 15));
        let entries = || rest.chunks_exact(3);
        if entries().map(factors).any(|(across, down)| !(1..=4).contains(&across) || !(1..=4).contains(&down))
        {
            return Err("a sampling factor that is not 1 to 4".into());
        }
        let max_sampling = entries()
            .map(factors)
            .fold((1, 1), |max_sampling, (a, b)| (max_sampling.0.max(a), max_sampling.1.max(b)));
        if entries().map(factors).any(|(a, b)| max_sampling.0 % a != 0 || max_sampling.1 % b != 0) {
            return Err("sampling factors that are no divisors of the largest".into());
        }
        let mcus = (width.div_ceil(8 * max_sampling.0), height.div_ceil(8 * max_sampling.1));
        let blocks: usize = entries().map(factors).map(|(a, b)| a * b * mcus.0 * mcus.1).sum();
        // A block takes a bit at least, but for those beyond the edge in a scan of one component.
        let own = width.div_ceil(8) * height.div_ceil(8) / (max_sampling.0 * max_sampling.1);
        if own / 8 > length {
            return Err("the file ends early".into());
        }
        let memory = blocks * 64 * if is_progressive { 3 } else { 1 } + 3 * width * height;
        if memory > MAX_MEMORY {
            return Err(format!("{width} × {height} pixels, which take {memory} bytes of memory"));
        }
        let components = entries()
            .map(|entry| {
                let sampling = factors(entry);
                let size = (
                    (width * sampling.0).div_ceil(max_sampling.0),
                    (height * sampling.1).div_ceil(max_sampling.1),
                );
                let blocks = (mcus.0 * sampling.0, mcus.1 * sampling.1);
                Component {
                    id: entry[0],
                    sampling,
                    table: usize::from(entry[2]),
                    steps: [0; 64],
                    has_steps: false,
                    size,
                    own_blocks: (size.0.div_ceil(8), size.1.div_ceil(8)),
                    blocks,
                    samples: vec![128; blocks.0 * blocks.1 * 64],
                    coefficients: vec![0; if is_progressive { blocks.0 * blocks.1 * 64 } else { 0 }],
                }
            })
            .collect();
        Ok(Self { width, height, is_progressive, max_sampling, mcus, components })
    }

    /// Computes the samples of a progressive frame.
    fn draw_coefficients(&mut self) {
        for component in &mut self.components {
            let coefficients = std::mem::take(&mut component.coefficients);
            for (at, block) in coefficients.as_chunks::<64>().0.iter().enumerate() {
                let (x, y) = (at % component.blocks.0, at / component.blocks.0);
                component.draw(x, y, block, block[1..].iter().all(|value| *value == 0));
            }
        }
    }

    /// The picture's bytes from the samples of all components.
    fn pixels(&self, colors: Colors) -> Vec<u8> {
        let planes: Vec<Plane> = self
            .components
            .iter()
            .map(|component| Plane {
                samples: &component.samples,
                stride: component.blocks.0 * 8,
                width: component.size.0,
                height: component.size.1,
                across: self.max_sampling.0 / component.sampling.0,
                down: self.max_sampling.1 / component.sampling.1,
            })
            .collect();
        let width = self.mcus.0 * 8 * self.max_sampling.0;
        let mut rows = vec![vec![0; width]; planes.len()];
        let mut sums = vec![0; width];
        let mut line = vec![[0; 3]; width];
        let mut pixels = vec![0; 3 * self.width * self.height];
        for (y, pixels) in pixels.chunks_exact_mut(3 * self.width).enumerate() {
            let mut samples: [&[u8]; 4] = [&[]; 4];
            for ((plane, row), samples) in planes.iter().zip(&mut rows).zip(&mut samples) {
                *samples = plane.row(y, row, &mut sums);
            }
            colors.convert(&samples[..planes.len()], &mut line);
            pixels.copy_from_slice(line[..self.width].as_flattened());
        }
        pixels
    }
}

#[cfg(test)]
mod tests;
