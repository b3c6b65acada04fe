//! Buffers with guards, arguments, launches and comparisons.

use std::ffi::c_void;

/// What a check found: nothing, or what is wrong.
pub type Checked = Result<(), String>;

/// Values of a kernel, with NaNs behind them: what is read there spoils the result, what is written there is found.
#[derive(Clone)]
pub struct Buffer {
    values: Vec<f32>,
    len: usize,
}

/// None with the address sanitizer, which finds what is read and written beyond the end.
const GUARD: usize = if option_env!("GPU_ON_CPU_ASAN").is_some() { 0 } else { 64 };

impl Buffer {
    pub fn new(values: &[f32]) -> Self {
        Self { values: [values, &[f32::NAN; GUARD]].concat(), len: values.len() }
    }

    /// An output: NaN where the kernel does not write.
    pub fn poisoned(len: usize) -> Self {
        Self::new(&vec![f32::NAN; len])
    }

    pub fn values(&self) -> &[f32] {
        &self.values[..self.len]
    }

    /// Value `i` in double precision.
    pub fn at(&self, i: usize) -> f64 {
        f64::from(self.values()[i])
    }

    /// The values in double precision.
    pub fn wide(&self) -> Vec<f64> {
        self.values().iter().copied().map(f64::from).collect()
    }

    pub fn guard_is_whole(&self) -> Checked {
        let whole = self.values[self.len..].iter().all(|value| value.is_nan());
        if whole { Ok(()) } else { Err("written beyond the end".to_owned()) }
    }
}

/// Numbers that look random, the same in every run.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Evenly from [-1, 1).
    pub fn values(&mut self, len: usize) -> Buffer {
        let values: Vec<f32> =
            (0..len).map(|_| (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0).collect();
        Buffer::new(&values)
    }

    /// Evenly from the numbers below `end`.
    pub fn ids(&mut self, len: usize, end: u32) -> Vec<u32> {
        (0..len).map(|_| (self.next() >> 33) as u32 % end).collect()
    }
}

/// An argument's value, as `cuLaunchKernel` reads it.
#[derive(Clone, Copy)]
pub struct Arg {
    words: [u64; 3],
    size: usize,
}

impl Arg {
    /// The pointer.
    pub fn address(self) -> u64 {
        self.words[0]
    }
}

pub const NULL: Arg = Arg { words: [0; 3], size: 8 };

fn pointer<T>(to: *const T) -> Arg {
    Arg { words: [to as u64, 0, 0], size: 8 }
}

pub fn input(buffer: &Buffer) -> Arg {
    pointer(buffer.values.as_ptr())
}

pub fn output(buffer: &mut Buffer) -> Arg {
    pointer(buffer.values.as_mut_ptr())
}

/// Any memory that a kernel reads or writes.
pub fn memory<T>(values: &mut [T]) -> Arg {
    pointer(values.as_mut_ptr())
}

pub fn ids(values: &[u32]) -> Arg {
    pointer(values.as_ptr())
}

pub fn size(value: usize) -> Arg {
    Arg { words: [u64::from(u32::try_from(value).unwrap()), 0, 0], size: 4 }
}

pub fn long(value: usize) -> Arg {
    Arg { words: [value as u64, 0, 0], size: 8 }
}

/// A struct of 24 bytes, by value.
pub fn packed(words: [u64; 3]) -> Arg {
    Arg { words, size: 24 }
}

pub fn real(value: f32) -> Arg {
    Arg { words: [u64::from(value.to_bits()), 0, 0], size: 4 }
}

/// A dropout mask, as the kernels have it.
#[derive(Clone, Copy)]
pub struct Mask {
    pub first: u32,
    pub keys: [u32; 2],
    pub threshold: u32,
    pub scale: f32,
}

/// Nothing is dropped, whatever else the mask says.
pub const NONE: Mask = Mask { first: 5, keys: [1, 2], threshold: 0, scale: 7.0 };
/// A third is dropped.
pub const THIRD: Mask =
    Mask { first: 11, keys: [0x1234_5678, 0x9abc_def0], threshold: 0x5555_5555, scale: 1.5 };

impl Mask {
    pub fn arg(self) -> Arg {
        let [key0, key1] = self.keys.map(u64::from);
        let words = [
            u64::from(self.first) | key0 << 32,
            key1 | u64::from(self.threshold) << 32,
            u64::from(self.scale.to_bits()),
        ];
        Arg { words, size: 20 }
    }

    /// The factor of an element, by the definition in `nn/dropout.rs`.
    pub fn factor(self, element: usize) -> f64 {
        if self.threshold == 0 {
            return 1.0;
        }
        let mut x = (element as u32).wrapping_add(self.first) ^ self.keys[0];
        x = (x ^ (x >> 16)).wrapping_mul(0x7feb_352d);
        x = (x ^ (x >> 15) ^ self.keys[1]).wrapping_mul(0x846c_a68b);
        x ^= x >> 16;
        if x >= self.threshold { f64::from(self.scale) } else { 0.0 }
    }
}

/// Which positions of padded sequences there are, and where the rows are that they have.
#[derive(Clone)]
pub struct Sequences {
    /// Of each sequence.
    positions: Vec<Vec<usize>>,
    length: usize,
    starts: Vec<u32>,
    places: Vec<u32>,
    is_packed: bool,
}

impl Sequences {
    /// All positions.
    pub fn padded(batch: usize, length: usize) -> Self {
        Self { is_packed: false, ..Self::packed(length, &vec![&[length][..]; batch]) }
    }

