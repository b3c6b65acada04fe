//! From the samples of a row to red, green and blue: the equations of JFIF in integers of 16 bits behind the point, and PIL's colours of inks.

/// Pixels that are converted at once; a divisor of a block's width.
const LANES: usize = 8;

/// What the components of a picture are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Colors {
    Gray,
    Rgb,
    /// Luma, blue and red difference.
    Ycc,
    Cmyk,
    /// Luma and differences of inverted inks, and black.
    Ycck,
}

fn clamp(value: i32) -> u8 {
    value.clamp(0, 255) as u8
}

/// Red, green and blue of luma and differences: y + 1.402 r, y − 0.34414 b − 0.71414 r, y + 1.772 b. Factors are
/// round(2¹⁶ f), less a whole number that is added afterwards, so that products fit.
#[inline(always)]
fn rgb(y: u8, blue: u8, red: u8) -> [u8; 3] {
    let (y, blue, red) = (i32::from(y), i32::from(blue) - 128, i32::from(red) - 128);
    let shifted = |sum: i32| (sum + (1 << 15)) >> 16;
    [
        clamp(y + red + shifted(red * 26_345)),
        clamp(y - red + shifted(blue * -22_554 + red * 18_734)),
        clamp(y + 2 * blue + shifted(blue * -14_942)),
    ]
}

/// What is left of white under an ink and black, both 0 to 255.
fn under(ink: u8, black: u8) -> u8 {
    let white = 255 - u32::from(black);
    let product = u32::from(ink) * white + 128;
    (white - (((product >> 8) + product) >> 8)) as u8
}

fn lanes(samples: &[u8]) -> &[[u8; LANES]] {
    samples.as_chunks().0
}

impl Colors {
    /// Converts a row of whole blocks; `samples` has a slice for each component.
    pub(super) fn convert(self, samples: &[&[u8]], row: &mut [[u8; 3]]) {
        match (self, samples) {
            (Self::Gray, [gray]) => row.iter_mut().zip(*gray).for_each(|(pixel, gray)| *pixel = [*gray; 3]),
            (Self::Rgb, [a, b, c]) => {
                for (((pixel, a), b), c) in row.iter_mut().zip(*a).zip(*b).zip(*c) {
                    *pixel = [*a, *b, *c];
                }
            }
            (Self::Ycc, [y, blue, red]) => {
                let pixels = row.as_chunks_mut::<LANES>().0.iter_mut();
                for (((pixels, y), blue), red) in pixels.zip(lanes(y)).zip(lanes(blue)).zip(lanes(red)) {
                    let mut planes = [[0; LANES]; 3];
                    for lane in 0..LANES {
                        let rgb = rgb(y[lane], blue[lane], red[lane]);
                        planes.iter_mut().zip(rgb).for_each(|(plane, value)| plane[lane] = value);
                    }
                    *pixels = std::array::from_fn(|lane| planes.map(|plane| plane[lane]));
                }
            }
            // Files hold inverted inks, as Adobe's programs write them.
            (Self::Cmyk, [c, m, y, k]) => {
                for ((((pixel, c), m), y), k) in row.iter_mut().zip(*c).zip(*m).zip(*y).zip(*k) {
                    *pixel = [*c, *m, *y].map(|ink| under(255 - ink, 255 - k));
                }
            }
            (Self::Ycck, [y, blue, red, k]) => {
                for ((((pixel, y), blue), red), k) in row.iter_mut().zip(*y).zip(*blue).zip(*red).zip(*k) {
                    *pixel = rgb(*y, *blue, *red).map(|ink| under(ink, 255 - k));
                }
            }
            _ => {}
        }
    }
}
