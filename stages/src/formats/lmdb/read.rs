//! Reads an LMDB: any file is safe to open; one that is not whole gives errors.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::path::Path;

use super::{BRANCH, HEADER, LEAF, LONG, MAGIC, META, NODE, NONE, OVERFLOW, VERSION};
use crate::formats::file_kind;
use crate::formats::mapped_file::MappedFile;

/// What is wrong with the file, for a message that names it.
type Result<T> = std::result::Result<T, String>;

/// No tree of 64-bit pages is deeper; a deeper one is a circle.
const DEEPEST: usize = 32;

/// An open LMDB.
#[derive(Debug)]
pub struct Lmdb {
    map: MappedFile,
    page: usize,
    root: u64,
}

impl Lmdb {
    /// Opens a folder with a `data.mdb`, or such a file.
    ///
    /// # Errors
    /// A file that cannot be read, is no LMDB, or ends before its last page.
    pub fn open(path: &Path) -> Result<Self> {
        let path = if path.is_dir() { path.join("data.mdb") } else { path.to_owned() };
        let map = MappedFile::open(&path).map_err(|error| error.to_string())?;
        let mut lmdb = Self { page: 0, root: NONE, map };
        let mut newest: Option<(u64, u64, u64)> = None;
        // The second meta is a page after the first, and the first says how long a page is.
        for number in 0..2 {
            let at = number * lmdb.page + HEADER;
            let Some(meta) = lmdb.meta(at) else {
                let head = &lmdb.map[..lmdb.map.len().min(1 << 12)];
                return Err(file_kind::mismatch("an LMDB of format 1 (LMDB 0.9)", head));
            };
            let (page, rest) = meta?;
            lmdb.page = page;
            newest = newest.max(Some(rest));
        }
        let (_, last, root) = newest.unwrap_or_default();
        let bytes = last.checked_add(1).and_then(|pages| pages.checked_mul(lmdb.page as u64));
        if bytes.is_none_or(|bytes| bytes > lmdb.map.len() as u64) {
            return Err(format!(
                "has {} bytes, and its last page is page {last}: it was cut short; copy it again",
                lmdb.map.len()
            ));
        }
        Ok(Self { root, ..lmdb })
    }

    /// A meta: bytes of a page, and transaction, last page and root; nothing where there is none.
    #[allow(clippy::type_complexity)]
    fn meta(&self, at: usize) -> Option<Result<(usize, (u64, u64, u64))>> {
        let bytes = self.map.get(at..)?.get(..136)?;
        if number(bytes, 0, 4) != u64::from(MAGIC) || number(bytes, 4, 4) != u64::from(VERSION) {
            return None;
        }
        // After magic, version, address and size come the trees of free pages and of entries, 48 bytes each.
        let (free, main) = (&bytes[24..72], &bytes[72..120]);
        let page = number(free, 0, 4) as usize;
        let root = number(main, 40, 8);
        if !page.is_power_of_two() || !(256..=1 << 16).contains(&page) {
            return Some(Err(format!("is not a complete LMDB: it claims pages of {page} bytes")));
        }
        if number(main, 4, 2) != 0 {
            let problem = "has keys in another order than bytewise, or more than one value a key";
            return Some(Err(problem.to_owned()));
        }
        Some(Ok((page, (number(bytes, 128, 8), number(bytes, 120, 8), root))))
    }

    /// The value of a key.
    ///
    /// # Errors
    /// A tree that is not whole.
    pub fn get(&self, key: &[u8]) -> Result<Option<&[u8]>> {
        let mut page = self.root;
        for _ in 0..DEEPEST {
            if page == NONE {
                return Ok(None);
            }
            let nodes = self.nodes(page)?;
            let mut below = 0;
            // The last node whose key is not greater; the first node of a branch covers all that is less.
            let (mut low, mut high) = (0, nodes.count);
            while low < high {
                let middle = low + (high - low) / 2;
                let order =
                    if nodes.is_leaf || middle > 0 { nodes.key(middle)?.cmp(key) } else { Ordering::Less };
                match order {
                    Ordering::Greater => high = middle,
                    Ordering::Equal | Ordering::Less => {
                        below = middle + 1;
                        low = middle + 1;
                    }
                }
            }
            let Some(at) = below.checked_sub(1) else { return Ok(None) };
            if nodes.is_leaf {
                return if nodes.key(at)? == key { self.value(&nodes, at).map(Some) } else { Ok(None) };
            }
            page = nodes.child(at)?;
        }
        Err(broken("its tree comes back to a page above"))
    }

