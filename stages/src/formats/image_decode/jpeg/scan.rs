//! The entropy-coded data of a scan: sequential (T.81, F.2) or one step of a progression (G.2).
//!
//! Damaged data decode as libjpeg decodes them: bits that are no code are symbol 0, and what a marker cuts off is left as it was.

use super::bits::{Bits, Huffman};
use super::idct::{inverse, inverse_flat};
use super::{Component, MARKER};

/// The place of each coefficient in the order of the file, in a block of rows. Damaged data may run over the end.
const ZIGZAG: [u8; 80] = {
    let mut order = [63; 80];
    let (mut row, mut column, mut at) = (0_usize, 0_usize, 0);
    while at < 64 {
        order[at] = (row * 8 + column) as u8;
        at += 1;
        // Along a diagonal, up where the sum of row and column is even; around at the edges.
        let is_upwards = (row + column).is_multiple_of(2);
        match (is_upwards, row, column) {
            (true, _, 7) => row += 1,
            (true, 0, _) => column += 1,
            (true, ..) => (row, column) = (row - 1, column + 1),
            (false, 7, _) => column += 1,
            (false, _, 0) => row += 1,
            (false, ..) => (row, column) = (row + 1, column - 1),
        }
    }
    order
};

/// The place in a block of rows of coefficient `k` of the file.
pub(super) fn place(k: usize) -> usize {
    usize::from(ZIGZAG[k])
}

/// What a scan says of itself, and the tables that it uses.
pub(super) struct Scan<'a> {
    /// Its components: place among those of the frame, DC and AC table. A table that the scan does not read may be missing.
    pub(super) components: Vec<(usize, Option<&'a Huffman>, Option<&'a Huffman>)>,
    /// The coefficients that it holds, in the order of the file.
    pub(super) band: (usize, usize),
    /// Bits that earlier scans have sent, and bits that are left to later ones.
    pub(super) bits: (u32, u32),
    pub(super) is_progressive: bool,
    /// MCUs between two restart markers, or 0.
    pub(super) restart: usize,
    /// MCUs across and down in a scan of several components.
    pub(super) mcus: (usize, usize),
}

/// What decoding carries from block to block.
#[derive(Default)]
struct State {
    /// The last DC value of each component.
    dc: [i32; 4],
    /// Blocks that are still to be passed over, as a run of ends of blocks said.
    skip: u32,
}

impl Scan<'_> {
    /// Decodes the scan, whose data begin at byte `at`, into the components of the frame. Returns where the data end.
    ///
    /// # Errors
    /// The file ends within the data.
    pub(super) fn decode(
        &self,
        bytes: &[u8],
        at: usize,
        components: &mut [Component],
    ) -> Result<usize, &'static str> {
        let mut bits = Bits::new(bytes, at);
        let mut state = State::default();
        let mut marker = 0;
        let (across, down) = match self.components[..] {
            [(only, ..)] => components[only].own_blocks,
            _ => self.mcus,
        };
        for mcu in 0..across * down {
            if self.restart > 0 && mcu > 0 && mcu.is_multiple_of(self.restart) {
                state = State::default();
                find_restart(&mut bits, bytes, marker);
                marker = (marker + 1) % 8;
            }
            if bits.is_exhausted {
                if self.restart == 0 || !is_restart_ahead(bytes, bits.position()) {
                    break;
                }
                continue;
            }
            let (x, y) = (mcu % across, mcu / across);
            for (number, &(which, dc, ac)) in self.components.iter().enumerate() {
                let component = &mut components[which];
                let (columns, rows) = match self.components.len() {
                    1 => (1, 1),
                    _ => component.sampling,
                };
                for block in 0..columns * rows {
                    let (x, y) = (x * columns + block % columns, y * rows + block / columns);
                    if self.is_progressive {
                        let at = (y * component.blocks.0 + x) * 64;
                        let block = (&mut component.coefficients[at..at + 64]).try_into();
                        let block: &mut [i16; 64] = block.map_err(|_| "no block")?;
                        self.progress(&mut bits, &mut state, number, dc, ac, block);
                    } else if let (Some(dc), Some(ac)) = (dc, ac) {
                        let mut block = [0; 64];
                        let is_flat = sequential(&mut bits, &mut state.dc[number], dc, ac, &mut block);
                        component.draw(x, y, &block, is_flat);
                    }
                }
            }
            if bits.is_truncated {
                return Err("the file ends early");
            }
        }
        Ok(bits.position())
    }

    /// One step of a progression for one block.
    fn progress(
        &self,
        bits: &mut Bits,
        state: &mut State,
        number: usize,
        dc: Option<&Huffman>,
        ac: Option<&Huffman>,
        block: &mut [i16; 64],
    ) {
        let (sent, left) = self.bits;
        match (self.band.0, sent, dc, ac) {
            (0, 0, Some(table), _) => {
                let size = bits.symbol(table);
                let value = &mut state.dc[number];
                *value = value.wrapping_add(bits.number(u32::from(size)));
                block[0] = (*value << left) as i16;
            }
            (0, ..) => block[0] |= (bits.take(1) << left) as i16,
            (_, 0, _, Some(table)) => self.begin_band(bits, &mut state.skip, table, block),
            (.., Some(table)) => self.refine_band(bits, &mut state.skip, table, block),
            _ => {}
        }
    }

    /// The first bits of the coefficients of a band.
    fn begin_band(&self, bits: &mut Bits, skip: &mut u32, table: &Huffman, block: &mut [i16; 64]) {
        if *skip > 0 {
            *skip -= 1;
            return;
        }
        let (mut k, last) = self.band;
        while k <= last {
            let symbol = bits.symbol(table);
            let (run, size) = (usize::from(symbol >> 4), u32::from(symbol & 15));
            if size > 0 {
                k += run;
                block[place(k)] = (bits.number(size) << self.bits.1) as i16;
            } else if run == 15 {
                k += 15;
            } else {
                *skip = (1 << run) - 1 + bits.take(run as u32);
                return;
            }
            k += 1;
        }
    }

    /// One more bit for the coefficients of a band that are not 0, and new ones among those that are.
    fn refine_band(&self, bits: &mut Bits, skip: &mut u32, table: &Huffman, block: &mut [i16; 64]) {
        let bit = 1_i16 << self.bits.1;
        let refine = |bits: &mut Bits, value: &mut i16| {
            if bits.take(1) == 1 && *value & bit == 0 {
                *value = if *value >= 0 { value.wrapping_add(bit) } else { value.wrapping_sub(bit) };
            }
        };
        let (mut k, last) = self.band;
        if *skip == 0 {
            while k <= last {
                let symbol = bits.symbol(table);
                let (mut run, size) = (symbol >> 4, symbol & 15);
                let mut new = 0;
                if size > 0 {
                    new = if bits.take(1) == 1 { bit } else { -bit };
                } else if run < 15 {
                    *skip = (1 << run) + bits.take(u32::from(run));
                    break;
                }
                while k <= last {
                    let value = &mut block[place(k)];
                    if *value != 0 {
                        refine(bits, value);
                    } else if run == 0 {
                        break;
                    } else {
                        run -= 1;
                    }
                    k += 1;
                }
                if new != 0 {
                    block[place(k)] = new;
                }
                k += 1;
            }
        }
        if *skip > 0 {
            for k in k..=last {
                let value = &mut block[place(k)];
                if *value != 0 {
                    refine(bits, value);
                }
            }
            *skip -= 1;
        }
    }
}

