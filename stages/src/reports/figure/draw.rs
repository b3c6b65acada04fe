//! Draws a figure as SVG. All positions are in CSS pixels of a fixed page width; text stays text.

use std::fmt::Write;

use super::{Figure, LegendColumn, Line, Mark, Panel, Scale, Style, axis};

/// The page: wide enough for two panels, narrow enough to be legible across a column of print.
const WIDTH: f64 = 860.0;
const PLOT_HEIGHT: f64 = 290.0;
/// Room left of a plot for the vertical axis and between a plot and its neighbour.
const LEFT: f64 = 66.0;
const RIGHT: f64 = 18.0;
const LEGEND_LINE: f64 = 22.0;
const CAPTION_LINE: f64 = 18.0;
/// Characters of a caption line: the widest of the fonts below needs 7 pixels for one on average.
const CAPTION_WIDTH: usize = 116;
/// Any of these is at hand wherever the file is opened.
const FONTS: &str = "Ubuntu, 'Segoe UI', 'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif";
const INK: &str = "#222222";
const SOFT_INK: &str = "#555555";
const GRID: &str = "#e4e4e4";

/// The figure as a whole SVG file.
pub fn svg(figure: &Figure) -> String {
    let has_top = figure.panels.iter().any(|panel| panel.top.is_some());
    let caption_lines = wrapped(&figure.caption, CAPTION_WIDTH);
    let plot_top = CAPTION_LINE * caption_lines.len().max(1) as f64 + if has_top { 90.0 } else { 54.0 };
    let legend_top = plot_top + PLOT_HEIGHT + 76.0;
    let lines = figure.legend.iter().map(|column| column.entries.len()).max().unwrap_or(0);
    let height = legend_top + LEGEND_LINE * lines as f64 + 16.0;

    let mut page = Page(String::new());
    let (title, caption) = (escaped(&figure.title), escaped(&figure.caption));
    page.push(format_args!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
         height=\"{height}\" role=\"img\" font-family=\"{FONTS}\" font-size=\"13\" fill=\"{INK}\">\n\
         <title>{title}</title>\n<desc>{caption} {legend}</desc>\n\
         <style>.point:hover *{{visibility:visible}}</style>\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>",
        legend = escaped(&spoken(&figure.legend)),
    ));
    page.text(14.0, 26.0, &figure.title, "font-size=\"17\" font-weight=\"600\"");
    for (place, line) in caption_lines.iter().enumerate() {
        let y = 46.0 + CAPTION_LINE * place as f64;
        page.text(14.0, y, line, &format!("fill=\"{SOFT_INK}\""));
    }

    let slot = WIDTH / figure.panels.len().max(1) as f64;
    for (place, panel) in figure.panels.iter().enumerate() {
        let left = place as f64 * slot + LEFT;
        let area = Area { left, top: plot_top, width: slot - LEFT - RIGHT, height: PLOT_HEIGHT };
        draw_panel(&mut page, panel, area);
    }
    let slot = (WIDTH - LEFT) / figure.legend.len().max(1) as f64;
    for (place, column) in figure.legend.iter().enumerate() {
        draw_legend(&mut page, column, LEFT + place as f64 * slot, legend_top);
    }
    page.push(format_args!("</svg>"));
    page.0
}

/// The words of `text` in lines of at most `width` characters; a longer word has a line of its own.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// The legend in words, for those who hear the figure.
fn spoken(legend: &[LegendColumn]) -> String {
    let column = |column: &LegendColumn| {
        let entries: Vec<&str> = column.entries.iter().map(|(_, text)| text.as_str()).collect();
        format!("{}: {}.", column.heading, entries.join("; "))
    };
    legend.iter().map(column).collect::<Vec<_>>().join(" ")
}

/// Where a plot is on the page.
#[derive(Clone, Copy)]
struct Area {
    left: f64,
    top: f64,
    width: f64,
    height: f64,
}

impl Area {
    fn bottom(self) -> f64 {
        self.top + self.height
    }
    fn x(self, share: f64) -> f64 {
        self.left + self.width * share.clamp(0.0, 1.0)
    }
}

