//! How much an archive may become. Counted while it is written, whatever the archive says of itself.

use std::sync::atomic::{AtomicU64, Ordering};

use super::UnpackParams;

/// An archive that stays below this many bytes may have any ratio: a few kilobytes of zeros are no bomb.
const HARMLESS: u64 = 64 << 20;

/// What is left of the limits; shared among threads.
#[derive(Debug)]
pub struct Budget {
    used: AtomicU64,
    max_bytes: u64,
    /// Says which limit `max_bytes` is.
    limit: String,
    files: AtomicU64,
    most_files: u64,
}

impl Budget {
    /// The limits for an archive of `size` bytes.
    pub fn new(params: &UnpackParams, size: u64) -> Self {
        let by_ratio = size.saturating_mul(params.most_ratio).max(HARMLESS);
        let (max_bytes, limit) = if by_ratio < params.most_bytes {
            (by_ratio, format!("more than {} times its {size} bytes (most_ratio)", params.most_ratio))
        } else {
            (params.most_bytes, format!("more than {} bytes (most_bytes)", params.most_bytes))
        };
        Self {
            used: AtomicU64::new(0),
            max_bytes,
            limit,
            files: AtomicU64::new(0),
            most_files: params.most_files,
        }
    }

    /// So many more bytes are about to be written.
    pub fn take(&self, bytes: u64) -> Result<(), String> {
        let used = self.used.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        self.announce(used)
    }

    /// The archive says that it holds so many bytes.
    pub fn announce(&self, bytes: u64) -> Result<(), String> {
        if bytes <= self.max_bytes {
            return Ok(());
        }
        Err(format!("becomes {}: a trap, or raise that limit of its step", self.limit))
    }

    /// Another file, folder, link or header.
    pub fn count(&self) -> Result<(), String> {
        if self.files.fetch_add(1, Ordering::Relaxed) < self.most_files {
            return Ok(());
        }
        Err(format!(
            "holds more than {} files (most_files): a trap, or raise that limit of its step",
            self.most_files
        ))
    }

    /// Bytes written.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }
}
