//! Completion in the shell: `repro completions bash` prints what the shell must source; from then on the shell
//! asks this program, so that targets, steps and profiles complete as the pipeline file has them.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Arg, Args, Command};
use clap_complete::engine::{ArgValueCandidates, CompletionCandidate};
use clap_complete::env::{CompleteEnv, Shells};
use stage_api::Registry;

use super::error::CliError;
use super::{init, pipeline_file, print_data};
use crate::pipeline::{Pipeline, nearest};

/// The shell sets this variable when it requests completions.
const VARIABLE: &str = "COMPLETE";

/// Print the completion script of a shell.
///
/// `source <(repro completions bash)` completes commands, options, targets and steps.
#[derive(Args)]
pub struct Completions {
    /// The shell: bash, elvish, fish, powershell or zsh.
    shell: String,
}

impl Completions {
    pub fn run(&self, name: &str) -> Result<ExitCode, CliError> {
        let shells = Shells::builtins();
        let Some(shell) = shells.completer(&self.shell) else {
            return Err(CliError::Usage {
                message: format!("there are no completions for the shell `{}`", self.shell),
                hint: nearest(&self.shell, shells.names()),
            });
        };
        // The shell calls a program by the path or the name that it was started with.
        let called = PathBuf::from(std::env::args_os().next().unwrap_or_default());
        let asked = if called.components().count() > 1 { std::path::absolute(&called).ok() } else { None };
        let asked = asked.map_or_else(|| name.to_owned(), |path| path.to_string_lossy().into_owned());
        let mut script = Vec::new();
        shell.write_registration(VARIABLE, name, name, &asked, &mut script).map_err(|error| {
            CliError::usage(format!("the script for `{}` cannot be written: {error}", self.shell))
        })?;
        print_data(&String::from_utf8_lossy(&script))?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Answers a request of the shell for completions; returns the registry if there was no such request.
pub fn answer(registry: Registry, grammar: fn(&Registry) -> Command) -> Result<Registry, ExitCode> {
    if std::env::var_os(VARIABLE).is_none_or(|shell| shell.is_empty()) {
        return Ok(registry);
    }
    let registry = Arc::new(registry);
    let here = std::env::current_dir().ok();
    let env = CompleteEnv::with_factory(|| with_names(grammar(&registry), &registry)).var(VARIABLE);
    match env.try_complete(std::env::args_os(), here.as_deref()) {
        Ok(_) => Err(ExitCode::SUCCESS),
        Err(error) => {
            let _ = error.print();
            Err(ExitCode::from(2))
        }
    }
}

/// What a name on the command line may mean.
#[derive(Clone, Copy)]
enum Names {
    Targets,
    Steps,
    Profiles,
    Pools,
}

/// The command line with the names of the pipeline behind each argument that takes one.
fn with_names(mut command: Command, registry: &Arc<Registry>) -> Command {
    let names = |kind| {
        let registry = Arc::clone(registry);
        ArgValueCandidates::new(move || known(&registry, kind))
    };
    let fill = |arg: Arg| match arg.get_id().as_str() {
        "targets" | "with" => arg.add(names(Names::Targets)),
        "step" | "steps" | "force" | "result" => arg.add(names(Names::Steps)),
        "profile" => arg.add(names(Names::Profiles)),
        "deny_pool" => arg.add(names(Names::Pools)),
        "template" => {
            arg.add(ArgValueCandidates::new(|| Vec::from(init::names().map(CompletionCandidate::new))))
        }
        "shell" => arg.add(ArgValueCandidates::new(|| {
            Shells::builtins().names().map(CompletionCandidate::new).collect::<Vec<_>>()
        })),
        _ => arg,
    };
    command = command.mut_args(fill);
    command.mut_subcommands(|subcommand| subcommand.mut_args(fill))
}

/// The names in the pipeline that the rest of the line points at; none when it cannot be used: a shell that
/// completes cannot show errors.
fn known(registry: &Registry, kind: Names) -> Vec<CompletionCandidate> {
    let words: Vec<String> = std::env::args().collect();
    let said = |long: &str, short: &str| {
        let glued =
            words.iter().find_map(|word| word.strip_prefix(&format!("{long}=")).map(ToOwned::to_owned));
        let at = words.iter().position(|word| word == long || word == short);
        glued.or_else(|| words.get(at? + 1).cloned()).filter(|value| !value.is_empty())
    };
    let Some(file) = said("--file", "-f").map(PathBuf::from).or_else(pipeline_file::find) else {
        return Vec::new();
    };
    let profile = said("--profile", "--profile").or_else(|| std::env::var("REPRO_PROFILE").ok());
    let load = |profile: Option<&str>| Pipeline::load(&file, profile, registry).ok();
    // While the profile itself is completed, its text is not yet a profile.
    let Some(pipeline) = load(profile.as_deref().filter(|name| !name.is_empty())).or_else(|| load(None))
    else {
        return Vec::new();
    };
    let about = |name: &String, stage: &str| {
        CompletionCandidate::new(name.clone()).help(Some(stage.to_owned().into()))
    };
    match kind {
        Names::Steps => pipeline.graph.node_weights().map(|step| about(&step.name, &step.stage)).collect(),
        Names::Targets => pipeline
            .targets
            .iter()
            .map(|(name, nodes)| match pipeline.graph.node_weights().find(|step| step.name == *name) {
                Some(step) => about(name, &step.stage),
                None => about(name, &super::format::count(nodes.len(), "step")),
            })
            .collect(),
        Names::Profiles => pipeline.profiles.iter().map(CompletionCandidate::new).collect(),
        Names::Pools => crate::pipeline::needs::BUILT_IN_POOLS
            .into_iter()
            .chain(pipeline.pools.keys().map(String::as_str))
            .map(CompletionCandidate::new)
            .collect(),
    }
}
