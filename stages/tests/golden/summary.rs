//! What of a stage's output is kept to recognise it by: a digest of the bytes of every file, or of the files of one kind in one
//! folder, and short hashes that tell how much of one differs. It knows file formats, not stages.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// So many short hashes are kept of a part at most.
const HASHES: usize = 32;

/// Differences that are named.
const NAMED: usize = 12;

/// A file, the files of one kind in one folder, or one tensor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// The beginning of the SHA-256 of all names and bytes.
    digest: String,
    /// What it consists of.
    unit: Unit,
    /// How many of them.
    count: usize,
    /// A byte of the hash of each unit, or of each of [`HASHES`] runs of neighbours, in hexadecimal.
    hashes: String,
}

/// What a part consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Unit {
    /// Files that hold no numbers that are read here.
    File,
    /// Values of a tensor, or numbers in a text.
    Value,
}

struct Content {
    digest: Sha256,
    unit: Unit,
    /// The hash of each unit.
    hashes: Vec<u8>,
}

impl Content {
    fn new(unit: Unit) -> Self {
        Self { digest: Sha256::new(), unit, hashes: Vec::new() }
    }

    fn push(&mut self, unit: &[u8]) {
        self.hashes.push(Sha256::digest(unit)[0]);
    }

    fn part(self) -> Part {
        let run = self.hashes.len().div_ceil(HASHES).max(1);
        let hashes = self.hashes.chunks(run).map(|run| match run {
            [one] => *one,
            several => Sha256::digest(several)[0],
        });
        Part {
            digest: hex(self.digest.finalize().into_iter().take(8)),
            unit: self.unit,
            count: self.hashes.len(),
            hashes: hex(hashes),
        }
    }
}

fn hex(bytes: impl Iterator<Item = u8>) -> String {
    bytes.map(|byte| format!("{byte:02x}")).collect()
}

/// The parts of a folder.
pub fn of_folder(root: &Path) -> BTreeMap<String, Part> {
    let mut contents = BTreeMap::new();
    for path in files(root) {
        let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        add(&mut contents, &name, &fs::read(&path).unwrap());
    }
    contents.into_iter().map(|(name, content)| (name, content.part())).collect()
}

/// What differs, a line each.
pub fn differences(kept: &BTreeMap<String, Part>, now: &BTreeMap<String, Part>) -> Vec<String> {
    let mut found: BTreeMap<&str, String> = BTreeMap::new();
    for (name, old) in kept {
        match now.get(name) {
            None => drop(found.insert(name, "is gone".to_owned())),
            Some(new) if new.digest != old.digest => drop(found.insert(name, extent(old, new))),
            Some(_) => {}
        }
    }
    for name in now.keys().filter(|name| !kept.contains_key(*name)) {
        found.insert(name, "is new".to_owned());
    }
    // A tensor or an entry that differs says more than the file that holds it.
    let inner: Vec<&str> = found.keys().copied().collect();
    let is_inside = |inner: &str, outer: &str| {
        inner.strip_prefix(outer).is_some_and(|rest| rest.starts_with(": ") || rest.starts_with('/'))
    };
    found.retain(|name, _| !inner.iter().any(|inner| is_inside(inner, name)));
    let more = found.len().saturating_sub(NAMED);
    let mut lines: Vec<String> =
        found.into_iter().take(NAMED).map(|(name, how)| format!("{name}: {how}")).collect();
    if more > 0 {
        lines.push(format!("and {more} more"));
    }
    lines
}

/// How much of a part differs.
fn extent(old: &Part, new: &Part) -> String {
    let unit = match new.unit {
        Unit::File => "files",
        Unit::Value => "values",
    };
    if (old.unit, old.count) != (new.unit, new.count) {
        return format!("{} {unit} instead of {}", new.count, old.count);
    }
    let pairs = old.hashes.as_bytes().chunks(2).zip(new.hashes.as_bytes().chunks(2));
    let differing = pairs.filter(|(old, new)| old != new).count();
    let of = new.hashes.len() / 2;
    match differing {
        _ if new.count == 0 || (new.unit, new.count) == (Unit::File, 1) => "other bytes".to_owned(),
        0 => format!("other bytes, the same {unit}"),
        _ if of == new.count => format!("{differing} of {of} {unit} differ"),
        _ => format!("{unit} differ, in {differing} of {of} runs of {}", new.count.div_ceil(HASHES)),
    }
}

