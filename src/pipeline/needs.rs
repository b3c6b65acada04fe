//! What a step asks of the machine while it runs: threads, memory, GPUs or a share of one, and places in the
//! pools that the pipeline declares. It knows no machine.

use std::collections::BTreeMap;
use std::fmt;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

/// The pools that every machine has; a pipeline cannot declare its own under these names.
pub const BUILT_IN_POOLS: [&str; 3] = ["cpu", "memory", "gpu"];

/// What a step asks of the machine while it runs. Not part of its key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Needs {
    /// CPU threads, at least 1.
    pub cpu: usize,
    /// Memory in bytes; 0 when nothing is said.
    pub memory: u64,
    /// GPUs, or a share of one.
    pub gpu: Gpus,
    /// Memory in bytes of one GPU, which may be shared with others; 0 when nothing is said.
    pub gpu_memory: u64,
    /// Places in declared pools, each at least 1.
    pub pools: BTreeMap<String, usize>,
}

impl Default for Needs {
    fn default() -> Self {
        Self { cpu: 1, memory: 0, gpu: Gpus::default(), gpu_memory: 0, pools: BTreeMap::new() }
    }
}

impl Needs {
    /// Whether a GPU, or a part of one, is asked for.
    pub fn has_gpu(&self) -> bool {
        self.gpu.is_some() || self.gpu_memory > 0
    }

    /// Whether something of a pool is asked for.
    pub fn uses(&self, pool: &str) -> bool {
        match pool {
            "cpu" => true,
            "memory" => self.memory > 0,
            "gpu" => self.has_gpu(),
            other => self.pools.contains_key(other),
        }
    }
}

/// As in a pipeline file: `cpu 2, memory 8.0 GiB, gpu 0.5, net 1`.
impl fmt::Display for Needs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cpu {}", self.cpu)?;
        if self.memory > 0 {
            write!(f, ", memory {}", bytes(self.memory))?;
        }
        if self.gpu.is_some() {
            write!(f, ", gpu {}", self.gpu)?;
        }
        if self.gpu_memory > 0 {
            write!(f, ", gpu_memory {}", bytes(self.gpu_memory))?;
        }
        self.pools.iter().try_for_each(|(pool, places)| write!(f, ", {pool} {places}"))
    }
}

/// Whole GPUs, or a share of one below 1, in thousandths. `gpu: 0.5` lets two such steps run on one GPU.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Gpus(u32);

impl Gpus {
    /// One whole GPU in thousandths.
    pub const ONE: u32 = 1000;
    /// More GPUs than any machine has.
    const MOST: f64 = 1024.0;

    /// A number of GPUs as a person writes it.
    ///
    /// # Errors
    /// What the number may be.
    pub fn new(number: f64) -> Result<Self, String> {
        let thousandths = (number * f64::from(Self::ONE)).round();
        match number {
            _ if !(0.0..=Self::MOST).contains(&number) => {
                Err(format!("`gpu: {number}` is no number of GPUs: 0, 1, 2, … or a share such as 0.5"))
            }
            share if share > 0.0 && thousandths < 1.0 => {
                Err(format!("`gpu: {share}` is too small a share; the smallest is 0.001"))
            }
            more if more > 1.0 && more.fract() != 0.0 => {
                Err(format!("`gpu: {more}`: only a share of one GPU may be a fraction"))
            }
            _ => Ok(Self(thousandths as u32)),
        }
    }

    /// Whether any is asked for.
    pub fn is_some(self) -> bool {
        self.0 > 0
    }

    /// How many whole GPUs: 0 for a share.
    pub fn whole(self) -> usize {
        (self.0 / Self::ONE) as usize
    }

    /// The share of one GPU in thousandths: 0 for whole GPUs.
    pub fn share(self) -> u32 {
        self.0 % Self::ONE
    }
}

impl fmt::Display for Gpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", f64::from(self.0) / f64::from(Self::ONE))
    }
}

/// A size as a person writes it, `"8 GiB"` or `"500 MB"`, in bytes.
///
/// # Errors
/// What a size looks like.
pub fn size(text: &str) -> Result<u64, String> {
    let has_unit = text.trim_end().ends_with(['B', 'b']);
    match text.parse::<ByteSize>() {
        Ok(size) if has_unit && size.as_u64() > 0 => Ok(size.as_u64()),
        _ => Err(format!("`{text}` is no size; write a number with its unit: 8 GiB, 512 MiB, 16 GB")),
    }
}

/// Bytes for people: `8.0 GiB`.
pub fn bytes(number: u64) -> String {
    ByteSize::b(number).display().iec().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_is_whole_or_a_share_of_one() {
        let parts = |number| Gpus::new(number).map(|gpus| (gpus.whole(), gpus.share())).ok();
        assert_eq!(parts(0.0), Some((0, 0)));
        assert_eq!(parts(0.5), Some((0, 500)));
        assert_eq!(parts(1.0), Some((1, 0)));
        assert_eq!(parts(4.0), Some((4, 0)));
        for wrong in [-1.0, 1.5, 0.0001, f64::NAN, f64::INFINITY, 1e9] {
            assert_eq!(parts(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_size_has_a_unit() {
        assert_eq!(size("8 GiB"), Ok(8 << 30));
        assert_eq!(size("512MiB"), Ok(512 << 20));
        assert_eq!(size("16 GB"), Ok(16_000_000_000));
        for wrong in ["", "8", "GiB", "-1 GiB", "8 GiBs", "0 B", "eight GiB", "nan GiB"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }
}
