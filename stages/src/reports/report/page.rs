//! The page: tables, figures, runs and, where the project is known, its steps. It renders what it is given; it does not
//! know where that comes from.

use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, Error, Value, context};
use stage_api::StepView;

use super::live_curves;
use crate::artifacts::history::{History, RunInfo, ValPoint};
use crate::artifacts::scalars::Scalars;
use crate::reports::figure::FigureEntry;
use crate::reports::paper_results::{self, DATASETS};
use crate::reports::table::{Cell, Table, thousands};

const TEMPLATE: &str = include_str!("page.html");

/// All that a page shows.
#[derive(Debug, Default)]
pub struct Page {
    /// The page's heading.
    pub title: String,
    /// The profile it is of.
    pub profile: String,
    /// What the profile is.
    pub about: String,
    /// What a reader may and may not conclude.
    pub statement: String,
    /// Tables and figures, in the order in which they are to be read.
    pub parts: Vec<Part>,
    /// The runs behind them.
    pub runs: Vec<Run>,
    /// The project; `None` on a page that must be the same bytes wherever it is built.
    pub project: Option<Project>,
}

/// The output of one step.
#[derive(Debug, Default)]
pub struct Part {
    /// The step, where it is known.
    pub step: Option<String>,
    /// Its tables.
    pub tables: Vec<Table>,
    /// Its figures, each with its SVG text.
    pub figures: Vec<(FigureEntry, String)>,
    /// Why there is neither.
    pub missing: Option<String>,
    /// What a reader must know of them.
    pub note: Option<String>,
}

/// A training run.
#[derive(Debug)]
pub struct Run {
    /// The step that trains it, where it is known.
    pub step: Option<String>,
    /// What it wrote; or why it wrote nothing yet, and what it has measured so far.
    pub found: Result<History, (String, Vec<Scalars>)>,
}

/// The project's steps as they stand.
#[derive(Debug)]
pub struct Project {
    /// The steps that the page rests on, each after all that it reads.
    pub steps: Vec<StepView>,
    /// The last lines of each step's log, in the order of `steps`.
    pub logs: Vec<String>,
    /// The graph of the steps as SVG, boxes linked to `#step-NAME`.
    pub drawing: String,
}

/// The page as HTML.
///
/// # Errors
/// A mistake in the template.
pub fn render(page: &Page) -> Result<String, Error> {
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    let parts: Vec<Value> = page.parts.iter().map(|part| page.part(part)).collect();
    let runs: Vec<Value> = page.runs.iter().map(|run| page.run(run)).collect();
    let project = page.project.as_ref().map(|project| {
        let steps = project.steps.iter().zip(&project.logs).map(|(step, log)| step_value(step, log));
        // The drawing is the engine's own SVG, built with escaped text.
        let drawing = Value::from_safe_string(project.drawing.clone());
        context! { steps => steps.collect::<Vec<_>>(), drawing }
    });
    let Page { title, profile, about, statement, .. } = page;
    environment.render_str(TEMPLATE, context! { title, profile, about, statement, parts, runs, project })
}

impl Page {
    fn step(&self, name: Option<&String>) -> Option<&StepView> {
        let name = name?;
        self.project.as_ref()?.steps.iter().find(|step| step.name == *name)
    }

    fn part(&self, part: &Part) -> Value {
        let tables = part.tables.iter().map(|table| {
            let linked = table.linked_html(&|row, column| self.run_of(table, row, column));
            context! {
                name => &table.name,
                title => &table.title,
                caption => &table.caption,
                // The table's own HTML, built with escaped text.
                html => Value::from_safe_string(linked),
                notes => &table.notes,
            }
        });
        let figures = part.figures.iter().map(|(entry, svg)| {
            // The picture is this program's own SVG, built with escaped text, so it goes in as it is.
            context! { name => &entry.name, title => &entry.title, svg => Value::from_safe_string(svg.clone()) }
        });
        let built_by =
            self.step(part.step.as_ref()).map(|step| context! { name => &step.name, key => &step.key });
        context! {
            name => &part.step,
            missing => &part.missing,
            note => &part.note,
            tables => tables.collect::<Vec<_>>(),
            figures => figures.collect::<Vec<_>>(),
            built_by,
        }
    }

    /// Where on the page the run of a row is described, in the row's cell that names its mode.
    fn run_of(&self, table: &Table, row: &[Cell], column: usize) -> Option<String> {
        let cell = |keys: &[&str]| {
            let place = table.columns.iter().position(|column| keys.contains(&column.key.as_str()))?;
            row.get(place).map(Cell::shown)
        };
        if table.columns.get(column)?.key != "mode" {
            return None;
        }
        let (dataset, mode, seed) = (cell(&["dataset", "trained_on"])?, cell(&["mode"])?, cell(&["seed"]));
        let infos = self.runs.iter().filter_map(|run| run.found.as_ref().ok()).map(|history| &history.run);
        let is_it = |info: &&RunInfo| {
            paper_results::title(&DATASETS, &info.dataset) == dataset
                && paper_results::kind_title(&info.kind()) == mode
                && seed.as_ref().is_none_or(|seed| *seed == info.seed.to_string())
        };
        infos.into_iter().find(is_it).map(|info| format!("#{}", anchor(info)))
    }

