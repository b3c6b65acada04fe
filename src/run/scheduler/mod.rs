//! Decides what starts when: every step that must run, whose inputs are there and for which there is room. When
//! one ends, its result is stored and its readers are planned again. It knows no processes; the executor does.

mod active;
mod start;
mod task;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use petgraph::graph::NodeIndex;
use stage_api::{Stage, secrets};

use super::event::{Event, Observer};
use super::executor::{Executor, Message, Outcome, Report};
use super::inputs::PutBack;
use super::resources::Resources;
use super::summary::{Failure, Summary};
use crate::command::{self, Command, project_files};
use crate::key::StageKey;
use crate::pipeline::Pipeline;
use crate::plan::{Plan, Verdict};
use crate::remote::RemoteCache;
use crate::store::{FailedRun, LockOwner, WorkDir, Writer};
use crate::workspace::Workspace;
use active::{Active, Throughput};

/// How long a step may take to end after the request to stop.
const GRACE: Duration = Duration::from_secs(3);
/// How soon to look again whether another process is done with a step.
const LOOK_AGAIN: Duration = Duration::from_millis(30);

/// All that a run works with.
pub struct Session<'a> {
    /// The steps.
    pub pipeline: &'a Pipeline,
    /// What is known of them.
    pub workspace: &'a Workspace,
    /// The store, open for writing.
    pub writer: &'a Writer,
    /// What starts steps.
    pub executor: &'a dyn Executor,
    /// Who hears what happens.
    pub observer: &'a mut dyn Observer,
    /// Where executors report to; another holder of the sender may send [`Message::Stop`].
    pub messages: (Sender<Message>, Receiver<Message>),
    /// What may be in use at one time.
    pub resources: Resources,
    /// Whether steps that do not depend on a failed one still start.
    pub keep_going: bool,
    /// Whether to wait for steps that another process runs.
    pub wait: bool,
    /// How long the run would take by earlier ones, for the observer.
    pub estimated_seconds: Option<f64>,
    /// A store of other machines' results to ask before a step runs.
    pub remote_cache: Option<Rc<RemoteCache>>,
}

/// Of two ready steps the one with the longer chain behind it starts first, as the whole run waits for that chain;
/// of equals the first in the pipeline.
type Rank = (Reverse<usize>, usize);

struct Scheduler<'a> {
    session: Session<'a>,
    free: Resources,
    /// Steps that another process runs, and who.
    held_by_others: BTreeMap<NodeIndex, Option<LockOwner>>,
    active: BTreeMap<NodeIndex, Active>,
    /// By node: how many steps the longest chain from it to an end of the graph has.
    chains: Vec<usize>,
    /// What may have become ready, in the order in which it starts.
    candidates: BTreeSet<Rank>,
    /// Steps planned since the last request to the remote cache.
    unasked: BTreeSet<NodeIndex>,
    tried: BTreeSet<NodeIndex>,
    /// The keys that this run gave a record.
    kept: BTreeSet<StageKey>,
    begun: usize,
    summary: Summary,
}

/// Runs what `plan` says must run.
pub fn run(session: Session, plan: &mut Plan) -> Summary {
    let mut scheduler = Scheduler {
        free: session.resources.clone(),
        held_by_others: BTreeMap::new(),
        active: BTreeMap::new(),
        chains: chains(session.pipeline),
        candidates: BTreeSet::new(),
        unasked: BTreeSet::new(),
        tried: BTreeSet::new(),
        kept: BTreeSet::new(),
        begun: 0,
        summary: Summary::default(),
        session,
    };
    scheduler.consider(plan, plan.needed().collect::<Vec<_>>());
    scheduler.announce(plan);
    scheduler.work(plan);
    scheduler.conclude(plan)
}

