//! Subcommands that come with the stages: gives them the results of the pipeline's steps and prints what they answer.
//! It does not know their arguments nor what their answers mean.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use petgraph::graph::NodeIndex;
use stage_api::{
    AllowedEnv, Host, InputView, LoadedTool, Progress, Registry, Results, RunView, Scalars, StageError,
    StepView, ToolContext, Unit, secrets,
};

use super::error::CliError;
use super::terminal_text::columns;
use super::{Global, format, graph, log, print_bytes, print_data, values};
use crate::escape::escaped_json;
use crate::explain::{Cause, State, explain};
use crate::pipeline::Pipeline;
use crate::plan::{Plan, Request, in_order, plan};
use crate::project::Project;
use crate::record::{RunRecord, source_name};
use crate::run::{Allocation, Gpu, machine};
use crate::store::ResultError;
use crate::workspace::Workspace;

/// Runs a tool and prints its answer.
pub fn run(tool: &dyn LoadedTool, global: &Global, registry: &Registry) -> Result<ExitCode, CliError> {
    without_backtraces();
    let answer = with_results(global, registry, tool.allowed_env(), |context| tool.run(context))?
        .map_err(|error| CliError::Tool { tool: tool.name(), error })?;
    match global.json {
        true => print_bytes(escaped_json(&(answer.json.trim_end().to_owned() + "\n")).as_bytes())?,
        false => print_data(&answer.text)?,
    }
    Ok(if answer.stale { ExitCode::from(4) } else { ExitCode::SUCCESS })
}

/// What `answer` makes of the project as it is now.
pub fn with_results<T>(
    global: &Global,
    registry: &Registry,
    allowed_env: &[&str],
    answer: impl FnOnce(&ToolContext) -> T,
) -> Result<T, CliError> {
    registry.check_host()?;
    let project = global.project(registry)?;
    let pipeline = project.pipeline()?;
    let workspace = project.workspace()?;
    let everything = pipeline.graph.node_indices().collect();
    let plan = plan(pipeline, &workspace, &Request { targets: everything, forced: BTreeSet::new() });
    let results = PlannedResults { project: &project, pipeline, workspace: &workspace, plan: &plan };
    let host = host();
    let tool_context = ToolContext {
        results: &results,
        host: &host,
        allowed_env: &AllowedEnv::select(allowed_env, std::env::vars_os()),
        progress: &Stderr,
        columns: columns(),
    };
    Ok(answer(&tool_context))
}

/// Starts the program over with `RUST_LIB_BACKTRACE=0` where the environment asks for backtraces: libraries would put them
/// into errors, which are sentences for users here. A panic still has what `RUST_BACKTRACE` says. Setting the variable in a
/// running process would be `unsafe`.
///
/// Returns only where nothing must change, or, with a warning, where the program cannot be started.
pub fn without_backtraces() {
    use std::os::unix::process::CommandExt;

    const LIBRARIES: &str = "RUST_LIB_BACKTRACE";
    let is_off = match std::env::var_os(LIBRARIES) {
        Some(value) => value == "0",
        None => std::env::var_os("RUST_BACKTRACE").is_none_or(|value| value == "0"),
    };
    if is_off {
        return;
    }
    let mut arguments = std::env::args_os();
    let error = match std::env::current_exe() {
        Ok(file) => {
            let mut program = std::process::Command::new(file);
            if let Some(name) = arguments.next() {
                program.arg0(name);
            }
            program.args(arguments).env(LIBRARIES, "0").exec()
        }
        Err(error) => error,
    };
    print_err!("warning: errors may have backtraces: {error}");
}

/// All of the machine: a tool is run by a person who waits for it.
fn host() -> Host {
    let gpus = machine::gpus().into_iter().take(1).map(Gpu::whole).collect();
    let (threads, pools) = (machine::cpus(), BTreeMap::new());
    let allocation = Allocation { threads, memory: 0, gpus, pools, is_job: false };
    Host { device: allocation.device().to_owned(), threads: allocation.threads }
}

/// What a tool says meanwhile goes to standard error.
struct Stderr;

impl Progress for Stderr {
    fn advance(&self, _done: u64, _total: u64, _unit: Unit) {}
    fn scalar(&self, _name: &str, _step: u64, _value: f64) {}
    fn note(&self, text: &str) {
        print_err!("{text}");
    }
    fn cancelled(&self) -> bool {
        false
    }
}

/// The pipeline's steps with what is known of each.
struct PlannedResults<'a> {
    project: &'a Project<'a>,
    pipeline: &'a Pipeline,
    workspace: &'a Workspace,
    plan: &'a Plan<'a>,
}