    fn run(&self, run: &Run) -> Value {
        let step = self.step(run.step.as_ref());
        let project = self.project.as_ref();
        // Those that read the run show what its weights are worth.
        let reads_it =
            |reader: &&StepView| reader.inputs.iter().any(|input| input.step() == run.step.as_deref());
        let readers = project.iter().flat_map(|project| &project.steps);
        let readers = readers.filter(|reader| step.is_some() && reader.stage == "evaluate").filter(reads_it);
        let log = project.and_then(|project| {
            let at = project.steps.iter().position(|step| Some(&step.name) == run.step.as_ref())?;
            project.logs.get(at).filter(|log| !log.is_empty())
        });
        let common = context! {
            step => step.map(|step| step_value(step, "")),
            readers => readers.map(|reader| reader.name.clone()).collect::<Vec<_>>(),
            log,
        };
        let history = match &run.found {
            Ok(history) => history,
            Err((missing, measured)) => {
                let last = measured.iter().filter_map(|found| {
                    let (update, value) = found.points.last()?;
                    let value =
                        value.map_or_else(|| "not a number".to_owned(), |value| format!("{value:.4}"));
                    Some(context! { name => &found.name, update => thousands(*update), value })
                });
                let name = run.step.as_deref().unwrap_or("a run");
                let details = context! {
                    anchor => format!("run-{name}"), name, missing, measured => last.collect::<Vec<_>>(),
                    // This program's own SVG, built with escaped text.
                    so_far => live_curves::svg(name, measured).map(Value::from_safe_string),
                };
                return context! { ..details, ..common };
            }
        };
        let History { run: info, parameters, rows, val, best, .. } = history;
        let points = val.iter().map(|point| val_value(point, point.update == best.update));
        let details = context! {
            anchor => anchor(info),
            name => format!(
                "{}, {}, seed {}",
                paper_results::title(&DATASETS, &info.dataset), paper_results::kind_title(&info.kind()), info.seed
            ),
            updates => thousands(info.updates),
            train_rows => thousands(rows.0),
            val_rows => thousands(rows.1),
            total => thousands(parameters.total),
            trained => thousands(parameters.trained),
            adapters => thousands(parameters.adapters),
            best => val_value(best, true),
            history => points.collect::<Vec<_>>(),
        };
        context! { ..details, ..common }
    }
}

fn anchor(info: &RunInfo) -> String {
    format!("run-{}-{}-{}", info.dataset, info.kind(), info.seed)
}

fn val_value(point: &ValPoint, is_best: bool) -> Value {
    let shown = |value: f64| match value.is_finite() {
        true => format!("{value:.4}"),
        false => "not a number".to_owned(),
    };
    context! {
        update => thousands(point.update),
        roc_auc => shown(point.roc_auc),
        loss => shown(point.loss),
        accuracy => shown(point.accuracy),
        f1 => shown(point.f1),
        is_best,
    }
}

fn step_value(step: &StepView, log: &str) -> Value {
    let inputs = step.inputs.iter().map(|input| {
        context! { port => &input.port, source => &input.source, step => input.step(), digest => &input.digest }
    });
    let run = step.run.as_ref().map(|run| {
        context! {
            began => super::when(run.started_ms),
            took => took(run.seconds),
            memory => run.peak_memory.map(|bytes| format!("{} MiB", thousands(bytes >> 20))),
            host => &run.host,
            device => &run.device,
            threads => run.threads,
            outputs => &run.outputs,
            accepted => &run.accepted,
        }
    });
    context! {
        name => &step.name,
        stage => &step.stage,
        version => step.version,
        params => spaced(&step.params),
        state => &step.state,
        key => &step.key,
        tree => &step.tree,
        inputs => inputs.collect::<Vec<_>>(),
        run,
        log,
    }
}

/// Canonical params with room for a line break after each comma and colon, none of it within texts.
fn spaced(params: &str) -> String {
    let (mut shown, mut in_text, mut escaped) = (String::new(), false, false);
    for letter in params.chars() {
        shown.push(letter);
        in_text ^= letter == '"' && !escaped;
        escaped = letter == '\\' && !escaped;
        if !in_text && (letter == ',' || letter == ':') {
            shown.push(' ');
        }
    }
    shown
}

fn took(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..10 => format!("{seconds:.1} s"),
        10..60 => format!("{whole} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
    }
}
