//! A thousand seeds on a simulated cluster: 10,000 steps through the real scheduler and the real store, with jobs that
//! take no computer's time but a clock's, on GPUs whose nodes fail. It shows how well the cluster is kept busy, what
//! failures cost, and what the engine itself costs. docs/scaling.md has its numbers:
//! `cargo run --release --no-default-features --example cluster`.

#![allow(clippy::print_stdout, reason = "it prints what it found")]

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::error::Error;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use petgraph::graph::NodeIndex;
use repro::command::Command;
use repro::pipeline::Pipeline;
use repro::plan::{Request, plan};
use repro::record::Machine;
use repro::run::{
    Cluster, Event, Execution, Executor, Observer, Outcome, Report, Reporter, Resources, Running, Session,
    Site, Task,
};
use repro::workspace::Workspace;
use stage_api::Registry;

/// An hour of the cluster.
const HOUR: Duration = Duration::from_secs(1);
const GPUS: usize = 64;
/// Hours that a run takes (the mean of the six published ones, 82,040 s together), and that scoring one takes.
const TRAIN: f64 = 3.8;
const EVALUATE: f64 = 0.1;
/// Hours between two failures of the node under one GPU, on average: some four in a day on such a cluster.
const BETWEEN_FAILURES: f64 = 384.0;
/// Hours until a job that was lost with its node starts again, and between two checkpoints in its scratch.
const REQUEUED_AFTER: f64 = 0.1;
const CHECKPOINT: f64 = 0.1;
/// Of a thousand jobs so many end badly the first time, for a reason of their own.
const END_BADLY: u64 = 5;

const PIPELINE: &str = r#"(
    default_profile: "p", profiles: [(name: "p", about: "a thousand seeds")], seeds: 833,
    steps: [
        (name: "data", stage: "command", params: (run: ["index"])),
        (for: {"run": ["hmd-fc", "hmd-pe", "hmd-full", "mmh-fc", "mmh-pe", "mmh-full"], "seed": "1..{seeds}"},
         name: "{run}-{seed}-train", stage: "command", inputs: {"data": ["data"]},
         params: (run: ["train", "{run}", "seed={seed}"]), needs: (gpu: 1)),
        (for: {"run": ["hmd-fc", "hmd-pe", "hmd-full", "mmh-fc", "mmh-pe", "mmh-full"], "seed": "1..{seeds}"},
         name: "{run}-{seed}", stage: "command", inputs: {"run": ["{run}-{seed}-train"]}, params: (run: ["evaluate"]),
         needs: (gpu: 1)),
        (for: {"data": ["hmd", "mmh"]}, name: "{data}-table", stage: "command",
         inputs: {"runs": ["{data}-{fc,pe,full}-{1..{seeds}}"]}, params: (run: ["table"])),
        (name: "report", stage: "command", inputs: {"tables": ["{hmd,mmh}-table"]}, params: (run: ["report"])),
    ],
)"#;

/// A simulated job: what is left of its work, in hours.
struct Job {
    task: Task,
    reporter: Reporter,
    left: f64,
}

/// What happens to a running job next: it ends, or its node fails.
struct Next {
    at: Instant,
    job: Job,
    /// Hours of work done by then.
    worked: f64,
    fails: bool,
}

impl PartialEq for Next {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}
impl Eq for Next {}
impl PartialOrd for Next {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Next {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.at.cmp(&other.at)
    }
}

/// Numbers that look drawn and are the same each time.
struct Dice(u64);

impl Dice {
    fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        self.0 >> 33
    }

    /// From 0 to 1.
    fn share(&mut self) -> f64 {
        self.number() as f64 / f64::from(1u32 << 31)
    }
}

/// What the cluster did, in hours of GPUs.
#[derive(Debug, Default)]
struct Done {
    jobs: usize,
    worked: f64,
    lost: f64,
    failures: usize,
}

struct SimulatedCluster(Sender<Job>);

struct Nothing;

impl Running for Nothing {
    fn stop(&self) {}
    fn kill(&self) {}
}

impl Executor for SimulatedCluster {
    fn start(&self, task: Task, reporter: Reporter) -> io::Result<Box<dyn Running>> {
        let left = if task.step.ends_with("-train") { TRAIN } else { EVALUATE };
        self.0.send(Job { task, reporter, left }).map_err(|_| io::Error::other("the cluster is gone"))?;
        Ok(Box::new(Nothing))
    }
}

