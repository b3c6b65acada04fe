//! The page: tables, figures, runs and, where the project is known, its steps. It renders what it is given; it does not
//! know where that comes from.

use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, Error, Value, context};
use stage_api::StepView;

use crate::artifacts::history::{History, ValPoint};
use crate::figure::FigureEntry;
use crate::published::{self, DATASETS, MODES};
use crate::table::{Cell, Table, thousands};

const TEMPLATE: &str = include_str!("page.html");

/// All that a page shows.
#[derive(Debug, Default)]
pub struct Page {
    /// The page's heading.
    pub title: String,
    /// The profile that made it.
    pub profile: String,
    /// What the profile is.
    pub about: String,
    /// What a reader may and may not conclude.
    pub statement: String,
    /// Tables and figures, in the order in which they are to be read.
    pub parts: Vec<Part>,
    /// The runs behind them.
    pub runs: Vec<Run>,
    /// The project; `None` on a page that must be the same bytes wherever it is made.
    pub project: Option<Project>,
}

/// What one step made.
#[derive(Debug, Default)]
pub struct Part {
    /// The step, where it is known.
    pub step: Option<String>,
    /// Its tables.
    pub tables: Vec<Table>,
    /// Its figures, each with its SVG text.
    pub figures: Vec<(FigureEntry, String)>,
}

/// A training run.
#[derive(Debug)]
pub struct Run {
    /// The step that trained it, where it is known.
    pub step: Option<String>,
    /// What it wrote.
    pub history: History,
}

/// The project's steps as they stand.
#[derive(Debug)]
pub struct Project {
    /// Every step, each after all that it reads.
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
        let steps: Vec<Value> = project.steps.iter().map(step_value).collect();
        context! { steps, drawing => Value::from_safe_string(project.drawing.clone()) }
    });
    let Page { title, profile, about, statement, .. } = page;
    environment
        .render_str(TEMPLATE, context! { title, profile, about, statement, parts, runs, project })
}

impl Page {
    fn step(&self, name: Option<&String>) -> Option<&StepView> {
        let name = name?;
        self.project.as_ref()?.steps.iter().find(|step| step.name == *name)
    }

    fn part(&self, part: &Part) -> Value {
        let tables = part.tables.iter().map(|table| {
            context! {
                name => &table.name,
                title => &table.title,
                caption => &table.caption,
                // The table's own HTML, made with escaped text.
                html => Value::from_safe_string(table.linked_html(|row| self.anchor(table, row))),
                notes => &table.notes,
            }
        });
        let figures = part.figures.iter().map(|(entry, svg)| {
            // The picture is this program's own SVG, made with escaped text, so it goes in as it is.
            context! { name => &entry.name, title => &entry.title, svg => Value::from_safe_string(svg.clone()) }
        });
        context! {
            tables => tables.collect::<Vec<_>>(),
            figures => figures.collect::<Vec<_>>(),
            step => self.step(part.step.as_ref()).map(step_value),
        }
    }

    /// Where on the page the run of a row is told of.
    fn anchor(&self, table: &Table, row: &[Cell]) -> Option<String> {
        let cell = |keys: &[&str]| {
            let place = table.columns.iter().position(|column| keys.contains(&column.key.as_str()))?;
            row.get(place).map(Cell::shown)
        };
        let (dataset, mode) = (cell(&["dataset", "trained_on"])?, cell(&["mode"])?);
        let run = self.runs.iter().find(|run| {
            let info = &run.history.run;
            published::title(&DATASETS, &info.dataset) == dataset && published::title(&MODES, &info.mode) == mode
        })?;
        Some(anchor(&run.history))
    }

    fn run(&self, run: &Run) -> Value {
        let History { run: info, parameters, rows, val, best, .. } = &run.history;
        let step = self.step(run.step.as_ref());
        // Those that read the run show what its weights are worth.
        let readers = self.project.iter().flat_map(|project| &project.steps).filter(|reader| {
            let reads = reader.inputs.iter().any(|input| input.step() == run.step.as_deref());
            run.step.is_some() && reads && reader.stage == "evaluate"
        });
        let log = self.project.as_ref().and_then(|project| {
            let at = project.steps.iter().position(|step| Some(&step.name) == run.step.as_ref())?;
            project.logs.get(at).filter(|log| !log.is_empty())
        });
        let history: Vec<Value> = val.iter().map(|point| val_value(point, point.update == best.update)).collect();
        context! {
            anchor => anchor(&run.history),
            dataset => published::title(&DATASETS, &info.dataset),
            mode => published::title(&MODES, &info.mode),
            seed => info.seed,
            updates => thousands(info.updates),
            train_rows => thousands(rows.0),
            val_rows => thousands(rows.1),
            total => thousands(parameters.total),
            trained => thousands(parameters.trained),
            adapters => thousands(parameters.adapters),
            best => val_value(best, true),
            history,
            step => step.map(step_value),
            readers => readers.map(|reader| &reader.name).collect::<Vec<_>>(),
            log,
        }
    }
}

fn anchor(history: &History) -> String {
    let info = &history.run;
    format!("run-{}-{}-{}", info.dataset, info.mode, info.seed)
}

fn val_value(point: &ValPoint, is_best: bool) -> Value {
    let shown = |value: f64, places: usize| match value.is_finite() {
        true => format!("{value:.places$}"),
        false => "not a number".to_owned(),
    };
    context! {
        update => thousands(point.update),
        roc_auc => shown(point.roc_auc, 4),
        loss => shown(point.loss, 4),
        accuracy => shown(point.accuracy, 4),
        f1 => shown(point.f1, 4),
        is_best,
    }
}

fn step_value(step: &StepView) -> Value {
    let inputs = step.inputs.iter().map(|input| {
        context! { port => &input.port, source => &input.source, step => input.step(), digest => &input.digest }
    });
    let run = step.run.as_ref().map(|run| {
        context! {
            began => super::when(run.started_ms),
            took => took(run.seconds),
            host => &run.host,
            device => &run.device,
            threads => run.threads,
            outputs => run.outputs.iter().collect::<Vec<_>>(),
            accepted => &run.accepted,
        }
    });
    context! {
        name => &step.name,
        stage => &step.stage,
        version => step.version,
        params => &step.params,
        state => &step.state,
        key => &step.key,
        tree => &step.tree,
        inputs => inputs.collect::<Vec<_>>(),
        run,
    }
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
