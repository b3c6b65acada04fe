//! The rows of the table of claims: each claim with its formula, its value in the logs and in this run, and the verdicts.

use super::judge::{Verdict, close, exact, sized};
use crate::metrics::bootstrap::Interval;
use crate::metrics::delong::NORMAL_95;
use crate::metrics::hanley_mcneil;
use crate::models::{Family, Mode};
use crate::reports::evaluation::{Evaluated, Runs, components, interval_of, mean_roc_auc, missing};
use crate::reports::paper_results::{Claim, Paper, Quantities, Quoted};
use crate::reports::table::Cell;

/// A value with its interval, if it has one, and what follows from it.
struct Found {
    cell: Cell,
    verdict: Option<Verdict>,
}

impl Found {
    fn share(value: f64, interval: Option<Interval>, verdict: Option<Verdict>) -> Self {
        let places = 1;
        let cell = match interval {
            Some(Interval { low, high }) => Cell::ShareEstimate { value, low, high, places },
            None => Cell::Share { value, places },
        };
        Self { cell, verdict }
    }

    fn nothing(verdict: Option<Verdict>) -> Self {
        Self { cell: Cell::None, verdict }
    }
}

fn row(says: String, dataset: &str, formula: &str, logs: Found, ours: Found) -> Vec<Cell> {
    let verdict = |verdict: Option<Verdict>| {
        verdict.map_or(Cell::None, |verdict| Cell::Text(verdict.words().to_owned()))
    };
    vec![
        Cell::Text(says),
        if dataset.is_empty() { Cell::None } else { Cell::Text(dataset.to_owned()) },
        Cell::Text(formula.to_owned()),
        logs.cell,
        verdict(logs.verdict),
        ours.cell,
        verdict(ours.verdict),
    ]
}

/// A quoted share in percent, as printed.
fn percent(quoted: Quoted) -> String {
    format!("{:.*} %", usize::from(quoted.percent_places()), quoted.value * 100.0)
}

/// The claims about the number of parameters.
///
/// # Errors
/// Only if counting fails.
pub fn of_parameters(paper: &Paper, second: &[Quantities]) -> candle_core::Result<Vec<Vec<Cell>>> {
    let quote = |claim| paper.quotes(claim).next().map(|quote| quote.value);
    let logged = |mode| paper.runs.iter().find(|run| run.mode == mode);
    let model = Family::VisualBert.base();
    let (pe, full) = (model.counts(Mode::Pe)?, model.counts(Mode::Full)?);
    let share = |part: u64, whole: u64| part as f64 / whole as f64;
    let found = |value: Option<f64>, quoted: Option<Quoted>, places| match value {
        Some(value) => {
            Found { cell: Cell::Share { value, places }, verdict: quoted.map(|quoted| exact(value, quoted)) }
        }
        None => Found::nothing(None),
    };
    let mut rows = Vec::new();
    if let Some(quoted) = quote(Claim::FewerTrained) {
        let logs = logged("pe").zip(logged("full"));
        let logs = logs.map(|(pe, full)| 1.0 - share(pe.trained_parameters, full.total_parameters));
        let ours = 1.0 - share(pe.trained, full.total);
        rows.push(row(
            format!("PE trains {} fewer parameters than Full-FT", percent(quoted)),
            "",
            "1 \u{2212} trained by PE / trained by Full-FT",
            found(logs, Some(quoted), 2),
            found(Some(ours), Some(quoted), 2),
        ));
    }
    if let Some(quoted) = quote(Claim::Increase) {
        let logs = logged("pe").zip(logged("full"));
        let logs = logs.map(|(pe, full)| pe.total_parameters.saturating_sub(full.total_parameters));
        let of_new = logs.zip(logged("pe")).map(|(more, pe)| share(more, pe.total_parameters));
        let of_base = logs.zip(logged("full")).map(|(more, full)| share(more, full.total_parameters));
        rows.push(row(
            format!("PE adds {} of parameters to VisualBERT", percent(quoted)),
            "",
            "adapters / total with adapters",
            found(of_new, Some(quoted), 3),
            found(Some(share(pe.adapters, pe.total)), Some(quoted), 3),
        ));
        rows.push(row(
            "the same by the usual formula".to_owned(),
            "",
            "adapters / total without",
            found(of_base, None, 3),
            found(Some(share(pe.adapters, full.total)), None, 3),
        ));
    }
    if let Some(quoted) = quote(Claim::IncreaseVilbert) {
        let pe = second.iter().find(|row| row.mode == "pe");
        let logs = pe.map(|pe| share(pe.adapters, pe.total_parameters));
        let ours = Family::Vilbert.base().counts(Mode::Pe)?;
        rows.push(row(
            format!("PE adds {} of parameters to ViLBERT", percent(quoted)),
            "",
            "adapters / total with adapters",
            found(logs, Some(quoted), 3),
            found(Some(share(ours.adapters, ours.total)), Some(quoted), 3),
        ));
    }
    Ok(rows)
}

