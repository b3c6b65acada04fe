//! Looks at a picture file without decoding it: format, size, what is odd about it, and whether it is whole. It walks
//! the file's own structure to its end mark, at the speed of memory; pixels are not looked at.

use super::data_quality::Anomaly;
use crate::formats::file_kind;
use crate::formats::image_decode::MAX_PIXELS;

/// What a picture file says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Looks {
    /// `png`, `jpeg`, `gif`.
    pub format: &'static str,
    /// Pixels across.
    pub width: u32,
    /// Pixels down.
    pub height: u32,
    /// What is odd about it, in the order of [`Anomaly`].
    pub odd: Vec<Anomaly>,
}

/// Why a picture cannot be used.
pub type Unusable = (Anomaly, String);

/// Looks at a picture whose name ends as `name` does.
///
/// # Errors
/// A file of zero bytes, of another format, without its end, or with more pixels than a meme has.
pub fn look(bytes: &[u8], name: &str) -> Result<Looks, Unusable> {
    let looked = if bytes.is_empty() {
        return Err((Anomaly::EmptyPicture, "the file has zero bytes".to_owned()));
    } else if bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
        png(bytes)
    } else if bytes.starts_with(b"\xff\xd8\xff") {
        jpeg(bytes)
    } else if bytes.starts_with(b"GIF87a") || bytes.starts_with(b"GIF89a") {
        gif(bytes)
    } else {
        let found = file_kind::placeholder(bytes);
        let found = found.unwrap_or_else(|| "is neither PNG nor JPEG nor GIF".to_owned());
        return Err((Anomaly::UnreadablePicture, format!("the file {found}")));
    };
    let mut looks =
        looked?.ok_or_else(|| (Anomaly::TruncatedPicture, "the picture ends early".to_owned()))?;
    let (width, height) = (looks.width, looks.height);
    if width == 0 || height == 0 || width > MAX_PIXELS || height > MAX_PIXELS {
        let problem = format!("{width} × {height} pixels; 1 to {MAX_PIXELS} a side can be read");
        return Err((Anomaly::UnreadablePicture, problem));
    }
    let ending = name.rsplit('.').next().unwrap_or_default().to_ascii_lowercase();
    if ending != looks.format && !(ending == "jpg" && looks.format == "jpeg") {
        looks.odd.push(Anomaly::Misnamed);
    }
    looks.odd.sort_unstable();
    looks.odd.dedup();
    Ok(looks)
}

/// A picture, nothing where the file ends early, or what is wrong.
type Look = Result<Option<Looks>, Unusable>;

fn unreadable(problem: &str) -> Look {
    Err((Anomaly::UnreadablePicture, problem.to_owned()))
}

fn big_endian(bytes: &[u8], at: usize, length: usize) -> Option<usize> {
    let bytes = bytes.get(at..at.checked_add(length)?)?;
    Some(bytes.iter().fold(0, |value, byte| value << 8 | usize::from(*byte)))
}

/// Chunks to `IEND`: length, type, data, checksum.
fn png(bytes: &[u8]) -> Look {
    let mut looks: Option<Looks> = None;
    let mut at = 8;
    while let Some(length) = big_endian(bytes, at, 4) {
        let Some(kind) = bytes.get(at + 4..at + 8) else { return Ok(None) };
        let Some(data) = bytes.get(at + 8..).and_then(|rest| rest.get(..length)) else { return Ok(None) };
        match (kind, &mut looks) {
            (b"IHDR", None) if length == 13 => {
                let side = |at| big_endian(data, at, 4).unwrap_or_default() as u32;
                let mut odd = Vec::new();
                odd.extend((data[8] == 16).then_some(Anomaly::SixteenBit));
                odd.extend((data[9] == 3).then_some(Anomaly::Palette));
                odd.extend((data[9] & 4 != 0).then_some(Anomaly::Transparent));
                looks = Some(Looks { format: "png", width: side(0), height: side(4), odd });
            }
            (_, None) => return unreadable("a PNG that does not begin with its header"),
            (b"IEND", _) => return Ok(looks),
            (b"acTL", Some(looks)) if big_endian(data, 0, 4) > Some(1) => looks.odd.push(Anomaly::Animated),
            (b"tRNS", Some(looks)) => looks.odd.push(Anomaly::Transparent),
            (b"eXIf", Some(looks)) if turned(data) => looks.odd.push(Anomaly::ExifRotation),
            _ => {}
        }
        at += 12 + length;
    }
    Ok(None)
}

