//! The graph as a drawing: a box per step, columns from left to right, a colour per stage. The same pipeline
//! gives the same bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use petgraph::graph::NodeIndex;

use super::layout::{Size, layout};
use crate::pipeline::Pipeline;
use crate::record::source_name;

/// A letter of the name at 13 px and of the stage at 11 px, as wide as sans-serif letters are at most on average.
const NAME_LETTER: f64 = 7.6;
const STAGE_LETTER: f64 = 6.2;
const BOX_HEIGHT: f64 = 36.0;
const MARGIN: f64 = 24.0;
/// Hues around the circle; with more stages, the next round takes the hues in between.
const HUES: usize = 12;

/// Draws the steps of `nodes`, and what they read of each other. With `state`, each box also shows what that says of the
/// step and is a link to `#step-NAME`, for a page that describes the steps.
pub fn svg(
    pipeline: &Pipeline,
    nodes: &[NodeIndex],
    edges: &[(usize, usize)],
    state: Option<&dyn Fn(NodeIndex) -> String>,
) -> String {
    let steps: Vec<_> = nodes.iter().map(|node| &pipeline.graph[*node]).collect();
    let place: BTreeMap<usize, usize> =
        nodes.iter().enumerate().map(|(at, node)| (node.index(), at)).collect();
    let edges: Vec<(usize, usize)> = edges.iter().map(|(from, to)| (place[from], place[to])).collect();
    // The second line of each box.
    let below: Vec<String> = nodes
        .iter()
        .zip(&steps)
        .map(|(node, step)| match state {
            Some(state) => format!("{} · {}", step.stage, state(*node)),
            None => step.stage.clone(),
        })
        .collect();
    let sizes: Vec<Size> = steps
        .iter()
        .zip(&below)
        .map(|(step, below)| {
            let name = step.name.chars().count() as f64 * NAME_LETTER;
            let stage = below.chars().count() as f64 * STAGE_LETTER;
            Size { width: (name.max(stage) + 20.0).ceil(), height: BOX_HEIGHT }
        })
        .collect();
    let drawing = layout(&sizes, &edges);
    let mut hues: BTreeMap<&str, usize> = BTreeMap::new();
    for step in &steps {
        let next = hues.len();
        hues.entry(&step.stage).or_insert(next);
    }
    // Far steps along the circle of hues, so that stages that follow each other differ.
    let hue = |stage: &str| hues[stage] * 5 % HUES * 360 / HUES + hues[stage] / HUES * 15;

    let title_height = 28.0;
    let (width, height) = (drawing.width + 2.0 * MARGIN, drawing.height + 2.0 * MARGIN + title_height);
    let (dx, dy) = (MARGIN, MARGIN + title_height);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" \
         viewBox=\"0 0 {width:.0} {height:.0}\" font-family=\"DejaVu Sans, Verdana, sans-serif\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"{MARGIN}\" y=\"{:.0}\" font-size=\"15\" fill=\"#333333\">{} · profile {} · {} steps</text>\n",
        MARGIN + 6.0,
        escape(&pipeline.file.file_name().unwrap_or_default().to_string_lossy()),
        escape(&pipeline.profile),
        steps.len(),
    );
    text.push_str("<g fill=\"none\" stroke-width=\"1.4\" stroke-opacity=\"0.6\">\n");
    let mut drawn = BTreeSet::new();
    for ((from, _), points) in edges.iter().zip(&drawing.lines) {
        let (hue, from) = (hue(&steps[*from].stage), escape(&steps[*from].name));
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
                let _ = writeln!(
                    text,
                    "<path d=\"{path}\" stroke=\"hsl({hue},60%,38%)\"><title>from {from}</title></path>"
                );
            }
        }
    }
    text.push_str("</g>\n");
    for (at, step) in steps.iter().enumerate() {
        let ((x, y), width) = (drawing.boxes[at], sizes[at].width);
        let (x, y, hue) = (x + dx, y + dy, hue(&step.stage));
        let border = if step.publish.is_some() { 2.5 } else { 1.0 };
        let inputs: Vec<String> = step
            .inputs
            .iter()
            .map(|input| format!("{} <- {}", input.port, source_name(pipeline, &input.source)))
            .collect();
        let (open, close) = match state {
            Some(_) => (format!("<a href=\"#step-{}\">", escape(&step.name)), "</a>"),
            None => ("<g>".to_owned(), "</g>"),
        };
        let _ = writeln!(
            text,
            "{open}<title>{name} ({stage})\n{inputs}</title>\
             <rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.0}\" height=\"{BOX_HEIGHT:.0}\" rx=\"5\" \
             fill=\"hsl({hue},65%,92%)\" stroke=\"hsl({hue},45%,42%)\" stroke-width=\"{border}\"/>\
             <text x=\"{tx:.1}\" y=\"{ty:.1}\" font-size=\"13\" fill=\"#111111\" text-anchor=\"middle\">{name}</text>\
             <text x=\"{tx:.1}\" y=\"{sy:.1}\" font-size=\"11\" fill=\"#555555\" text-anchor=\"middle\">{below}</text>{close}",
            name = escape(&step.name),
            stage = escape(&step.stage),
            below = escape(&below[at]),
            inputs = escape(&inputs.join("\n")),
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