impl PlannedResults<'_> {
    /// The result of a step, or a path in it.
    fn open(&self, step: &str, path: Option<&str>) -> Result<PathBuf, StageError> {
        let node = self.project.step(step).map_err(|error| match CliError::from(error) {
            CliError::Usage { message, hint } => {
                StageError::Params(format!("{message}; {}", hint.unwrap_or_default()))
            }
            other => StageError::Failed(other.message()),
        })?;
        let step_plan = self.plan.of(node);
        let Some(tree) = step_plan.tree else {
            let make = format!("run `repro make {step}` first");
            return Err(StageError::Failed(format!("step `{step}` is not up to date; {make}")));
        };
        let key = step_plan.key_text.as_ref().map(|text| text.key());
        let is_from_evidence = key.is_some_and(|key| self.workspace.is_from_evidence(&key));
        self.workspace.open_result(&tree, path).map(PathBuf::from).map_err(|error| {
            StageError::Failed(match error {
                ResultError::Missing if is_from_evidence => {
                    let what = path.map_or_else(|| "all of it".to_owned(), |path| format!("its {path}"));
                    format!(
                        "the result of step `{step}` is from the evidence, which does not hold {what}; run `repro make \
                         {step} --no-evidence`, or `repro pull {step}`, first"
                    )
                }
                error => format!(
                    "the result of step `{step}` cannot be used: {error}; run `repro make {step} --force {step}`, or \
                     `repro pull {step}`, first"
                ),
            })
        })
    }

    fn step(&self, node: NodeIndex) -> StepView {
        let pipeline = self.pipeline;
        let (step, step_plan) = (&pipeline.graph[node], self.plan.of(node));
        let key = step_plan.key_text.as_ref().map(|text| text.key());
        let mut digests = step_plan.key_text.iter().flat_map(|text| text.input_digests());
        let inputs = step.inputs.iter().map(|input| InputView {
            port: input.port.clone(),
            source: source_name(pipeline, &input.source),
            digest: digests.next().map(|digest| digest.to_string()),
        });
        let running = log::running(self.workspace, &step.name, key.as_ref());
        let state = match running {
            Some(_) => "running",
            None => format::state_and_origin(&explain(pipeline, self.workspace, self.plan, node)),
        };
        StepView {
            name: step.name.clone(),
            stage: step.stage.clone(),
            version: step.version,
            params: secrets::shown(&step.params),
            inputs: inputs.collect(),
            publish: step.publish.as_ref().map(|folder| folder.display().to_string()),
            state: state.to_owned(),
            key: key.map(|key| key.to_string()),
            tree: step_plan.tree.map(|tree| tree.to_string()),
            run: key.and_then(|key| self.workspace.record(&key)).map(run_view),
            log: running.or_else(|| log::last(self.workspace, step, key.as_ref())),
        }
    }
}

fn run_view(record: RunRecord) -> RunView {
    RunView {
        started_ms: record.started_ms,
        seconds: record.seconds,
        peak_memory: record.peak_memory,
        host: record.machine.name,
        device: record.machine.device,
        threads: record.machine.threads,
        outputs: record.outputs.into_iter().map(|(name, digest)| (name, digest.to_string())).collect(),
        accepted: record.accepted.map(|accepted| format!("{}: {}", accepted.who, accepted.because)),
    }
}

impl Results for PlannedResults<'_> {
    fn root(&self) -> &Path {
        &self.pipeline.root
    }

    fn file(&self) -> &Path {
        &self.pipeline.file
    }

    fn other_files(&self) -> Vec<PathBuf> {
        self.pipeline.other_files.iter().map(|(path, _)| path.clone()).collect()
    }

    fn profile(&self) -> &str {
        &self.pipeline.profile
    }

    fn values(&self, step: &str) -> Vec<Scalars> {
        let log = self.project.step(step).ok().and_then(|node| self.step(node).log);
        log.as_deref().map(values::next_to).unwrap_or_default()
    }

    fn steps(&self) -> Vec<StepView> {
        self.plan.needed().map(|node| self.step(node)).collect()
    }

    fn drawing(&self, steps: &[&str]) -> String {
        let pipeline = self.pipeline;
        let mut nodes = in_order(pipeline);
        nodes.retain(|node| steps.contains(&pipeline.graph[*node].name.as_str()));
        graph::linked_svg(pipeline, &nodes, &|node| {
            let step = self.step(node);
            let is_fresh =
                [format::state(State::Fresh), format::FROM_EVIDENCE].contains(&step.state.as_str());
            let took = step.run.filter(|_| is_fresh);
            (step.state, took.map(|run| format::duration(run.seconds)))
        })
    }

    fn output(&self, step: &str) -> Result<PathBuf, StageError> {
        self.open(step, None)
    }

    fn part(&self, step: &str, path: &str) -> Result<PathBuf, StageError> {
        self.open(step, Some(path))
    }

    fn committed_reports(&self, step: &str) -> Option<PathBuf> {
        let node = self.project.step(step).ok()?;
        let causes = explain(self.pipeline, self.workspace, self.plan, node).causes;
        let below = self.pipeline.graph[node].publish.as_ref().filter(|_| causes == [Cause::NotRecorded])?;
        Some(self.workspace.reports().folder().join(below)).filter(|folder| folder.is_dir())
    }
}