/// Runs jobs on the GPUs in the order in which they came, until no sender is left.
fn simulate(jobs: &Receiver<Job>, ends_badly: bool) -> Done {
    let (mut done, mut dice, mut free) = (Done::default(), Dice(7), GPUS);
    let mut queue: VecDeque<Job> = VecDeque::new();
    let mut running: BinaryHeap<Reverse<Next>> = BinaryHeap::new();
    loop {
        while free > 0
            && let Some(job) = queue.pop_front()
        {
            free -= 1;
            #[expect(clippy::disallowed_methods, reason = "a time within a simulation, not a result")]
            let until_failure = -BETWEEN_FAILURES * (1.0 - dice.share()).ln();
            let (fails, worked) = (until_failure < job.left, until_failure.min(job.left));
            running.push(Reverse(Next { at: Instant::now() + HOUR.mul_f64(worked), job, worked, fails }));
        }
        let wait = running.peek().map_or(Duration::from_secs(3600), |Reverse(next)| {
            next.at.saturating_duration_since(Instant::now())
        });
        match jobs.recv_timeout(wait) {
            Ok(job) => queue.push_back(job),
            Err(RecvTimeoutError::Disconnected) if running.is_empty() && queue.is_empty() => return done,
            Err(_) => {}
        }
        while let Some(Reverse(next)) = running.peek()
            && next.at <= Instant::now()
            && let Some(Reverse(Next { mut job, worked, fails, .. })) = running.pop()
        {
            free += 1;
            done.worked += worked;
            if fails {
                // What was done since the last checkpoint is lost, and the node for a while.
                let kept = (worked / CHECKPOINT).floor() * CHECKPOINT;
                done.lost += worked - kept;
                done.failures += 1;
                job.left += REQUEUED_AFTER - kept;
                queue.push_back(job);
                continue;
            }
            done.jobs += 1;
            let bad = ends_badly && dice.number() % 1000 < END_BADLY;
            let written = fs::write(job.task.out.join("result"), &job.task.step);
            let outcome =
                if bad || written.is_err() { Outcome::Failed("as drawn".to_owned()) } else { Outcome::Done };
            // In seconds of this machine: what takes hours is forced to the disk one by one, which hours pay for.
            let seconds = worked * HOUR.as_secs_f64();
            let execution = Execution { machine: Machine::default(), started_ms: 0, seconds };
            job.reporter.send(Report::Ran(execution));
            job.reporter.send(Report::Ended(outcome));
        }
    }
}

/// An observer that ignores events.
struct Silent;

impl Observer for Silent {
    fn on(&mut self, _: &Event) {}
}

fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let registry = Registry::new().with(Command);
    let since = Instant::now();
    let pipeline = Pipeline::parse(&folder.path().join("pipeline.ron"), PIPELINE, None, &registry)?;
    println!("{} steps parsed in {:.2} s", pipeline.graph.node_count(), since.elapsed().as_secs_f64());
    for (number, ends_badly) in [(1, true), (2, false), (3, false)] {
        make(&pipeline, folder.path(), number, ends_badly)?;
    }
    Ok(())
}

fn make(pipeline: &Pipeline, folder: &Path, number: usize, ends_badly: bool) -> Result<(), Box<dyn Error>> {
    let (since, cpu) = (Instant::now(), cpu_seconds()?);
    let mut workspace = Workspace::open(&folder.join("cache"))?;
    workspace.load(pipeline, false)?;
    let writer = workspace.store().lock(&mut |_| {})?;
    let targets: Vec<NodeIndex> = pipeline.graph.node_indices().collect();
    let mut plan = plan(pipeline, &workspace, &Request { targets, ..Request::default() });
    let planned = since.elapsed().as_secs_f64();
    let (sender, jobs) = channel();
    let cluster = std::thread::spawn(move || simulate(&jobs, ends_badly));
    let resources = Resources {
        cpus: 1,
        memory: 0,
        gpus: Vec::new(),
        gpus_for_programs: false,
        pools: pipeline.pools.clone(),
        cluster: Some(Cluster { jobs: 2 * GPUS, site: Site::default() }),
    };
    let executor = SimulatedCluster(sender);
    let began = Instant::now();
    let session = Session {
        pipeline,
        workspace: &workspace,
        writer: &writer,
        executor: &executor,
        observer: &mut Silent,
        messages: channel(),
        resources,
        keep_going: true,
        wait: true,
        estimated_seconds: None,
        remote_cache: None,
    };
    let summary = repro::run::run(session, &mut plan);
    let hours = began.elapsed().as_secs_f64() / HOUR.as_secs_f64();
    writer.sync()?;
    drop(executor);
    let done = cluster.join().map_err(|_| "the cluster broke")?;
    println!(
        "make {number}: judged in {planned:.2} s; {} steps ran, {} failed, {} not reached; {hours:.1} h, of them {:.1} h at \
         least; GPUs busy {:.1}%; {} node failures cost {:.1} GPU hours; the engine took {:.1} s of one core",
        summary.ran.len(),
        summary.failures.len(),
        summary.not_reached.len(),
        done.worked / GPUS as f64,
        100.0 * done.worked / (GPUS as f64 * hours.max(f64::MIN_POSITIVE)),
        done.failures,
        done.lost + REQUEUED_AFTER * done.failures as f64,
        cpu_seconds()? - cpu,
    );
    Ok(())
}

/// What this process has taken of the processor so far.
fn cpu_seconds() -> io::Result<f64> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: f64 = fields.skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum();
    Ok(ticks / 100.0)
}
