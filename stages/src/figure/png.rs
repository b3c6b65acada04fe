//! Turns a figure's SVG into PNG. The font comes with the program, so that no machine's fonts matter.

use std::sync::Arc;

use resvg::{tiny_skia, usvg};

/// Pixels of the PNG for one of the SVG: sharp on dense screens and at 200 dots an inch across a column.
const SCALE: f32 = 2.0;

/// The SVG file as a PNG file.
///
/// # Errors
/// Text that is not SVG.
pub fn rasterise(svg: &str) -> Result<Vec<u8>, String> {
    let mut fonts = usvg::fontdb::Database::new();
    fonts.load_font_data(epaint_default_fonts::UBUNTU_LIGHT.to_vec());
    let family = fonts.faces().next().and_then(|face| face.families.first()).map(|family| family.0.clone());
    fonts.set_sans_serif_family(family.ok_or("the font that comes with the program has no name")?);
    let options = usvg::Options { fontdb: Arc::new(fonts), ..usvg::Options::default() };
    let tree = usvg::Tree::from_str(svg, &options).map_err(|error| error.to_string())?;
    let size = tree.size().to_int_size().scale_by(SCALE).ok_or("the figure has no area")?;
    let mut pixels = tiny_skia::Pixmap::new(size.width(), size.height()).ok_or("the figure is too large")?;
    resvg::render(&tree, tiny_skia::Transform::from_scale(SCALE, SCALE), &mut pixels.as_mut());
    pixels.encode_png().map_err(|error| error.to_string())
}
