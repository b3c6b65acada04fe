//! The tsv of bottom-up attention: a line a picture, arrays in base64. Two orders of columns are around: that of the
//! original (6 columns) and that of LXMERT (10). Lines are indexed once and read from the mapped file.

use std::collections::HashMap;
use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::artifacts::region_features::PictureRegions;
use crate::formats::file_kind;
use crate::formats::mapped_file::MappedFile;

/// Tables and where in them each picture's line is.
pub(super) struct Tsv {
    tables: Vec<MappedFile>,
    /// Table, begin, end.
    lines: HashMap<String, (usize, usize, usize)>,
}

/// Places of the columns.
struct Columns {
    width: usize,
    height: usize,
    boxes: usize,
    features: usize,
    /// Class and its probability.
    objects: Option<(usize, usize)>,
}

const ORIGINAL: Columns = Columns { width: 1, height: 2, boxes: 4, features: 5, objects: None };
const LXMERT: Columns = Columns { width: 2, height: 1, boxes: 8, features: 9, objects: Some((3, 4)) };

impl Tsv {
    /// Indexes tables.
    ///
    /// # Errors
    /// A table that cannot be read, a line that is no UTF-8 text up to its first tab, two rows of one picture
    /// that differ.
    pub(super) fn open(paths: &[PathBuf]) -> Result<Self, String> {
        let (mut tables, mut lines) = (Vec::new(), HashMap::new());
        for path in paths {
            let table = MappedFile::open(path).map_err(|error| format!("{}: {error}", path.display()))?;
            let head = &table[..table.len().min(1 << 12)];
            // A table without rows is no more than that.
            if let Some(problem) = file_kind::placeholder(head).filter(|_| !head.is_empty()) {
                return Err(format!("{}: {problem}", path.display()));
            }
            let mut start = 0;
            for (number, line) in table.split(|byte| *byte == b'\n').enumerate() {
                let end = start + line.len();
                if !line.is_empty() {
                    let id = line.split(|byte| *byte == b'\t').next().unwrap_or_default();
                    let id = std::str::from_utf8(id)
                        .map_err(|_| format!("{}, line {}: no text", path.display(), number + 1))?;
                    let here = (tables.len(), start, end);
                    if let Some((other, start, end)) = lines.insert(id.to_owned(), here) {
                        let earlier: &[u8] = tables.get(other).map_or(&table, |table: &MappedFile| table);
                        if earlier[start..end] != *line {
                            let id = file_kind::shown(id);
                            let place = format!("{}, line {}", path.display(), number + 1);
                            return Err(format!(
                                "{place}: `{id}` has another row before; remove one of them"
                            ));
                        }
                    }
                }
                start = end + 1;
            }
            tables.push(table);
        }
        Ok(Self { tables, lines })
    }

    /// The pictures that have a line.
    pub(super) fn ids(&self) -> impl Iterator<Item = &str> {
        self.lines.keys().map(String::as_str)
    }

    /// The first `max_regions` regions of a picture.
    ///
    /// # Errors
    /// A line of another form.
    pub(super) fn regions(&self, name: &str, max_regions: usize) -> Result<PictureRegions, String> {
        let &(table, start, end) = self.lines.get(name).ok_or("has no line")?;
        let line = self.tables[table][start..end].trim_ascii_end();
        let cells: Vec<&[u8]> = line.split(|byte| *byte == b'\t').collect();
        let columns = match cells.len() {
            6 => ORIGINAL,
            10 => LXMERT,
            other => {
                return Err(format!(
                    "its line has {other} columns; 6 (bottom-up attention) or 10 (LXMERT) are known"
                ));
            }
        };
        let side =
            |at: usize| std::str::from_utf8(cells[at]).ok().and_then(|text| text.trim().parse::<u32>().ok());
        let size = side(columns.width).zip(side(columns.height));
        let decode =
            |at: usize| STANDARD.decode(cells[at]).map_err(|error| format!("column {}: {error}", at + 1));
        let words = |at: usize| -> Result<Vec<[u8; 4]>, String> {
            let bytes = decode(at)?;
            match bytes.as_chunks() {
                (words, []) => Ok(words.to_vec()),
                _ => Err(format!("column {}: {} bytes are not 32-bit numbers", at + 1, bytes.len())),
            }
        };
        let floats =
            |at| words(at).map(|words| words.into_iter().map(f32::from_le_bytes).collect::<Vec<f32>>());
        let (boxes, mut features) = (floats(columns.boxes)?, floats(columns.features)?);
        let rows = boxes.len() / 4;
        if rows == 0 || boxes.len() % 4 != 0 || !features.len().is_multiple_of(rows) {
            return Err(format!(
                "{} numbers of boxes do not go with {} of features",
                boxes.len(),
                features.len()
            ));
        }
        let count = rows.min(max_regions);
        features.truncate(count * (features.len() / rows));
        let (mut objects, mut scores) = (vec![0; count], vec![0.0; count]);
        if let Some((object, score)) = columns.objects {
            // LXMERT's classes are 64-bit numbers.
            let ids = decode(object)?;
            let ids: Vec<u32> =
                ids.as_chunks::<8>().0.iter().map(|id| i64::from_le_bytes(*id).max(0) as u32).collect();
            let found = floats(score)?;
            if ids.len() != rows || found.len() != rows {
                return Err(format!("{} classes and {} scores of {rows} boxes", ids.len(), found.len()));
            }
            objects.copy_from_slice(&ids[..count]);
            scores.copy_from_slice(&found[..count]);
        }
        let boxes = if size.is_some() { corners(&boxes, count) } else { vec![[0.0; 4]; count] };
        Ok(PictureRegions {
            features,
            boxes,
            scores,
            objects,
            size: size.unwrap_or(PictureRegions::UNKNOWN_SIZE),
        })
    }
}

/// The first `count` boxes of a flat list.
pub(super) fn corners(values: &[f32], count: usize) -> Vec<[f32; 4]> {
    values.as_chunks().0.iter().take(count).copied().collect()
}
