//! Writes a figure's SVG as a PDF page: paths as paths, text as text in an embedded part of the font. It covers what
//! [`super::draw`] draws (plain colours, dashes, opacity) and rejects the rest of SVG. The same drawing gives the same
//! bytes on every machine: the page has no date, and its streams are compressed without code for special CPUs.

use std::collections::BTreeMap;

use miniz_oxide::deflate::compress_to_vec_zlib;
use pdf_writer::types::{CidFontType, FontFlags, LineCapStyle, LineJoinStyle, SystemInfo, UnicodeCmap};
use pdf_writer::{Content, Filter, Finish, Name, Pdf, Rect, Ref, Str, TextStr};
use resvg::usvg::tiny_skia_path::{PathSegment, Transform};
use resvg::usvg::{FillRule, Group, LineCap, LineJoin, Node, Paint, PaintOrder, Path, Stroke, Text, Tree};
use subsetter::GlyphRemapper;
use ttf_parser::{Face, GlyphId};

/// Points of print for a pixel of the SVG, as CSS has it.
const POINTS: f32 = 0.75;
/// PDF gives widths in thousandths of the font size (ISO 32000-1, 9.2.4).
const EM: f32 = 1000.0;
/// The highest level of compression.
const COMPRESSION: u8 = 9;
const FONT: Name = Name(b"F");
const SYSTEM_INFO: SystemInfo =
    SystemInfo { registry: Str(b"Adobe"), ordering: Str(b"Identity"), supplement: 0 };

/// The drawing as a PDF file of one page. `font` is the TrueType file that all its text was laid out with.
///
/// # Errors
/// The drawing holds something that this file does not cover, or the font cannot be read.
pub fn write(tree: &Tree, font: &[u8], title: &str) -> Result<Vec<u8>, String> {
    let [catalog, pages, page_id, info, content_id] = [1, 2, 3, 4, 5].map(Ref::new);
    let fonts = [6, 7, 8, 9, 10].map(Ref::new);
    let (width, height) = (POINTS * tree.size().width(), POINTS * tree.size().height());
    let mut drawing =
        Drawing { content: Content::new(), glyphs: Glyphs::read(font)?, opacities: BTreeMap::new() };
    // From y down in pixels to y up in points.
    drawing.content.transform([POINTS, 0.0, 0.0, -POINTS, 0.0, height]);
    drawing.group(tree.root())?;
    let Drawing { content, glyphs, opacities } = drawing;

    let mut pdf = Pdf::new();
    pdf.catalog(catalog).pages(pages);
    pdf.pages(pages).kids([page_id]).count(1);
    pdf.document_info(info).title(TextStr(title));
    let mut page = pdf.page(page_id);
    page.media_box(Rect::new(0.0, 0.0, width, height)).parent(pages).contents(content_id);
    let mut resources = page.resources();
    resources.fonts().pair(FONT, fonts[0]);
    let mut states = resources.ext_g_states();
    for (fill, stroke) in opacities.values().copied() {
        let mut state = states
            .insert(Name(opacity_name(fill, stroke).as_bytes()))
            .start::<pdf_writer::writers::ExtGraphicsState>();
        state.non_stroking_alpha(fill).stroking_alpha(stroke);
    }
    states.finish();
    resources.finish();
    page.finish();
    stream(&mut pdf, content_id, &content.finish());
    glyphs.write(&mut pdf, fonts)?;
    Ok(pdf.finish())
}

fn stream(pdf: &mut Pdf, id: Ref, bytes: &[u8]) {
    pdf.stream(id, &compress_to_vec_zlib(bytes, COMPRESSION)).filter(Filter::FlateDecode);
}

/// The name of the graphics state with these opacities, in thousandths.
fn opacity_name(fill: f32, stroke: f32) -> String {
    format!("O{:.0}-{:.0}", EM * fill, EM * stroke)
}

/// A page's content so far, and what it needs from the rest of the file.
struct Drawing<'a> {
    content: Content,
    glyphs: Glyphs<'a>,
    /// Opacities of fills and strokes other than 1, by the name of their graphics state.
    opacities: BTreeMap<String, (f32, f32)>,
}

