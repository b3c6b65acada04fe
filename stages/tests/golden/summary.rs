//! What of a stage's output is kept to recognise it by: exactly what is exact (names, texts, integers, shapes), and
//! of fractions as many weighted sums as tell a change from the rounding of another CPU. It knows file formats,
//! not stages.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Fractions are summed in so many blocks; fewer fractions are kept one by one.
const BLOCKS: usize = 48;

/// Files of one kind in one folder, or one tensor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// How many files.
    files: usize,
    /// Digest of names and of everything that is no fraction.
    exact: String,
    /// How many fractions.
    fractions: usize,
    /// Weighted sums of neighbouring fractions.
    sums: Vec<f64>,
    /// The same sums over magnitudes: what a difference is measured against. Not kept; those of now count.
    #[serde(skip)]
    magnitudes: Vec<f64>,
}

#[derive(Default)]
struct Content {
    files: usize,
    exact: Sha256,
    fractions: Vec<f64>,
}

/// The parts of a folder. Of tensors whose name ends in one of `noise` only the shape counts.
pub fn of_folder(root: &Path, noise: &[&str]) -> BTreeMap<String, Part> {
    let mut contents: BTreeMap<String, Content> = BTreeMap::new();
    for path in files(root) {
        let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        add(&mut contents, &name, &fs::read(&path).unwrap(), noise);
    }
    contents.into_iter().map(|(name, content)| (name, part(content))).collect()
}

/// What differs, a line each.
pub fn differences(
    kept: &BTreeMap<String, Part>,
    now: &BTreeMap<String, Part>,
    tolerance: f64,
) -> Vec<String> {
    let mut found = Vec::new();
    for name in kept.keys().filter(|name| !now.contains_key(*name)) {
        found.push(format!("{name} is gone"));
    }
    for (name, part) in now {
        let Some(old) = kept.get(name) else {
            found.push(format!("{name} is new"));
            continue;
        };
        let counts = (old.files, old.fractions) != (part.files, part.fractions);
        if counts || old.exact != part.exact {
            found.push(format!("{name}: its names, words, whole numbers or shapes differ"));
            continue;
        }
        let off = |(old, (new, size)): (&f64, (&f64, &f64))| (old - new).abs() / size.max(f64::MIN_POSITIVE);
        let worst = old.sums.iter().zip(part.sums.iter().zip(&part.magnitudes)).map(off).fold(0.0, f64::max);
        if worst > tolerance {
            found.push(format!(
                "{name}: its numbers are off by {worst:.1e} of their size; {tolerance:.0e} may be rounding"
            ));
        }
    }
    found
}

fn files(root: &Path) -> Vec<std::path::PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![root.to_owned()]);
    while let Some(folder) = folders.pop() {
        for item in fs::read_dir(folder).unwrap() {
            let item = item.unwrap();
            if item.file_type().unwrap().is_dir() {
                folders.push(item.path())
            } else {
                found.push(item.path())
            }
        }
    }
    found.sort();
    found
}

/// `images/*.png`: files of one kind in one folder are one part.
fn part_name(name: &str) -> String {
    match (name.rsplit_once('/'), name.rsplit_once('.')) {
        (Some((folder, _)), Some((_, kind))) => format!("{folder}/*.{kind}"),
        _ => name.to_owned(),
    }
}

fn add(contents: &mut BTreeMap<String, Content>, name: &str, bytes: &[u8], noise: &[&str]) {
    let kind = name.rsplit('.').next().unwrap_or_default();
    match kind {
        "zip" => {
            let mut archive = zip::ZipArchive::new(std::io::Cursor::new(bytes)).unwrap();
            for at in 0..archive.len() {
                let mut entry = archive.by_index(at).unwrap();
                let mut inside = Vec::new();
                entry.read_to_end(&mut inside).unwrap();
                let inner = format!("{name}/{}", entry.name().unwrap());
                add(contents, &inner, &inside, noise);
            }
        }
        "safetensors" => {
            let tensors = safetensors::SafeTensors::deserialize(bytes).unwrap();
            let mut tensors: Vec<_> = tensors.tensors();
            tensors.sort_by(|a, b| a.0.cmp(&b.0));
            for (tensor, view) in tensors {
                let content = contents.entry(format!("{name}: {tensor}")).or_default();
                content.files += 1;
                content.exact.update(format!("{:?} {:?}\n", view.dtype(), view.shape()));
                if !noise.iter().any(|end| tensor.ends_with(end)) {
                    tensor_values(view.dtype(), view.data(), content);
                }
            }
        }
        _ => {
            let content = contents.entry(part_name(name)).or_default();
            content.files += 1;
            content.exact.update(format!("{name}\n"));
            match kind {
                "png" | "jpg" => {
                    let picture = image::load_from_memory(bytes).unwrap().into_rgba8();
                    content.exact.update(format!("{}x{}\n", picture.width(), picture.height()));
                    content.fractions.extend(picture.as_raw().iter().map(|value| f64::from(*value)));
                }
                _ => match std::str::from_utf8(bytes) {
                    Ok(text) => content.exact.update(without_fractions(text, &mut content.fractions)),
                    Err(_) => content.exact.update(bytes),
                },
            }
        }
    }
}

