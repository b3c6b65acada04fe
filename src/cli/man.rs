//! `repro man FOLDER`.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Command};

use super::error::CliError;
use super::print;

/// Write the manual pages.
///
/// One page for the program and one for each subcommand: `man -l FOLDER/repro.1` shows one.
#[derive(Args)]
pub struct Man {
    /// The folder to write to; created if missing.
    folder: PathBuf,
}

impl Man {
    pub fn run(&self, program: Command) -> Result<ExitCode, CliError> {
        let failed = |path: PathBuf| {
            move |error: std::io::Error| {
                CliError::usage(format!("{}: cannot be written: {error}", path.display()))
            }
        };
        fs::create_dir_all(&self.folder).map_err(failed(self.folder.clone()))?;
        let program = program.disable_help_subcommand(true);
        let mut pages = vec![(program.get_name().to_owned(), program.clone())];
        let mut built = program;
        // Built, subcommands know their full name and the options of every subcommand.
        built.build();
        for subcommand in built.get_subcommands().filter(|command| !command.is_hide_set()) {
            let name = format!("{}-{}", built.get_name(), subcommand.get_name());
            pages.push((name.clone(), subcommand.clone().name(clap::builder::Str::from(name))));
        }
        for (name, command) in pages {
            let path = self.folder.join(format!("{name}.1"));
            let mut page = Vec::new();
            clap_mangen::Man::new(command).render(&mut page).map_err(failed(path.clone()))?;
            fs::write(&path, page).map_err(failed(path.clone()))?;
            print(&format!("{}\n", path.display()))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