/// Segments to the end mark, with compressed data, in which no mark may stand, in between.
fn jpeg(bytes: &[u8]) -> Look {
    let mut looks: Option<Looks> = None;
    let mut turn = false;
    let mut at = 2;
    loop {
        // A mark is 0xff, any number of times, and its kind; within data 0xff 0x00 is a byte and 0xffd0 to 0xffd7
        // count blocks.
        let Some(to_mark) = bytes.get(at..).and_then(|rest| rest.iter().position(|byte| *byte == 0xff))
        else {
            return Ok(None);
        };
        at += to_mark + 1;
        let Some(kind) = bytes.get(at).copied() else { return Ok(None) };
        match kind {
            0xff => continue,
            0x00 | 0x01 | 0xd0..=0xd8 => {
                at += 1;
                continue;
            }
            0xd9 => {
                let Some(mut looks) = looks else { return unreadable("a JPEG without a frame") };
                looks.odd.extend(turn.then_some(Anomaly::ExifRotation));
                return Ok(Some(looks));
            }
            _ => {}
        }
        let Some(length) = big_endian(bytes, at + 1, 2) else { return Ok(None) };
        let Some(data) = bytes.get(at + 3..).and_then(|rest| rest.get(..length.saturating_sub(2))) else {
            return Ok(None);
        };
        match kind {
            0xc0..=0xcf if !matches!(kind, 0xc4 | 0xc8 | 0xcc) && data.len() >= 6 && looks.is_none() => {
                let side = |at| big_endian(data, at, 2).unwrap_or_default() as u32;
                let mut odd = Vec::new();
                odd.extend((data[0] > 8).then_some(Anomaly::SixteenBit));
                odd.extend((data[5] == 4).then_some(Anomaly::Cmyk));
                looks = Some(Looks { format: "jpeg", width: side(3), height: side(1), odd });
            }
            0xe1 => turn |= data.strip_prefix(b"Exif\0\0").is_some_and(turned),
            _ => {}
        }
        at += 1 + length.max(2);
    }
}

/// Blocks to the trailer.
fn gif(bytes: &[u8]) -> Look {
    let side = |at: usize| match bytes.get(at..at + 2) {
        Some(pair) => u32::from(pair[0]) | u32::from(pair[1]) << 8,
        None => 0,
    };
    let table = |flags: u8| if flags & 0x80 == 0 { 0 } else { 3 << ((flags & 7) + 1) };
    let mut looks = Looks { format: "gif", width: side(6), height: side(8), odd: vec![Anomaly::Palette] };
    let Some(flags) = bytes.get(10) else { return Ok(None) };
    let mut at = 13 + table(*flags);
    let mut frames = 0;
    while let Some(kind) = bytes.get(at) {
        match kind {
            b';' if frames == 0 => return unreadable("a GIF without a frame"),
            b';' => {
                looks.odd.extend((frames > 1).then_some(Anomaly::Animated));
                return Ok(Some(looks));
            }
            b',' => {
                let Some(flags) = bytes.get(at + 9) else { return Ok(None) };
                frames += 1;
                at += 11 + table(*flags);
            }
            b'!' => {
                // Later frames are not looked at.
                let transparent = frames == 0 && bytes.get(at + 1) == Some(&0xf9);
                let transparent = transparent && bytes.get(at + 3).is_some_and(|flags| flags & 1 == 1);
                looks.odd.extend(transparent.then_some(Anomaly::Transparent));
                at += 2;
            }
            _ => return unreadable("a GIF with an unknown block"),
        }
        // Sub-blocks: a length and as many bytes, up to length 0.
        loop {
            let Some(length) = bytes.get(at) else { return Ok(None) };
            at += 1 + usize::from(*length);
            if *length == 0 {
                break;
            }
        }
    }
    Ok(None)
}

/// Whether EXIF data (a TIFF header and its first directory) ask for a turn or a mirror image.
fn turned(tiff: &[u8]) -> bool {
    let little = match tiff.get(..4) {
        Some(b"II*\0") => true,
        Some(b"MM\0*") => false,
        _ => return false,
    };
    let number = |at: usize, length: usize| {
        let mut bytes = tiff.get(at..at.checked_add(length)?)?.to_vec();
        if little {
            bytes.reverse();
        }
        big_endian(&bytes, 0, length)
    };
    let orientation = || {
        let start = number(4, 4)?;
        let entries = number(start, 2)?;
        let entry = (0..entries).map(|entry| start + 2 + 12 * entry);
        let mut entry = entry.take_while(|at| at + 12 <= tiff.len());
        number(entry.find(|at| number(*at, 2) == Some(0x112))? + 8, 2)
    };
    orientation().is_some_and(|orientation| (2..=8).contains(&orientation))
}

#[cfg(test)]
mod tests;
