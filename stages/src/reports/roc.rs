//! `roc`: the ROC curve of every evaluated run, a plot for each data set. It does not know how a figure is drawn.

use stage_api::{Job, Port, Stage, StageError};

use crate::artifacts::metrics::Metrics;
use crate::artifacts::samples::Split;
use crate::artifacts::scores;
use crate::metrics::bootstrap::Interval;
use crate::metrics::roc_curve;
use crate::reports::caption::Profile;
use crate::reports::evaluation::{Evaluated, split_title};
use crate::reports::figure::{self, Figure, LegendColumn, Line, Mark, Panel, Scale, Style};
use crate::reports::names::Names;

/// A curve's points lie at least so far apart: less than a pixel.
const NEAR: f64 = 0.002;

/// Draws the ROC curves.
pub struct Roc;

impl Stage for Roc {
    type Params = Profile;
    const NAME: &'static str = "roc";
    const ABOUT: &'static str = "The ROC curve of every evaluated run";
    const VERSION: u32 = 5;
    const INPUTS: &'static [Port] = &[Port::many("runs")];

    fn check(&self, profile: &Profile) -> Result<(), String> {
        profile.names.check()
    }

    fn run(&self, profile: &Profile, job: &Job) -> Result<(), StageError> {
        let mut runs = Vec::new();
        for dir in job.inputs.all("runs") {
            let run = Evaluated { metrics: Metrics::read(dir)?, scores: scores::read(dir)? };
            let curve = match run.classes().is_binary() {
                true => {
                    let positive: Vec<f32> = run.scores.iter().map(|score| score.of(1)).collect();
                    roc_curve(&positive, &run.labels())
                }
                false => run.predictions().macro_roc_curve(),
            };
            runs.push(Run { metrics: run.metrics, curve: curve.map(thinned) });
        }
        let classes = runs.iter().map(|run| &run.metrics.classes);
        let profile = profile.with_runs(runs.iter().map(|run| run.metrics.dataset.as_str()), classes);
        let names = &profile.names;
        runs.sort_by_key(|run| (names.kind_rank(&run.metrics.run.kind()), run.metrics.run.seed));
        Ok(figure::write(job.out, &[figure(&runs, &profile)])?)
    }
}

struct Run {
    metrics: Metrics,
    /// False and true positive rate; `None` where a rate is undefined.
    curve: Option<Vec<(f64, f64)>>,
}

fn figure(runs: &[Run], profile: &Profile) -> Figure {
    let of =
        |dataset: &str| -> Vec<&Run> { runs.iter().filter(|run| run.metrics.dataset == dataset).collect() };
    let names = &profile.names;
    let panel = |(dataset, title): &(String, String)| {
        let chance = Line {
            style: Style { colour: [0x55; 3], dashes: &[1, 3], mark: Mark::Circle, faint: true },
            marked: false,
            points: vec![(0.0, 0.0), (1.0, 1.0)],
            says: vec![],
            band: vec![],
            best: None,
        };
        let lines = of(dataset).into_iter().filter_map(|run| {
            let points = run.curve.clone()?;
            let style = Style::for_kind(&run.metrics.run.kind(), false);
            Some(Line { style, marked: false, points, says: vec![], band: vec![], best: None })
        });
        Panel {
            y_label: "true positive rate".to_owned(),
            logarithmic: false,
            level: None,
            bottom: Scale { label: format!("false positive rate, {title}"), end: 1.0 },
            top: None,
            lines: std::iter::once(chance).chain(lines).collect(),
        }
    };
    let split = runs.first().map_or(Split::Val, |run| run.metrics.split);
    let by = match runs.iter().all(|run| run.metrics.classes.is_binary()) {
        true => format!("by P({})", names.class(1)),
        false => "the mean of the curves of each class against the rest".to_owned(),
    };
    Figure {
        name: "roc".to_owned(),
        title: format!("ROC curves on the {} splits", split_title(split)),
        caption: format!(
            "Of the checkpoint with the best validation ROC-AUC, {by}. Dotted: chance. By {}.",
            profile.in_words()
        ),
        panels: names.data.iter().map(panel).collect(),
        legend: names.data.iter().map(|(dataset, title)| legend(title, &of(dataset), names)).collect(),
    }
}