impl Drawing<'_> {
    fn group(&mut self, group: &Group) -> Result<(), String> {
        if group.should_isolate() || group.clip_path().is_some() || group.mask().is_some() {
            return Err(
                "PDF figures have no groups with an opacity, a clip path, a mask or a filter".to_owned()
            );
        }
        for node in group.children() {
            match node {
                Node::Group(group) => self.group(group)?,
                Node::Path(path) => self.path(path)?,
                Node::Text(text) => self.text(text)?,
                Node::Image(_) => return Err("PDF figures have no pictures".to_owned()),
            }
        }
        Ok(())
    }

    /// Moves what follows, within a saved state.
    fn place(&mut self, transform: Transform) {
        if !transform.is_identity() {
            self.content.transform(matrix(transform));
        }
    }

    /// Sets what the next path or text is painted with, within a saved state.
    fn paint(&mut self, fill: Option<(&Paint, f32)>, stroke: Option<&Stroke>) -> Result<(), String> {
        if let Some((paint, _)) = fill {
            let [red, green, blue] = colour(paint)?;
            self.content.set_fill_rgb(red, green, blue);
        }
        if let Some(stroke) = stroke {
            let [red, green, blue] = colour(stroke.paint())?;
            self.content.set_stroke_rgb(red, green, blue).set_line_width(stroke.width().get());
            self.content.set_miter_limit(stroke.miterlimit().get());
            self.content.set_line_cap(match stroke.linecap() {
                LineCap::Butt => LineCapStyle::ButtCap,
                LineCap::Round => LineCapStyle::RoundCap,
                LineCap::Square => LineCapStyle::ProjectingSquareCap,
            });
            self.content.set_line_join(match stroke.linejoin() {
                LineJoin::Miter | LineJoin::MiterClip => LineJoinStyle::MiterJoin,
                LineJoin::Round => LineJoinStyle::RoundJoin,
                LineJoin::Bevel => LineJoinStyle::BevelJoin,
            });
            if let Some(dashes) = stroke.dasharray() {
                self.content.set_dash_pattern(dashes.iter().copied(), stroke.dashoffset());
            }
        }
        let opacities =
            (fill.map_or(1.0, |fill| fill.1), stroke.map_or(1.0, |stroke| stroke.opacity().get()));
        if opacities != (1.0, 1.0) {
            let name = opacity_name(opacities.0, opacities.1);
            self.content.set_parameters(Name(name.as_bytes()));
            self.opacities.insert(name, opacities);
        }
        Ok(())
    }

    fn path(&mut self, path: &Path) -> Result<(), String> {
        let visible = |opacity: f32| opacity > 0.0;
        let fill = path.fill().filter(|fill| visible(fill.opacity().get()));
        let stroke = path.stroke().filter(|stroke| visible(stroke.opacity().get()));
        if !path.is_visible() || (fill.is_none() && stroke.is_none()) {
            return Ok(());
        }
        if fill.is_some() && stroke.is_some() && path.paint_order() == PaintOrder::StrokeAndFill {
            return Err("PDF figures have no path whose fill is above its stroke".to_owned());
        }
        self.content.save_state();
        self.place(path.abs_transform());
        self.paint(fill.map(|fill| (fill.paint(), fill.opacity().get())), stroke)?;
        let mut last = (0.0, 0.0);
        for segment in path.data().segments() {
            match segment {
                PathSegment::MoveTo(to) => self.content.move_to(to.x, to.y),
                PathSegment::LineTo(to) => self.content.line_to(to.x, to.y),
                // PDF has cubic curves alone: handles two thirds of the way to the quadratic one.
                PathSegment::QuadTo(over, to) => {
                    let handle = |end: f32, over: f32| end + 2.0 / 3.0 * (over - end);
                    let (a, b) = (handle(last.0, over.x), handle(last.1, over.y));
                    self.content.cubic_to(a, b, handle(to.x, over.x), handle(to.y, over.y), to.x, to.y)
                }
                PathSegment::CubicTo(a, b, to) => self.content.cubic_to(a.x, a.y, b.x, b.y, to.x, to.y),
                PathSegment::Close => self.content.close_path(),
            };
            if let PathSegment::MoveTo(to)
            | PathSegment::LineTo(to)
            | PathSegment::QuadTo(_, to)
            | PathSegment::CubicTo(_, _, to) = segment
            {
                last = (to.x, to.y);
            }
        }
        match (fill.map(|fill| fill.rule()), stroke.is_some()) {
            (Some(FillRule::NonZero), false) => self.content.fill_nonzero(),
            (Some(FillRule::EvenOdd), false) => self.content.fill_even_odd(),
            (Some(FillRule::NonZero), true) => self.content.fill_nonzero_and_stroke(),
            (Some(FillRule::EvenOdd), true) => self.content.fill_even_odd_and_stroke(),
            (None, _) => self.content.stroke(),
        };
        self.content.restore_state();
        Ok(())
    }

    fn text(&mut self, text: &Text) -> Result<(), String> {
        for span in text.layouted().iter().filter(|span| span.visible && !span.positioned_glyphs.is_empty()) {
            let Some(fill) = &span.fill else { continue };
            if span.stroke.is_some()
                || span.underline.is_some()
                || span.overline.is_some()
                || span.line_through.is_some()
            {
                return Err("PDF figures have no outlined or underlined text".to_owned());
            }
            self.content.save_state();
            self.place(text.abs_transform());
            self.paint(Some((fill.paint(), fill.opacity().get())), None)?;
            self.content.begin_text();
            let size = span.font_size.get();
            self.content.set_font(FONT, size);
            for glyph in &span.positioned_glyphs {
                // The glyph's transform contains the scale to the font's size, which `set_font` applies here, and y down.
                let scale = self.glyphs.units_per_em / size;
                self.content.set_text_matrix(matrix(glyph.outline_transform().pre_scale(scale, scale)));
                let id = self.glyphs.number(glyph.id.0, &glyph.text);
                self.content.show(Str(&id.to_be_bytes()));
            }
            self.content.end_text();
            self.content.restore_state();
        }
        Ok(())
    }
}

