//! The page: tables, figures, runs and, where the project is known, its steps. It renders what it is given; it does not
//! know where that comes from.

use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, Error, Value, context};
use stage_api::StepView;

use super::{downloads, live_curves, summary};
use crate::artifacts::history::{History, RunInfo, ValPoint};
use crate::artifacts::scalars::Scalars;
use crate::models::Mode;
use crate::reports::CLASS_TABLE;
use crate::reports::figure::FigureEntry;
use crate::reports::names::Names;
use crate::reports::table::{Cell, Table, thousands};

const TEMPLATE: &str = include_str!("page.html");

/// What a page begins with, in this order: tables by name, and the curves. All else is folded.
const LEAD: [Option<&str>; 4] = [Some("table-2"), None, Some("table-1"), Some("claims")];
/// The anchor of the curves.
const CURVES: &str = "curves";

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
    /// Where published numbers come from; empty without any.
    pub published: String,
    /// What data sets, modes and classes are called.
    pub names: Names,
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
    /// The folder it is published in, if it is shown although the report does not read it.
    pub extra: Option<String>,
    /// Its tables.
    pub tables: Vec<Table>,
    /// Its figures.
    pub figures: Vec<Picture>,
    /// Why there is neither.
    pub missing: Option<String>,
    /// What a reader must know of them.
    pub note: Option<String>,
}

/// A figure.
#[derive(Debug)]
pub struct Picture {
    /// Its names.
    pub entry: FigureEntry,
    /// The drawing, by this program: text in it is escaped.
    pub svg: String,
    /// The same as PDF, where there is one.
    pub pdf: Option<Vec<u8>>,
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
    let runs: Vec<Value> = page.runs.iter().map(|run| page.run(run)).collect();
    let project = page.project.as_ref().map(|project| {
        let steps = project.steps.iter().zip(&project.logs).map(|(step, log)| step_value(step, log));
        // The drawing is the engine's own SVG, built with escaped text.
        let drawing = Value::from_safe_string(project.drawing.clone());
        context! { steps => steps.collect::<Vec<_>>(), drawing }
    });
    let missing = page.parts.iter().filter(|part| part.missing.is_some());
    let missing = missing.map(|part| context! { name => &part.step, missing => &part.missing });
    let notes = page.parts.iter().filter_map(|part| part.note.clone());
    let (lead, rest) = page.sections();
    let Page { title, profile, about, statement, .. } = page;
    environment.render_str(
        TEMPLATE,
        context! {
            title, profile, about, statement, runs, project, lead, rest,
            published => Value::from_safe_string(escaped(&page.published)),
            positive => page.names.positive(),
            several_classes => page.has_several_classes(),
            samples => page.names.samples_title(),
            modes => Mode::ALL.map(|mode| page.names.mode_title(mode.as_str()).to_owned()).to_vec(),
            summary => summary::lines(page),
            missing => missing.collect::<Vec<_>>(),
            notes => notes.collect::<Vec<_>>(),
            extra => page.extra(),
        },
    )
}

impl Part {
    /// Whether its figures are curves of trainings: `hmd-roc-auc`, `hmd-loss`.
    fn has_curves(&self) -> bool {
        let is_curve = |name: &str| ["-roc-auc", "-loss"].iter().any(|ending| name.ends_with(ending));
        self.figures.iter().any(|figure| is_curve(&figure.entry.name))
    }
}

impl Page {
    /// Whether its runs have more classes than two, or rows with several: only then is there a table of each class.
    fn has_several_classes(&self) -> bool {
        self.parts.iter().flat_map(|part| &part.tables).any(|table| table.name == CLASS_TABLE)
    }

    fn step(&self, name: Option<&String>) -> Option<&StepView> {
        let name = name?;
        self.project.as_ref()?.steps.iter().find(|step| step.name == *name)
    }

