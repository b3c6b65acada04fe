//! The lock of the one process that writes. The kernel drops it when the process ends, however it ends; the
//! text in the file only tells those who wait whom they wait for.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;

use super::StoreError;

/// Held while it lives.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock, waiting if need be; `wait` is told once who holds it.
    ///
    /// # Errors
    /// When the file cannot be opened or locked.
    pub fn take(path: &Path, wait: &mut dyn FnMut(&str)) -> Result<Self, StoreError> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(StoreError::io(path, "open"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Who holds it is a courtesy; a half-written line must not stop anybody.
                let _ = file.read_to_string(&mut holder);
                let holder = holder.trim();
                wait(if holder.is_empty() { "another process" } else { holder });
                file.lock().map_err(StoreError::io(path, "lock"))?;
            }
            Err(TryLockError::Error(error)) => return Err(StoreError::io(path, "lock")(error)),
        }
        let mut command = std::env::args().collect::<Vec<_>>().join(" ");
        if command.len() > 200 {
            command = command.chars().take(200).collect::<String>() + "…";
        }
        let line = format!("process {} ({command})\n", std::process::id());
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(line.as_bytes()))
            .map_err(StoreError::io(path, "write"))?;
        Ok(Self { _file: file })
    }
}