/// A whole block. Returns whether all its coefficients but the first are 0.
#[inline]
fn sequential(
    bits: &mut Bits,
    dc: &mut i32,
    dc_table: &Huffman,
    ac_table: &Huffman,
    block: &mut [i16; 64],
) -> bool {
    let size = bits.symbol(dc_table);
    *dc = dc.wrapping_add(bits.number(u32::from(size)));
    block[0] = *dc as i16;
    let (mut k, mut is_flat) = (1, true);
    while k < 64 {
        let symbol = bits.symbol(ac_table);
        let (run, size) = (usize::from(symbol >> 4), u32::from(symbol & 15));
        if size > 0 {
            k += run;
            block[place(k)] = bits.number(size) as i16;
            is_flat = false;
        } else if run == 15 {
            k += 15;
        } else {
            break;
        }
        k += 1;
    }
    is_flat
}

/// The place of the next marker from `at` on, and its kind.
pub(super) fn next_marker(bytes: &[u8], at: usize) -> Option<(usize, u8)> {
    let rest = bytes.get(at..)?;
    let pairs = rest.windows(2).enumerate();
    let mut markers = pairs.filter(|(_, pair)| pair[0] == MARKER && !matches!(pair[1], 0 | MARKER));
    markers.next().map(|(offset, pair)| (at + offset, pair[1]))
}

fn is_restart_ahead(bytes: &[u8], at: usize) -> bool {
    next_marker(bytes, at).is_some_and(|(_, kind)| matches!(kind, 0xd0..=0xd7))
}

/// Goes on behind the restart marker with number `expected`. Where another one is found, libjpeg's strategy is followed: one of the next two
/// is left for later, one of the last two is passed over, and any other is taken for the one expected.
fn find_restart(bits: &mut Bits, bytes: &[u8], expected: u8) {
    let mut at = bits.position();
    while let Some((place, kind)) = next_marker(bytes, at) {
        let ahead = match kind {
            0xd0..=0xd7 => (kind - 0xd0 + 8 - expected) % 8,
            0x01..=0xbf => 7,
            _ => 1,
        };
        match ahead {
            1 | 2 => {
                let is_exhausted = bits.is_exhausted;
                bits.restart(place);
                bits.is_exhausted = is_exhausted;
                return;
            }
            6 | 7 => at = place + 2,
            _ => return bits.restart(place + 2),
        }
    }
    bits.restart(bytes.len());
}

impl Component {
    /// Computes the samples of block (`x`, `y`). `is_flat`: its coefficients are 0 but for the first.
    pub(super) fn draw(&mut self, x: usize, y: usize, block: &[i16; 64], is_flat: bool) {
        let stride = self.blocks.0 * 8;
        let samples = &mut self.samples[y * 8 * stride + x * 8..];
        match is_flat {
            true => inverse_flat(block[0], self.steps[0], samples, stride),
            false => inverse(block, &self.steps, samples, stride),
        }
    }
}
