//! The graph as a drawing: a box per step or family, columns from left to right, a colour per state. The same pipeline in the
//! same state gives the same bytes.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::boxes::Boxes;
use super::layout::{Size, layout};
use super::{colours, lines};
use crate::pipeline::Pipeline;

/// A letter of the name at 13 px and of the stage at 11 px, as wide as sans-serif letters are at most on average.
const NAME_LETTER: f64 = 7.6;
const STAGE_LETTER: f64 = 6.2;
const BOX_HEIGHT: f64 = 36.0;
const MARGIN: f64 = 24.0;
/// The room for one state of the legend.
const LEGEND: f64 = 92.0;
const LINE: &str = "#7a828c";

/// Draws the boxes and the lines between them. With `is_linked`, each box is a link to `#step-NAME`, for a page that
/// describes the steps.
pub fn svg(pipeline: &Pipeline, boxes: &Boxes, is_linked: bool) -> String {
    let Boxes { boxes, edges } = boxes;
    let texts: Vec<[String; 2]> = boxes.iter().map(lines).collect();
    let size = |[name, below]: &[String; 2]| {
        let (name, below) = (name.chars().count() as f64, below.chars().count() as f64);
        let width = (name * NAME_LETTER).max(below * STAGE_LETTER) + 20.0;
        Size { width: width.ceil(), height: BOX_HEIGHT }
    };
    let sizes: Vec<Size> = texts.iter().map(size).collect();
    let drawing = layout(&sizes, edges);
    let states: BTreeSet<&str> = boxes.iter().map(|each| each.state()).collect();

    let title_height = 46.0;
    let steps: usize = boxes.iter().map(|each| each.steps.len()).sum();
    let title = format!(
        "{} · profile {} · {steps} steps",
        pipeline.file.file_name().unwrap_or_default().to_string_lossy(),
        pipeline.profile,
    );
    let wide = (title.chars().count() as f64 * 9.0).max(states.len() as f64 * LEGEND);
    let (width, height) =
        (drawing.width.max(wide) + 2.0 * MARGIN, drawing.height + 2.0 * MARGIN + title_height);
    let (dx, dy) = (MARGIN, MARGIN + title_height);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" \
         viewBox=\"0 0 {width:.0} {height:.0}\" font-family=\"DejaVu Sans, Verdana, sans-serif\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"{MARGIN}\" y=\"{:.0}\" font-size=\"15\" fill=\"#333333\">{}</text>\n",
        MARGIN + 6.0,
        escape(&title),
    );
    for (at, state) in states.iter().enumerate() {
        let ((fill, border), x) = (colours(state), MARGIN + at as f64 * LEGEND);
        let _ = writeln!(
            text,
            "<circle cx=\"{:.0}\" cy=\"{:.0}\" r=\"6\" fill=\"{fill}\" stroke=\"{border}\"/>\
             <text x=\"{:.0}\" y=\"{:.0}\" font-size=\"12\" fill=\"#333333\">{}</text>",
            x + 7.0,
            MARGIN + 26.0,
            x + 19.0,
            MARGIN + 30.0,
            escape(state),
        );
    }
    let _ =
        writeln!(text, "<g fill=\"none\" stroke=\"{LINE}\" stroke-width=\"1.3\" stroke-opacity=\"0.55\">");
    let mut drawn = BTreeSet::new();
    for ((from, _), points) in edges.iter().zip(&drawing.lines) {
        let from = escape(&boxes[*from].name);
        for (number, pair) in points.windows(2).enumerate() {
            let [(x0, y0), (x1, y1)] = [pair[0], pair[1]].map(|(x, y)| (x + dx, y + dy));
            // Between two columns a curve that leaves and arrives level, across a column straight on.
            let path = if number % 2 == 0 {
                let middle = f64::midpoint(x0, x1);
                format!("M{x0:.1} {y0:.1}C{middle:.1} {y0:.1} {middle:.1} {y1:.1} {x1:.1} {y1:.1}")
            } else {
                format!("M{x0:.1} {y0:.1}H{x1:.1}")
            };
            // Lines from one box share their way; what is shared is drawn once.
            if drawn.insert(path.clone()) {
                let _ = writeln!(text, "<path d=\"{path}\"><title>from {from}</title></path>");
            }
        }
    }
    text.push_str("</g>\n");
    for (at, each) in boxes.iter().enumerate() {
        let ((x, y), width) = (drawing.boxes[at], sizes[at].width);
        let (x, y, (fill, border)) = (x + dx, y + dy, colours(each.state()));
        let thickness = if each.is_published { 2.5 } else { 1.0 };
        let (open, close) = match is_linked {
            true => (format!("<a href=\"#step-{}\">", escape(&each.name)), "</a>"),
            false => ("<g>".to_owned(), "</g>"),
        };
        let [name, below] = texts[at].each_ref().map(|line| escape(line));
        let _ = writeln!(
            text,
            "{open}<title>{name} ({stage})\n{details}</title>\
             <rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.0}\" height=\"{BOX_HEIGHT:.0}\" rx=\"5\" \
             fill=\"{fill}\" stroke=\"{border}\" stroke-width=\"{thickness}\"/>\
             <text x=\"{tx:.1}\" y=\"{ty:.1}\" font-size=\"13\" fill=\"#111111\" text-anchor=\"middle\">{name}</text>\
             <text x=\"{tx:.1}\" y=\"{sy:.1}\" font-size=\"11\" fill=\"#4a4a4a\" text-anchor=\"middle\">{below}</text>{close}",
            stage = escape(&each.stage),
            details = escape(&each.details.join("\n")),
            tx = x + width / 2.0,
            ty = y + 16.0,
            sy = y + 30.0,
        );
    }
    text + "</svg>\n"
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