fn tensor_values(dtype: safetensors::Dtype, data: &[u8], content: &mut Content) {
    use safetensors::Dtype::{F16, F32, F64};
    let values: Vec<f64> = match dtype {
        F16 => data.as_chunks().0.iter().map(|b| half::f16::from_le_bytes(*b).to_f64()).collect(),
        F32 => data.as_chunks().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect(),
        F64 => data.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b)).collect(),
        _ => return content.exact.update(data),
    };
    for (at, value) in values.into_iter().enumerate() {
        if !value.is_finite() {
            content.exact.update(format!("{at}: {value}\n"));
        }
        content.fractions.push(if value.is_finite() { value } else { 0.0 });
    }
}

/// The text with `?` for every number that has a decimal point or a negative exponent; the numbers go to `found`.
fn without_fractions(text: &str, found: &mut Vec<f64>) -> String {
    let bytes = text.as_bytes();
    let digits = |mut at: usize| {
        while bytes.get(at).is_some_and(u8::is_ascii_digit) {
            at += 1;
        }
        at
    };
    let (mut rest, mut start, mut at) = (String::with_capacity(text.len()), 0, 0);
    while at < bytes.len() {
        if !bytes[at].is_ascii_digit() {
            at += 1;
            continue;
        }
        let whole = digits(at);
        let mut end = whole;
        if bytes.get(whole) == Some(&b'.') && digits(whole + 1) > whole + 1 {
            end = digits(whole + 1);
        }
        if bytes.get(end) == Some(&b'e') && bytes.get(end + 1) == Some(&b'-') && digits(end + 2) > end + 2 {
            end = digits(end + 2);
        }
        if end > whole {
            let minus = at > 0 && bytes[at - 1] == b'-';
            let begin = at - usize::from(minus);
            let _ = write!(rest, "{}?", &text[start..begin]);
            found.push(text[begin..end].parse().unwrap());
            start = end;
        }
        at = end;
    }
    rest + &text[start..]
}

/// Between 1 and 2, different for each place, so that values that changed places do not go unnoticed.
fn weight(place: usize) -> f64 {
    1.0 + (place as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) as f64 / u64::MAX as f64
}

fn part(content: Content) -> Part {
    let size = content.fractions.len().div_ceil(BLOCKS).max(1);
    let sums = |value: fn(f64) -> f64| {
        let block = |(number, block): (usize, &[f64])| -> f64 {
            let first = number * size;
            block.iter().enumerate().map(|(at, x)| weight(first + at) * value(*x)).sum()
        };
        content.fractions.chunks(size).enumerate().map(block).collect::<Vec<f64>>()
    };
    // More digits than any tolerance here can see would only make the files large.
    let short = |value: f64| format!("{value:.7e}").parse().unwrap();
    Part {
        files: content.files,
        exact: content.exact.finalize().iter().take(8).fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        }),
        fractions: content.fractions.len(),
        sums: sums(|x| x).into_iter().map(short).collect(),
        magnitudes: sums(f64::abs),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The parts of a folder that holds one text of `values` and one tensor of them.
    fn parts(values: &[f32], words: &str) -> BTreeMap<String, Part> {
        let folder = tempfile::tempdir().unwrap();
        let numbers: Vec<String> = values.iter().map(|value| format!("{value:?}")).collect();
        fs::write(folder.path().join("a.json"), format!("{words} [{}]", numbers.join(","))).unwrap();
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![values.len()], &bytes)
            .unwrap();
        let file = File::create(folder.path().join("b.safetensors")).unwrap();
        let text = safetensors::serialize([("w", view)], None).unwrap();
        std::io::Write::write_all(&mut { file }, &text).unwrap();
        of_folder(folder.path(), &[])
    }

    fn values() -> Vec<f32> {
        (0..1000).map(|i| ((i * 37 % 101) as f32 / 50.0 - 1.0) * 3.0).collect()
    }

    #[test]
    fn rounding_passes() {
        let kept = parts(&values(), "x 7");
        let rounded: Vec<f32> =
            values().iter().enumerate().map(|(i, x)| x * (1.0 + (i % 3) as f32 * 1e-6)).collect();
        assert_eq!(differences(&kept, &parts(&rounded, "x 7"), 1e-4), [""; 0]);
    }

    #[test]
    fn a_value_a_swap_a_word_an_integer_and_a_scale_do_not() {
        let kept = parts(&values(), "x 7");
        let changed = |change: &dyn Fn(&mut Vec<f32>), words: &str| {
            let mut values = values();
            change(&mut values);
            differences(&kept, &parts(&values, words), 1e-4).len()
        };
        assert_eq!(changed(&|_| {}, "x 7"), 0);
        assert_eq!(changed(&|values| values[500] += 0.05, "x 7"), 2);
        assert_eq!(changed(&|values| values.swap(10, 20), "x 7"), 2);
        assert_eq!(changed(&|values| values.iter_mut().for_each(|x| *x *= 1.001), "x 7"), 2);
        assert_eq!(changed(&|values| values.truncate(999), "x 7"), 2);
        assert_eq!(changed(&|_| {}, "y 7"), 1);
        assert_eq!(changed(&|_| {}, "x 8"), 1);
    }

    #[test]
    fn fractions_are_found_in_texts() {
        let mut found = Vec::new();
        let rest = without_fractions("a1 -2.50,3e-4 #12e4 v1.2.3 M1.5-2.25 7. end", &mut found);
        assert_eq!(rest, "a1 ?,? #12e4 v?.3 M?? 7. end");
        assert_eq!(found, [-2.5, 3e-4, 1.2, 1.5, -2.25]);
    }
}
