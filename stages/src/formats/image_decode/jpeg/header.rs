//! The tables and headers between the scans (T.81, Annex B).

use super::bits::Huffman;
use super::color::Colors;
use super::scan::{Scan, place};
use super::{Component, Frame};

/// Two bytes as a number.
pub(super) fn be16(bytes: &[u8]) -> usize {
    usize::from(bytes[0]) << 8 | usize::from(bytes[1])
}

/// What markers have said so far.
#[derive(Default)]
pub(super) struct Tables {
    steps: [Option<[i16; 64]>; 4],
    dc: [Option<Box<Huffman>>; 4],
    ac: [Option<Box<Huffman>>; 4],
    /// MCUs between two restart markers, or 0.
    pub(super) restart: usize,
    /// There is a marker of JFIF.
    is_jfif: bool,
    /// What Adobe's marker says of the colours.
    adobe: Option<u8>,
}

impl Tables {
    /// Takes over the Huffman tables of a segment.
    pub(super) fn add_huffman(&mut self, mut data: &[u8]) -> Result<(), &'static str> {
        while !data.is_empty() {
            let Some((head, rest)) = data.split_first_chunk::<17>() else {
                return Err("a short Huffman table");
            };
            let counts: [u8; 16] = std::array::from_fn(|at| head[at + 1]);
            let count = counts.iter().map(|count| usize::from(*count)).sum();
            let symbols = rest.get(..count).filter(|_| count <= 256).ok_or("a short Huffman table")?;
            let table = Box::new(Huffman::new(counts, symbols)?);
            let number = usize::from(head[0] & 15);
            let tables = match head[0] >> 4 {
                0 if table.largest() > 15 => {
                    return Err("a Huffman table with a difference of more than 15 bits");
                }
                0 => &mut self.dc,
                _ => &mut self.ac,
            };
            *tables.get_mut(number).ok_or("a Huffman table with a number above 3")? = Some(table);
            data = &rest[count..];
        }
        Ok(())
    }

    /// Takes over the quantisation tables of a segment.
    pub(super) fn add_steps(&mut self, mut data: &[u8]) -> Result<(), &'static str> {
        while let Some((head, rest)) = data.split_first() {
            let size = if head >> 4 == 0 { 1 } else { 2 };
            let values = rest.get(..64 * size).ok_or("a short quantisation table")?;
            let mut steps = [0; 64];
            for (k, value) in values.chunks_exact(size).enumerate() {
                steps[place(k)] = value.iter().fold(0_u16, |sum, byte| sum << 8 | u16::from(*byte)) as i16;
            }
            let number = usize::from(head & 15);
            *self.steps.get_mut(number).ok_or("a quantisation table with a number above 3")? = Some(steps);
            data = &rest[64 * size..];
        }
        Ok(())
    }

    /// Notes what the segments of JFIF and of Adobe say.
    pub(super) fn note_application(&mut self, kind: u8, data: &[u8]) {
        match kind {
            0xe0 => self.is_jfif |= data.starts_with(b"JFIF\0") && data.len() >= 14,
            _ if data.starts_with(b"Adobe") && data.len() >= 12 => self.adobe = Some(data[11]),
            _ => {}
        }
    }

    /// Reads a scan header (T.81, B.2.3) and gives its components their quantisation steps.
    pub(super) fn scan(&self, data: &[u8], frame: &mut Frame) -> Result<Scan<'_>, &'static str> {
        let count = usize::from(*data.first().ok_or("a short scan header")?);
        if !(1..=4).contains(&count) || data.len() != 4 + 2 * count {
            return Err("a scan header of another length than its components need");
        }
        let tail = &data[1 + 2 * count..];
        let band = (usize::from(tail[0]), usize::from(tail[1]));
        let bits = (u32::from(tail[2] >> 4), u32::from(tail[2] & 15));
        let is_progressive = frame.is_progressive;
        if is_progressive {
            let is_band = match band {
                (0, last) => last == 0,
                (first, last) => first <= last && last < 64 && count == 1,
            };
            if !is_band || bits.1 > 13 || (bits.0 > 0 && bits.0 != bits.1 + 1) {
                return Err("progressive scan parameters out of range");
            }
        }
        let needs_dc = !is_progressive || (band.0 == 0 && bits.0 == 0);
        let needs_ac = !is_progressive || band.0 > 0;
        let mut components: Vec<(usize, Option<&Huffman>, Option<&Huffman>)> = Vec::new();
        let mut blocks = 0;
        for entry in data[1..1 + 2 * count].chunks_exact(2) {
            let which = frame.components.iter().position(|component| component.id == entry[0]);
            let which = which.filter(|which| components.iter().all(|(other, ..)| other != which));
            let which = which.ok_or("a scan of a component that is not in the frame or twice in the scan")?;
            let component = &mut frame.components[which];
            if !component.has_steps {
                component.steps =
                    self.steps.get(component.table).copied().flatten().ok_or("no quantisation table")?;
                component.has_steps = true;
            }
            blocks += component.sampling.0 * component.sampling.1;
            let dc = self.dc.get(usize::from(entry[1] >> 4)).and_then(Option::as_deref);
            let ac = self.ac.get(usize::from(entry[1] & 15)).and_then(Option::as_deref);
            if (needs_dc && dc.is_none()) || (needs_ac && ac.is_none()) {
                return Err("no Huffman table");
            }
            components.push((which, dc, ac));
        }
        if count > 1 && blocks > 10 {
            return Err("more than 10 blocks in an MCU");
        }
        Ok(Scan { components, band, bits, is_progressive, restart: self.restart, mcus: frame.mcus })
    }

    /// What the components are, by the markers of JFIF and Adobe or by the names of the components.
    pub(super) fn colors(&self, components: &[Component]) -> Colors {
        let ids: Vec<u8> = components.iter().map(|component| component.id).collect();
        match (ids.len(), self.is_jfif, self.adobe) {
            (1, ..) => Colors::Gray,
            (3, true, _) => Colors::Ycc,
            (3, false, Some(0)) => Colors::Rgb,
            (3, false, None) if ids == *b"RGB" => Colors::Rgb,
            (3, ..) => Colors::Ycc,
            (_, _, None | Some(0)) => Colors::Cmyk,
            _ => Colors::Ycck,
        }
    }
}
