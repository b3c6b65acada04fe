//! Compares two outputs of a step file by file: byte for byte, or, with a tolerance, number by number in JSON, CSV,
//! other text and safetensors. It knows file formats, not steps.

use std::fs;
use std::io;
use std::path::Path;

use crate::tree::Manifest;

const OTHER_BYTES: &str = "has different bytes";

/// A file that differs by more than the tolerance.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Difference {
    /// Its path within the output.
    pub path: String,
    /// The difference.
    pub how: String,
}

/// The differences between two outputs. `tolerance` is the allowed relative difference of a number, relative to the
/// larger of the two. For an element of a tensor, the tensor's root mean square is used if it is larger.
///
/// # Errors
/// When a file cannot be read.
pub fn outputs(
    old: (&Path, &Manifest),
    new: (&Path, &Manifest),
    tolerance: Option<f64>,
) -> io::Result<Vec<Difference>> {
    by_file(old, new, |path, old, new| match tolerance {
        None => Ok(Some(OTHER_BYTES.to_owned())),
        Some(tolerance) => Ok(contents(path, &fs::read(old)?, &fs::read(new)?, tolerance).err()),
    })
}

/// The differences between two outputs, each a file or a folder, with the size of the difference if both hold
/// numbers. `path` is the name of the outputs.
///
/// # Errors
/// When a file cannot be read.
pub fn measure(path: &str, old: &Path, new: &Path) -> io::Result<Vec<Difference>> {
    let how = |path: &str, old: &Path, new: &Path| Ok(measure_file(path, &fs::read(old)?, &fs::read(new)?));
    if !(old.is_dir() && new.is_dir()) {
        let how = if old.is_dir() || new.is_dir() { None } else { how(path, old, new)? };
        let how = how.unwrap_or_else(|| OTHER_BYTES.to_owned());
        return Ok(vec![Difference { path: path.to_owned(), how }]);
    }
    let manifest = |folder| Manifest::of_folder(folder).map_err(io::Error::other);
    let (old_manifest, new_manifest) = (manifest(old)?, manifest(new)?);
    let mut found = by_file((old, &old_manifest), (new, &new_manifest), how)?;
    for difference in &mut found {
        difference.path = format!("{path}/{}", difference.path);
    }
    Ok(found)
}

/// The difference between two files, with its size if both hold numbers; `None` if they are equal.
pub fn measure_file(path: &str, old: &[u8], new: &[u8]) -> Option<String> {
    (old != new).then(|| contents(path, old, new, 0.0).err().unwrap_or_else(|| OTHER_BYTES.to_owned()))
}

/// The files in which two outputs differ. `how` describes the difference between two files, or returns `None` if it
/// is allowed.
fn by_file(
    (old, old_manifest): (&Path, &Manifest),
    (new, new_manifest): (&Path, &Manifest),
    how: impl Fn(&str, &Path, &Path) -> io::Result<Option<String>>,
) -> io::Result<Vec<Difference>> {
    let mut found = Vec::new();
    let find = |manifest: &Manifest, path: &str| {
        let entries = manifest.entries();
        entries.binary_search_by(|entry| entry.path.as_str().cmp(path)).ok().map(|at| entries[at].digest)
    };
    let mut add =
        |path: &str, how: &str| found.push(Difference { path: path.to_owned(), how: how.to_owned() });
    for entry in old_manifest.entries() {
        match find(new_manifest, &entry.path) {
            None => add(&entry.path, "is missing"),
            Some(digest) if digest == entry.digest => {}
            Some(_) => {
                if let Some(how) = how(&entry.path, &old.join(&entry.path), &new.join(&entry.path))? {
                    add(&entry.path, &how);
                }
            }
        }
    }
    for entry in new_manifest.entries().iter().filter(|entry| find(old_manifest, &entry.path).is_none()) {
        add(&entry.path, "was added");
    }
    Ok(found)
}

/// Whether two files are equal within a tolerance.
fn contents(path: &str, old: &[u8], new: &[u8], tolerance: f64) -> Result<(), String> {
    if path.ends_with(".safetensors") {
        return tensors(old, new, tolerance);
    }
    match (std::str::from_utf8(old), std::str::from_utf8(new)) {
        (Ok(old), Ok(new)) => texts(old, new, tolerance),
        _ => Err(OTHER_BYTES.to_owned()),
    }
}

fn off(old: f64, new: f64, scale: f64) -> f64 {
    let size = old.abs().max(new.abs()).max(scale);
    if old == new || size == 0.0 { 0.0 } else { (old - new).abs() / size }
}

fn within_tolerance(worst: f64, tolerance: f64) -> Result<(), String> {
    // NaN is never within the tolerance.
    if worst <= tolerance {
        Ok(())
    } else {
        Err(format!("has numbers with a relative difference of {worst:.2e}"))
    }
}

