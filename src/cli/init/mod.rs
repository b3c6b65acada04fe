//! `repro init`: writes a first pipeline with a README into the current folder. Its templates are the examples and the
//! paper's own pipeline of this repository, so each is a file that the tests run.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;
use stage_api::Registry;

use super::error::CliError;
use super::{Global, pipeline_file, print_json};
use crate::pipeline::{Folder, Pipeline, nearest};

/// Write a first pipeline and a README into this folder.
///
/// `commands`: a paper of commands, with nothing but awk and sort. `memes`: your own memes, on drawn ones at first.
/// `paper`: the paper that this program rebuilds. Files that are there are never overwritten.
#[derive(Args)]
pub struct Init {
    /// What to begin with: `commands`, `memes` or `paper`. Default: `commands`.
    template: Option<String>,
}

/// Files of a first project, the pipeline among them.
#[derive(Clone, Copy)]
struct Template {
    name: &'static str,
    about: &'static str,
    /// Path and text.
    files: &'static [(&'static str, &'static str)],
}

const README: &str = "README.md";

const TEMPLATES: [Template; 3] = [
    Template {
        name: "commands",
        about: "a paper of commands, with nothing but awk and sort",
        files: &[
            (pipeline_file::NAME, include_str!("../../../examples/command.ron")),
            (README, include_str!("commands.md")),
        ],
    },
    Template {
        name: "memes",
        about: "your own memes, on drawn ones at first",
        files: &[
            (pipeline_file::NAME, include_str!("../../../examples/own-data.ron")),
            (README, include_str!("memes.md")),
        ],
    },
    Template {
        name: "paper",
        about: "the paper that this program rebuilds",
        files: &[
            (pipeline_file::NAME, include_str!("../../../pipeline.ron")),
            ("profiles/paper.ron", include_str!("../../../profiles/paper.ron")),
            ("profiles/rehearsal.ron", include_str!("../../../profiles/rehearsal.ron")),
            ("paper/README.md", include_str!("../../../paper/README.md")),
            ("paper/curves.csv", include_str!("../../../paper/curves.csv")),
            ("paper/quoted.csv", include_str!("../../../paper/quoted.csv")),
            ("paper/runs.csv", include_str!("../../../paper/runs.csv")),
            ("paper/splits.csv", include_str!("../../../paper/splits.csv")),
            ("paper/vilbert.csv", include_str!("../../../paper/vilbert.csv")),
            (README, include_str!("paper.md")),
        ],
    },
];

/// The names of all templates.
pub fn names() -> [&'static str; TEMPLATES.len()] {
    TEMPLATES.map(|template| template.name)
}

impl Init {
    pub fn run(&self, global: &Global, registry: &Registry) -> Result<ExitCode, CliError> {
        // A program without the stages of a template cannot run it.
        let (fit, unfit): (Vec<&Template>, Vec<&Template>) =
            TEMPLATES.iter().partition(|template| template.suits(registry));
        let name = self.template.as_deref().unwrap_or(TEMPLATES[0].name);
        let Some(template) = fit.iter().find(|template| template.name == name) else {
            let known = fit.iter().map(|template| template.name);
            return Err(CliError::Usage {
                message: match unfit.iter().any(|template| template.name == name) {
                    true => format!("this program lacks the stages of the template `{name}`"),
                    false => format!("there is no template `{name}`"),
                },
                hint: nearest(name, known),
            });
        };
        template.write(Path::new(""))?;
        let written: Vec<&str> = template.files.iter().map(|(path, _)| *path).collect();
        if global.json {
            print_json(&json!({"template": name, "files": written}))?;
            return Ok(ExitCode::SUCCESS);
        }
        print_err!("wrote {}: {}", written.join(", "), template.about);
        if self.template.is_none() {
            for other in fit.iter().filter(|other| other.name != name) {
                print_err!("in another folder, `repro init {}` begins with {}", other.name, other.about);
            }
        }
        print_err!("hint: `repro make` runs it; {README} describes what comes out");
        Ok(ExitCode::SUCCESS)
    }
}

impl Template {
    fn text(&self, path: &str) -> Option<&'static str> {
        self.files.iter().find(|(name, _)| *name == path).map(|(_, text)| *text)
    }

    fn suits(&self, registry: &Registry) -> bool {
        let text = self.text(pipeline_file::NAME).unwrap_or_default();
        Pipeline::parse_in(self, Path::new(pipeline_file::NAME), text, None, registry).is_ok()
    }

    /// Writes all files below `folder`, or none.
    fn write(&self, folder: &Path) -> Result<(), CliError> {
        let there = |path: &&str| fs::symlink_metadata(folder.join(path)).is_ok();
        let there: Vec<&str> = self.files.iter().map(|(path, _)| *path).filter(there).collect();
        if !there.is_empty() {
            let verb = if there.len() == 1 { "is" } else { "are" };
            return Err(CliError::Usage {
                message: format!("{} {verb} here already; nothing was written", there.join(", ")),
                hint: Some(
                    "run `repro init` in an empty folder, and copy from there what you need".to_owned(),
                ),
            });
        }
        for (number, (path, text)) in self.files.iter().enumerate() {
            let file = folder.join(path);
            if let Err(error) = write_new(&file, text) {
                // Those before it are this run's own.
                self.files[..number].iter().for_each(|(path, _)| drop(fs::remove_file(folder.join(path))));
                return Err(CliError::Result {
                    message: format!("{path}: cannot be written: {error}"),
                    hint: None,
                });
            }
        }
        Ok(())
    }
}

fn write_new(file: &Path, text: &str) -> io::Result<()> {
    file.parent().map_or(Ok(()), fs::create_dir_all)?;
    File::create_new(file)?.write_all(text.as_bytes())
}

impl Folder for Template {
    fn has(&self, path: &Path) -> bool {
        self.files.iter().any(|(name, _)| Path::new(name).starts_with(path))
    }

    fn read(&self, path: &Path) -> Result<String, String> {
        let text = path.to_str().and_then(|path| self.text(path));
        text.map(str::to_owned).ok_or_else(|| "it is not part of this template".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_brings_every_file_that_its_pipeline_reads() {
        for template in &TEMPLATES {
            // Names of files in the RON texts; those that a person places are not there yet.
            let texts = template.files.iter().filter(|(path, _)| path.ends_with(".ron"));
            for (path, text) in texts {
                let named = text.split('"').filter_map(|part| part.strip_prefix("./"));
                let placed = |file: &&str| !file.starts_with("own/") && !file.starts_with("downloads/");
                for file in named.filter(placed) {
                    assert!(template.has(Path::new(file)), "{}: {path} names {file}", template.name);
                }
            }
        }
    }

    #[test]
    fn what_is_there_stays() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(README), "mine").unwrap();
        let error = TEMPLATES[0].write(folder.path()).unwrap_err();
        assert!(error.message().contains("README.md is here already; nothing was written"));
        assert!(!folder.path().join(pipeline_file::NAME).exists());
        assert_eq!(fs::read_to_string(folder.path().join(README)).unwrap(), "mine");
    }
}