fn matrix(transform: Transform) -> [f32; 6] {
    let Transform { sx, ky, kx, sy, tx, ty } = transform;
    [sx, ky, kx, sy, tx, ty]
}

/// The colour as red, green and blue from 0 to 1.
fn colour(paint: &Paint) -> Result<[f32; 3], String> {
    match paint {
        Paint::Color(colour) => {
            Ok([colour.red, colour.green, colour.blue].map(|value| f32::from(value) / 255.0))
        }
        _ => Err("PDF figures have no gradients and no patterns".to_owned()),
    }
}

/// The glyphs that the text uses, numbered as in the part of the font that is embedded.
struct Glyphs<'a> {
    file: &'a [u8],
    face: Face<'a>,
    units_per_em: f32,
    numbers: GlyphRemapper,
    /// What each glyph means, by its new number.
    texts: BTreeMap<u16, String>,
}

impl<'a> Glyphs<'a> {
    fn read(file: &'a [u8]) -> Result<Self, String> {
        let face = Face::parse(file, 0).map_err(|error| format!("the font cannot be read: {error}"))?;
        let units_per_em = face.units_per_em().into();
        Ok(Self { file, face, units_per_em, numbers: GlyphRemapper::new(), texts: BTreeMap::new() })
    }

    /// The number of a glyph in the embedded font; `text` is what a reader copies for it.
    fn number(&mut self, glyph: u16, text: &str) -> u16 {
        let number = self.numbers.remap(glyph);
        self.texts.entry(number).or_insert_with(|| text.to_owned());
        number
    }

    /// Writes the font: ISO 32000-1, 9.7 (composite fonts) and 9.8 (descriptors).
    fn write(
        &self,
        pdf: &mut Pdf,
        [font, cid_font, descriptor, to_unicode, file]: [Ref; 5],
    ) -> Result<(), String> {
        let part = subsetter::subset(self.file, 0, &self.numbers)
            .map_err(|error| format!("the font has no part to embed: {error}"))?;
        // Six letters mark a part of a font; a file with one font needs no more than any six.
        let name = Name(b"REPROA+Ubuntu-Light");
        let units = |value: f32| EM / self.units_per_em * value;
        pdf.type0_font(font)
            .base_font(name)
            .encoding_predefined(Name(b"Identity-H"))
            .descendant_font(cid_font)
            .to_unicode(to_unicode);

        let mut cid = pdf.cid_font(cid_font);
        cid.subtype(CidFontType::Type2).base_font(name).system_info(SYSTEM_INFO).font_descriptor(descriptor);
        cid.cid_to_gid_map_predefined(Name(b"Identity")).default_width(0.0);
        let advance = |glyph| units(self.face.glyph_hor_advance(GlyphId(glyph)).unwrap_or(0).into());
        cid.widths().consecutive(0, self.numbers.remapped_gids().map(advance));
        cid.finish();

        let edges = self.face.global_bounding_box();
        let [left, bottom, right, top] =
            [edges.x_min, edges.y_min, edges.x_max, edges.y_max].map(|edge| units(edge.into()));
        let (ascent, descent) = (units(self.face.ascender().into()), units(self.face.descender().into()));
        pdf.font_descriptor(descriptor)
            .name(name)
            // Its glyphs are found by number, not by the names of letters.
            .flags(FontFlags::SYMBOLIC)
            .bbox(Rect::new(left, bottom, right, top))
            .italic_angle(0.0)
            .ascent(ascent)
            .descent(descent)
            .cap_height(self.face.capital_height().map_or(ascent, |height| units(height.into())))
            // Required, and only used where the font cannot be.
            .stem_v(80.0)
            .font_file2(file);

        let mut meanings = UnicodeCmap::new(Name(b"Custom"), SYSTEM_INFO);
        for (number, text) in &self.texts {
            meanings.pair_with_multiple(*number, text.chars());
        }
        stream(pdf, to_unicode, &meanings.finish());
        let packed = compress_to_vec_zlib(&part, COMPRESSION);
        let length = i32::try_from(part.len()).map_err(|_| "the font is too large")?;
        pdf.stream(file, &packed).filter(Filter::FlateDecode).pair(Name(b"Length1"), length);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use miniz_oxide::inflate::decompress_to_vec_zlib;

    use crate::reports::figure::convert::Drawing;

    /// A PDF file of what is between the tags of an SVG of 40 by 20 pixels.
    fn drawn(content: &str) -> Result<Vec<u8>, String> {
        let svg = format!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" width="40" height="20" font-family="sans-serif">{content}</svg>"#
        );
        Drawing::read(&svg)?.pdf("A title")
    }