fn texts(old: &str, new: &str, tolerance: f64) -> Result<(), String> {
    let (mut old, mut new) = (Pieces(old), Pieces(new));
    let mut worst: f64 = 0.0;
    loop {
        match (old.next(), new.next()) {
            (None, None) => return within_tolerance(worst, tolerance),
            (Some(Piece::Number(old)), Some(Piece::Number(new))) => worst = worst.max(off(old, new, 0.0)),
            (Some(Piece::Words(old)), Some(Piece::Words(new))) if old == new => {}
            _ => return Err("has different words".to_owned()),
        }
    }
}

enum Piece<'a> {
    Number(f64),
    Words(&'a str),
}

/// A text as numbers and the words between them. Digits within a word (`sha256`, `3f9a`) are part of the word.
struct Pieces<'a>(&'a str);

impl<'a> Iterator for Pieces<'a> {
    type Item = Piece<'a>;

    fn next(&mut self) -> Option<Piece<'a>> {
        let bytes = self.0.as_bytes();
        if bytes.is_empty() {
            return None;
        }
        if let Some((number, length)) = number(bytes) {
            self.0 = &self.0[length..];
            return Some(Piece::Number(number));
        }
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || !byte.is_ascii();
        let mut end = 0;
        while end < bytes.len() {
            let begins = end == 0 || !is_word(bytes[end - 1]);
            if end > 0 && begins && number(&bytes[end..]).is_some() {
                break;
            }
            end += 1;
        }
        let (words, rest) = self.0.split_at(end);
        self.0 = rest;
        Some(Piece::Words(words))
    }
}

/// The number at the start of a text, and its length, unless a word continues after it.
fn number(text: &[u8]) -> Option<(f64, usize)> {
    let digits = |from: usize| text[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let mut end = usize::from(matches!(text.first(), Some(b'-' | b'+')));
    let whole = digits(end);
    end += whole;
    if text.get(end) == Some(&b'.') && (whole > 0 || digits(end + 1) > 0) {
        end += 1 + digits(end + 1);
    } else if whole == 0 {
        return None;
    }
    if matches!(text.get(end), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(text.get(end + 1), Some(b'-' | b'+')));
        if digits(end + 1 + sign) > 0 {
            end += 1 + sign + digits(end + 1 + sign);
        }
    }
    if text.get(end).is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_' || !byte.is_ascii()) {
        return None;
    }
    let number = std::str::from_utf8(&text[..end]).ok()?.parse().ok()?;
    Some((number, end))
}

/// The header of a safetensors file (JSON) and the bytes after it.
fn header(file: &[u8]) -> Option<(serde_json::Map<String, serde_json::Value>, &[u8])> {
    let length = usize::try_from(u64::from_le_bytes(file.get(..8)?.try_into().ok()?)).ok()?;
    let rest = &file[8..];
    Some((serde_json::from_slice(rest.get(..length)?).ok()?, &rest[length..]))
}

fn tensors(old: &[u8], new: &[u8], tolerance: f64) -> Result<(), String> {
    let unread = || "is not a valid safetensors file".to_owned();
    let ((old_header, old), (new_header, new)) =
        (header(old).ok_or_else(unread)?, header(new).ok_or_else(unread)?);
    if old_header != new_header {
        return Err("has different tensors".to_owned());
    }
    let mut worst: f64 = 0.0;
    for (name, tensor) in old_header.iter().filter(|(name, _)| *name != "__metadata__") {
        let offset = |at: usize| usize::try_from(tensor["data_offsets"][at].as_u64()?).ok();
        let range = offset(0).zip(offset(1)).ok_or_else(unread)?;
        let (Some(old), Some(new)) = (old.get(range.0..range.1), new.get(range.0..range.1)) else {
            return Err(unread());
        };
        let dtype = tensor["dtype"].as_str().unwrap_or_default();
        let (Some(old), Some(new)) = (floats(dtype, old), floats(dtype, new)) else {
            if old != new {
                return Err(format!("has different integers in `{name}`"));
            }
            continue;
        };
        let scale = (old.iter().map(|x| x * x).sum::<f64>() / old.len().max(1) as f64).sqrt();
        for (old, new) in old.iter().zip(&new) {
            let off = if old.to_bits() == new.to_bits() { 0.0 } else { off(*old, *new, scale) };
            // `f64::max` ignores NaN, which must not pass.
            worst = if off.is_nan() { f64::INFINITY } else { worst.max(off) };
        }
    }
    within_tolerance(worst, tolerance)
}

/// The elements of a floating-point tensor; `None` for other types.
fn floats(dtype: &str, bytes: &[u8]) -> Option<Vec<f64>> {
    Some(match dtype {
        "F64" => bytes.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b)).collect(),
        "F32" => bytes.as_chunks().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect(),
        "BF16" => bytes
            .as_chunks()
            .0
            .iter()
            .map(|b| f64::from(f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16)))
            .collect(),
        "F16" => bytes.as_chunks().0.iter().map(|b| half(u16::from_le_bytes(*b))).collect(),
        _ => return None,
    })
}

