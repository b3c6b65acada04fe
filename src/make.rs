//! `make`: brings targets of a project up to date. It reads from top to bottom: up-to-date check, plan, fetch, schedule,
//! publish, push, remember. It prints nothing; an [`Observer`] hears what happens.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::mpsc::{Sender, channel};

use petgraph::graph::NodeIndex;
use stage_api::{HostError, Outside, Registry, secrets};

use crate::committed::{Committed, Reproduction};
use crate::digest::Digest;
use crate::estimate::estimate;
use crate::explain::{Explanation, explain};
use crate::key::KeyText;
use crate::pipeline::Pipeline;
use crate::plan::{BuildState, Plan, Verdict};
use crate::project::{Project, ProjectError};
use crate::publish::{Part, PublishError, Published};
use crate::remote::{News, Offered, Remote, RemoteError, Shared};
use crate::run::{
    Backend, Capacity, Event, Failure, LimitError, Message, Observer, ResourceLimits, Session, Summary, run,
    verify_unpublished,
};
use crate::store::{Damage, StoreError, Writer};
use crate::up_to_date;
use crate::workspace::Workspace;

/// What to bring up to date.
#[derive(Debug, Clone, Default)]
pub struct MakeRequest {
    /// Targets or steps by name; without any the target `all`, or every step.
    pub targets: Vec<String>,
    /// Steps to run though their results are known.
    pub force: Vec<String>,
}

/// How to do it. The default is to run on all of this machine and to stop at the first failure.
#[derive(Clone, Default)]
pub struct MakeOptions<'a> {
    /// What may be used.
    pub limits: ResourceLimits,
    /// Where steps run.
    pub backend: Backend,
    /// A store of other machines' results.
    pub remote: Option<RemoteAddress>,
    /// Whether what does not depend on a failed step still runs.
    pub keep_going: bool,
    /// Whether to leave steps that another process runs instead of waiting for them.
    pub no_wait: bool,
    /// Whether to leave the reports as they are and only compare them.
    pub check: bool,
    /// Is called when steps are about to start, with what stops them.
    pub on_start: Option<&'a dyn Fn(StopHandle) -> io::Result<()>>,
}

/// Which store of other machines' results to use.
#[derive(Debug, Clone)]
pub struct RemoteAddress {
    /// Its address, or a folder.
    pub url: String,
    /// Whether nothing is pushed to it.
    pub is_readonly: bool,
}

/// Stops a run from another thread.
pub struct StopHandle {
    sender: Sender<Message>,
    stop_fetching: Option<Box<dyn Fn() + Send>>,
}

impl StopHandle {
    /// Asks running steps to stop; ends them when called again. Returns `false` when the run is over.
    pub fn stop(&self) -> bool {
        self.stop_fetching.iter().for_each(|stop| stop());
        self.sender.send(Message::Stop).is_ok()
    }
}

/// What came of it.
#[derive(Debug, Default)]
pub struct MakeSummary {
    /// What ran and what failed.
    pub run: Summary,
    /// Whether everything was up to date before.
    pub had_nothing_to_do: bool,
    /// How many steps are fresh now.
    pub fresh: usize,
    /// How many of them are fresh by the evidence alone.
    pub by_evidence: usize,
    /// What was published; `None` where something is missing, and under `check`.
    pub published: Option<Published>,
    /// Under `check`, the reports that differ from the results.
    pub differing: Vec<PathBuf>,
    /// What was pushed, and where.
    pub pushed: Option<(String, Offered)>,
    /// How the results compare with the committed ones, where there are any.
    pub reproduction: Option<Reproduction>,
    /// The folder of the reports.
    pub reports: PathBuf,
}

/// Why a make ends before its first step, or cannot publish.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// The project cannot be used.
    #[error(transparent)]
    Project(#[from] ProjectError),
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// This machine cannot follow a setting.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The limits cannot be kept.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// The store of other machines' results cannot be used.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// Steps must or may run that need a denied pool.
    #[error("{} that need the pool `{pool}` are not fresh", steps.len())]
    Denied {
        /// The pool.
        pool: String,
        /// The steps, and why each is not fresh.
        steps: Vec<Explanation>,
    },
    /// A person must do something first.
    #[error("{} need a manual step first", .0.len())]
    ManualSteps(Vec<Failure>),
    /// The backend cannot be used.
    #[error("{0}")]
    Backend(String),
    /// The caller cannot stop the run.
    #[error("signals cannot be caught: {0}")]
    Signals(io::Error),
    /// The reports cannot be written.
    #[error(transparent)]
    Publish(PublishError),
    /// What the pipeline publishes cannot be in one folder.
    #[error("{}:{line}: {error}", pipeline.display())]
    Reports {
        /// The pipeline file.
        pipeline: PathBuf,
        /// The line of the step to change.
        line: usize,
        /// Why.
        error: PublishError,
    },
}