/// The claims about one data set.
pub struct Of<'a> {
    /// The published side.
    pub paper: &'a Paper,
    /// This run.
    pub runs: &'a Runs,
    /// Short name of the data set.
    pub dataset: &'a str,
    /// Its title.
    pub title: &'a str,
}

/// ROC-AUC of a mode in the logs and its variance.
type Logged = (f64, f64);

impl<'a> Of<'a> {
    /// All rows.
    pub fn all(&self) -> Vec<Vec<Cell>> {
        let mut rows = self.gain();
        rows.extend(self.share());
        rows.push(self.close());
        rows
    }

    fn quote(&self, claim: Claim) -> Option<Quoted> {
        self.paper.quotes(claim).find(|quote| quote.dataset == self.dataset).map(|quote| quote.value)
    }

    fn logged(&self, mode: &str) -> Option<Logged> {
        let (auc, split) =
            (self.paper.run(self.dataset, mode)?.best_roc_auc, self.paper.split(self.dataset)?);
        Some((auc, hanley_mcneil::variance(auc, split.positives, split.rows - split.positives)))
    }

    /// The runs of a mode; without any, the cell in their place.
    fn ours(&self, mode: &str) -> Result<&'a [Evaluated], Found> {
        let key = (self.dataset.to_owned(), mode.to_owned());
        match self.runs.get(&key) {
            Some(runs) => Ok(runs),
            None => Err(Found { cell: missing(&key), verdict: Some(Verdict::NotMeasured) }),
        }
    }

    /// The verdict on a size: only on the paper's rows, and only with an interval.
    fn size(&self, runs: &[Evaluated], interval: Option<Interval>, quoted: Quoted, nothing: f64) -> Verdict {
        match interval {
            _ if !runs.iter().all(|run| run.is_on_the_papers_split(self.paper)) => Verdict::OtherData,
            Some(interval) => sized(interval, quoted, Some(nothing)),
            None => Verdict::Open,
        }
    }

    /// PE over FC, by the formula that yields the quoted number and by the usual one.
    fn gain(&self) -> Vec<Vec<Cell>> {
        let Some(quoted) = self.quote(Claim::Gain) else { return vec![] };
        let says = format!("PE gains {} over FC", percent(quoted));
        let logs = |of: fn(f64, f64) -> f64, slopes: fn(f64, f64) -> (f64, f64), judged: bool| {
            let Some(((pe, of_pe), (fc, of_fc))) = self.logged("pe").zip(self.logged("fc")) else {
                return Found::nothing(None);
            };
            let (by_pe, by_fc) = slopes(pe, fc);
            let interval = normal(of(pe, fc), by_pe * by_pe * of_pe + by_fc * by_fc * of_fc);
            let verdict = judged.then(|| sized(interval, quoted, Some(0.0)));
            Found::share(of(pe, fc), Some(interval), verdict)
        };
        let ours = |of: fn(f64, f64) -> f64, judged: bool| {
            let (pe, fc) = match (self.ours("pe"), self.ours("fc")) {
                (Ok(pe), Ok(fc)) => (pe, fc),
                (Err(missing), _) | (_, Err(missing)) => return missing,
            };
            let interval = interval_of([pe, fc], |[pe, fc]| of(pe, fc));
            let verdict = judged.then(|| self.size(pe, interval, quoted, 0.0));
            Found::share(of(mean_roc_auc(pe), mean_roc_auc(fc)), interval, verdict)
        };
        let of_pe = |pe: f64, fc: f64| (pe - fc) / pe;
        let of_fc = |pe: f64, fc: f64| (pe - fc) / fc;
        vec![
            row(
                says.clone(),
                self.title,
                "(PE \u{2212} FC) / PE",
                logs(of_pe, |pe, fc| (fc / (pe * pe), -1.0 / pe), true),
                ours(of_pe, true),
            ),
            row(
                "the same by the usual formula".to_owned(),
                self.title,
                "(PE \u{2212} FC) / FC",
                logs(of_fc, |pe, fc| (1.0 / fc, -pe / (fc * fc)), false),
                ours(of_fc, false),
            ),
        ]
    }

    /// PE against the state of the art that the quoted share implies.
    fn share(&self) -> Option<Vec<Cell>> {
        let quoted = self.quote(Claim::ShareOfStateOfTheArt)?;
        let best = self.paper.state_of_the_art(self.dataset)?;
        let of_fc = self.logged("fc")?.0 / best;
        let logs = Found::share(self.logged("pe")?.0 / best, None, None);
        let ours = match self.ours("pe") {
            Err(missing) => missing,
            Ok(pe) => {
                let interval = interval_of([pe], |[pe]| pe / best);
                match self.size(pe, interval, quoted, of_fc) {
                    // A share of what was reached on other rows says nothing.
                    Verdict::OtherData => Found::nothing(Some(Verdict::OtherData)),
                    verdict => Found::share(mean_roc_auc(pe) / best, interval, Some(verdict)),
                }
            }
        };
        let formula = format!("PE / {best:.4}, the ROC-AUC that the quoted share implies");
        let says = format!("PE reaches {} of the state of the art", percent(quoted));
        Some(row(says, self.title, &formula, logs, ours))
    }

    /// PE against Full-FT.
    fn close(&self) -> Vec<Cell> {
        let estimate = |value: f64, Interval { low, high }: Interval| Found {
            cell: Cell::Estimate { value, low, high, places: 4 },
            verdict: Some(close(Interval { low, high })),
        };
        let logs = match self.logged("pe").zip(self.logged("full")) {
            Some(((pe, of_pe), (full, of_full))) => estimate(pe - full, normal(pe - full, of_pe + of_full)),
            None => Found::nothing(None),
        };
        let ours = match (self.ours("pe"), self.ours("full")) {
            (Err(missing), _) | (_, Err(missing)) => missing,
            (Ok(pe), Ok(full)) => {
                let compared = components(pe, &pe[0])
                    .and_then(|pe_parts| Ok((pe_parts, components(full, &pe[0])?)))
                    .and_then(|(pe, full)| pe.compare(&full).ok_or("the runs were scored on different rows"));
                match compared {
                    Ok(found) => {
                        let (low, high) = found.interval();
                        estimate(found.difference, Interval { low, high })
                    }
                    Err(why) => Found { cell: Cell::Missing(why.to_owned()), verdict: Some(Verdict::Open) },
                }
            }
        };
        row("PE comes close to Full-FT".to_owned(), self.title, "PE \u{2212} Full-FT", logs, ours)
    }
}

/// The 95% interval of a normal estimate.
fn normal(value: f64, variance: f64) -> Interval {
    let half = NORMAL_95 * variance.sqrt();
    Interval { low: value - half, high: value + half }
}
