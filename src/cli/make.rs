//! `repro make`.

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::mpsc::{Sender, channel};
use std::time::Instant;

use clap::Args;
use petgraph::graph::NodeIndex;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use stage_api::Registry;

use super::ask;
use super::committed::{Committed, Reproduction};
use super::context::{Context, Project};
use super::dry_run::dry_run;
use super::elsewhere::Elsewhere;
use super::error::CliError;
use super::limits::Limits;
use super::made::{Made, by_evidence};
use super::sharing::{Sharing, tell_news};
use super::{Global, console, status, words};
use crate::digest::Digest;
use crate::estimate::estimate;
use crate::explain::explain;
use crate::grounds::Grounds;
use crate::plan::{Known, Plan, Verdict};
use crate::publish::{Part, Published};
use crate::remote::Shared;
use crate::run::{self, Capacity, Message, Session, Summary};
use crate::store::{ContentStore, Damage, Facts, StoreError, Writer};
use crate::workspace::Workspace;

/// Brings targets up to date: runs what must run, keeps the results, publishes the reports.
#[derive(Args, Default)]
pub struct Make {
    /// Targets or steps; `all` when none is given.
    targets: Vec<String>,
    /// This target or step besides, in addition to `all` when no other is given.
    #[arg(long, value_name = "TARGET")]
    with: Vec<String>,
    #[command(flatten)]
    limits: Limits,
    #[command(flatten)]
    sharing: Sharing,
    #[command(flatten)]
    elsewhere: Elsewhere,
    /// After a failure, go on with what does not depend on the failed step.
    #[arg(short, long)]
    keep_going: bool,
    /// Fail instead of waiting for steps that another process runs.
    #[arg(long)]
    no_wait: bool,
    /// Only say what would run, why, and how long it would take by earlier runs.
    #[arg(long)]
    dry_run: bool,
    /// Leave the reports as they are, and end with code 4 when they differ from what is made now.
    #[arg(long, conflicts_with = "dry_run")]
    check: bool,
    /// Run this step though its result is known.
    #[arg(long, value_name = "STEP")]
    force: Vec<String>,
}

impl Make {
    /// Makes these targets as far as that goes, on this machine alone.
    pub fn everything(targets: Vec<String>, limits: Limits) -> Self {
        Self { targets, limits, keep_going: true, ..Self::default() }
    }