    /// Without padding. Of each sequence: how many positions are there, then how many are not, and so on.
    pub fn packed(length: usize, runs: &[&[usize]]) -> Self {
        let there = |runs: &&[usize]| {
            let (mut positions, mut next) = (Vec::new(), 0);
            for (number, run) in runs.iter().enumerate() {
                positions.extend((next..next + run).filter(|_| number % 2 == 0));
                next += run;
            }
            assert!(next <= length && positions[0] == 0);
            positions
        };
        let positions: Vec<Vec<usize>> = runs.iter().map(there).collect();
        let (mut starts, mut places) = (vec![0], Vec::new());
        for (b, positions) in positions.iter().enumerate() {
            places.extend(positions.iter().map(|position| (b * length + position) as u32));
            starts.push(places.len() as u32);
        }
        Self { positions, length, starts, places, is_packed: true }
    }

    pub fn batch(&self) -> usize {
        self.positions.len()
    }

    /// Positions of a sequence, padding counted.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Rows of all sequences.
    pub fn rows(&self) -> usize {
        self.places.len()
    }

    /// The rows of sequence `b` with their positions.
    pub fn of(&self, b: usize) -> impl Iterator<Item = (usize, usize)> + Clone + '_ {
        (self.starts[b] as usize..).zip(self.positions[b].iter().copied())
    }

    pub fn is_packed(&self) -> bool {
        self.is_packed
    }

    /// `struct Packing` of the kernels.
    pub fn arg(&self) -> Arg {
        let [starts, places] = [self.starts(), self.places()].map(|table| table.words[0]);
        Arg { words: [starts, places, 0], size: 16 }
    }

    pub fn starts(&self) -> Arg {
        if self.is_packed { ids(&self.starts) } else { NULL }
    }

    pub fn places(&self) -> Arg {
        if self.is_packed { ids(&self.places) } else { NULL }
    }

    /// The number that element `i` of rows of `width` elements has where the sequences are padded.
    pub fn element(&self, i: usize, width: usize) -> usize {
        self.places[i / width] as usize * width + i % width
    }
}

/// Grid and block of a launch.
pub type Geometry = ([usize; 3], u32);

pub fn flat(n: usize) -> Geometry {
    ([n.div_ceil(1024).min(65535), 1, 1], 256)
}

pub fn matrix(rows: usize, columns: usize) -> Geometry {
    ([columns.div_ceil(256), rows.div_ceil(4).min(65535), 1], 256)
}

pub fn rows(rows: usize) -> Geometry {
    ([rows.div_ceil(4), 1, 1], 128)
}

pub fn sums(rows: usize, columns: usize) -> Geometry {
    ([columns.div_ceil(32), rows.div_ceil(128), 1], 256)
}

/// Launches a kernel, whose parameters must have the arguments' sizes.
pub fn launch(kernel: &str, geometry: Geometry, args: &[Arg], seed: u64) -> Checked {
    let sizes: Vec<usize> = args.iter().map(|arg| arg.size).collect();
    assert_eq!(gpu_on_cpu::parameters(kernel), Some(sizes), "the parameters of {kernel}");
    launch_shuffled(kernel, geometry, args, seed)
}

/// Launches a kernel that does not read its arguments.
pub fn launch_unchecked(kernel: &str, geometry: Geometry, args: &[Arg]) -> Checked {
    launch_shuffled(kernel, geometry, args, 1)
}

#[allow(unsafe_code, reason = "the buffers in the arguments are as long as the checks say")]
fn launch_shuffled(kernel: &str, (grid, block): Geometry, args: &[Arg], seed: u64) -> Checked {
    let args: Vec<*mut c_void> = args.iter().map(|arg| arg.words.as_ptr().cast_mut().cast()).collect();
    let grid = grid.map(|blocks| u32::try_from(blocks).unwrap());
    // SAFETY: the sizes were compared, or nothing is read.
    unsafe { gpu_on_cpu::launch(kernel, grid, block, &args, seed) }
}

/// Whether `found` is `expected` within `tolerance` of the largest of them.
pub fn close(what: &str, found: &Buffer, expected: &[f64], tolerance: f64) -> Checked {
    close_of(f64::MIN_POSITIVE, what, found, expected, tolerance)
}

/// Whether `found` is `expected` within `tolerance` of the largest of them, or of `size`, if they are smaller than what they
/// are made from.
pub fn close_of(size: f64, what: &str, found: &Buffer, expected: &[f64], tolerance: f64) -> Checked {
    found.guard_is_whole().map_err(|error| format!("{what}: {error}"))?;
    assert_eq!(found.len, expected.len(), "{what}");
    let largest = expected.iter().fold(size, |largest, value| largest.max(value.abs()));
    for (i, (&found, &expected)) in found.values().iter().zip(expected).enumerate() {
        let off = (f64::from(found) - expected).abs() / largest;
        if off.is_nan() || off > tolerance {
            return Err(format!(
                "{what}: element {i} is {found}, not {expected}: off by {off:.1e} of {largest:.1e}"
            ));
        }
    }
    Ok(())
}

/// Whether `found` is `expected` bit for bit.
pub fn equal(what: &str, found: &Buffer, expected: &[f32]) -> Checked {
    found.guard_is_whole().map_err(|error| format!("{what}: {error}"))?;
    let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    if bits(found.values()) == bits(expected) { Ok(()) } else { Err(format!("{what} differs")) }
}

/// The sum of `parts` parts of `size` elements each, at each element.
pub fn add_up(parts: &[f64], size: usize) -> Vec<f64> {
    (0..size).map(|i| parts.iter().skip(i).step_by(size).sum()).collect()
}