fn legend(title: &str, runs: &[&Run], names: &Names) -> LegendColumn {
    let several = |run: &Run| {
        runs.iter().filter(|other| other.metrics.run.kind() == run.metrics.run.kind()).count() > 1
    };
    let entry = |run: &&Run| {
        let Metrics { run: info, roc_auc, intervals, .. } = &run.metrics;
        let seed = if several(run) { format!(" (seed {})", info.seed) } else { String::new() };
        let value = match (&run.curve, intervals.roc_auc) {
            (None, _) => "no curve: one class only, or a score that is no number".to_owned(),
            (_, Some(Interval { low, high })) => format!("ROC-AUC {roc_auc:.3} ({low:.3} to {high:.3})"),
            (_, None) => format!("ROC-AUC {roc_auc:.3}"),
        };
        let name = names.kind_title(&info.kind());
        (run.curve.is_some().then(|| Style::for_kind(&info.kind(), false)), format!("{name}{seed}: {value}"))
    };
    let mut entries: Vec<(Option<Style>, String)> = runs.iter().map(entry).collect();
    let is_there = |mode: &str| runs.iter().any(|run| run.metrics.run.kind() == mode);
    let absent = names.modes.iter().filter(|(mode, _)| !is_there(mode));
    entries.extend(absent.map(|(_, title)| (None, format!("{title}: no run"))));
    LegendColumn { heading: title.to_owned(), entries }
}

/// The curve without the points that are too close to see.
fn thinned(points: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    let mut kept: Vec<(f64, f64)> = Vec::new();
    let last = points.last().copied();
    for point in points {
        let is_near = |other: &(f64, f64)| point.0 - other.0 < NEAR && point.1 - other.1 < NEAR;
        if !kept.last().is_some_and(is_near) || Some(point) == last {
            kept.push(point);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use stage_api::testing::run_stage;

    use super::*;
    use crate::reports::evaluation::made_up;
    use crate::reports::names;

    #[test]
    fn every_run_has_its_curve_and_one_class_says_why_it_has_none() {
        let dir = tempfile::tempdir().unwrap();
        let good = made_up::write(dir.path(), "hmd", "pe", 1, 0.75, 0.4);
        let one_class = made_up::write(dir.path(), "mmh", "fc", 1, 0.5, 0.1);
        let mut rows = scores::read(&one_class).unwrap();
        rows.iter_mut().for_each(|row| row.label = 1.into());
        scores::write(&one_class, &rows).unwrap();
        let out = dir.path().join("out");
        let inputs = [("runs", good.as_path()), ("runs", one_class.as_path())];
        run_stage(&Roc, &names::made_up::params(), &inputs, &out).unwrap();
        let svg = std::fs::read_to_string(out.join("roc.svg")).unwrap();
        assert!(svg.contains("PE: ROC-AUC 0.750 (0.500 to 0.900)"), "{svg}");
        assert!(svg.contains("FC: no curve: one class only") && svg.contains("Full-FT: no run"), "{svg}");
        // The line of chance in both plots, and one curve.
        assert_eq!(svg.matches("<polyline").count(), 3);
    }

    #[test]
    fn thinning_keeps_both_ends_and_every_step_that_shows() {
        let fine: Vec<(f64, f64)> = (0..=10_000).map(|i| (f64::from(i) / 1e4, f64::from(i) / 1e4)).collect();
        let kept = thinned(fine);
        assert_eq!((kept[0], *kept.last().unwrap()), ((0.0, 0.0), (1.0, 1.0)));
        assert!((400..=502).contains(&kept.len()), "{}", kept.len());
        let step = vec![(0.0, 0.0), (0.0, 1.0), (1.0, 1.0)];
        assert_eq!(thinned(step.clone()), step);
    }
}
