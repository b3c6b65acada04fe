//! How the training modes look in every figure. It knows no figure.

use crate::figure::{Mark, Style};

/// The look of a mode. Colours are of the palette of Okabe and Ito, which colour-blind readers can tell apart; dash
/// pattern and mark do the same in grey print.
pub fn style(mode: &str, faint: bool) -> Style {
    let (colour, dashes, mark): ([u8; 3], &[u32], Mark) = match mode {
        "fc" => ([0xd5, 0x5e, 0x00], &[2, 4], Mark::Triangle),
        "pe" => ([0x00, 0x72, 0xb2], &[], Mark::Circle),
        "full" => ([0x00, 0x9e, 0x73], &[9, 4], Mark::Square),
        _ => ([0x44, 0x44, 0x44], &[9, 4, 2, 4], Mark::Circle),
    };
    Style { colour, dashes, mark, faint }
}
