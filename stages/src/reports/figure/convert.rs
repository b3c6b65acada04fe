//! Turns a figure's SVG into PNG and PDF. The font comes with the program, so that no machine's fonts matter.

use std::sync::Arc;

use epaint_default_fonts::UBUNTU_LIGHT;
use resvg::{tiny_skia, usvg};

use super::pdf;

/// Pixels of the PNG for one of the SVG: sharp on dense screens and at 200 dots an inch across a column.
const SCALE: f32 = 2.0;

/// A figure's SVG, read.
pub struct Drawing(usvg::Tree);

impl Drawing {
    /// Reads an SVG file.
    ///
    /// # Errors
    /// Text that is not SVG.
    pub fn read(svg: &str) -> Result<Self, String> {
        let mut fonts = usvg::fontdb::Database::new();
        fonts.load_font_data(UBUNTU_LIGHT.to_vec());
        let family =
            fonts.faces().next().and_then(|face| face.families.first()).map(|family| family.0.clone());
        fonts.set_sans_serif_family(family.ok_or("the font that comes with the program has no name")?);
        let options = usvg::Options { fontdb: Arc::new(fonts), ..usvg::Options::default() };
        usvg::Tree::from_str(svg, &options).map(Self).map_err(|error| error.to_string())
    }

    /// It as a PNG file.
    ///
    /// # Errors
    /// A figure without an area, or too large.
    pub fn png(&self) -> Result<Vec<u8>, String> {
        let size = self.0.size().to_int_size().scale_by(SCALE).ok_or("the figure has no area")?;
        let mut pixels =
            tiny_skia::Pixmap::new(size.width(), size.height()).ok_or("the figure is too large")?;
        resvg::render(&self.0, tiny_skia::Transform::from_scale(SCALE, SCALE), &mut pixels.as_mut());
        pixels.encode_png().map_err(|error| error.to_string())
    }

    /// It as a PDF file of one page, its text as text.
    ///
    /// # Errors
    /// A figure with more than plain paths and text.
    pub fn pdf(&self, title: &str) -> Result<Vec<u8>, String> {
        pdf::write(&self.0, UBUNTU_LIGHT, title)
    }
}