impl Scheduler<'_> {
    fn announce(&mut self, plan: &Plan) {
        let count =
            |test: fn(&Verdict) -> bool| plan.needed().filter(|node| test(plan.verdict(*node))).count();
        self.session.observer.on(&Event::Planned {
            needed: count(|_| true),
            stale: count(|verdict| matches!(verdict, Verdict::Stale(_))),
            waiting: count(|verdict| matches!(verdict, Verdict::Waiting { .. })),
            estimated_seconds: self.session.estimated_seconds,
        });
    }

    fn work(&mut self, plan: &mut Plan) {
        let mut deadline = None;
        loop {
            self.start_ready(plan);
            if self.active.is_empty() && (self.held_by_others.is_empty() || !self.session.wait) {
                return;
            }
            let message = match deadline {
                None if !self.held_by_others.is_empty() => {
                    match self.session.messages.1.recv_timeout(LOOK_AGAIN) {
                        Err(RecvTimeoutError::Timeout) => continue,
                        other => other,
                    }
                }
                None => self.session.messages.1.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(at) => self.session.messages.1.recv_timeout(Instant::now().max(at) - Instant::now()),
            };
            match message {
                Ok(Message::Step { node, report }) => self.hear(plan, node, report),
                Ok(Message::Stop) if deadline.is_none() => {
                    self.summary.interrupted = true;
                    self.session.observer.on(&Event::Stopping);
                    self.active.values().for_each(|active| active.running.stop());
                    deadline = Some(Instant::now() + GRACE);
                }
                Ok(Message::Stop) | Err(RecvTimeoutError::Timeout) => {
                    self.active.values().for_each(|active| active.running.kill());
                    deadline = Some(Instant::now() + GRACE);
                }
                // The scheduler holds a sender itself, so this does not happen.
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn consider(&mut self, plan: &Plan, nodes: Vec<NodeIndex>) {
        let chains = &self.chains;
        let rank = |node: NodeIndex| (Reverse(chains[node.index()]), plan.position(node));
        if self.session.remote_cache.is_some() {
            self.unasked.extend(&nodes);
        }
        self.candidates.extend(nodes.into_iter().map(rank));
    }

    fn hear(&mut self, plan: &mut Plan, node: NodeIndex, report: Report) {
        let step = &self.session.pipeline.graph[node].name;
        match report {
            Report::Progress { done, total, unit } => {
                if let Some(active) = self.active.get_mut(&node) {
                    active.throughput.get_or_insert_with(|| Throughput::from(done)).reached(done);
                }
                self.session.observer.on(&Event::Progress { step, done, total, unit });
            }
            Report::Scalar { name, step: at, value } => {
                self.session.observer.on(&Event::Scalar { step, name: &name, at, value });
            }
            Report::Placed(place) => self.session.observer.on(&Event::Placed { step, place: &place }),
            Report::Ran(execution) => {
                if let Some(active) = self.active.get_mut(&node) {
                    active.execution = Some(execution);
                }
            }
            Report::Warned(text) => {
                self.session.observer.on(&Event::Warned { step, text: &secrets::shown(&text) });
            }
            Report::Memory(bytes) => {
                if let Some(active) = self.active.get_mut(&node) {
                    active.peak_memory = Some(bytes);
                }
            }
            Report::Ended(outcome) => {
                if let Some(active) = self.active.remove(&node) {
                    self.ended(plan, node, active, outcome);
                }
            }
        }
    }

    fn ended(&mut self, plan: &mut Plan, node: NodeIndex, active: Active, outcome: Outcome) {
        self.free.release(active.allocation.clone());
        // Resources became free: only steps that waited for them are tried again.
        let key = active.work.key;
        let log = self.session.writer.store().log(&key);
        let outcome = match outcome {
            Outcome::Done => match self.keep(plan, node, active) {
                Ok(()) => {
                    let touched = plan.finished(node).into_iter().collect();
                    self.consider(plan, touched);
                    return;
                }
                Err(problem) => Outcome::Failed(problem),
            },
            mut other => {
                if let Outcome::Failed(problem) = &mut other
                    && let Some(hint) = self.undeclared(node, &active.work)
                {
                    problem.push_str(&hint);
                }
                let put_back = active.project_inputs.put_back(self.session.workspace, &active.work);
                match (self.drop_work(active.work, put_back), other) {
                    (Some(taken), Outcome::Failed(problem)) if !self.summary.interrupted => {
                        Outcome::Failed(format!("{problem}\n  {taken}"))
                    }
                    (Some(taken), other) => {
                        let step = &self.session.pipeline.graph[node].name;
                        self.session.observer.on(&Event::Warned { step, text: &taken });
                        other
                    }
                    (None, other) => other,
                }
            }
        };
        self.tried.insert(node);
        match outcome {
            // While stopping, however a step ends is no failure of its own.
            _ if self.summary.interrupted => {}
            Outcome::Failed(problem) => {
                self.keep_failure(node, &key, &problem);
                self.fail(node, problem, Some(log), false);
            }
            Outcome::NeedsHuman(what) => self.fail(node, what, Some(log), true),
            Outcome::Done | Outcome::Cancelled => {
                self.fail(
                    node,
                    "it ended as after a request to stop, but there was no request".to_owned(),
                    Some(log),
                    false,
                );
            }
        }
    }

    /// For a command that failed: a line for each file of the project that it missed and that is not among its inputs.
    fn undeclared(&self, node: NodeIndex, work: &WorkDir) -> Option<String> {
        let step = &self.session.pipeline.graph[node];
        if step.stage != <Command as Stage>::NAME {
            return None;
        }
        let files = step.inputs.iter().filter_map(|input| input.source.file());
        let project = self.session.workspace.locate(Path::new(""));
        let missed =
            project_files::undeclared(&command::log_end(&work.log).ok()?, &project, &Vec::from_iter(files));
        let lines = missed.iter().map(|path| {
            let path = path.display();
            format!("\n  ./{path} is a file of the project, but no input of the step; declare it: `inputs: {{…, \"NAME\": \"./{path}\"}}`")
        });
        Some(lines.collect())
    }

    /// Gives up the folders of a step that is not kept; returns what became of inputs that it took away.
    fn drop_work(&mut self, work: WorkDir, put_back: PutBack) -> Option<String> {
        let PutBack { mut notes, is_lost } = put_back;
        if is_lost {
            notes.push(match self.session.writer.keep_aside(work) {
                Ok(kept) => format!("what the step wrote is kept in {}", kept.display()),
                Err(error) => error.to_string(),
            });
        } else {
            // The next run clears what cannot be cleared now.
            let _ = self.session.writer.discard(work);
        }
        (!notes.is_empty()).then(|| notes.join("; "))
    }

    /// Keeps that an execution failed, for `status` after this run.
    fn keep_failure(&mut self, node: NodeIndex, key: &StageKey, problem: &str) {
        let step = &self.session.pipeline.graph[node].name;
        let failed = FailedRun {
            step: step.clone(),
            profile: self.session.pipeline.profile.clone(),
            failed_ms: now_ms(),
            problem: secrets::shown(problem),
        };
        if let Err(error) = self.session.writer.keep_failure(key, &failed) {
            let text = format!("that it failed cannot be kept for `repro status`: {error}");
            self.session.observer.on(&Event::Warned { step, text: &text });
        }
    }

    fn fail(&mut self, node: NodeIndex, problem: String, log: Option<PathBuf>, needs_human: bool) {
        let (step, problem) = (self.session.pipeline.graph[node].name.clone(), secrets::shown(&problem));
        self.session.observer.on(&Event::Failed { step: &step, problem: &problem, needs_human });
        self.summary.failures.push(Failure { step, problem, log, needs_human });
    }

    fn conclude(mut self, plan: &Plan) -> Summary {
        let name = |node: NodeIndex| self.session.pipeline.graph[node].name.clone();
        self.summary.held_by_others = std::mem::take(&mut self.held_by_others)
            .into_iter()
            .map(|(node, owner)| (name(node), owner))
            .collect();
        self.summary.not_reached = plan
            .needed()
            .filter(|node| *plan.verdict(*node) != Verdict::Fresh)
            .map(|node| self.session.pipeline.graph[node].name.clone())
            .filter(|name| !self.summary.failures.iter().any(|failure| failure.step == *name))
            .collect();
        self.summary
    }
}

/// The time in milliseconds since 1970.
fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64)
}

/// By node: how many steps the longest chain from it to an end of the graph has.
pub fn chains(pipeline: &Pipeline) -> Vec<usize> {
    let mut chains = vec![1; pipeline.graph.node_count()];
    for node in crate::plan::in_order(pipeline).into_iter().rev() {
        let longest = pipeline.graph.neighbors(node).map(|reader| chains[reader.index()]).max();
        chains[node.index()] = 1 + longest.unwrap_or(0);
    }
    chains
}
