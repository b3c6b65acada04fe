//! `curves`: ROC-AUC and loss by update, one pair of figures a data set, the three modes of this run in front and
//! the paper's behind. It does not know how a figure is drawn.

use std::collections::BTreeMap;

use stage_api::{Job, Port, Stage, StageError};

use crate::artifacts::history::History;
use crate::figure::{self, Figure, LegendColumn, Line, Mark, Panel, Scale, Style};
use crate::profile::Profile;
use crate::published::{self, DATASETS, MODES, Point, Split};
use crate::table::thousands;

/// Draws the curves.
pub struct Curves;

impl Stage for Curves {
    type Params = Profile;
    const NAME: &'static str = "curves";
    const ABOUT: &'static str =
        "ROC-AUC and loss by update for each data set, with the published curves behind";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Port] = &[Port::one("published"), Port::many("runs")];

    fn run(&self, profile: &Profile, job: &Job) -> Result<(), StageError> {
        let published = published_curves(&published::read_curves(job.inputs.one("published")?)?);
        let mut ours = Vec::new();
        for dir in job.inputs.all("runs") {
            ours.push(curve(&History::read(dir)?));
        }
        ours.sort_by(|a, b| (&a.dataset, a.seed).cmp(&(&b.dataset, b.seed)));
        let mut figures = Vec::new();
        for (dataset, title) in DATASETS {
            let of = |curves: &[Curve]| -> Vec<Curve> {
                curves.iter().filter(|curve| curve.dataset == dataset).cloned().collect()
            };
            let pair = Pair { ours: of(&ours), published: of(&published) };
            let made_by = format!("Made by {}.", profile.in_words());
            figures.push(pair.roc_auc(dataset, title, &made_by));
            figures.push(pair.loss(dataset, title, &made_by));
        }
        Ok(figure::write(job.out, &figures)?)
    }
}

/// A run's curves, ours or the paper's.
#[derive(Debug, Clone)]
struct Curve {
    dataset: String,
    mode: String,
    seed: u64,
    /// Updates the run was trained for.
    updates: u64,
    /// Update, loss.
    train: Vec<(u64, f64)>,
    /// Update, loss, ROC-AUC.
    val: Vec<(u64, f64, f64)>,
    /// The validation whose checkpoint was kept.
    best: Option<(u64, f64, f64)>,
}

fn curve(history: &History) -> Curve {
    Curve {
        dataset: history.run.dataset.clone(),
        mode: history.run.mode.clone(),
        seed: history.run.seed,
        updates: history.run.updates,
        train: history.train.iter().map(|point| (point.update, point.loss)).collect(),
        val: history.val.iter().map(|point| (point.update, point.loss, point.roc_auc)).collect(),
        best: Some((history.best.update, history.best.loss, history.best.roc_auc)),
    }
}

fn published_curves(points: &[Point]) -> Vec<Curve> {
    let mut curves: BTreeMap<(&str, &str), Curve> = BTreeMap::new();
    for point in points {
        let curve = curves.entry((&point.dataset, &point.mode)).or_insert_with(|| Curve {
            dataset: point.dataset.clone(),
            mode: point.mode.clone(),
            seed: 0,
            updates: 0,
            train: Vec::new(),
            val: Vec::new(),
            best: None,
        });
        curve.updates = curve.updates.max(point.update);
        match (point.split, point.roc_auc) {
            (Split::Val, Some(auc)) => {
                let here = (point.update, point.loss, auc);
                curve.val.push(here);
                // The first with the greatest, as the original keeps its checkpoints.
                if curve.best.is_none_or(|best| auc > best.2) {
                    curve.best = Some(here);
                }
            }
            _ => curve.train.push((point.update, point.loss)),
        }
    }
    curves.into_values().collect()
}

/// The curves of one data set.
struct Pair {
    ours: Vec<Curve>,
    published: Vec<Curve>,
}

impl Pair {
    fn roc_auc(&self, dataset: &str, title: &str, made_by: &str) -> Figure {
        let line = |curve: &Curve, faint: bool| {
            let points = curve.val.iter().map(|&(update, _, auc)| (curve.share(update), auc)).collect();
            let best = curve.best.map(|(update, _, auc)| (curve.share(update), auc));
            Line { style: style(&curve.mode, faint), marked: !faint, points, best }
        };
        let level = Some((0.5, "chance".to_owned()));
        Figure {
            name: format!("{dataset}-roc-auc"),
            title: format!("{title}: validation ROC-AUC during training"),
            caption: format!("{made_by} Large marks: the best validation. Published: lighter."),
            panels: vec![self.panel("ROC-AUC (validation)", level, line)],
            legend: self.legend(|curve| {
                let best = |(update, _, auc): (u64, f64, f64)| {
                    format!("best {auc:.3} at update {}", thousands(update))
                };
                curve.best.map_or_else(|| "never validated".to_owned(), best)
            }),
        }
    }