/// Brings what `request` names up to date.
///
/// # Errors
/// What keeps it from beginning or from publishing. A step that fails is no error: the summary has it.
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
            let is_noted = workspace.reports().is_noted(&parts, workspace.recorder());
            // Reports that a clone brought, say: from now on this pipeline knows them as its own.
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

        // What other machines have counts before anything is refused or begun.
        let remote = options.remote.as_ref().map(RemoteAddress::open).transpose()?;
        if let Some(remote) = &remote {
            let Some(writer) = lock(&workspace, observer)? else { continue };
            let nodes = plan.needed().collect();
            let tell = &mut |news: News| observer.on(&Event::from(news));
            remote.supply(pipeline, &workspace, &writer, &mut plan, nodes, tell);
            writer.sync()?;
        }
        let capacity = this.admit(&plan)?;
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
        let mut ran = this.schedule(&writer, &mut plan, &capacity, remote.clone(), observer)?;
        // A step may have written into another one's result since that was kept.
        if ran.is_complete() && this.report_corrupted(&mut plan, observer)? {
            let again = this.schedule(&writer, &mut plan, &capacity, remote.clone(), observer)?;
            ran = Summary { ran: [ran.ran, again.ran].concat(), ..again };
        }
        writer.sync()?;
        report_warnings(&writer, observer);

        let mut summary = MakeSummary { run: ran, ..this.summary(&plan) };
        if summary.run.is_complete() {
            let parts = this.parts(&plan);
            if options.check {
                summary.differing = workspace.reports().differing(pipeline, &parts, workspace.recorder());
            } else {
                summary.published = Some(this.publish(&writer, &parts)?);
            }
            if summary.differing.is_empty() {
                summary.reproduction = this.compare(&plan, summary.published.as_ref(), observer);
            }
        }
        if let Some(remote) = remote
            && !(summary.run.interrupted || remote.is_away() || remote.remote().is_readonly())
        {
            let nodes = this.fresh(&plan).into_iter();
            let pushed = remote.offer(pipeline, &workspace, &plan, nodes, false);
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
) -> Result<Capacity, MakeError> {
    Make { project, pipeline: project.pipeline()?, workspace, options }.admit(plan)
}

/// The needed steps that a person must do something for first.
pub fn manual_steps(pipeline: &Pipeline, plan: &Plan, registry: &Registry) -> Vec<Failure> {
    let must_run = plan.needed().filter(|node| *plan.verdict(*node) != Verdict::Fresh);
    let failure = |node: NodeIndex| {
        let step = &pipeline.graph[node];
        let stage = registry.get(&step.stage)?;
        let ports: Vec<&str> = step.inputs.iter().map(|input| input.port.as_str()).collect();
        let outside = Outside::select(stage.outside(), std::env::vars_os());
        let problem = secrets::shown(&stage.needs_human_erased(&step.params, &ports, &outside)?);
        Some(Failure { step: step.name.clone(), problem, log: None, needs_human: true })
    };
    must_run.filter_map(failure).collect()
}

/// What the parts of a make have in common.
#[derive(Clone, Copy)]
struct Make<'a> {
    project: &'a Project<'a>,
    pipeline: &'a Pipeline,
    workspace: &'a Workspace,
    options: &'a MakeOptions<'a>,
}

impl<'a> Make<'a> {
    /// Whether everything is fresh and published, and nothing else is published any more.
    fn is_published(&self, plan: &Plan) -> bool {
        let is_published = |node: NodeIndex| {
            let step = &self.pipeline.graph[node];
            let has_report = |tree| self.workspace.is_published(step, &tree);
            *plan.verdict(node) == Verdict::Fresh
                && (step.publish.is_none() || plan.of(node).tree.is_some_and(has_report))
        };
        let reports = self.workspace.reports();
        plan.needed().all(is_published)
            && reports.left_over(self.pipeline, &self.parts(plan), self.workspace.recorder()).is_empty()
    }

    fn admit(&self, plan: &Plan) -> Result<Capacity, MakeError> {
        let limits = &self.options.limits;
        let capacity = limits.capacity(self.pipeline, self.options.backend.site())?;
        capacity.check_plan(self.pipeline, plan)?;
        match limits.denied(self.pipeline, plan) {
            Some((pool, nodes)) => {
                let steps = nodes.into_iter().map(|node| explain(self.pipeline, self.workspace, plan, node));
                Err(MakeError::Denied { pool: pool.to_owned(), steps: steps.collect() })
            }
            None => Ok(capacity),
        }
    }

