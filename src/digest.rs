//! Content digests of bytes and of files. [`crate::tree`] defines the digest of a folder. It knows neither steps nor
//! the store.

use std::fmt;
use std::io;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Files above this size are mapped into memory and hashed on all cores.
const LARGE_FILE: u64 = 1 << 20;

/// A BLAKE3 digest: 32 bytes, written as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of bytes; a file with these bytes has the same one.
    pub fn of_bytes(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// The digest of `bytes` under a `context`, so that equal bytes of two kinds never share a digest.
    pub fn of_kind(context: &str, bytes: &[u8]) -> Self {
        Self(*blake3::Hasher::new_derive_key(context).update(bytes).finalize().as_bytes())
    }

    /// The digest of a file's bytes.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn of_file(path: &Path) -> io::Result<Self> {
        let metadata = std::fs::metadata(path)?;
        // Reading a pipe or a device may block forever.
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
        }
        if metadata.len() < LARGE_FILE {
            return Ok(Self::of_bytes(&std::fs::read(path)?));
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update_mmap_rayon(path)?;
        Ok(Self(*hasher.finalize().as_bytes()))
    }

    /// The 32 bytes.
    pub fn bytes(&self) -> [u8; 32] {
        self.0
    }

    /// The first twelve digits, enough for people to distinguish two digests.
    pub fn short(&self) -> String {
        let mut text = self.to_string();
        text.truncate(12);
        text
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&blake3::Hash::from(self.0).to_hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({})", self.short())
    }
}

/// Text that is not 64 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a digest: 64 hexadecimal digits were expected")]
pub struct NotADigest;

impl FromStr for Digest {
    type Err = NotADigest;

    fn from_str(text: &str) -> Result<Self, NotADigest> {
        let digits: &[u8; 64] = text.as_bytes().try_into().map_err(|_| NotADigest)?;
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = value(pair[0])? << 4 | value(pair[1])?;
        }
        Ok(Self(bytes))
    }
}

/// The value of a digit. Capitals are invalid: file names are compared as text, so a digest has one spelling.
fn value(digit: u8) -> Result<u8, NotADigest> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        _ => Err(NotADigest),
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&blake3::Hash::from(self.0).to_hex())
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_and_a_large_file_have_the_digest_of_their_bytes() {
        let folder = tempfile::tempdir().unwrap();
        for size in [0, 1, LARGE_FILE as usize - 1, LARGE_FILE as usize, 3 * LARGE_FILE as usize + 7] {
            let bytes: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
            let file = folder.path().join(size.to_string());
            std::fs::write(&file, &bytes).unwrap();
            assert_eq!(Digest::of_file(&file).unwrap(), Digest::of_bytes(&bytes), "{size} bytes");
        }
    }

    #[test]
    fn the_text_form_round_trips_and_has_one_spelling() {
        let digest = Digest::of_bytes(b"x");
        assert_eq!(digest.to_string().parse(), Ok(digest));
        assert_eq!(digest.to_string().to_uppercase().parse::<Digest>(), Err(NotADigest));
        assert_eq!("12".parse::<Digest>(), Err(NotADigest));
    }

    #[test]
    fn kinds_do_not_mix() {
        assert_ne!(Digest::of_kind("a", b"x"), Digest::of_kind("b", b"x"));
        assert_ne!(Digest::of_kind("a", b"x"), Digest::of_bytes(b"x"));
    }
}
