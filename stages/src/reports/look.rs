//! How the kinds of runs look in every figure. It knows no figure.

use crate::reports::figure::{Mark, Style};
use crate::reports::paper_results::parts_of_kind;

/// The look of a kind of run. Colours are of the palette of Okabe and Ito, which colour-blind readers can tell apart; dash
/// pattern and mark do the same for the modes in grey print. Models beside the first have the palette's other colours.
pub fn style(kind: &str, faint: bool) -> Style {
    let (model, mode) = parts_of_kind(kind);
    let (first, other, dashes, mark): ([u8; 3], [u8; 3], &[u32], Mark) = match mode {
        "fc" => ([0xd5, 0x5e, 0x00], [0xe6, 0x9f, 0x00], &[2, 4], Mark::Triangle),
        "pe" => ([0x00, 0x72, 0xb2], [0x56, 0xb4, 0xe9], &[], Mark::Circle),
        "full" => ([0x00, 0x9e, 0x73], [0xcc, 0x79, 0xa7], &[9, 4], Mark::Square),
        _ => ([0x44; 3], [0x88; 3], &[9, 4, 2, 4], Mark::Circle),
    };
    let colour = if model.is_none() { first } else { other };
    Style { colour, dashes, mark, faint }
}