    fn schedule(
        &self,
        writer: &Writer,
        plan: &mut Plan,
        capacity: &Capacity,
        shared: Option<Rc<Shared>>,
        observer: &mut dyn Observer,
    ) -> Result<Summary, MakeError> {
        if plan.needed().all(|node| *plan.verdict(node) == Verdict::Fresh) {
            return Ok(Summary::default());
        }
        let Make { pipeline, workspace, options, .. } = *self;
        let executor = options.backend.executor(workspace.store().root()).map_err(MakeError::Backend)?;
        let messages = channel();
        if let Some(on_start) = options.on_start {
            let stop_fetching = shared.as_ref().map(|shared| Box::new(shared.remote().stopper()) as _);
            on_start(StopHandle { sender: messages.0.clone(), stop_fetching }).map_err(MakeError::Signals)?;
        }
        let guess = estimate(pipeline, plan, workspace.history(), capacity);
        let session = Session {
            pipeline,
            workspace,
            writer,
            executor: &*executor,
            observer,
            messages,
            capacity: capacity.clone(),
            keep_going: options.keep_going,
            wait: !options.no_wait,
            estimated_seconds: guess.unknown.is_empty().then_some(guess.seconds),
            shared,
        };
        Ok(run(session, plan))
    }

    /// Hashes what is yet to be published and reports what of it is corrupted; returns whether anything is.
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

    /// What there is to publish.
    fn parts(&self, plan: &Plan) -> Vec<Part<'a>> {
        let part = |node: NodeIndex| {
            let step = &self.pipeline.graph[node];
            let below = step.publish.as_deref()?;
            let tree = plan.of(node).tree?;
            let manifest = self.workspace.manifest(&tree)?.as_ref().clone();
            Some(Part { step: &step.name, below, manifest, tree })
        };
        plan.needed().filter_map(part).collect()
    }

    fn publish(&self, writer: &Writer, parts: &[Part]) -> Result<Published, MakeError> {
        // Two at once would each forget what the other wrote.
        let _alone = writer.alone("publish.lock")?;
        let open = |tree: &Digest| self.workspace.open_result(tree, None);
        let reports = self.workspace.reports();
        let published = reports.publish(writer, self.pipeline, parts, &open, self.workspace.recorder());
        published.map_err(|error| {
            let step = error.step().and_then(|name| self.project.step(name).ok());
            match step {
                Some(step) => {
                    let (pipeline, line) = (self.pipeline.file.clone(), self.pipeline.graph[step].line);
                    MakeError::Reports { pipeline, line, error }
                }
                None => MakeError::Publish(error),
            }
        })
    }

    /// How a complete run compares with what the project committed. A difference is no failure.
    fn compare(
        &self,
        plan: &Plan,
        published: Option<&Published>,
        observer: &mut dyn Observer,
    ) -> Option<Reproduction> {
        let committed = Committed::load(self.pipeline).unwrap_or_else(|error| {
            let text = format!("results are not compared with the evidence: {error}");
            observer.on(&Event::Notice { text: &text });
            Committed::without_evidence(self.pipeline)
        });
        let removed = published.map_or(&[][..], |published| &published.removed);
        committed.verdict(self.pipeline, self.workspace, plan, removed)
    }
}

impl RemoteAddress {
    /// Opens the store.
    ///
    /// # Errors
    /// When it cannot be named like that.
    pub fn open(&self) -> Result<Rc<Shared>, RemoteError> {
        Ok(Rc::new(Shared::new(Remote::open(&self.url, self.is_readonly)?)))
    }
}

/// Opens the store for writing; `None` when another process had it to itself meanwhile.
fn lock(workspace: &Workspace, observer: &mut dyn Observer) -> Result<Option<Writer>, StoreError> {
    let writer = workspace.store().lock(&mut |holder| observer.on(&Event::Waiting { holder }))?;
    Ok(Some(writer).filter(|writer| !writer.has_waited()))
}

/// Reports what the cache has lost, once: the run that follows builds it again.
fn report_losses(workspace: &Workspace, writer: &Writer, observer: &mut dyn Observer) {
    for Damage { file, at, step } in workspace.store().damaged() {
        let what = step.map_or_else(|| "an entry".to_owned(), |step| format!("a record of `{step}`"));
        let text = format!("{}: {what} is damaged (byte {at}) and counts as absent", file.display());
        observer.on(&Event::Notice { text: &text });
    }
    for step in workspace.store().lost() {
        let text = format!("what `{step}` wrote is not whole on the disk; it runs again");
        observer.on(&Event::Notice { text: &text });
    }
    report_warnings(writer, observer);
}

/// Reports what dead runs left and a person should know of.
fn report_warnings(writer: &Writer, observer: &mut dyn Observer) {
    writer.take_warnings().iter().for_each(|text| observer.on(&Event::Notice { text }));
}

/// What cannot be kept for the next run costs time then, nothing else.
fn report_unsaved<E: std::fmt::Display>(saved: Result<(), E>, observer: &mut dyn Observer) {
    if let Err(error) = saved {
        observer.on(&Event::Notice { text: &format!("{error}; the next run takes a little longer") });
    }
}