fn draw_panel(page: &mut Page, panel: &Panel, area: Area) {
    let values = panel.lines.iter().flat_map(|line| line.points.iter().map(|point| point.1));
    let bands = panel.lines.iter().flat_map(|line| line.band.iter().flat_map(|edge| [edge.1, edge.2]));
    let values =
        values.chain(bands).chain(panel.level.iter().map(|level| level.0)).filter(|value| value.is_finite());
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
    // Values at or below 0 have no logarithm: such a plot falls back to an even axis.
    let logarithmic = panel.logarithmic && low > 0.0 && high.is_finite();
    let (ticks, places) =
        if logarithmic { axis::enclosing_ratio(low, high) } else { axis::enclosing(low, high, 5) };
    let height = |value: f64| if logarithmic { libm::log(value) } else { value };
    let (low, high) = (height(ticks[0]), height(ticks[ticks.len() - 1]));
    let y = |value: f64| area.bottom() - area.height * (height(value) - low) / (high - low);

    for tick in &ticks {
        page.line((area.left, y(*tick)), (area.x(1.0), y(*tick)), &format!("stroke=\"{GRID}\""));
        let label = format!("{:.places$}", tick + 0.0);
        page.text(area.left - 8.0, y(*tick) + 4.5, &label, "text-anchor=\"end\"");
    }
    let middle = (area.left - 48.0, area.top + area.height / 2.0);
    // A quarter turn about `middle`. As a matrix and not as `rotate(-90 …)`: a reader of that takes sine and cosine from the
    // system's library.
    let turned = format!(
        "text-anchor=\"middle\" transform=\"matrix(0 -1 1 0 {} {})\"",
        short(middle.0 - middle.1),
        short(middle.0 + middle.1)
    );
    page.text(middle.0, middle.1, &panel.y_label, &turned);
    draw_scale(page, &panel.bottom, area, area.bottom(), 1.0);
    if let Some(scale) = &panel.top {
        draw_scale(page, scale, area, area.top, -1.0);
    }
    if let Some((level, name)) = &panel.level {
        let style = format!("stroke=\"{SOFT_INK}\" stroke-dasharray=\"1 3\"");
        page.line((area.left, y(*level)), (area.x(1.0), y(*level)), &style);
        page.text(
            area.x(1.0) - 4.0,
            y(*level) - 5.0,
            name,
            &format!("fill=\"{SOFT_INK}\" text-anchor=\"end\""),
        );
    }
    page.push(format_args!(
        "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"none\" stroke=\"{SOFT_INK}\"/>",
        short(area.left),
        short(area.top),
        short(area.width),
        short(area.height)
    ));
    let place = |point: &(f64, f64)| (area.x(point.0), y(point.1));
    for line in &panel.lines {
        draw_band(page, line, place);
    }
    for line in &panel.lines {
        draw_line(page, line, place);
    }
    // Above all lines, so that none hides another's best point.
    for line in &panel.lines {
        if let Some(best) = line.best.as_ref().filter(|best| best.1.is_finite()) {
            let size = if line.style.faint { 4.5 } else { 6.5 };
            let fill = if line.style.faint { "#ffffff".to_owned() } else { line.style.ink() };
            let edge = if line.style.faint { line.style.ink() } else { INK.to_owned() };
            page.mark(
                line.style.mark,
                place(best),
                size,
                &format!("fill=\"{fill}\" stroke=\"{edge}\" stroke-width=\"1.5\""),
            );
        }
    }
    // Last, so that nothing is between them and the pointer.
    for line in &panel.lines {
        for (point, says) in line.points.iter().zip(&line.says).filter(|(point, _)| point.1.is_finite()) {
            draw_saying(page, line.style, place(point), says, area);
        }
    }
}

/// The room between the edges of a band; edges that are no numbers leave a gap.
fn draw_band(page: &mut Page, line: &Line, place: impl Fn(&(f64, f64)) -> (f64, f64)) {
    for piece in line.band.split(|edge| !(edge.1.is_finite() && edge.2.is_finite())) {
        let upper = piece.iter().map(|&(x, _, high)| (x, high));
        let lower = piece.iter().rev().map(|&(x, low, _)| (x, low));
        let corners: Vec<String> = upper
            .chain(lower)
            .map(|point| place(&point))
            .map(|(x, y)| format!("{},{}", short(x), short(y)))
            .collect();
        if piece.len() > 1 {
            let (corners, ink) = (corners.join(" "), line.style.ink());
            page.push(format_args!("<polygon points=\"{corners}\" fill=\"{ink}\" fill-opacity=\"0.2\"/>"));
        }
    }
}

