//! `make`: brings targets of a project up to date. It reads from top to bottom: up-to-date check, plan, fetch, schedule,
//! publish, push, remember. It prints nothing; an [`Observer`] receives the events.

mod options;
mod outcome;
mod reports;

use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::mpsc::channel;

use petgraph::graph::NodeIndex;
use stage_api::{AllowedEnv, Registry, secrets};

pub use options::{MakeOptions, MakeRequest, RemoteAddress, StopHandle};
pub use outcome::{MakeError, MakeSummary};

use crate::estimate::estimate;
use crate::explain::explain;
use crate::key::KeyText;
use crate::pipeline::Pipeline;
use crate::plan::{Plan, Verdict};
use crate::project::{Project, ProjectError};
use crate::remote::{RemoteCache, RemoteEvent};
use crate::run::{Event, Failure, Observer, Resources, Session, Summary, run, verify_unpublished};
use crate::store::{Damage, StoreError, Writer};
use crate::up_to_date;
use crate::workspace::Workspace;

/// Brings what `request` names up to date.
///
/// # Errors
/// What keeps it from beginning or from publishing. A step that fails is no error: the summary has it.
///
/// # Examples
/// A project of one step, which runs as a thread of this process:
///
/// ```
/// use std::fs;
/// use std::sync::Arc;
///
/// use repro::make::{MakeOptions, MakeRequest, make};
/// use repro::project::{Location, Project};
/// use repro::run::{Backend, Event, Observer};
/// use schemars::JsonSchema;
/// use serde::{Deserialize, Serialize};
/// use stage_api::{Job, Port, Registry, Stage, StageError};
///
/// /// Writes a greeting.
/// struct Greet;
///
/// #[derive(Serialize, Deserialize, JsonSchema)]
/// struct GreetParams {
///     name: String,
/// }
///
/// impl Stage for Greet {
///     type Params = GreetParams;
///     const NAME: &'static str = "greet";
///     const ABOUT: &'static str = "Writes a greeting.";
///     const VERSION: u32 = 1;
///     const INPUTS: &'static [Port] = &[];
///
///     fn run(&self, params: &GreetParams, job: &Job) -> Result<(), StageError> {
///         Ok(fs::write(job.out.join("greeting"), format!("hello {}", params.name))?)
///     }
/// }
///
/// struct Silent;
///
/// impl Observer for Silent {
///     fn on(&mut self, _: &Event) {}
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let folder = tempfile::tempdir()?;
/// let file = folder.path().join("pipeline.ron");
/// fs::write(
///     &file,
///     r#"(
///         default_profile: "paper",
///         profiles: [(name: "paper", about: "an example")],
///         steps: [(name: "greeting", stage: "greet", params: (name: "world"), publish: ".")],
///     )"#,
/// )?;
/// let registry = Arc::new(Registry::new().with(Greet));
/// let options = MakeOptions { backend: Backend::Threads(registry.clone()), ..MakeOptions::default() };
///
/// let project = Project::locate(&Location::of(file), &registry)?;
/// let summary = make(&project, &MakeRequest::default(), &options, &mut Silent)?;
/// assert_eq!(summary.run.ran.len(), 1);
/// assert_eq!(fs::read_to_string(summary.reports.join("greeting"))?, "hello world");
///
/// let again = make(&project, &MakeRequest::default(), &options, &mut Silent)?;
/// assert!(again.had_nothing_to_do);
/// # Ok(())
/// # }
/// ```
pub fn make(
    project: &Project,
    request: &MakeRequest,
    options: &MakeOptions,
    observer: &mut dyn Observer,
) -> Result<MakeSummary, MakeError> {
    // Each round begins with what the disk holds now. There is another one only where a process had the cache to
    // itself: it may have removed what was read before.
    loop {
        let mut workspace = Workspace::open(project.cache())?;
        let request_id = project.request(&request.targets);
        if request.force.is_empty()
            && options.limits.deny_pools.is_empty()
            && let Some(fresh) = up_to_date::check(&workspace, &request_id)
        {
            report_unsaved(workspace.save(), observer);
            return Ok(MakeSummary { had_nothing_to_do: true, fresh, ..MakeSummary::default() });
        }

        let pipeline = project.pipeline()?;
        project.registry().check_host()?;
        options.limits.check_pools(pipeline)?;
        project.load(&mut workspace)?;
        let this = Make { project, pipeline, workspace: &workspace, options };
        let mut plan = self::plan(project, &workspace, request)?;
        if this.is_published(&plan) {
            let parts = this.parts(&plan);
            let is_noted =
                project.is_experiment() || workspace.reports().is_noted(&parts, workspace.recorder());
            // Reports of a fresh clone, for example: from now on they belong to this pipeline.
            if !is_noted && !options.check {
                let Some(writer) = lock(&workspace, observer)? else { continue };
                this.publish(&writer, &parts)?;
            }
            report_unsaved(project.save(workspace.store()), observer);
            report_unsaved(workspace.save(), observer);
            if is_noted {
                report_unsaved(
                    up_to_date::remember(&workspace, &request_id, this.fresh(&plan).len()),
                    observer,
                );
            }
            return Ok(MakeSummary { had_nothing_to_do: true, ..this.summary(&plan) });
        }

        // Results of other machines count before anything is refused or started.
        let remote = options.remote.as_ref().map(RemoteAddress::open).transpose()?;
        if let Some(remote) = &remote {
            let Some(writer) = lock(&workspace, observer)? else { continue };
            let nodes = plan.needed().collect();
            let on_event = &mut |event: RemoteEvent| observer.on(&Event::from(event));
            remote.fetch_missing(pipeline, &workspace, &writer, &mut plan, nodes, on_event);
            writer.sync()?;
        }
        let resources = admit(project, &workspace, &plan, options)?;
        if !options.keep_going {
            let needed = manual_steps(pipeline, &plan, project.registry());
            if !needed.is_empty() {
                return Err(MakeError::ManualSteps(needed));
            }
        }

        let Some(writer) = lock(&workspace, observer)? else { continue };
        project.save(workspace.store())?;
        if workspace.recorder().ask_versions_again() {
            plan = self::plan(project, &workspace, request)?;
        }
        report_losses(&workspace, &writer, observer);
        this.report_corrupted(&mut plan, observer)?;
        let mut ran = this.schedule(&writer, &mut plan, &resources, remote.clone(), observer)?;
        // A step may have written into the result of another one after that was stored.
        if ran.is_complete() && this.report_corrupted(&mut plan, observer)? {
            let again = this.schedule(&writer, &mut plan, &resources, remote.clone(), observer)?;
            ran = Summary { ran: [ran.ran, again.ran].concat(), ..again };
        }
        writer.sync()?;
        report_warnings(&writer, observer);

        let mut summary = MakeSummary { run: ran, ..this.summary(&plan) };
        if summary.run.is_complete() {
            let parts = this.parts(&plan);
            summary.page = workspace.reports().page(&parts);
            if options.check {
                summary.differing = workspace.reports().differing(pipeline, &parts, workspace.recorder());
            } else if !project.is_experiment() {
                summary.published = Some(this.publish(&writer, &parts)?);
            }
            if summary.differing.is_empty() && !project.is_experiment() {
                summary.reproduction = this.compare(&plan, summary.published.as_ref(), observer);
            }
        }
        if let Some(remote) = remote
            && !(summary.run.interrupted || remote.is_unreachable() || remote.remote().is_readonly())
        {
            let nodes = this.fresh(&plan).into_iter();
            let pushed = remote.push(pipeline, &workspace, &plan, nodes, false);
            summary.pushed = Some((remote.remote().place().to_owned(), pushed));
        }
        report_unsaved(workspace.save(), observer);
        return Ok(summary);
    }
}

