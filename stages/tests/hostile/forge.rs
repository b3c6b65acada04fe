//! Archives byte by byte, so that they can say what no honest writer would.

use std::io::Write;

use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder};

/// A member of a zip archive as its headers tell it.
#[derive(Clone)]
pub struct Member {
    pub name: Vec<u8>,
    pub content: Vec<u8>,
    /// 0 stored, 8 deflate.
    pub method: u16,
    /// The length it says to unpack to.
    pub size: u32,
    pub crc: u32,
    /// Unix mode.
    pub mode: u32,
    /// Where it says to lie; where it does by default.
    pub at: Option<u32>,
}

/// A plain stored file.
pub fn file(name: impl AsRef<[u8]>, content: &[u8]) -> Member {
    let mut crc = flate2::Crc::new();
    crc.update(content);
    Member {
        name: name.as_ref().to_vec(),
        content: content.to_vec(),
        method: 0,
        size: content.len() as u32,
        crc: crc.sum(),
        mode: 0o100_644,
        at: None,
    }
}

/// A file of so many zeros, deflated.
pub fn zeros(name: &str, size: usize) -> Member {
    let (mut crc, mut packed) = (flate2::Crc::new(), DeflateEncoder::new(Vec::new(), Compression::best()));
    let block = vec![0; 1 << 20];
    let mut left = size;
    while left > 0 {
        let some = left.min(block.len());
        crc.update(&block[..some]);
        packed.write_all(&block[..some]).unwrap();
        left -= some;
    }
    let content = packed.finish().unwrap();
    Member { method: 8, size: size as u32, crc: crc.sum(), content, ..file(name, b"") }
}

/// A symbolic link.
pub fn link(name: &str, target: &str) -> Member {
    Member { mode: 0o120_777, ..file(name, target.as_bytes()) }
}

/// A zip archive of members.
pub fn zip(members: &[Member]) -> Vec<u8> {
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    for member in members {
        let at = member.at.unwrap_or(bytes.len() as u32);
        let common = |to: &mut Vec<u8>| {
            // UTF-8 names, no time.
            for field in [20u16, 0x800, member.method, 0, 0] {
                to.extend(field.to_le_bytes());
            }
            for field in [member.crc, member.content.len() as u32, member.size] {
                to.extend(field.to_le_bytes());
            }
            to.extend((member.name.len() as u16).to_le_bytes());
            to.extend([0; 2]);
        };
        if member.at.is_none() {
            bytes.extend(b"PK\x03\x04");
            common(&mut bytes);
            bytes.extend(&member.name);
            bytes.extend(&member.content);
        }
        directory.extend(b"PK\x01\x02");
        directory.extend((3u16 << 8 | 20).to_le_bytes());
        common(&mut directory);
        directory.extend([0; 6]);
        directory.extend((member.mode << 16).to_le_bytes());
        directory.extend(at.to_le_bytes());
        directory.extend(&member.name);
    }
    let (count, start) = (members.len() as u16, bytes.len() as u32);
    bytes.extend(&directory);
    bytes.extend(b"PK\x05\x06\0\0\0\0");
    bytes.extend([count.to_le_bytes(), count.to_le_bytes()].concat());
    bytes.extend((directory.len() as u32).to_le_bytes());
    bytes.extend(start.to_le_bytes());
    bytes.extend([0; 2]);
    bytes
}

/// A tar header, with a right checksum, and the content padded to whole blocks.
pub fn member(kind: u8, name: &[u8], target: &[u8], size: Option<u64>, content: &[u8]) -> Vec<u8> {
    let mut header = [0u8; 512];
    let name = &name[..name.len().min(100)];
    header[..name.len()].copy_from_slice(name);
    header[100..107].copy_from_slice(b"0000644");
    header[108..115].copy_from_slice(b"0000000");
    header[116..123].copy_from_slice(b"0000000");
    let size = size.unwrap_or(content.len() as u64);
    if size < 1 << 33 {
        header[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
    } else {
        header[124] = 0x80;
        header[128..136].copy_from_slice(&size.to_be_bytes());
    }
    header[136..147].copy_from_slice(b"00000000000");
    header[156] = kind;
    header[157..157 + target.len()].copy_from_slice(target);
    header[257..265].copy_from_slice(b"ustar\x0000");
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    let mut bytes = header.to_vec();
    bytes.extend(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

/// A plain file of a tar archive.
pub fn plain(name: impl AsRef<[u8]>, content: &[u8]) -> Vec<u8> {
    member(b'0', name.as_ref(), b"", None, content)
}

/// A field of a pax header.
pub fn pax(key: &str, value: &[u8]) -> Vec<u8> {
    extension(b'x', key, value)
}

/// A field of a pax header for all members.
pub fn global(key: &str, value: &[u8]) -> Vec<u8> {
    extension(b'g', key, value)
}

fn extension(kind: u8, key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    let mut field = format!("{length} {key}=").into_bytes();
    field.extend(value);
    field.push(b'\n');
    member(kind, b"pax", b"", None, &field)
}

/// A tar archive of members.
pub fn tar(members: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = members.concat();
    bytes.extend([0; 1024]);
    bytes
}

/// Packs with gzip.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::default());
    packed.write_all(bytes).unwrap();
    packed.finish().unwrap()
}

/// Packs a beginning and then so many zeros with gzip.
pub fn gzip_zeros(start: &[u8], zeros: usize) -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::default());
    packed.write_all(start).unwrap();
    let block = vec![0; 1 << 20];
    for _ in 0..zeros >> 20 {
        packed.write_all(&block).unwrap();
    }
    packed.finish().unwrap()
}
