//! The command line: one file per subcommand, its doc comment being the help text. Data goes to standard output,
//! everything else to standard error. Exit codes: 0 done, 1 a step failed, 2 the pipeline or the command line is
//! wrong, 3 a person must do something first, 4 stale under `--check` or `--deny-pool`, 130 interrupted.

/// Writes a line to standard error, for people. A closed terminal or pipe (`| head`) does not stop the work.
macro_rules! print_err {
    ($($words:tt)*) => {{
        use std::io::Write as _;
        // One write: the stream has no buffer, and what several processes say must not mix within a line.
        let text = $crate::cli::terminal_text::Colors::stderr().message(&format!($($words)*));
        let _ = std::io::stderr().write_all((text + "\n").as_bytes());
    }};
}

mod accept;
mod after_run;
mod completions;
mod console;
mod diff;
mod doctor;
mod dry_run;
mod error;
mod evidence;
mod executor_args;
mod format;
mod from_evidence;
mod gc;
mod get;
mod graph;
mod guard;
mod help;
mod hints;
mod init;
mod job;
mod list;
mod log;
mod make;
mod make_summary;
mod man;
mod manual_steps;
mod page;
mod path;
mod pipeline_file;
mod plot;
mod pull;
mod push;
mod rehearse;
mod remote_args;
mod resource_args;
mod result_ref;
mod runs;
mod schema;
mod serve;
mod show;
mod status;
mod step;
mod synonyms;
mod terminal_text;
mod tool;
mod values;
mod verify;
mod watch;
mod why;

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use stage_api::{Registry, secrets};

use crate::escape::{escaped, escaped_json};
use crate::pipeline::Experiment;
use crate::project::{Location, Project};
use error::CliError;

/// Rebuild a scientific paper: a pipeline of content-hashed steps that runs only what changed.
#[derive(Parser)]
#[command(name = "repro", version, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options of every subcommand.
#[derive(Args, Clone)]
struct Global {
    /// The pipeline file. Default: `pipeline.ron` here, or in a folder above.
    #[arg(short, long, global = true, value_name = "FILE")]
    file: Option<PathBuf>,
    /// The profile. Default: the file's `default_profile`.
    #[arg(long, global = true, env = "REPRO_PROFILE", value_name = "PROFILE")]
    profile: Option<String>,
    /// The cache of results. Default: `cache` next to the pipeline file.
    #[arg(long, global = true, value_name = "FOLDER")]
    cache: Option<PathBuf>,
    /// Ignore the committed results in `reports/evidence`.
    #[arg(long, global = true, env = "REPRO_NO_EVIDENCE", value_parser = clap::builder::FalseyValueParser::new())]
    no_evidence: bool,
    /// Print JSON to standard output.
    #[arg(long, global = true)]
    json: bool,
    /// Change a param of a step or of all steps of a stage: `train.lr=1e-4`. Nothing is published then.
    #[arg(long, global = true, value_name = "STEP.PARAM=VALUE")]
    set: Vec<String>,
    /// Repeat a step, and what reads it, for each value: `train.lr=0.1,0.2`, `train.seed=1..5`. Several make a grid.
    #[arg(long, global = true, value_name = "STEP.PARAM=VALUES")]
    sweep: Vec<String>,
}

impl Global {
    /// The project that the options name; its pipeline is not read yet.
    fn project<'r>(&self, registry: &'r Registry) -> Result<Project<'r>, CliError> {
        let location = Location {
            file: self.file.clone().map_or_else(pipeline_file::require, Ok)?,
            profile: self.profile.clone(),
            cache: self.cache.clone(),
            no_evidence: self.no_evidence,
            experiment: Experiment { set: self.set.clone(), sweep: self.sweep.clone() },
        };
        Ok(Project::locate(&location, registry)?)
    }

    /// Refuses `--set` and `--sweep` where the pipeline file itself counts.
    fn refuse_experiment(&self, subcommand: &str) -> Result<(), CliError> {
        match self.set.is_empty() && self.sweep.is_empty() {
            true => Ok(()),
            false => Err(CliError::usage(format!(
                "`{subcommand}` takes the pipeline file as it is, without --set and --sweep"
            ))),
        }
    }
}

#[derive(Subcommand)]
enum Command {
    Init(init::Init),
    Make(make::Make),
    Rehearse(rehearse::Rehearse),
    Doctor(doctor::Doctor),
    Status(status::Status),
    Why(why::Why),
    Show(show::Show),
    Path(path::Path),
    Get(get::Get),
    Log(log::Log),
    Watch(watch::Watch),
    Runs(runs::Runs),
    Page(page::Page),
    Serve(serve::Serve),
    Accept(accept::Accept),
    Diff(diff::Diff),
    List(list::List),
    Graph(graph::Graph),
    Schema(schema::Schema),
    Push(push::Push),
    Pull(pull::Pull),
    Evidence(evidence::Evidence),
    Gc(gc::Gc),
    Verify(verify::Verify),
    Completions(completions::Completions),
    Man(man::Man),
    #[command(hide = true)]
    Step(step::Step),
    #[command(hide = true)]
    Job(job::Job),
    #[command(hide = true)]
    Guard(guard::Guard),
}