    fn loss(&self, dataset: &str, title: &str, made_by: &str) -> Figure {
        let train = |curve: &Curve, faint: bool| {
            let points = curve.train.iter().map(|&(update, loss)| (curve.share(update), loss)).collect();
            Line { style: style(&curve.mode, faint), marked: false, points, best: None }
        };
        let val = |curve: &Curve, faint: bool| {
            let points = curve.val.iter().map(|&(update, loss, _)| (curve.share(update), loss)).collect();
            let best = curve.best.map(|(update, loss, _)| (curve.share(update), loss));
            Line { style: style(&curve.mode, faint), marked: !faint, points, best }
        };
        Figure {
            name: format!("{dataset}-loss"),
            title: format!("{title}: loss during training"),
            caption: format!(
                "{made_by} Large marks: the validation with the best ROC-AUC. Published: lighter."
            ),
            panels: vec![
                self.panel("training cross-entropy (nats)", None, train),
                // From 0.5 to 4 in the paper's runs: only ratios show both ends.
                Panel {
                    logarithmic: true,
                    ..self.panel("validation cross-entropy (nats, logarithmic)", None, val)
                },
            ],
            legend: self.legend(|curve| {
                let kept = |(update, loss, _): (u64, f64, f64)| {
                    format!("{loss:.3} at update {}, its best ROC-AUC", thousands(update))
                };
                curve.best.map_or_else(|| "never validated".to_owned(), kept)
            }),
        }
    }

    /// A plot with the paper's lines first, so that ours lie above them.
    fn panel(&self, label: &str, level: Option<(f64, String)>, line: impl Fn(&Curve, bool) -> Line) -> Panel {
        let behind = self.published.iter().map(|curve| line(curve, true));
        let lines = behind.chain(self.ours.iter().map(|curve| line(curve, false))).collect();
        let scale = |curves: &[Curve], whose: &str| {
            let first = curves.first()?.updates;
            Some(if curves.iter().all(|curve| curve.updates == first) {
                Scale { label: format!("updates, {whose}"), end: first as f64 }
            } else {
                Scale { label: format!("share of training in percent, {whose}"), end: 100.0 }
            })
        };
        let ours = scale(&self.ours, "this run");
        let published = scale(&self.published, "published");
        let (bottom, top) = match (ours, published) {
            (Some(ours), Some(published)) if ours.end == published.end => {
                (Scale { label: "updates".to_owned(), ..ours }, None)
            }
            (Some(ours), published) => (ours, published),
            (None, Some(published)) => (published, None),
            (None, None) => (Scale { label: "share of training in percent".to_owned(), end: 100.0 }, None),
        };
        Panel { y_label: label.to_owned(), logarithmic: false, level, bottom, top, lines }
    }

    fn legend(&self, words: impl Fn(&Curve) -> String) -> Vec<LegendColumn> {
        let column = |curves: &[Curve], faint: bool, heading: &str| {
            let entries = MODES.iter().flat_map(|(mode, title)| {
                let of: Vec<&Curve> = curves.iter().filter(|curve| curve.mode == *mode).collect();
                let several = of.len() > 1;
                let entry = |curve: &Curve| {
                    let seed = if several { format!(" (seed {})", curve.seed) } else { String::new() };
                    (Some(style(mode, faint)), format!("{title}{seed}: {}", words(curve)))
                };
                match of.as_slice() {
                    [] => vec![(None, format!("{title}: no run"))],
                    of => of.iter().map(|curve| entry(curve)).collect(),
                }
            });
            LegendColumn { heading: heading.to_owned(), entries: entries.collect() }
        };
        vec![column(&self.ours, false, "This run"), column(&self.published, true, "Published")]
    }
}

impl Curve {
    /// The share of the training that is done after `update` updates.
    fn share(&self, update: u64) -> f64 {
        update as f64 / self.updates.max(1) as f64
    }
}

/// The look of a mode. Colours are of the palette of Okabe and Ito, which colour-blind readers can tell apart;
/// dash pattern and mark do the same in grey print.
fn style(mode: &str, faint: bool) -> Style {
    let (colour, dashes, mark): ([u8; 3], &[u32], Mark) = match mode {
        "fc" => ([0xd5, 0x5e, 0x00], &[2, 4], Mark::Triangle),
        "pe" => ([0x00, 0x72, 0xb2], &[], Mark::Circle),
        "full" => ([0x00, 0x9e, 0x73], &[9, 4], Mark::Square),
        _ => ([0x44, 0x44, 0x44], &[9, 4, 2, 4], Mark::Circle),
    };
    Style { colour, dashes, mark, faint }
}

#[cfg(test)]
mod tests;