/// A point that says its value in the corner of the plot, and gets a ring, while a pointer is near it.
fn draw_saying(page: &mut Page, style: Style, (x, y): (f64, f64), says: &str, area: Area) {
    let (circle, ink) = (circle((x, y), 9.0), style.ink());
    let (left, top) = (short(area.left + 10.0), short(area.top + 20.0));
    // Written around the letters, so that they can be read on any line.
    let halo = "stroke=\"#ffffff\" stroke-width=\"4\" stroke-linejoin=\"round\" paint-order=\"stroke\"";
    page.push(format_args!(
        "<g class=\"point\"><path d=\"{circle}\" fill=\"#ffffff\" fill-opacity=\"0\"/>\
         <path d=\"{circle}\" fill=\"none\" stroke=\"{ink}\" stroke-width=\"2\" visibility=\"hidden\"/>\
         <text x=\"{left}\" y=\"{top}\" visibility=\"hidden\" {halo}>{}</text></g>",
        escaped(says)
    ));
}

/// Ticks, numbers and name of a scale at height `y`; `side` is 1 below the plot and −1 above.
fn draw_scale(page: &mut Page, scale: &Scale, area: Area, y: f64, side: f64) {
    let (ticks, places) = axis::within(scale.end, (area.width / 80.0) as usize);
    let (numbers, name) = if side > 0.0 { (y + 19.0, y + 38.0) } else { (y - 9.0, y - 27.0) };
    let ink = if side > 0.0 { INK } else { SOFT_INK };
    for tick in ticks {
        let x = area.x(tick / scale.end);
        page.line((x, y), (x, y + 5.0 * side), &format!("stroke=\"{SOFT_INK}\""));
        let label = if places == 0 {
            crate::reports::table::thousands(tick as u64)
        } else {
            format!("{tick:.places$}")
        };
        page.text(x, numbers, &label, &format!("fill=\"{ink}\" text-anchor=\"middle\""));
    }
    page.text(area.x(0.5), name, &scale.label, &format!("fill=\"{ink}\" text-anchor=\"middle\""));
}

fn draw_line(page: &mut Page, line: &Line, place: impl Fn(&(f64, f64)) -> (f64, f64)) {
    // A value that is no number leaves a gap.
    for piece in line.points.split(|point| !point.1.is_finite()) {
        let mut path = String::new();
        for point in piece {
            let (x, y) = place(point);
            let _ = write!(path, "{}{},{}", if path.is_empty() { "" } else { " " }, short(x), short(y));
        }
        if piece.len() > 1 {
            page.push(format_args!("<polyline points=\"{path}\" {}/>", line.style.stroke()));
        }
        if line.marked {
            for point in piece {
                let style = format!("fill=\"{}\"", line.style.ink());
                page.mark(line.style.mark, place(point), 3.0, &style);
            }
        }
    }
}

fn draw_legend(page: &mut Page, column: &LegendColumn, left: f64, top: f64) {
    page.text(left, top - 4.0, &column.heading, "font-weight=\"600\"");
    for (number, (style, text)) in column.entries.iter().enumerate() {
        let y = top + LEGEND_LINE * (number as f64 + 0.75);
        if let Some(style) = style {
            page.line((left, y), (left + 46.0, y), &style.stroke());
            page.mark(style.mark, (left + 23.0, y), 4.0, &style.mark_fill());
        }
        page.text(left + 56.0, y + 4.5, text, "");
    }
}

impl Style {
    /// The colour as drawn: a faint line's is mixed with white.
    fn ink(self) -> String {
        let mix =
            |channel: u8| if self.faint { (u16::from(channel) * 13 + 255 * 7) / 20 } else { channel.into() };
        let [red, green, blue] = self.colour.map(mix);
        format!("#{red:02x}{green:02x}{blue:02x}")
    }

