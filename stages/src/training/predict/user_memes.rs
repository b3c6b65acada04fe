//! Memes that no step has produced: a `.jsonl` file with their pictures, turned into tokens and regions by the very stages
//! and settings that produced the run's own. It does not know what is predicted from them.
//!
//! A line has `id` (a number or a text), `img` (the picture's path, from the file's folder) and `text`, as the files of
//! Hateful Memes; whatever else it has, such as a label, is not read.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use stage_api::{AllowedEnv, Input, InputView, Inputs, Job, StageError, StepView, ToolContext};

use super::{located, own_memes};
use crate::artifacts::samples::{Sample, SampleSet, Split};
use crate::formats::dataset_files;
use crate::formats::file_kind;
use crate::training::dataset::{REGIONS, TOKENS};

#[derive(Deserialize)]
struct Line {
    id: Id,
    img: PathBuf,
    text: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Id {
    Number(u64),
    Text(String),
}

/// The tokens and the regions of the memes of `file`, written below `space`, all in the split `test`.
///
/// # Errors
/// A line that is no meme, a picture that is not there, a run whose own memes do not come from texts and pictures.
pub(super) fn tokens_and_regions(
    file: &Path,
    run: &StepView,
    context: &ToolContext,
    space: &Path,
) -> Result<[PathBuf; 2], StageError> {
    // Both are looked for before the long work begins.
    let (tokens, regions) = (maker(run, TOKENS, context)?, maker(run, REGIONS, context)?);
    let (samples, images) = (space.join("samples"), space.join("images"));
    fs::create_dir_all(&images)?;
    SampleSet { dataset: "memes".to_owned(), samples: linked(file, &images)?, ..SampleSet::default() }
        .write(&samples)?;
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
    let folder = file.parent().unwrap_or(Path::new(""));
    let (mut ids, mut names, mut samples) = (HashSet::new(), HashMap::new(), Vec::new());
    for (number, line) in dataset_files::text(&bytes).lines() {
        let Line { id, img, text } = serde_json::from_str(line)
            .map_err(|error| refuse(format!("line {number}, {}", file_kind::json_in_line(&error))))?;
        let refuse = |problem: String| refuse(format!("line {number}: {problem}"));
        let id = match id {
            Id::Number(id) => id.to_string(),
            Id::Text(id) => id,
        };
        if !ids.insert(id.clone()) {
            return Err(refuse(format!("the id `{id}` is on an earlier line, too")));
        }
        // Links have names of their own: pictures of several folders may share one.
        let picture = folder.join(&img);
        let picture =
            picture.canonicalize().map_err(|error| refuse(format!("{}: {error}", img.display())))?;
        let next = names.len();
        let image = match names.get(&picture) {
            Some(name) => String::clone(name),
            None => {
                let ending = picture.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
                if !["png", "jpg", "jpeg"].contains(&ending.as_str()) {
                    return Err(refuse(format!("{} is not a .png, .jpg or .jpeg file", img.display())));
                }
                let name = format!("{next}.{ending}");
                symlink(&picture, images.join(&name))?;
                names.insert(picture, name.clone());
                name
            }
        };
        samples.push(Sample { id, image, text, label: None, soft: None, split: Split::Test });
    }
    if samples.is_empty() {
        return Err(refuse("holds no memes".to_owned()));
    }
    Ok(samples)
}

/// The step that produced what `run` reads at `port`, which must have run the stage of that name.
fn maker(run: &StepView, port: &str, context: &ToolContext) -> Result<StepView, StageError> {
    let input = own_memes(run, port, context);
    let name = input.as_ref().and_then(InputView::step).unwrap_or_default();
    let step = context.results.steps().into_iter().find(|step| step.name == name && step.stage == port);
    step.ok_or_else(|| {
        let run = &run.name;
        let problem =
            format!("the {port} of `{run}` were not written by the stage `{port}`, so it is not known how");
        StageError::Params(format!(
            "{problem} to make those of --memes; name steps with --tokens and --regions"
        ))
    })
}

/// Does again what `step` did, with another input at one port, and writes it into `out`.
fn make(
    step: &StepView,
    (port, path): (&str, &Path),
    out: &Path,
    context: &ToolContext,
) -> Result<PathBuf, StageError> {
    let input = |input: &InputView| {
        let own = if input.port == port { path.to_owned() } else { located(&input.source, context)? };
        Ok(Input { port: input.port.clone(), path: own })
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
