//! What a researcher checks first of a data set: counts, balance, lengths, sizes, drops, leakage. `data` makes a part
//! of the report of the summaries that `index` stages wrote, `repro data` an answer. Neither knows the layouts of the
//! data sets.

mod tables;
mod thumbnails;

use std::path::Path;

use clap::Args;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stage_api::{Answer, Job, Port, Stage, StageError, Tool, ToolContext};

use crate::artifacts::data_summary::DataSummary;
use crate::artifacts::samples::SampleSet;
use crate::artifacts::{ArtifactError, write_json};
use crate::reports::figure::{self, FigureEntry};

/// The stage: tables and blurred pictures for the report.
pub struct Data;

/// Params of [`Data`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DataParams {
    /// Whether pictures are blurred until they show nothing recognisable. They may be hateful: think before
    /// setting it to false, and do not publish what comes out.
    pub blur: bool,
    /// Pictures of each class and data set.
    pub pictures: usize,
}

impl Default for DataParams {
    fn default() -> Self {
        Self { blur: true, pictures: 8 }
    }
}

const INDEXES: &str = "indexes";

impl Stage for Data {
    type Params = DataParams;
    const NAME: &'static str = "data";
    const ABOUT: &'static str =
        "what a data set holds: tables of its splits, drops and leakage, blurred pictures";
    const VERSION: u32 = 2;
    const INPUTS: &'static [Port] = &[Port::many(INDEXES)];

    fn check(&self, params: &DataParams) -> Result<(), String> {
        match params.pictures {
            0..=100 => Ok(()),
            more => Err(format!("`pictures` is {more}; it may be at most 100")),
        }
    }

    fn run(&self, params: &DataParams, job: &Job) -> Result<(), StageError> {
        let indexes = job.inputs.all(INDEXES);
        let of_port = |error: ArtifactError| StageError::input(INDEXES, error.path, error.problem);
        let read = indexes.iter().map(|index| DataSummary::read(index).map_err(of_port));
        let summaries = read.collect::<Result<Vec<_>, _>>()?;
        for table in tables::all(&summaries) {
            table.write(job.out)?;
        }
        let mut figures = Vec::new();
        for (index, summary) in indexes.iter().zip(&summaries) {
            job.check_cancelled()?;
            let samples = SampleSet::read(&index.join("samples")).map_err(of_port)?;
            let svg = thumbnails::sheet(&samples, &index.join("images"), params)
                .map_err(|problem| StageError::input(INDEXES, index, problem))?;
            let entry = FigureEntry {
                name: format!("data-{}", summary.dataset),
                title: format!("Pictures of {}", summary.dataset.to_uppercase()),
                caption: if params.blur { "Blurred: a few pixels of each." } else { "Not blurred." }
                    .to_owned(),
            };
            write(&job.out.join(format!("{}.svg", entry.name)), &svg)?;
            figures.push(entry);
        }
        Ok(write_json(&job.out.join(figure::LIST), &figures)?)
    }
}

fn write(path: &Path, text: &str) -> Result<(), StageError> {
    std::fs::write(path, text).map_err(|error| ArtifactError::new(path, error).into())
}

/// The tool `repro data`.
pub struct DataTool;

/// Show what the data sets hold: counts, class balance, text lengths, picture sizes, drops, leakage
///
/// Reads what the index steps found. Without STEP, every one of them that is up to date. No text and no picture of the
/// data is shown.
#[derive(Args)]
pub struct DataArgs {
    /// A step that indexes a data set: mmh-samples.
    #[arg(value_name = "STEP")]
    steps: Vec<String>,
}

impl Tool for DataTool {
    type Args = DataArgs;
    const NAME: &'static str = "data";

    fn run(&self, args: &DataArgs, context: &ToolContext) -> Result<Answer, StageError> {
        let mut found = Vec::new();
        for step in &args.steps {
            let summary = DataSummary::read(&context.results.output(step)?).map_err(|error| {
                StageError::Params(format!("step `{step}` is no index of a data set ({error})"))
            })?;
            found.push((step.clone(), summary));
        }
        if found.is_empty() {
            let steps = context.results.steps();
            for step in steps.iter().filter(|step| step.stage.starts_with("index-")) {
                match context.results.output(&step.name) {
                    Ok(output) => found.push((step.name.clone(), DataSummary::read(&output)?)),
                    Err(problem) => context.progress.note(&problem.to_string()),
                }
            }
        }
        if found.is_empty() {
            let what = "no data set is indexed yet; run `repro make` first";
            return Err(StageError::Failed(what.to_owned()));
        }
        let json = serde_json::to_string_pretty(
            &found.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
        );
        let summaries: Vec<DataSummary> = found.into_iter().map(|(_, summary)| summary).collect();
        let text = tables::all(&summaries)
            .iter()
            .map(|table| table.drawn(context.columns))
            .collect::<Vec<_>>()
            .join("\n");
        Ok(Answer { text, json: json.map_err(StageError::failed)?, stale: false })
    }
}

#[cfg(test)]
mod tests;
