//! Huffman codes and the bits of a scan (T.81, C.2 and F.2.2).

/// Codes of up to so many bits are found by one look into a table.
const LOOKUP: u32 = 9;

/// A Huffman code: from a code's bits to its symbol.
#[derive(Clone)]
pub(super) struct Huffman {
    /// By the next [`LOOKUP`] bits: length · 256 + symbol; 0 where the code is longer.
    lookup: [u16; 1 << LOOKUP],
    /// By length: one more than the last code of this length, its bits moved up to 16; 0 where no code has it.
    end: [u32; 17],
    /// By length: add it to a code of this length for the place of its symbol.
    offset: [i32; 17],
    symbols: [u8; 256],
}

impl Huffman {
    /// The code with `counts[i]` symbols of `i + 1` bits. Errors where there are more codes than bits allow.
    pub(super) fn new(counts: [u8; 16], symbols: &[u8]) -> Result<Self, &'static str> {
        let mut table = Self { lookup: [0; 1 << LOOKUP], end: [0; 17], offset: [0; 17], symbols: [0; 256] };
        table.symbols[..symbols.len()].copy_from_slice(symbols);
        let (mut code, mut place) = (0_u32, 0_usize);
        for length in 1..=16_u32 {
            let count = u32::from(counts[length as usize - 1]);
            if code + count > 1 << length {
                return Err("a Huffman table with more codes than bits allow");
            }
            table.offset[length as usize] = place as i32 - code as i32;
            if length <= LOOKUP {
                for _ in 0..count {
                    let entry = (length << 8) as u16 | u16::from(table.symbols[place]);
                    let first = (code << (LOOKUP - length)) as usize;
                    table.lookup[first..first + (1 << (LOOKUP - length))].fill(entry);
                    (code, place) = (code + 1, place + 1);
                }
            } else {
                code += count;
                place += count as usize;
            }
            if count > 0 {
                table.end[length as usize] = code << (16 - length);
            }
            code <<= 1;
        }
        Ok(table)
    }

    /// The largest symbol.
    pub(super) fn largest(&self) -> u8 {
        self.symbols.iter().copied().max().unwrap_or(0)
    }
}

/// The bits of a scan, without the zero bytes stuffed behind 0xff. At a marker they end, and zeros follow.
pub(super) struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
    buffer: u64,
    count: u32,
    /// A marker comes where more bits are needed: the rest of the data is not in the file.
    pub(super) is_exhausted: bool,
    /// The file itself ends where bits are needed.
    pub(super) is_truncated: bool,
}

impl<'a> Bits<'a> {
    /// The bits from byte `at` on.
    pub(super) fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at, buffer: 0, count: 0, is_exhausted: false, is_truncated: false }
    }

    /// The next byte that is not in the buffer.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    /// Goes on at byte `at`.
    pub(super) fn restart(&mut self, at: usize) {
        *self = Self::new(self.bytes, at);
    }

    /// Fills the buffer to 32 bits at least, as far as there are, and 63 at most.
    #[inline]
    fn refill(&mut self) {
        if self.count >= 32 {
            return;
        }
        if let Some(four) = self.bytes.get(self.at..self.at + 4) {
            let four = u32::from_be_bytes([four[0], four[1], four[2], four[3]]);
            // No byte is 0xff: no byte of the complement is 0.
            if (!four).wrapping_sub(0x0101_0101) & four & 0x8080_8080 == 0 {
                self.buffer = self.buffer << 32 | u64::from(four);
                self.count += 32;
                self.at += 4;
                return;
            }
        }
        self.refill_slowly();
    }

    #[cold]
    fn refill_slowly(&mut self) {
        while self.count < 56 {
            let Some(byte) = self.bytes.get(self.at).copied() else { return };
            let mut length = 1;
            if byte == 0xff {
                // Any number of 0xff may come before the second byte.
                let rest = &self.bytes[self.at..];
                length = rest.iter().take_while(|byte| **byte == 0xff).count();
                if rest.get(length) != Some(&0) {
                    return;
                }
                length += 1;
            }
            self.buffer = self.buffer << 8 | u64::from(byte);
            self.count += 8;
            self.at += length;
        }
    }

    /// The next `length` bits, at most 16, zeros behind the end.
    #[inline]
    fn peek(&self, length: u32) -> u32 {
        let bits = match self.count.checked_sub(length) {
            Some(shift) => self.buffer >> shift,
            None => self.buffer << (length - self.count),
        };
        bits as u32 & ((1 << length) - 1)
    }

    #[inline]
    fn skip(&mut self, length: u32) {
        match self.count.checked_sub(length) {
            Some(left) => self.count = left,
            None => self.exhaust(),
        }
    }

    #[cold]
    fn exhaust(&mut self) {
        self.is_exhausted = true;
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        self.is_truncated |= rest.iter().all(|byte| *byte == 0xff);
        (self.buffer, self.count) = (0, 32);
    }

    /// The next `length` bits, at most 16.
    #[inline]
    pub(super) fn take(&mut self, length: u32) -> u32 {
        self.refill();
        self.take_buffered(length)
    }

    #[inline]
    fn take_buffered(&mut self, length: u32) -> u32 {
        let bits = self.peek(length);
        self.skip(length);
        bits
    }

    /// The next symbol. Bits that are no code are symbol 0.
    #[inline]
    pub(super) fn symbol(&mut self, table: &Huffman) -> u8 {
        self.refill();
        let entry = table.lookup[self.peek(LOOKUP) as usize];
        if entry != 0 {
            self.skip(u32::from(entry >> 8));
            return entry as u8;
        }
        self.long_symbol(table)
    }

    fn long_symbol(&mut self, table: &Huffman) -> u8 {
        let bits = self.peek(16);
        let length = (LOOKUP + 1..=16).find(|length| bits < table.end[*length as usize]);
        self.skip(length.unwrap_or(17));
        let place = |length: u32| (bits >> (16 - length)) as i32 + table.offset[length as usize];
        length.map_or(0, |length| table.symbols[place(length) as usize & 0xff])
    }

    /// A number of `size` bits, at most 15: those that begin with 0 are negative (T.81, F.2.2.1). To be called behind [`symbol`].
    #[inline]
    pub(super) fn number(&mut self, size: u32) -> i32 {
        if size == 0 {
            return 0;
        }
        let bits = self.take_buffered(size) as i32;
        let is_negative = bits < 1 << (size - 1);
        bits + if is_negative { 1 - (1 << size) } else { 0 }
    }
}