/// An IEEE 754 number of 16 bits.
fn half(bits: u16) -> f64 {
    let (sign, exponent, fraction) = (bits >> 15, bits >> 10 & 0x1f, f64::from(bits & 0x3ff));
    let size = match exponent {
        0 => fraction / f64::from(1 << 24),
        0x1f if fraction == 0.0 => f64::INFINITY,
        0x1f => f64::NAN,
        _ => (1.0 + fraction / 1024.0) * f64::from(1 << exponent) / f64::from(1 << 15),
    };
    if sign == 1 { -size } else { size }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_texts_have_a_tolerance_and_words_have_none() {
        let within = |old, new| contents("a.json", str::as_bytes(old), str::as_bytes(new), 1e-3).is_ok();
        assert!(within(r#"{"loss": 0.51234, "n": 7}"#, r#"{"loss": 0.51235, "n": 7}"#));
        assert!(within("a,1e-8\nb,-2", "a,1.0001e-8\nb,-2.0"));
        assert!(!within(r#"{"loss": 0.51}"#, r#"{"loss": 0.52}"#));
        assert!(!within("x 1", "x -1") && !within("x 0", "x 0.1"));
        assert!(!within("lr 1", "lt 1") && !within("1, 2", "1, 2, 3") && !within("1", "x"));
        assert!(
            !within("sha256", "sha257") && !within("3f9a", "4f9a"),
            "digits within a word are not a number"
        );
        assert!(!within("1", "nan"));
    }

    #[test]
    fn elements_of_tensors_have_a_tolerance_relative_to_the_tensors_size() {
        let file = |values: &[f32], dtype: &str| {
            let header = format!(
                r#"{{"w":{{"dtype":"{dtype}","shape":[{}],"data_offsets":[0,{}]}}}}"#,
                values.len(),
                4 * values.len()
            );
            let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
            bytes.extend(header.as_bytes());
            bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            bytes
        };
        let within = |old: &[f32], new: &[f32]| {
            contents("w.safetensors", &file(old, "F32"), &file(new, "F32"), 1e-3).is_ok()
        };
        assert!(within(&[1.0, -2.0, 0.0], &[1.0005, -2.0, 0.0005]));
        assert!(!within(&[1.0, -2.0, 0.0], &[1.0, -2.01, 0.0]));
        assert!(!within(&[1.0, 2.0], &[f32::NAN, 2.0]) && within(&[f32::NAN, 2.0], &[f32::NAN, 2.0]));
        assert!(!within(&[1.0], &[1.0, 1.0]));
        assert!(contents("w.safetensors", &file(&[1.0], "I32"), &file(&[1.0001], "I32"), 1e-3).is_err());
        assert!(contents("w.safetensors", b"short", b"shirt", 1e-3).is_err());
    }

    #[test]
    fn a_difference_between_numbers_has_a_size() {
        let measured = |old, new| measure_file("a.json", str::as_bytes(old), str::as_bytes(new));
        assert_eq!(measured("[0.5, 1]", "[0.5, 1]"), None);
        assert_eq!(
            measured("[0.5, 1]", "[0.4, 1]").as_deref(),
            Some("has numbers with a relative difference of 2.00e-1")
        );
        assert_eq!(
            measured("[0.5, 1]", "[0.50, 1]").as_deref(),
            Some("has different bytes"),
            "the same number"
        );
        assert_eq!(measured("a 1", "b 1").as_deref(), Some("has different words"));

        let folder = tempfile::tempdir().unwrap();
        for (name, text) in
            [("old/a", "1"), ("old/gone", ""), ("old/same", "x"), ("new/a", "2"), ("new/same", "x")]
        {
            let file = folder.path().join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        let found = measure("out", &folder.path().join("old"), &folder.path().join("new")).unwrap();
        let lines: Vec<String> = found.iter().map(|file| format!("{} {}", file.path, file.how)).collect();
        assert_eq!(lines, ["out/a has numbers with a relative difference of 5.00e-1", "out/gone is missing"]);
        let found = measure("out", &folder.path().join("old"), &folder.path().join("new/a")).unwrap();
        assert_eq!(
            (found.len(), found[0].how.as_str()),
            (1, "has different bytes"),
            "a folder became a file"
        );
    }

    #[test]
    fn sixteen_bits_are_read() {
        assert_eq!(
            [half(0x3c00), half(0xc000), half(0x0001), half(0x7bff)],
            [1.0, -2.0, 1.0 / f64::from(1 << 24), 65504.0]
        );
        assert!(half(0x7c00).is_infinite() && half(0x7e00).is_nan());
    }
}
