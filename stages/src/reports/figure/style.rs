//! How curves look: colours, dashes and marks, one set for each kind of run. It knows no figure.

use crate::reports::names::parts_of_kind;

/// How a curve looks. Colour, dash pattern and mark each tell curves apart on their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    /// Red, green, blue.
    pub colour: [u8; 3],
    /// Lengths of dash, gap, dash, …; empty for a solid line.
    pub dashes: &'static [u32],
    /// The shape of its marks.
    pub mark: Mark,
    /// Drawn behind: lighter and thinner.
    pub faint: bool,
}

/// The shape of a mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// ●
    Circle,
    /// ■
    Square,
    /// ▲
    Triangle,
}

impl Style {
    /// How curves of a kind of run look. Colours are of the palette of Okabe and Ito, which colour-blind readers can tell apart; dash
    /// pattern and mark do the same for the modes in grey print. Models after the first have the palette's other colours.
    pub fn for_kind(kind: &str, faint: bool) -> Self {
        let (model, mode) = parts_of_kind(kind);
        let (first, other, dashes, mark): ([u8; 3], [u8; 3], &[u32], Mark) = match mode {
            "fc" => ([0xd5, 0x5e, 0x00], [0xe6, 0x9f, 0x00], &[2, 4], Mark::Triangle),
            "pe" => ([0x00, 0x72, 0xb2], [0x56, 0xb4, 0xe9], &[], Mark::Circle),
            "full" => ([0x00, 0x9e, 0x73], [0xcc, 0x79, 0xa7], &[9, 4], Mark::Square),
            _ => ([0x44; 3], [0x88; 3], &[9, 4, 2, 4], Mark::Circle),
        };
        let colour = if model.is_none() { first } else { other };
        Self { colour, dashes, mark, faint }
    }
}