fn files(root: &Path) -> Vec<PathBuf> {
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

/// `images/*.png`: pictures of one kind in one folder are one part.
fn part_name(name: &str) -> String {
    match (name.rsplit_once('/'), name.rsplit_once('.')) {
        (Some((folder, _)), Some((_, kind @ ("png" | "jpg")))) => format!("{folder}/*.{kind}"),
        _ => name.to_owned(),
    }
}

fn add(contents: &mut BTreeMap<String, Content>, name: &str, bytes: &[u8]) {
    let text = std::str::from_utf8(bytes).ok().filter(|_| !name.ends_with(".svg"));
    let unit = if text.is_some() { Unit::Value } else { Unit::File };
    let content = contents.entry(part_name(name)).or_insert_with(|| Content::new(unit));
    content.digest.update(format!("{name} {}\n", bytes.len()));
    content.digest.update(bytes);
    match text {
        Some(text) => numbers(text).for_each(|number| content.push(number.as_bytes())),
        None => content.push(bytes),
    }
    match name.rsplit('.').next().unwrap_or_default() {
        "zip" => {
            let mut archive = zip::ZipArchive::new(Cursor::new(bytes)).unwrap();
            for at in 0..archive.len() {
                let mut entry = archive.by_index(at).unwrap();
                let mut inside = Vec::new();
                entry.read_to_end(&mut inside).unwrap();
                let inner = format!("{name}/{}", entry.name().unwrap());
                add(contents, &inner, &inside);
            }
        }
        "safetensors" => {
            for (tensor, view) in safetensors::SafeTensors::deserialize(bytes).unwrap().tensors() {
                let mut content = Content::new(Unit::Value);
                content.digest.update(format!("{:?} {:?}\n", view.dtype(), view.shape()));
                content.digest.update(view.data());
                let values = view.shape().iter().product::<usize>().max(1);
                let size = (view.data().len() / values).max(1);
                view.data().chunks(size).for_each(|value| content.push(value));
                contents.insert(format!("{name}: {tensor}"), content);
            }
        }
        _ => {}
    }
}

/// The numbers in a text, as far as counting those that differ goes: runs of digits and points.
fn numbers(text: &str) -> impl Iterator<Item = &str> {
    let is_part = |c: char| c.is_ascii_digit() || c == '.';
    text.split(move |c| !is_part(c)).filter(|run| run.bytes().any(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The parts of a folder that holds one text of `values`, one tensor of them, and pictures.
    fn parts(values: &[f32], words: &str, pictures: &[u8]) -> BTreeMap<String, Part> {
        let folder = tempfile::tempdir().unwrap();
        let numbers: Vec<String> = values.iter().map(|value| format!("{value:?}")).collect();
        fs::write(folder.path().join("a.json"), format!("{words} [{}]", numbers.join(","))).unwrap();
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![values.len()], &bytes)
            .unwrap();
        fs::write(folder.path().join("b.safetensors"), safetensors::serialize([("w", view)], None).unwrap())
            .unwrap();
        fs::create_dir(folder.path().join("p")).unwrap();
        for (number, picture) in pictures.iter().enumerate() {
            fs::write(folder.path().join(format!("p/{number}.png")), [0xff, *picture]).unwrap();
        }
        of_folder(folder.path())
    }

    fn values(count: usize) -> Vec<f32> {
        (0..count).map(|i| (i * 37 % 101) as f32 / 50.0 + 0.001).collect()
    }

    #[test]
    fn a_bit_is_seen_and_counted_where_it_is() {
        let kept = parts(&values(20), "x", &[1, 2, 3]);
        assert_eq!(differences(&kept, &parts(&values(20), "x", &[1, 2, 3])), [""; 0]);
        let mut bit = values(20);
        bit[7] = f32::from_bits(bit[7].to_bits() ^ 1);
        let reported = ["a.json: 1 of 20 values differ", "b.safetensors: w: 1 of 20 values differ"];
        assert_eq!(differences(&kept, &parts(&bit, "x", &[1, 2, 3])), reported);
        let mut swapped = values(20);
        swapped.swap(1, 2);
        let reported = ["a.json: 2 of 20 values differ", "b.safetensors: w: 2 of 20 values differ"];
        assert_eq!(differences(&kept, &parts(&swapped, "x", &[1, 2, 3])), reported);
        assert_eq!(
            differences(&kept, &parts(&values(20), "y", &[1, 2, 3])),
            ["a.json: other bytes, the same values"]
        );
        assert_eq!(
            differences(&kept, &parts(&values(20), "x", &[1, 9, 3])),
            ["p/*.png: 1 of 3 files differ"]
        );
        assert_eq!(differences(&kept, &parts(&values(20), "x", &[1, 2])), ["p/*.png: 2 files instead of 3"]);
        assert_eq!(differences(&kept, &parts(&values(20), "x", &[])), ["p/*.png: is gone"]);
        let reported = ["a.json: 19 values instead of 20", "b.safetensors: w: 19 values instead of 20"];
        assert_eq!(differences(&kept, &parts(&values(19), "x", &[1, 2, 3])), reported);
    }

    #[test]
    fn of_many_values_runs_are_counted() {
        let kept = parts(&values(1000), "x", &[]);
        let mut many = values(1000);
        for at in [0, 1, 500] {
            many[at] += 1.0;
        }
        let reported = differences(&kept, &parts(&many, "x", &[]));
        assert_eq!(reported[1], "b.safetensors: w: values differ, in 2 of 32 runs of 32");
    }

    #[test]
    fn numbers_are_found_in_texts() {
        let found: Vec<&str> = numbers("a1 -2.50,3e-4 . v1.2.3 end").collect();
        assert_eq!(found, ["1", "2.50", "3", "4", "1.2.3"]);
    }
}
