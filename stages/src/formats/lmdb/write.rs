//! Writes an LMDB in one pass: values as they come, each on pages of its own, then the tree above the sorted keys.

use std::fs::{self, File};
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::Path;

use super::{BRANCH, HEADER, LEAF, LONG, LONGEST_KEY, MAGIC, META, NODE, NONE, OVERFLOW, VERSION};

/// What could not be written, for a message that names the file.
type Result<T> = std::result::Result<T, String>;

/// Bytes of a page, what LMDB takes on the machines that MMF runs on.
const PAGE: usize = 4096;

/// A new LMDB.
pub struct LmdbWriter {
    file: BufWriter<File>,
    /// Pages that are written.
    pages: u64,
    long_pages: u64,
    /// Keys, first page and length of their values.
    entries: Vec<(Vec<u8>, u64, u32)>,
}

/// A node of the page that is being filled.
struct Node {
    /// The first six bytes after each other: size or page, and flags.
    head: [u8; 6],
    key: Vec<u8>,
    data: Vec<u8>,
}

impl LmdbWriter {
    /// Starts `data.mdb` in `dir`, which is created. Readers that lock create the lock file next to it.
    ///
    /// # Errors
    /// A folder that cannot be written to.
    pub fn create(dir: &Path) -> Result<Self> {
        let path = dir.join("data.mdb");
        let make = || {
            fs::create_dir_all(dir)?;
            let mut file = BufWriter::with_capacity(1 << 20, File::create(&path)?);
            file.write_all(&[0; 2 * PAGE])?;
            Ok(file)
        };
        let file = make().map_err(|error: std::io::Error| error.to_string())?;
        Ok(Self { file, pages: 2, long_pages: 0, entries: Vec::new() })
    }