    pub fn run(&self, global: &Global, registry: &Registry) -> Result<ExitCode, CliError> {
        let since = Instant::now();
        let project = Project::locate(global, registry)?;
        // Most of the time nothing has changed since there was nothing to do.
        let mut facts = project.facts();
        let asked = self.asked();
        if let Ok(facts) = &mut facts
            && let Some(steps) = self.known_done(&project, &asked, facts)
        {
            keep(facts.keep());
            return nothing_to_do(global, Made::nothing(steps, since), 0);
        }
        let context = Context::of(project, registry)?;
        registry.check_host()?;
        self.limits.check(&context)?;
        let targets = context.targets(&asked)?;
        let forced = self.force.iter().map(|name| context.step(name)).collect::<Result<BTreeSet<_>, _>>()?;
        // A step that is forced is asked for, whether or not a target needs it.
        let targets = targets.into_iter().chain(forced.iter().copied()).collect::<Vec<_>>();

        // First without the lock: most of the time there is nothing to do, and nothing to wait for.
        let (mut workspace, anew) = (&context.workspace_with(facts?)?, OnceCell::new());
        let mut plan = context.judge(workspace, targets.clone(), forced.clone())?;
        if !self.dry_run && is_done(&context, workspace, &plan) {
            keep(context.keep(workspace.store()));
            keep(workspace.store().register(&context.file()));
            let parts = parts(&context, workspace, &plan);
            let is_noted = workspace.reports().is_noted(&parts);
            // Reports that a clone brought, say: from now on this pipeline knows them as its own.
            if !is_noted && !self.check {
                let writer = workspace.store().lock(&mut tell_of_waiting)?;
                publish(&context, workspace, &writer, &parts)?;
            }
            let is_final = forced.is_empty() && (is_noted || !self.check);
            let grounds = is_final.then(|| Grounds::of(&context.pipeline, workspace, &plan)).flatten();
            keep(workspace.keep_facts());
            if let Some(grounds) = grounds {
                keep(grounds.keep(&context.request(&asked), workspace));
            }
            let made = Made::nothing(plan.needed().count(), since);
            return nothing_to_do(global, made, by_evidence(workspace, &plan));
        }
        // What other machines have made counts before anything is refused or begun.
        let shared = if self.dry_run { None } else { self.sharing.open()? };
        if let Some(shared) = &shared {
            let writer = workspace.store().lock(&mut tell_of_waiting)?;
            if writer.has_waited() {
                return self.run(global, registry);
            }
            let nodes = plan.needed().collect();
            shared.supply(&context.pipeline, workspace, &writer, &mut plan, nodes, &mut tell_news);
            writer.sync()?;
        }
        let capacity = self.limits.capacity(&context, self.elsewhere.site()?)?;
        self.limits.refuse_impossible(&context, &plan, &capacity)?;
        let reason = |node| status::root_reason(&explain(&context.pipeline, workspace, &plan, node));
        if let Some(code) = self.limits.denied(global, &context, &plan, reason)? {
            return Ok(code);
        }
        if self.dry_run {
            return dry_run(global, &context, workspace, &plan, &capacity);
        }

        // What only people can do is said at once and as a whole, not one by one as the steps come to it.
        if !self.keep_going {
            let needed = ask::failures(&context, &plan, registry);
            if !needed.is_empty() {
                ask::tell(global, &asked, &needed)?;
                return Ok(ExitCode::from(3));
            }
        }

        // Then beside others that write. What one who had to be waited for has removed is known no more.
        let writer = workspace.store().lock(&mut tell_of_waiting)?;
        if writer.has_waited() {
            let opened = context.workspace()?;
            workspace = anew.get_or_init(|| opened);
        }
        keep(context.keep(workspace.store()));
        workspace.store().register(&context.file())?;
        // Something is to be done: what the version commands say is asked anew, once.
        if workspace.ask_versions_again() || writer.has_waited() {
            plan = context.judge(workspace, targets, forced)?;
        }
        warn_of_losses(workspace.store());
        warn_of_leftovers(&writer);
        warn_of_damage(&context, workspace, &mut plan)?;
        let schedule = |plan: &mut Plan| {
            self.schedule(global, &context, workspace, &writer, plan, &capacity, shared.clone())
        };
        let mut summary = schedule(&mut plan)?;
        // A step may have written into another one's result since that was kept.
        if summary.is_complete() && warn_of_damage(&context, workspace, &mut plan)? {
            let again = schedule(&mut plan)?;
            let ran = std::mem::take(&mut summary.ran);
            summary = Summary { ran: ran.into_iter().chain(again.ran).collect(), ..again };
        }
        writer.sync()?;
        warn_of_leftovers(&writer);
        let fresh: Vec<NodeIndex> =
            plan.needed().filter(|node| *plan.verdict(*node) == Verdict::Fresh).collect();
        let mut made = Made { summary, ..Made::nothing(fresh.len(), since) };
        if made.summary.is_complete() {
            let parts = parts(&context, workspace, &plan);
            if self.check {
                let mut digests = workspace.digests();
                made.differing = workspace.reports().differing(&context.pipeline, &parts, &mut digests);
            } else {
                made.published = Some(publish(&context, workspace, &writer, &parts)?);
            }
        }
        if made.summary.is_complete() && made.differing.is_empty() {
            made.reproduction = reproduction(&context, workspace, &plan, made.published.as_ref());
        }
        let may_offer = |shared: &Rc<Shared>| {
            !(made.summary.interrupted || shared.is_away() || shared.remote().is_readonly())
        };
        if let Some(shared) = shared.filter(may_offer) {
            let offered = shared.offer(&context.pipeline, workspace, &plan, fresh.into_iter(), false);
            made.offered = Some((shared.remote().place().to_owned(), offered));
        }
        keep(workspace.keep_facts());
        if global.json {
            made.print()?;
        }
        Ok(made.tell(global, &asked, workspace, &plan))
    }

