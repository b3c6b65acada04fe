//! Memes that no step has produced: a picture with its text, or a table with their pictures, turned into tokens and regions by the
//! very stages and settings that produced the run's own. It does not know what is predicted from them.
//!
//! A table is CSV, TSV or JSON lines, as `index-table` reads it and Hateful Memes has it. It has a column `image`, `img` or
//! `file_name` (the picture's path, from the file's folder), `text`, and perhaps `id`; whatever else it has, such as a label, is not
//! read.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use stage_api::{AllowedEnv, Input, InputView, Inputs, Job, StageError, StepView, ToolContext};

use crate::artifacts::samples::{Sample, SampleSet, Split};
use crate::formats::dataset_files;
use crate::formats::file_kind;
use crate::formats::table_file::{self, Cell};
use crate::training::dataset::{REGIONS, TOKENS};
use crate::training::inference;

/// Where memes come from.
pub(super) enum Memes<'a> {
    /// A table.
    File(&'a Path),
    /// One picture, and its text. Its id is the picture's file name.
    One(&'a Path, &'a str),
}

/// The tokens and the regions of memes, written below `space`, all in the split `test`.
///
/// # Errors
/// A line that is no meme, a picture that is not there, a run whose own memes do not come from texts and pictures.
pub(super) fn tokens_and_regions(
    memes: &Memes,
    run: &StepView,
    context: &ToolContext,
    space: &Path,
) -> Result<[PathBuf; 2], StageError> {
    // Both are looked for before the long work begins.
    let (tokens, regions) = (maker(run, TOKENS, context)?, maker(run, REGIONS, context)?);
    let (samples, images) = (space.join("samples"), space.join("images"));
    fs::create_dir_all(&images)?;
    let linked = match memes {
        Memes::File(file) => linked(file, &images)?,
        Memes::One(picture, text) => vec![linked_one(picture, text, &images)?],
    };
    SampleSet { dataset: "memes".to_owned(), samples: linked, ..SampleSet::default() }.write(&samples)?;
    Ok([
        make(&tokens, ("samples", &samples), &space.join("tokens"), context)?,
        make(&regions, ("images", &images), &space.join("regions"), context)?,
    ])
}

/// The memes of `file`, with links in `images` to their pictures.
fn linked(file: &Path, images: &Path) -> Result<Vec<Sample>, StageError> {
    let refuse = |problem: String| StageError::input("memes", file, problem);
    let bytes = fs::read(file).map_err(|error| refuse(error.to_string()))?;
    if let Some(problem) = file_kind::placeholder(&bytes).filter(|_| !bytes.is_empty()) {
        return Err(refuse(problem));
    }
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let table = match bytes.trim_ascii().is_empty() {
        true => table_file::Table { columns: Vec::new(), rows: Vec::new() },
        false => table_file::read(&name, &dataset_files::text(&bytes)).map_err(refuse)?,
    };
    if table.rows.is_empty() {
        return Err(refuse("holds no memes".to_owned()));
    }
    let column =
        |names: &[&str]| names.iter().find_map(|name| table.columns.iter().position(|own| own == name));
    let must = |names: &[&str]| {
        let found = table.columns.iter().map(|name| format!("`{}`", file_kind::shown(name)));
        let found = found.collect::<Vec<_>>().join(", ");
        column(names).ok_or_else(|| refuse(format!("has no column `{}`, of {found}", names.join("` or `"))))
    };
    let (image, text, id) = (must(&dataset_files::PICTURE_COLUMNS)?, must(&["text"])?, column(&["id"]));
    let folder = file.parent().unwrap_or(Path::new(""));
    let (mut ids, mut names, mut samples) = (HashSet::new(), HashMap::new(), Vec::new());
    for row in &table.rows {
        let refuse = |problem: String| refuse(format!("line {}: {problem}", row.line));
        if let Err(problem) = &row.cells {
            return Err(refuse(problem.clone()));
        }
        let cell = |column: usize| match row.cell(column) {
            Cell::Text(text) => Ok(text.clone()),
            _ => Err(refuse(format!("has no `{}`", table.columns[column]))),
        };
        let (img, text) = (cell(image)?, cell(text)?);
        let id = id.map_or_else(|| Ok(img.clone()), cell)?;
        if !ids.insert(id.clone()) {
            return Err(refuse(format!("the id `{}` is on an earlier line, too", file_kind::shown(&id))));
        }
        let picture = folder.join(&img);
        let picture = picture.canonicalize().map_err(|error| refuse(format!("{img}: {error}")))?;
        let next = names.len();
        let image = match names.get(&picture) {
            Some(name) => String::clone(name),
            None => {
                let name =
                    link(&picture, next, images).map_err(|problem| refuse(format!("{img} {problem}")))?;
                names.insert(picture, name.clone());
                name
            }
        };
        samples.push(Sample { id, image, text, label: None, soft: None, split: Split::Test });
    }
    Ok(samples)
}