    /// The streams of a file, unpacked: the page's content, the meanings of glyphs, the font.
    fn streams(pdf: &[u8]) -> Vec<Vec<u8>> {
        let find = |bytes: &[u8], word: &[u8]| bytes.windows(word.len()).position(|window| window == word);
        let (mut rest, mut found) = (pdf, Vec::new());
        while let Some(start) = find(rest, b">>\nstream\n") {
            rest = &rest[start + 10..];
            let end = find(rest, b"\nendstream").expect("an end");
            found.push(decompress_to_vec_zlib(&rest[..end]).expect("a packed stream"));
            rest = &rest[end..];
        }
        found
    }

    fn content(svg: &str) -> String {
        String::from_utf8(streams(&drawn(svg).expect("drawn")).swap_remove(0)).expect("text")
    }

    #[test]
    fn paths_have_their_colours_dashes_and_opacities() {
        let line =
            r##"<path d="M1 2L3 4" fill="none" stroke="#ff0000" stroke-width="2" stroke-dasharray="1 3"/>"##;
        assert_eq!(
            content(line),
            "0.75 0 0 -0.75 0 15 cm\nq\n1 0 0 RG\n2 w\n4 M\n0 J\n0 j\n[1 3] 0 d\n1 2 m\n3 4 l\nS\nQ"
        );
        let band = r##"<polygon points="1,2 3,4 5,2" fill="#0000ff" fill-opacity="0.2"/>"##;
        assert_eq!(
            content(band),
            "0.75 0 0 -0.75 0 15 cm\nq\n0 0 1 rg\n/O200-1000 gs\n1 2 m\n3 4 l\n5 2 l\nh\nf\nQ"
        );
        // What only a pointer finds is not printed.
        assert_eq!(content(r#"<rect width="9" height="9" fill-opacity="0"/>"#), "0.75 0 0 -0.75 0 15 cm");
        assert_eq!(content(r#"<rect width="9" height="9" visibility="hidden"/>"#), "0.75 0 0 -0.75 0 15 cm");
    }

    #[test]
    fn text_stays_text() {
        let pdf = drawn(r#"<text x="10" y="15" font-size="10">Iji</text>"#).expect("drawn");
        let [content, meanings, font] = <[Vec<u8>; 3]>::try_from(streams(&pdf)).expect("three streams");
        let content = String::from_utf8(content).expect("text");
        assert!(content.contains("/F 10 Tf\n1 0 0 -1 10 15 Tm\n"), "{content}");
        assert_eq!(content.matches(" Tj").count(), 3, "{content}");
        let meanings = String::from_utf8(meanings).expect("text");
        for (number, letter) in ["I", "j", "i"].iter().enumerate() {
            let code = u32::from(letter.chars().next().unwrap());
            assert!(meanings.contains(&format!("<{:04X}> <{code:04X}>", number + 1)), "{letter}: {meanings}");
        }
        let face = ttf_parser::Face::parse(&font, 0).expect("a font");
        assert_eq!(face.number_of_glyphs(), 4, "three letters and the one for what is missing");
    }

    #[test]
    fn what_is_not_covered_is_an_error() {
        for svg in [
            r#"<g opacity="0.5"><rect width="9" height="9"/><rect width="5" height="9"/></g>"#,
            r#"<linearGradient id="a"><stop offset="0"/><stop offset="1" stop-color="red"/></linearGradient><rect width="9" height="9" fill="url(#a)"/>"#,
            r#"<text x="1" y="9" stroke="red">a</text>"#,
            r#"<rect width="9" height="9" stroke="red" paint-order="stroke"/>"#,
        ] {
            assert!(drawn(svg).is_err_and(|problem| problem.starts_with("PDF figures have no")), "{svg}");
        }
    }
}