    /// The names of what is asked for.
    fn asked(&self) -> Vec<String> {
        let all = (self.targets.is_empty() && !self.with.is_empty()).then(|| "all".to_owned());
        all.iter().chain(&self.targets).chain(&self.with).cloned().collect()
    }

    /// How many steps were asked for, if they were found done before and all that this rests on is as it was.
    fn known_done(&self, project: &Project, asked: &[String], facts: &mut Facts) -> Option<usize> {
        if self.dry_run || !self.force.is_empty() || self.limits.names_pools() {
            return None;
        }
        let grounds = Grounds::known(&project.request(asked), facts)?;
        grounds.hold(facts).then_some(grounds.steps)
    }

    #[allow(clippy::too_many_arguments, reason = "what a run has opened, one after the other")]
    fn schedule(
        &self,
        global: &Global,
        context: &Context,
        workspace: &Workspace,
        writer: &Writer,
        plan: &mut Plan,
        capacity: &Capacity,
        shared: Option<Rc<Shared>>,
    ) -> Result<Summary, CliError> {
        if plan.needed().all(|node| *plan.verdict(node) == Verdict::Fresh) {
            return Ok(Summary::default());
        }
        let site = capacity.cluster.as_ref().map(|cluster| &cluster.site);
        let executor = Elsewhere::executor(site, workspace.store().root())?;
        let (sender, messages) = channel();
        let stop_fetching = shared.as_ref().map(|shared| shared.remote().stopper());
        stop_on_signals(sender.clone(), site.is_some(), stop_fetching)
            .map_err(|error| CliError::usage(format!("signals cannot be caught: {error}")))?;
        let guess = estimate(&context.pipeline, plan, workspace.history(), capacity);
        let estimated_seconds = guess.unknown.is_empty().then_some(guess.seconds);
        let capacity = capacity.clone();
        let mut observer = console::observer(global.json);
        let session = Session {
            pipeline: &context.pipeline,
            workspace,
            writer,
            executor: &*executor,
            observer: &mut *observer,
            messages: (sender, messages),
            capacity,
            keep_going: self.keep_going,
            wait: !self.no_wait,
            estimated_seconds,
            shared,
        };
        Ok(run::run(session, plan))
    }
}

/// From here on, signals are messages to the scheduler. A terminal that goes away ends what runs on this machine; jobs
/// elsewhere outlive it, and the next run finds them.
fn stop_on_signals(
    sender: Sender<Message>,
    jobs_outlive: bool,
    stop_fetching: Option<impl Fn() + Send + 'static>,
) -> std::io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    if !jobs_outlive {
        signals.add_signal(SIGHUP)?;
    }
    std::thread::spawn(move || {
        for _ in signals.forever() {
            if let Some(stop) = &stop_fetching {
                stop();
            }
            if sender.send(Message::Stop).is_err() {
                return;
            }
        }
    });
    Ok(())
}

fn publishing<'a>(context: &'a Context, plan: &'a Plan) -> impl Iterator<Item = NodeIndex> + 'a {
    plan.needed().filter(|node| context.pipeline.graph[*node].publish.is_some())
}

/// Whether everything is fresh and published, and nothing else is published any more.
fn is_done(context: &Context, workspace: &Workspace, plan: &Plan) -> bool {
    plan.needed().all(|node| *plan.verdict(node) == Verdict::Fresh)
        && publishing(context, plan).all(|node| {
            plan.of(node)
                .tree
                .is_some_and(|tree| workspace.is_published(&context.pipeline.graph[node], &tree))
        })
        && workspace.reports().left_over(&context.pipeline, &parts(context, workspace, plan)).is_empty()
}