/// The meme of a picture and its text, with a link in `images` to the picture.
fn linked_one(picture: &Path, text: &str, images: &Path) -> Result<Sample, StageError> {
    let refuse = |problem: String| StageError::input("image", picture, problem);
    let real = picture.canonicalize().map_err(|error| refuse(error.to_string()))?;
    let image = link(&real, 0, images).map_err(refuse)?;
    let id = picture.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Sample { id, image, text: text.to_owned(), label: None, soft: None, split: Split::Test })
}

/// Links a picture into `images` and returns the link's name. It is not the picture's own: those of several folders may share one.
fn link(picture: &Path, number: usize, images: &Path) -> Result<String, String> {
    let ending = picture.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    if !["png", "jpg", "jpeg"].contains(&ending.as_str()) {
        return Err("is not a .png, .jpg or .jpeg file".to_owned());
    }
    let name = format!("{number}.{ending}");
    symlink(picture, images.join(&name)).map_err(|error| format!("cannot be linked: {error}"))?;
    Ok(name)
}

/// The step that produced what `run` reads at `port`, which must have run the stage of that name. Where the run reads regions that
/// were imported, the step that extracts those of the same pictures, or else the first that extracts any.
fn maker(run: &StepView, port: &str, context: &ToolContext) -> Result<StepView, StageError> {
    let steps = context.results.steps();
    let source = |step: &StepView, port: &str| {
        let input = step.inputs.iter().find(|input| input.port == port);
        input.and_then(InputView::step).map(ToOwned::to_owned)
    };
    let own = |port: &str| {
        let input = inference::own_input(run, port, context)?;
        steps.iter().find(|step| Some(step.name.as_str()) == input.step())
    };
    let read = own(port);
    if let Some(step) = read.filter(|step| step.stage == port) {
        return Ok(step.clone());
    }
    if port == REGIONS {
        let samples = own(TOKENS).and_then(|tokens| source(tokens, "samples"));
        let extracts = |step: &&StepView| step.stage == REGIONS;
        let same = |step: &&StepView| samples.is_some() && source(step, "images") == samples;
        let candidates = || steps.iter().filter(extracts);
        if let Some(step) = candidates().find(same).or_else(|| candidates().next()) {
            let read = read.map_or("its regions", |step| step.name.as_str());
            context.progress.note(&format!(
                "`{}` was trained on imported features (`{read}`); those of other pictures are extracted as `{}` does",
                run.name, step.name
            ));
            return Ok(step.clone());
        }
    }
    let run = &run.name;
    Err(StageError::Params(format!(
        "the {port} of `{run}` were not written by the stage `{port}`, so it is not known how to make those of other memes; name \
         steps with --tokens and --regions"
    )))
}

/// Does again what `step` did, with another input at one port, and writes it into `out`.
fn make(
    step: &StepView,
    (port, path): (&str, &Path),
    out: &Path,
    context: &ToolContext,
) -> Result<PathBuf, StageError> {
    let input = |input: &InputView| {
        let own =
            if input.port == port { path.to_owned() } else { inference::located(&input.source, context)? };
        Ok(Input::new(&input.port, own))
    };
    let inputs = Inputs(step.inputs.iter().map(input).collect::<Result<_, StageError>>()?);
    let scratch = out.with_extension("scratch");
    fs::create_dir_all(out)?;
    fs::create_dir_all(&scratch)?;
    let (scratch, allowed_env) = (scratch.as_path(), &AllowedEnv::default());
    let job =
        Job { inputs: &inputs, out, scratch, host: context.host, allowed_env, progress: context.progress };
    let stages = crate::registry();
    let stage = stages.get(&step.stage).ok_or_else(|| StageError::failed("the stage is gone"))?;
    stage.load(&step.params)?.run(&job)?;
    Ok(out.to_owned())
}