    /// The sections of the parts that the report reads: those that every reader looks for, in their order, and the rest in
    /// the order of the parts.
    fn sections(&self) -> (Vec<Value>, Vec<Value>) {
        let own = || self.parts.iter().filter(|part| part.extra.is_none());
        let is_lead = |table: &Table| LEAD.contains(&Some(table.name.as_str()));
        let table = |name: &str| {
            let mut all = own().flat_map(|part| part.tables.iter().map(move |table| (part, table)));
            all.find(|(_, table)| table.name == name)
        };
        let curves = own().find(|part| part.has_curves());
        let lead = LEAD.iter().filter_map(|place| match place {
            Some(name) => table(name).map(|(part, table)| self.table(part, table, "")),
            None => curves.map(|part| self.figures(part, CURVES, "Curves")),
        });
        let rest = own().flat_map(|part| {
            let tables = part.tables.iter().filter(|table| !is_lead(table));
            let tables = tables.map(|table| self.table(part, table, ""));
            let is_shown = part.figures.is_empty() || part.has_curves();
            let titles: Vec<&str> = part.figures.iter().map(|figure| figure.entry.title.as_str()).collect();
            let anchor =
                part.figures.first().map_or(String::new(), |first| format!("figures-{}", first.entry.name));
            let figures = (!is_shown).then(|| self.figures(part, &anchor, &titles.join(", ")));
            tables.chain(figures).collect::<Vec<_>>()
        });
        (lead.collect(), rest.collect())
    }

    /// What else is published, by folder.
    fn extra(&self) -> Vec<Value> {
        let mut groups: Vec<(&str, Vec<&Part>)> = Vec::new();
        for part in &self.parts {
            let Some(folder) = part.extra.as_deref() else { continue };
            match groups.iter_mut().find(|(name, _)| *name == folder) {
                Some((_, parts)) => parts.push(part),
                None => groups.push((folder, vec![part])),
            }
        }
        let group = |(folder, parts): (&str, Vec<&Part>)| {
            let anchor = format!("extra-{}", folder.replace('/', "-"));
            let prefix = format!("{anchor}-");
            let sections = parts.iter().flat_map(|part| {
                let tables = part.tables.iter().map(|table| self.table(part, table, &prefix));
                let figures = (!part.figures.is_empty())
                    .then(|| self.figures(part, &format!("{prefix}{CURVES}"), "Curves"));
                tables.chain(figures).collect::<Vec<_>>()
            });
            context! { anchor, title => format!("Also published: {folder}"), sections => sections.collect::<Vec<_>>() }
        };
        groups.into_iter().map(group).collect()
    }

    /// A section with one table.
    fn table(&self, part: &Part, table: &Table, prefix: &str) -> Value {
        let anchor = format!("{prefix}{}", table.name);
        let html = table.linked_html(&anchor, &|row, column| self.run_of(table, row, column));
        let value = context! {
            anchor => &anchor,
            caption => &table.caption,
            // The table's own HTML, built with escaped text.
            html => Value::from_safe_string(html),
            notes => &table.notes,
            files => downloads::of_table(&anchor, table),
            built_by => self.built_by(part),
        };
        let short = table.title.split(':').next().unwrap_or_default();
        context! { anchor, title => &table.title, short, table => value }
    }

    /// A section with the figures of a part.
    fn figures(&self, part: &Part, anchor: &str, title: &str) -> Value {
        let prefix = part.extra.as_ref().map_or(String::new(), |_| format!("{anchor}-"));
        let figures = part.figures.iter().map(|picture| {
            let Picture { entry, svg, .. } = picture;
            let name = format!("{prefix}{}", entry.name);
            // A drawing with a title has its caption within it.
            let caption = (!svg.contains("<title>")).then_some(&entry.caption);
            context! {
                anchor => &name,
                title => &entry.title,
                caption,
                svg => Value::from_safe_string(svg.clone()),
                files => downloads::of_picture(&name, picture),
            }
        });
        context! {
            anchor, title, short => title,
            figures => figures.collect::<Vec<_>>(),
            built_by => self.built_by(part),
        }
    }

    fn built_by(&self, part: &Part) -> Option<Value> {
        self.step(part.step.as_ref()).map(|step| context! { name => &step.name, key => &step.key })
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
            self.names.data_title(&info.dataset) == dataset
                && self.names.kind_title(&info.kind()) == mode
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
                self.names.data_title(&info.dataset), self.names.kind_title(&info.kind()), info.seed
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

/// Text between elements of HTML. An apostrophe is nothing special there.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
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