fn nothing_to_do(global: &Global, made: Made, by_evidence: usize) -> Result<ExitCode, CliError> {
    if global.json {
        made.print()?;
    }
    let how = match by_evidence {
        0 => String::new(),
        number => format!(" ({number} by the evidence; --no-evidence runs them here)"),
    };
    tell!("nothing to do: {} fresh{how}", words::count(made.fresh, "step"));
    Ok(ExitCode::SUCCESS)
}

fn tell_of_waiting(holder: &str) {
    tell!("waiting for {holder}, which has this cache to itself");
}

/// What the cache has lost, told once: the run that follows does it again.
fn warn_of_losses(store: &ContentStore) {
    for Damage { file, at, step } in store.damaged() {
        let what = match step {
            Some(step) => format!("a record of `{step}`"),
            None => "an entry".to_owned(),
        };
        tell!("warning: {}: {what} is damaged (byte {at}) and counts as absent", file.display());
    }
    for step in store.lost() {
        tell!("warning: what `{step}` wrote is not whole on the disk; it runs again");
    }
}

/// Looks at what is yet to be published, and says what of it is damaged; whether anything is.
fn warn_of_damage(context: &Context, workspace: &Workspace, plan: &mut Plan) -> Result<bool, StoreError> {
    let damaged = run::verify_unpublished(&context.pipeline, workspace, plan)?;
    damaged.iter().for_each(|step| tell!("warning: {}", words::damaged(step)));
    Ok(!damaged.is_empty())
}

/// What dead runs left and a person should know of.
fn warn_of_leftovers(writer: &Writer) {
    for warning in writer.take_warnings() {
        tell!("warning: {warning}");
    }
}

/// What cannot be kept for the next time costs time then, nothing else.
fn keep(kept: Result<(), StoreError>) {
    if let Err(error) = kept {
        tell!("warning: {error}; the next run takes a little longer");
    }
}

/// What there is to publish.
fn parts<'a>(context: &'a Context, workspace: &Workspace, plan: &Plan) -> Vec<Part<'a>> {
    let graph = &context.pipeline.graph;
    let part = |node: NodeIndex| {
        let tree = plan.of(node).tree?;
        Some(Part {
            step: &graph[node].name,
            below: graph[node].publish.as_deref()?,
            manifest: workspace.manifest(&tree)?.as_ref().clone(),
            tree,
        })
    };
    publishing(context, plan).filter_map(part).collect()
}

/// How a complete run compares with what the project committed. That is no reason for a run to fail.
fn reproduction(
    context: &Context,
    workspace: &Workspace,
    plan: &Plan,
    published: Option<&Published>,
) -> Option<Reproduction> {
    let committed = Committed::load(context).unwrap_or_else(|error| {
        tell!("warning: results are not compared with the evidence: {error}");
        Committed::without_evidence(context)
    });
    let removed = published.map_or(&[][..], |published| &published.removed);
    committed.verdict(context, workspace, plan, removed)
}

fn publish(
    context: &Context,
    workspace: &Workspace,
    writer: &Writer,
    parts: &[Part],
) -> Result<Published, CliError> {
    // Two at once would each forget what the other wrote.
    let _alone = writer.alone("publish.lock")?;
    let open = |tree: &Digest| workspace.open_result(tree, None);
    let published =
        workspace.reports().publish(writer, &context.pipeline, parts, &open, &mut workspace.digests());
    published.map_err(|error| {
        let graph = &context.pipeline.graph;
        let step = error.step().and_then(|name| graph.node_weights().find(|step| step.name == name));
        match step {
            Some(step) => {
                CliError::usage(format!("{}:{}: {error}", context.pipeline.file.display(), step.line))
            }
            None => error.into(),
        }
    })
}
