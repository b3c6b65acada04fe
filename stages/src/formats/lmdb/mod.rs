//! The file of an LMDB (`data.mdb`, format 1: LMDB 0.9, which MMF's Python package has), read by memory map and written
//! in one pass. It knows keys and values, not what they mean.
//!
//! Why not the library: it is C, it trusts the file it maps (a damaged one ends the process), and it keeps what is being
//! written in memory. Here every place is checked before it is read, and values of any number are written as they come.
//!
//! The format: pages of a fixed size. Pages 0 and 1 are metas, the one with the higher transaction is valid and names the
//! root of a B+tree. A page has a header of 16 bytes and places of its nodes; a node of a branch names a page and the
//! least key below it, a node of a leaf has a key and a value, or, when that is long, names the first of the pages on
//! which the value is.

mod read;
mod write;

pub use read::Lmdb;
pub use write::LmdbWriter;

/// Bytes of a page's header.
const HEADER: usize = 16;
/// Bytes of a node before its key.
const NODE: usize = 8;
const MAGIC: u32 = 0xbeef_c0de;
const VERSION: u32 = 1;
/// Kinds of pages.
const BRANCH: u16 = 1;
const LEAF: u16 = 2;
const OVERFLOW: u16 = 4;
const META: u16 = 8;
/// A node whose value is on pages of its own.
const LONG: u16 = 1;
/// The root of an empty tree.
const NONE: u64 = u64::MAX;
/// The longest key.
const LONGEST_KEY: usize = 511;

#[cfg(test)]
mod tests;
