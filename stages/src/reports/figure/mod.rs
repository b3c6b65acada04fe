//! Line figures for print and screen: panels of curves over a shared horizontal axis, with a legend below the
//! data. A figure is drawn once, as SVG; PNG and PDF are that SVG, converted, so they cannot differ.
//! It does not know what the curves mean.

mod axis;
mod convert;
mod draw;
mod pdf;
mod style;

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use convert::Drawing;
pub use draw::svg;
pub use style::{Mark, Style};

use crate::artifacts::{ArtifactError, Result, read_json, write_json};

/// A figure with all that is needed to understand it on its own.
#[derive(Debug, Clone)]
pub struct Figure {
    /// Name of its files, without an ending.
    pub name: String,
    /// What it is called.
    pub title: String,
    /// What it shows and which profile it is of.
    pub caption: String,
    /// Plots side by side.
    pub panels: Vec<Panel>,
    /// What the lines mean, column by column.
    pub legend: Vec<LegendColumn>,
}

/// One plot. Horizontal values are shares of the whole training, from 0 to 1, so that runs of different length
/// lie over each other; the scales say what a share means for each of them.
#[derive(Debug, Clone)]
pub struct Panel {
    /// What the vertical axis measures, with its unit if it has one.
    pub y_label: String,
    /// Whether equal vertical distances are equal ratios; for values above 0.
    pub logarithmic: bool,
    /// A level to draw a thin line at, and what it is.
    pub level: Option<(f64, String)>,
    /// The scale below the plot.
    pub bottom: Scale,
    /// The scale above it.
    pub top: Option<Scale>,
    /// The curves, drawn in this order.
    pub lines: Vec<Line>,
}

/// What a share of the horizontal axis means.
#[derive(Debug, Clone)]
pub struct Scale {
    /// What it counts.
    pub label: String,
    /// The count at the right end.
    pub end: f64,
}

/// A curve.
#[derive(Debug, Clone)]
pub struct Line {
    /// How it looks.
    pub style: Style,
    /// Whether each point gets a mark.
    pub marked: bool,
    /// Horizontal share and value of each point, left to right.
    pub points: Vec<(f64, f64)>,
    /// What each point says to who points at it; empty for a line that says nothing.
    pub says: Vec<String>,
    /// A band behind the line: horizontal share, lower and upper edge, left to right; empty for none.
    pub band: Vec<(f64, f64, f64)>,
    /// The point to single out.
    pub best: Option<(f64, f64)>,
}

/// A column of the legend: a heading and one entry a line.
#[derive(Debug, Clone)]
pub struct LegendColumn {
    /// What its entries have in common.
    pub heading: String,
    /// A sample of the line, if there is one, and its name.
    pub entries: Vec<(Option<Style>, String)>,
}

/// What a page needs to show a figure that was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FigureEntry {
    /// Name of its files, without an ending.
    pub name: String,
    /// What it is called.
    pub title: String,
    /// What it shows.
    pub caption: String,
}

/// The file that lists the figures of a folder.
pub const LIST: &str = "figures.json";

/// Writes each figure as SVG, PNG and PDF into `dir`, and their list.
pub fn write(dir: &Path, figures: &[Figure]) -> Result<()> {
    let write = |name: &str, ending: &str, bytes: std::result::Result<Vec<u8>, String>| {
        let path = dir.join(format!("{name}.{ending}"));
        let bytes = bytes.map_err(|problem| ArtifactError::new(&path, problem))?;
        fs::write(&path, bytes).map_err(|error| ArtifactError::new(&path, error))
    };
    for figure in figures {
        let svg = svg(figure);
        let drawing = Drawing::read(&svg).map_err(|problem| ArtifactError::new(dir, problem))?;
        write(&figure.name, "svg", Ok(svg.into_bytes()))?;
        write(&figure.name, "png", drawing.png())?;
        write(&figure.name, "pdf", drawing.pdf(&figure.title))?;
    }
    let entries: Vec<FigureEntry> = figures
        .iter()
        .map(|Figure { name, title, caption, .. }| FigureEntry {
            name: name.clone(),
            title: title.clone(),
            caption: caption.clone(),
        })
        .collect();
    write_json(&dir.join(LIST), &entries)
}

/// Reads the list of the figures of `dir`, each with its SVG text.
pub fn read(dir: &Path) -> Result<Vec<(FigureEntry, String)>> {
    let entries: Vec<FigureEntry> = read_json(&dir.join(LIST))?;
    let load = |entry: FigureEntry| {
        let path = dir.join(format!("{}.svg", entry.name));
        let svg = fs::read_to_string(&path).map_err(|error| ArtifactError::new(&path, error))?;
        Ok((entry, svg))
    };
    entries.into_iter().map(load).collect()
}