/// Runs the program on the process's arguments with the stages of `registry`.
pub fn run(registry: Registry) -> ExitCode {
    let registry = registry.with(crate::command::Command);
    let registry = match completions::answer(registry, grammar) {
        Ok(registry) => registry,
        Err(code) => return code,
    };
    let result = match grammar(&registry).try_get_matches().and_then(|matches| execute(&matches, &registry)) {
        Ok(result) => result,
        Err(error) => {
            // Help goes to standard output with code 0, a mistake to standard error with code 2: it repeats what was
            // given, which may be the name of a file.
            if let (ErrorKind::InvalidSubcommand, Some(ContextValue::String(name))) =
                (error.kind(), error.get(ContextKind::InvalidSubcommand))
            {
                let (message, hint) = synonyms::unknown(&grammar(&registry), name);
                print_err!("error: {message}\nhint: {hint}");
            } else if error.use_stderr() {
                print_err!("{}", error.render().to_string().trim_end());
            } else {
                let _ = error.print();
            }
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    result.unwrap_or_else(|error| {
        let code = error.exit_code();
        print_err!("{}", error.message());
        code
    })
}

/// The grammar of the command line: the engine's own subcommands and the tools that come with the stages.
fn grammar(registry: &Registry) -> clap::Command {
    help::grouped(registry.tools().fold(Cli::command(), |command, tool| command.subcommand(tool.command())))
}

/// Runs what the command line asks for.
///
/// # Errors
/// When the command line is wrong; what then happens is within.
fn execute(matches: &ArgMatches, registry: &Registry) -> Result<Result<ExitCode, CliError>, clap::Error> {
    let global = Global::from_arg_matches(matches)?;
    hints::repeat_typed(&global, matches);
    if let Some((name, arguments)) = matches.subcommand()
        && let Some(tool) = registry.tool(name)
    {
        let tool = tool.load(arguments)?;
        return Ok(tool::run(&*tool, &global, registry));
    }
    let cli = Cli::from_arg_matches(matches)?;
    let global = &cli.global;
    Ok(match &cli.command {
        Command::Init(command) => command.run(global, registry),
        Command::Make(command) => command.run(global, registry),
        Command::Rehearse(command) => command.run(global, registry),
        Command::Doctor(command) => command.run(global, registry),
        Command::Status(command) => command.run(global, registry),
        Command::Why(command) => command.run(global, registry),
        Command::Show(command) => command.run(global, registry),
        Command::Path(command) => command.run(global, registry),
        Command::Get(command) => command.run(global, registry),
        Command::Log(command) => command.run(global, registry),
        Command::Watch(command) => command.run(global, registry),
        Command::Runs(command) => command.run(global, registry),
        Command::Page(command) => command.run(global, registry),
        Command::Serve(command) => command.run(global, registry),
        Command::Accept(command) => command.run(global, registry),
        Command::Diff(command) => command.run(global, registry),
        Command::List(command) => command.run(global, registry),
        Command::Graph(command) => command.run(global, registry),
        Command::Push(command) => command.run(global, registry),
        Command::Pull(command) => command.run(global, registry),
        Command::Evidence(command) => command.run(global, registry),
        Command::Gc(command) => command.run(global, registry),
        Command::Verify(command) => command.run(global, registry),
        Command::Completions(command) => command.run(grammar(registry).get_name()),
        Command::Schema(command) => command.run(registry),
        Command::Man(command) => command.run(grammar(registry)),
        Command::Step(command) => command.run(registry),
        Command::Job(command) => command.run(),
        Command::Guard(command) => command.run(),
    })
}

/// What a person reads, as a terminal may show it: the one place where text becomes harmless, and where the commands in it
/// get the options that were given. Names of files, what steps and servers say, and records come from outside; addresses may
/// hold secrets.
fn harmless(text: &str) -> String {
    escaped(&secrets::shown(&hints::complete(text))).into_owned()
}

/// Writes what a person reads to standard output.
fn print(text: &str) -> Result<(), CliError> {
    print_bytes(harmless(text).as_bytes())
}

/// Writes what a program may read: as it is, but harmless where it goes to a terminal.
fn print_data(text: &str) -> Result<(), CliError> {
    if std::io::stdout().is_terminal() { print(text) } else { print_bytes(text.as_bytes()) }
}

/// Writes bytes to standard output. A reader that closes the pipe (`| head`) is not an error.
fn print_bytes(bytes: &[u8]) -> Result<(), CliError> {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(CliError::usage(format!("standard output cannot be written: {error}")))
        }
        _ => Ok(()),
    }
}

/// Writes data to standard output as one line of JSON.
fn print_line(value: &serde_json::Value) -> Result<(), CliError> {
    print_bytes(escaped_json(&format!("{value}\n")).as_bytes())
}

/// Writes data to standard output as one JSON document.
fn print_json(value: &impl serde::Serialize) -> Result<(), CliError> {
    let text = serde_json::to_string_pretty(value);
    let text =
        text.map_err(|error| CliError::usage(format!("the answer cannot be written as JSON: {error}")))?;
    print_bytes(escaped_json(&(text + "\n")).as_bytes())
}