    fn stroke(self) -> String {
        let width = if self.faint { 1.4 } else { 2.2 };
        let mut text = format!(
            "fill=\"none\" stroke=\"{}\" stroke-width=\"{width}\" stroke-linejoin=\"round\"",
            self.ink()
        );
        if !self.dashes.is_empty() {
            let dashes: Vec<String> = self.dashes.iter().map(u32::to_string).collect();
            let _ = write!(text, " stroke-dasharray=\"{}\"", dashes.join(" "));
        }
        text
    }

    fn mark_fill(self) -> String {
        if self.faint {
            format!("fill=\"#ffffff\" stroke=\"{}\" stroke-width=\"1.5\"", self.ink())
        } else {
            format!("fill=\"{}\"", self.ink())
        }
    }
}

/// An SVG file in the making.
struct Page(String);

impl Page {
    fn push(&mut self, element: std::fmt::Arguments) {
        // Writing to a string does not fail.
        let _ = writeln!(self.0, "{element}");
    }

    fn text(&mut self, x: f64, y: f64, text: &str, style: &str) {
        let space = if style.is_empty() { "" } else { " " };
        self.push(format_args!(
            "<text x=\"{}\" y=\"{}\"{space}{style}>{}</text>",
            short(x),
            short(y),
            escaped(text)
        ));
    }

    fn line(&mut self, from: (f64, f64), to: (f64, f64), style: &str) {
        let [x1, y1, x2, y2] = [from.0, from.1, to.0, to.1].map(short);
        self.push(format_args!("<line x1=\"{x1}\" y1=\"{y1}\" x2=\"{x2}\" y2=\"{y2}\" {style}/>"));
    }

    fn mark(&mut self, mark: Mark, (x, y): (f64, f64), size: f64, style: &str) {
        match mark {
            Mark::Circle => self.push(format_args!("<path d=\"{}\" {style}/>", circle((x, y), size))),
            Mark::Square => self.push(format_args!(
                "<rect x=\"{}\" y=\"{}\" width=\"{side}\" height=\"{side}\" {style}/>",
                short(x - size * 0.9),
                short(y - size * 0.9),
                side = short(size * 1.8)
            )),
            Mark::Triangle => self.push(format_args!(
                "<polygon points=\"{},{} {},{} {},{}\" {style}/>",
                short(x),
                short(y - size * 1.25),
                short(x + size * 1.15),
                short(y + size * 0.8),
                short(x - size * 1.15),
                short(y + size * 0.8)
            )),
        }
    }
}

/// A position with a tenth of a pixel, the least that can be seen at twice the size.
fn short(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

/// A circle as path data: four Bézier curves, with the usual 4/3 · (√2 − 1) as the length of their handles. `<circle>` would
/// leave the curves to each reader; ours takes sine, cosine and tangent for them from the system's library.
fn circle((x, y): (f64, f64), radius: f64) -> String {
    let handle = radius * 4.0 / 3.0 * (std::f64::consts::SQRT_2 - 1.0);
    let (k, o, r) = (format!("{handle:.2}"), format!("{:.2}", radius - handle), short(radius));
    format!(
        "M{},{}c0,{k} -{o},{r} -{r},{r}s-{r},-{o} -{r},-{r} {o},-{r} {r},-{r} {r},{o} {r},{r}z",
        short(x + radius),
        short(y)
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::{circle, wrapped};

    #[test]
    fn a_circle_is_four_curves() {
        assert_eq!(
            circle((20.0, 30.04), 4.5),
            "M24.5,30c0,2.49 -2.01,4.5 -4.5,4.5s-4.5,-2.01 -4.5,-4.5 2.01,-4.5 4.5,-4.5 4.5,2.01 4.5,4.5z"
        );
    }

    #[test]
    fn captions_break_between_words() {
        assert_eq!(wrapped("one two  three", 7), ["one two", "three"]);
        assert_eq!(wrapped("incomprehensible to me", 5), ["incomprehensible", "to me"]);
        assert!(wrapped("", 5).is_empty());
    }
}
