//! `curves`: ROC-AUC and loss by update, one pair of figures a data set, the three modes of this run in front and
//! the paper's behind. Several seeds of a mode become their mean with a band from the least to the greatest. It does not
//! know how a figure is drawn.

mod curve;

use stage_api::{Job, Port, Stage, StageError};

use self::curve::{Curve, Spread};
use crate::artifacts::history::History;
use crate::reports::caption::Profile;
use crate::reports::figure::{self, Figure, LegendColumn, Line, Panel, Scale, Style};
use crate::reports::names::Names;
use crate::reports::paper_results;
use crate::reports::table::thousands;

/// Draws the curves.
pub struct Curves;

impl Stage for Curves {
    type Params = Profile;
    const NAME: &'static str = "curves";
    const ABOUT: &'static str =
        "ROC-AUC and loss by update for each data set, with published curves behind if given";
    const VERSION: u32 = 6;
    const INPUTS: &'static [Port] = &[Port::optional("published"), Port::many("runs")];

    fn check(&self, profile: &Profile) -> Result<(), String> {
        profile.names.check()
    }

    fn run(&self, profile: &Profile, job: &Job) -> Result<(), StageError> {
        let published = job.inputs.optional("published").map(paper_results::read_curves).transpose()?;
        let published = curve::published(&published.unwrap_or_default());
        let mut histories = Vec::new();
        for dir in job.inputs.all("runs") {
            histories.push(History::read(dir)?);
        }
        let ours = curve::from_runs(&histories);
        let profile = &profile.with_runs(ours.iter().map(|curve| curve.dataset.as_str()), [].into_iter());
        let mut figures = Vec::new();
        for (dataset, title) in &profile.names.data {
            let of = |curves: &[Curve]| -> Vec<Curve> {
                curves.iter().filter(|curve| curve.dataset == *dataset).cloned().collect()
            };
            let pair = Pair {
                ours: of(&ours),
                published: of(&published),
                has_paper: !published.is_empty(),
                names: &profile.names,
            };
            let origin = format!("By {}.", profile.in_words());
            figures.push(pair.roc_auc(dataset, title, &origin));
            figures.push(pair.loss(dataset, title, &origin));
        }
        Ok(figure::write(job.out, &figures)?)
    }
}

/// The curves of one data set.
struct Pair<'a> {
    ours: Vec<Curve>,
    published: Vec<Curve>,
    /// Whether any curves are published, of this data set or another.
    has_paper: bool,
    names: &'a Names,
}

impl Pair<'_> {
    fn roc_auc(&self, dataset: &str, title: &str, origin: &str) -> Figure {
        let level = Some((0.5, "chance".to_owned()));
        Figure {
            name: format!("{dataset}-roc-auc"),
            title: format!("{title}: validation ROC-AUC during training"),
            caption: format!("{origin} Large marks: the best validation.{}{}", self.lighter(), self.bands()),
            panels: vec![self.panel("ROC-AUC (validation)", level, |curve, faint| {
                let points = curve.val.iter().map(|val| (val.update, val.roc_auc));
                let best = curve.best.map(|best| (best.update, best.roc_auc));
                self.line((curve, faint), points, best, !faint)
            })],
            legend: self.legend(|curve| match curve.best {
                Some(best) => format!("best {:.3} at update {}", best.roc_auc.mean, thousands(best.update)),
                None => "never validated".to_owned(),
            }),
        }
    }

    fn loss(&self, dataset: &str, title: &str, origin: &str) -> Figure {
        let train = |curve: &Curve, faint: bool| Line {
            says: vec![],
            ..self.line((curve, faint), curve.train.iter().copied(), None, false)
        };
        let val = |curve: &Curve, faint: bool| {
            let points = curve.val.iter().map(|val| (val.update, val.loss));
            let best = curve.best.map(|best| (best.update, best.loss));
            self.line((curve, faint), points, best, !faint)
        };
        Figure {
            name: format!("{dataset}-loss"),
            title: format!("{title}: loss during training"),
            caption: format!(
                "{origin} Large marks: the validation with the best ROC-AUC.{}{}",
                self.lighter(),
                self.bands()
            ),
            panels: vec![
                self.panel("training cross-entropy (nats)", None, train),
                // From 0.5 to 4 in the paper's runs: only ratios show both ends.
                Panel {
                    logarithmic: true,
                    ..self.panel("validation cross-entropy (nats, logarithmic)", None, val)
                },
            ],
            legend: self.legend(|curve| match curve.best {
                Some(best) => {
                    format!("{:.3} at update {}, its best ROC-AUC", best.loss.mean, thousands(best.update))
                }
                None => "never validated".to_owned(),
            }),
        }
    }

    /// What a caption says of published curves, if there are any.
    fn lighter(&self) -> &'static str {
        if self.has_paper { " Published: lighter." } else { "" }
    }

    /// What a caption says of bands, if there are any.
    fn bands(&self) -> &'static str {
        match self.ours.iter().any(|curve| curve.seeds.len() > 1) {
            true => " Lines: the mean of the seeds; bands: from the least to the greatest.",
            false => "",
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
            let kinds = self.names.kinds(curves.iter().map(|curve| curve.mode.as_str()));
            let entries =
                kinds.into_iter().map(|kind| match curves.iter().find(|curve| curve.mode == kind) {
                    None => (None, format!("{}: no run", self.names.kind_title(kind))),
                    Some(curve) => {
                        let text = format!("{}: {}{}", curve.name(self.names), words(curve), gaps(curve));
                        (Some(Style::for_kind(kind, faint)), text)
                    }
                });
            LegendColumn { heading: heading.to_owned(), entries: entries.collect() }
        };
        let mut columns = vec![column(&self.ours, false, "This run")];
        if self.has_paper {
            columns.push(column(&self.published, true, "Published"));
        }
        columns
    }

    /// A line of a curve: it says each value, and has a band where there are several seeds.
    fn line(
        &self,
        (curve, faint): (&Curve, bool),
        points: impl Iterator<Item = (u64, Spread)>,
        best: Option<(u64, Spread)>,
        marked: bool,
    ) -> Line {
        let points: Vec<(u64, Spread)> = points.collect();
        let (name, whose) = (curve.name(self.names), if faint { ", published" } else { "" });
        let says = |(update, value): &(u64, Spread)| {
            let range = match curve.seeds.len() {
                0 | 1 => String::new(),
                _ => format!(" ({:.4} to {:.4})", value.low, value.high),
            };
            format!("{name}{whose}: {:.4}{range} at update {}", value.mean, thousands(*update))
        };
        let edge = |(update, value): &(u64, Spread)| (curve.share(*update), value.low, value.high);
        Line {
            style: Style::for_kind(&curve.mode, faint),
            marked,
            says: points.iter().map(says).collect(),
            band: if curve.seeds.len() > 1 { points.iter().map(edge).collect() } else { vec![] },
            points: points.iter().map(|(update, value)| (curve.share(*update), value.mean)).collect(),
            best: best.map(|(update, value)| (curve.share(update), value.mean)),
        }
    }
}

/// What the legend says of values that are no numbers.
fn gaps(curve: &Curve) -> String {
    match curve.not_numbers() {
        0 => String::new(),
        1 => "; 1 value is no number".to_owned(),
        many => format!("; {many} values are no numbers"),
    }
}

#[cfg(test)]
mod tests;