/// Plans what `request` names.
///
/// # Errors
/// When the pipeline or a name is wrong, or a file of the project cannot be used.
pub fn plan<'a>(
    project: &'a Project,
    workspace: &'a Workspace,
    request: &MakeRequest,
) -> Result<Plan<'a>, ProjectError> {
    let forced = request.force.iter().map(|name| project.step(name)).collect::<Result<BTreeSet<_>, _>>()?;
    let mut targets = project.targets(&request.targets)?;
    // A forced step runs whether or not a target needs it.
    targets.extend(&forced);
    project.plan(workspace, targets, forced)
}

/// Refuses a plan that cannot or may not be carried out; returns what may be in use at one time.
///
/// # Errors
/// A step that asks for more than there is, or for a denied pool.
pub fn admit(
    project: &Project,
    workspace: &Workspace,
    plan: &Plan,
    options: &MakeOptions,
) -> Result<Resources, MakeError> {
    let pipeline = project.pipeline()?;
    let resources = options.limits.resources(pipeline, options.backend.site())?;
    resources.check_plan(pipeline, plan)?;
    match options.limits.denied(pipeline, plan) {
        Some((pool, nodes)) => {
            let steps = nodes.into_iter().map(|node| explain(pipeline, workspace, plan, node));
            Err(MakeError::Denied { pool: pool.to_owned(), steps: steps.collect() })
        }
        None => Ok(resources),
    }
}

/// The required steps that wait for a manual step.
pub fn manual_steps(pipeline: &Pipeline, plan: &Plan, registry: &Registry) -> Vec<Failure> {
    let must_run = plan.needed().filter(|node| *plan.verdict(*node) != Verdict::Fresh);
    let failure = |node: NodeIndex| {
        let step = &pipeline.graph[node];
        let stage = registry.get(&step.stage)?;
        let ports: Vec<&str> = step.inputs.iter().map(|input| input.port.as_str()).collect();
        let allowed_env = AllowedEnv::select(stage.allowed_env(), std::env::vars_os());
        let problem = secrets::shown(&stage.load(&step.params).ok()?.needs_human(&ports, &allowed_env)?);
        Some(Failure { step: step.name.clone(), problem, log: None, needs_human: true })
    };
    must_run.filter_map(failure).collect()
}