    /// All keys, in order.
    ///
    /// # Errors
    /// A tree that is not whole, or that names a page twice.
    pub fn keys(&self) -> Result<Vec<&[u8]>> {
        let mut keys = Vec::new();
        let mut seen = HashSet::new();
        let mut pages = if self.root == NONE { Vec::new() } else { vec![self.root] };
        while let Some(page) = pages.pop() {
            // So many pages are read at most as the file has.
            if !seen.insert(page) {
                return Err(broken("its tree names a page twice"));
            }
            let nodes = self.nodes(page)?;
            for at in 0..nodes.count {
                if nodes.is_leaf {
                    keys.push(nodes.key(at)?);
                } else {
                    pages.push(nodes.child(nodes.count - 1 - at)?);
                }
            }
        }
        Ok(keys)
    }

    fn value(&self, nodes: &Nodes<'_>, at: usize) -> Result<&[u8]> {
        let node = nodes.node(at)?;
        let head = nodes.key_end(at)?;
        let (size, flags) = (number(nodes.bytes, node, 4) as usize, number(nodes.bytes, node + 4, 2) as u16);
        let start = nodes.start + head;
        let start = match flags {
            0 => start,
            LONG => {
                let place = self.map.get(start..start + 8).ok_or_else(|| broken("a node ends early"))?;
                let first = self.place(number(place, 0, 8))?;
                if number(&self.map, first + 10, 2) as u16 & OVERFLOW == 0 {
                    return Err(broken("a long value is not where its key says"));
                }
                first + HEADER
            }
            _ => return Err(broken("a key has several values")),
        };
        let end = start.checked_add(size);
        end.and_then(|end| self.map.get(start..end)).ok_or_else(|| broken("a value ends early"))
    }

    fn nodes(&self, page: u64) -> Result<Nodes<'_>> {
        let start = self.place(page)?;
        let bytes = &self.map[start..start + self.page];
        let flags = number(bytes, 10, 2) as u16;
        let lower = number(bytes, 12, 2) as usize;
        let is_leaf = flags & LEAF != 0;
        if is_leaf == (flags & BRANCH != 0)
            || flags & (OVERFLOW | META) != 0
            || !(HEADER..=self.page).contains(&lower)
        {
            return Err(broken("a page of its tree is of another kind"));
        }
        Ok(Nodes { start, bytes, count: (lower - HEADER) / 2, is_leaf })
    }

    /// Where a page begins; it is within the file.
    fn place(&self, page: u64) -> Result<usize> {
        let start = usize::try_from(page).ok().and_then(|page| page.checked_mul(self.page));
        let end = start.and_then(|start| start.checked_add(self.page));
        match (start, end) {
            (Some(start), Some(end)) if end <= self.map.len() => Ok(start),
            _ => Err(broken("it names a page that is not there")),
        }
    }
}

/// The nodes of a page of the tree.
struct Nodes<'a> {
    /// Where the page begins.
    start: usize,
    bytes: &'a [u8],
    count: usize,
    is_leaf: bool,
}

impl<'a> Nodes<'a> {
    /// Where a node begins within the page.
    fn node(&self, at: usize) -> Result<usize> {
        let place = number(self.bytes, HEADER + 2 * at, 2) as usize;
        if place + NODE > self.bytes.len() {
            return Err(broken("a node is outside its page"));
        }
        Ok(place)
    }

    fn key_end(&self, at: usize) -> Result<usize> {
        let node = self.node(at)?;
        Ok(node + NODE + number(self.bytes, node + 6, 2) as usize)
    }

    fn key(&self, at: usize) -> Result<&'a [u8]> {
        let bytes = self.bytes.get(self.node(at)? + NODE..self.key_end(at)?);
        bytes.ok_or_else(|| broken("a key is outside its page"))
    }

    /// The page below a node of a branch, 48 bits.
    fn child(&self, at: usize) -> Result<u64> {
        Ok(number(self.bytes, self.node(at)?, 6))
    }
}

/// A number of so many bytes, least first; the caller has seen that they are there.
fn number(bytes: &[u8], at: usize, length: usize) -> u64 {
    bytes[at..at + length].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

fn broken(problem: &str) -> String {
    format!("is not a complete LMDB: {problem}; copy it again")
}