    /// Writes a value.
    ///
    /// # Errors
    /// A key of no or too many bytes, a value of 4 GiB; a disk that is full.
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        if key.is_empty() || key.len() > LONGEST_KEY {
            let key = String::from_utf8_lossy(key);
            return Err(format!("the key `{key}` must have 1 to {LONGEST_KEY} bytes"));
        }
        let size = u32::try_from(value.len()).map_err(|_| "a value has 4 GiB or more".to_owned())?;
        let pages = (HEADER + value.len()).div_ceil(PAGE);
        let mut header = header(self.pages, OVERFLOW);
        header[12..16].copy_from_slice(&(pages as u32).to_le_bytes());
        let padding = pages * PAGE - HEADER - value.len();
        let written = self.file.write_all(&header).and_then(|()| self.file.write_all(value));
        let written = written.and_then(|()| self.file.write_all(&[0; PAGE][..padding]));
        written.map_err(|error| error.to_string())?;
        self.entries.push((key.to_vec(), self.pages, size));
        self.pages += pages as u64;
        self.long_pages += pages as u64;
        Ok(())
    }

    /// Writes the tree and the metas.
    ///
    /// # Errors
    /// A key that was given twice; a disk that is full.
    pub fn finish(mut self) -> Result<()> {
        self.entries.sort();
        if let Some(pair) = self.entries.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            let key = String::from_utf8_lossy(&pair[0].0);
            return Err(format!("the key `{key}` was written twice"));
        }
        self.finish_tree().map_err(|error| error.to_string())
    }

    fn finish_tree(mut self) -> std::io::Result<()> {
        let count = self.entries.len() as u64;
        let leaves = std::mem::take(&mut self.entries).into_iter().map(|(key, page, size)| {
            let [a, b, c, d] = size.to_le_bytes();
            Node { head: [a, b, c, d, LONG as u8, 0], key, data: page.to_le_bytes().to_vec() }
        });
        let mut level = self.write_level(leaves.collect(), LEAF)?;
        let leaf_pages = level.len() as u64;
        let (mut depth, mut branch_pages) = (u16::from(leaf_pages > 0), 0);
        while level.len() > 1 {
            let nodes = level.into_iter().map(|(key, page)| {
                let [a, b, c, d, e, f, ..] = page.to_le_bytes();
                Node { head: [a, b, c, d, e, f], key, data: Vec::new() }
            });
            level = self.write_level(nodes.collect(), BRANCH)?;
            branch_pages += level.len() as u64;
            depth += 1;
        }
        let root = level.first().map_or(NONE, |(_, page)| *page);
        self.file.seek(SeekFrom::Start(0))?;
        let empty = tree(0, 0, [0; 4], NONE);
        let main = tree(0, depth, [branch_pages, leaf_pages, self.long_pages, count], root);
        self.write_meta(0, &empty, 1)?;
        self.write_meta(1, &main, self.pages - 1)?;
        self.file.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()
    }

    /// Writes the pages of a level of the tree; the least key of each and its number.
    fn write_level(&mut self, nodes: Vec<Node>, kind: u16) -> std::io::Result<Vec<(Vec<u8>, u64)>> {
        let mut level = Vec::new();
        let mut nodes = nodes.into_iter().peekable();
        while let Some(node) = nodes.peek() {
            let first = node.key.clone();
            let mut page = [0u8; PAGE];
            let (mut lower, mut upper) = (HEADER, PAGE);
            while let Some(node) = nodes.peek() {
                // The first key of a branch is left out: it covers all that is less.
                let key: &[u8] = if kind == BRANCH && lower == HEADER { &[] } else { &node.key };
                let size = (NODE + key.len() + node.data.len()).next_multiple_of(2);
                if lower + 2 + size > upper {
                    break;
                }
                upper -= size;
                page[lower..lower + 2].copy_from_slice(&(upper as u16).to_le_bytes());
                lower += 2;
                page[upper..upper + 6].copy_from_slice(&node.head);
                page[upper + 6..upper + 8].copy_from_slice(&(key.len() as u16).to_le_bytes());
                page[upper + NODE..][..key.len()].copy_from_slice(key);
                page[upper + NODE + key.len()..][..node.data.len()].copy_from_slice(&node.data);
                nodes.next();
            }
            page[..HEADER].copy_from_slice(&header(self.pages, kind));
            page[12..14].copy_from_slice(&(lower as u16).to_le_bytes());
            page[14..16].copy_from_slice(&(upper as u16).to_le_bytes());
            self.file.write_all(&page)?;
            level.push((first, self.pages));
            self.pages += 1;
        }
        Ok(level)
    }

    fn write_meta(&mut self, number: u64, main: &[u8; 48], last: u64) -> std::io::Result<()> {
        let mut page = [0u8; PAGE];
        page[..HEADER].copy_from_slice(&header(number, META));
        let size = (self.pages * PAGE as u64).next_multiple_of(1 << 20);
        let mut meta = Vec::new();
        meta.extend(MAGIC.to_le_bytes());
        meta.extend(VERSION.to_le_bytes());
        meta.extend(0u64.to_le_bytes());
        meta.extend(size.to_le_bytes());
        // The tree of free pages says how long a page is; its keys are numbers (flag 8).
        let mut free = tree(8, 0, [0; 4], NONE);
        free[..4].copy_from_slice(&(PAGE as u32).to_le_bytes());
        meta.extend(free);
        meta.extend(main);
        meta.extend(last.to_le_bytes());
        meta.extend(number.to_le_bytes());
        page[HEADER..][..meta.len()].copy_from_slice(&meta);
        self.file.write_all(&page)
    }
}

fn header(page: u64, kind: u16) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(&page.to_le_bytes());
    header[10..12].copy_from_slice(&kind.to_le_bytes());
    header
}

/// What a meta says of a tree; `counts`: pages of branches, leaves and long values, and entries.
fn tree(flags: u16, depth: u16, counts: [u64; 4], root: u64) -> [u8; 48] {
    let mut bytes = [0; 48];
    bytes[4..6].copy_from_slice(&flags.to_le_bytes());
    bytes[6..8].copy_from_slice(&depth.to_le_bytes());
    for (into, value) in bytes[8..].chunks_exact_mut(8).zip(counts.into_iter().chain([root])) {
        into.copy_from_slice(&value.to_le_bytes());
    }
    bytes
}