/// The context that the parts of `make` share.
#[derive(Clone, Copy)]
struct Make<'a> {
    project: &'a Project<'a>,
    pipeline: &'a Pipeline,
    workspace: &'a Workspace,
    options: &'a MakeOptions<'a>,
}

impl<'a> Make<'a> {
    fn schedule(
        &self,
        writer: &Writer,
        plan: &mut Plan,
        resources: &Resources,
        remote_cache: Option<Rc<RemoteCache>>,
        observer: &mut dyn Observer,
    ) -> Result<Summary, MakeError> {
        if plan.needed().all(|node| *plan.verdict(node) == Verdict::Fresh) {
            return Ok(Summary::default());
        }
        let Make { pipeline, workspace, options, .. } = *self;
        let executor = options.backend.executor(workspace.store().root()).map_err(MakeError::Backend)?;
        let messages = channel();
        if let Some(on_start) = options.on_start {
            let stop_fetching =
                remote_cache.as_ref().map(|remote_cache| Box::new(remote_cache.remote().stopper()) as _);
            on_start(StopHandle { sender: messages.0.clone(), stop_fetching }).map_err(MakeError::Signals)?;
        }
        let guess = estimate(pipeline, plan, workspace.history(), resources);
        let session = Session {
            pipeline,
            workspace,
            writer,
            executor: &*executor,
            observer,
            messages,
            resources: resources.clone(),
            keep_going: options.keep_going,
            wait: !options.no_wait,
            estimated_seconds: guess.unknown.is_empty().then_some(guess.seconds),
            remote_cache,
        };
        Ok(run(session, plan))
    }

    /// Hashes the results that are not published yet and reports corrupted ones; returns whether there are any.
    fn report_corrupted(&self, plan: &mut Plan, observer: &mut dyn Observer) -> Result<bool, StoreError> {
        let corrupted = verify_unpublished(self.pipeline, self.workspace, plan)?;
        corrupted.iter().for_each(|step| observer.on(&Event::Damaged { step }));
        Ok(!corrupted.is_empty())
    }

    fn fresh(&self, plan: &Plan) -> Vec<NodeIndex> {
        plan.needed().filter(|node| *plan.verdict(*node) == Verdict::Fresh).collect()
    }

    fn summary(&self, plan: &Plan) -> MakeSummary {
        let fresh = self.fresh(plan);
        let is_here = |node: &&NodeIndex| {
            let key = plan.of(**node).key_text.as_ref().map(KeyText::key);
            key.is_some_and(|key| self.workspace.store().tree_of(&key).is_some())
        };
        MakeSummary {
            fresh: fresh.len(),
            by_evidence: fresh.len() - fresh.iter().filter(is_here).count(),
            reports: self.workspace.reports().folder().to_owned(),
            ..MakeSummary::default()
        }
    }
}

/// Opens the store for writing; `None` if another process held it exclusively meanwhile.
fn lock(workspace: &Workspace, observer: &mut dyn Observer) -> Result<Option<Writer>, StoreError> {
    let writer = workspace.store().lock(&mut |owner| observer.on(&Event::Waiting { owner }))?;
    Ok(Some(writer).filter(|writer| !writer.has_waited()))
}

/// Reports losses of the cache, once: this run builds them again.
fn report_losses(workspace: &Workspace, writer: &Writer, observer: &mut dyn Observer) {
    for Damage { file, at, step } in workspace.store().damaged() {
        let what = step.map_or_else(|| "an entry".to_owned(), |step| format!("a record of `{step}`"));
        let text = format!("{}: {what} is damaged (byte {at}) and counts as absent", file.display());
        observer.on(&Event::Notice { text: &text });
    }
    for step in workspace.store().lost() {
        let text = format!("the output of `{step}` is incomplete on the disk; it runs again");
        observer.on(&Event::Notice { text: &text });
    }
    report_warnings(writer, observer);
}

/// Reports leftovers of dead runs that a person should know of.
fn report_warnings(writer: &Writer, observer: &mut dyn Observer) {
    writer.take_warnings().iter().for_each(|text| observer.on(&Event::Notice { text }));
}

/// Facts that cannot be stored only cost the next run time.
fn report_unsaved<E: std::fmt::Display>(saved: Result<(), E>, observer: &mut dyn Observer) {
    if let Err(error) = saved {
        observer.on(&Event::Notice { text: &format!("{error}; the next run takes a little longer") });
    }
}
