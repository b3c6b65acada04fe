//! How many blocks and threads run a kernel: from the sizes of its work alone, never from the device, so that sums are added in the
//! same order everywhere.

/// Blocks of a launch and threads of a block. The kernels share four geometries; see `kernels/common.cuh`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Geometry {
    pub grid: [u32; 3],
    pub block: u32,
}

impl Geometry {
    /// The most blocks along y or z; the kernels loop over the rest.
    const MOST: usize = 65_535;
    /// Rows that a block of [`Geometry::sums`] adds up.
    const SUMMED_ROWS: usize = 128;

    /// Of these blocks; sizes beyond 32 bits were refused with the arguments.
    pub fn new(grid: [usize; 3], block: u32) -> Self {
        Self { grid: grid.map(|blocks| blocks as u32), block }
    }

    /// For `count` values.
    pub fn flat(count: usize) -> Self {
        Self::new([count.div_ceil(1024).min(Self::MOST), 1, 1], 256)
    }

    /// For the elements of a matrix.
    pub fn matrix(rows: usize, columns: usize) -> Self {
        Self::new([columns.div_ceil(256), rows.div_ceil(4).min(Self::MOST), 1], 256)
    }

    /// A warp for each row.
    pub fn rows(rows: usize) -> Self {
        Self::new([rows.div_ceil(4), 1, 1], 128)
    }

    /// For sums over rows, [`Geometry::sums_of`] partial ones.
    pub fn sums(rows: usize, columns: usize) -> Self {
        Self::new([columns.div_ceil(32), Self::sums_of(rows), 1], 256)
    }

    /// Partial sums over `rows` rows.
    pub fn sums_of(rows: usize) -> usize {
        rows.div_ceil(Self::SUMMED_ROWS)
    }
}
