//! From the samples of a component to as many as the picture has pixels. Factors of 2 use a triangle filter: 3/4 of the nearer sample and 1/4
//! of the farther one, where halves are rounded down and up in turn. Other factors repeat samples.

/// The samples of one component.
pub(super) struct Plane<'a> {
    /// Rows of samples, from the top.
    pub(super) samples: &'a [u8],
    /// From one row to the next.
    pub(super) stride: usize,
    /// Samples across that belong to the picture.
    pub(super) width: usize,
    /// Samples down that belong to the picture.
    pub(super) height: usize,
    /// Pixels across for each sample.
    pub(super) across: usize,
    /// Pixels down for each sample.
    pub(super) down: usize,
}

impl<'a> Plane<'a> {
    fn samples_of(&self, row: usize) -> &'a [u8] {
        &self.samples[row.min(self.height - 1) * self.stride..][..self.stride]
    }

    /// The samples of row `y` of the picture: those of the plane, or written into `row`. They end on a whole block: behind those
    /// of the picture is anything. `sums` is room for intermediate values.
    pub(super) fn row<'b>(&self, y: usize, row: &'b mut [u8], sums: &mut [u16]) -> &'b [u8]
    where
        'a: 'b,
    {
        let near = self.samples_of(y / self.down);
        if (self.across, self.down) == (1, 1) {
            return near;
        }
        let is_upper = y.is_multiple_of(2);
        let far = match is_upper {
            true => self.samples_of((y / self.down).saturating_sub(1)),
            false => self.samples_of(y / self.down + 1),
        };
        let (near, far) = (&near[..self.width], &far[..self.width]);
        let values = &mut row[..self.width * self.across];
        match (self.across, self.down) {
            (1, 2) => {
                let bias = if is_upper { 1 } else { 2 };
                for ((value, near), far) in values.iter_mut().zip(near).zip(far) {
                    *value = ((u16::from(*near) * 3 + u16::from(*far) + bias) >> 2) as u8;
                }
            }
            (2, 1) if self.width > 2 => {
                let sums = &mut sums[..self.width];
                for (sum, near) in sums.iter_mut().zip(near) {
                    *sum = u16::from(*near);
                }
                widen::<2, 1, 2>(sums, values);
            }
            (2, 2) if self.width > 2 => {
                let sums = &mut sums[..self.width];
                for ((sum, near), far) in sums.iter_mut().zip(near).zip(far) {
                    *sum = u16::from(*near) * 3 + u16::from(*far);
                }
                widen::<4, 8, 7>(sums, values);
            }
            (across, _) => {
                for (values, near) in values.chunks_exact_mut(across).zip(near) {
                    values.fill(*near);
                }
            }
        }
        row
    }
}

/// Two values for each sum: 3/4 of it and 1/4 of its neighbour to the left, then to the right, plus a bias, over 2^`SHIFT`.
/// The outermost values have no neighbour and are the sums themselves.
fn widen<const SHIFT: u32, const LEFT: u16, const RIGHT: u16>(sums: &[u16], row: &mut [u8]) {
    let last = sums.len() - 1;
    row[0] = ((sums[0] * 4 + LEFT) >> SHIFT) as u8;
    row[2 * last + 1] = ((sums[last] * 4 + RIGHT) >> SHIFT) as u8;
    for (pair, sums) in row[1..2 * last + 1].chunks_exact_mut(2).zip(sums.windows(2)) {
        pair[0] = ((sums[0] * 3 + sums[1] + RIGHT) >> SHIFT) as u8;
        pair[1] = ((sums[1] * 3 + sums[0] + LEFT) >> SHIFT) as u8;
    }
}
