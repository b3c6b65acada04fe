//! Runs each step as a process of its own: this same program, called again as `step JOBFILE`. A crash or a kill
//! of one step ends that step alone. The child is the leader of a process group, so whatever it starts can be
//! stopped with it.

use std::cell::OnceCell;
use std::fs::OpenOptions;
use std::io::{self, BufRead, BufReader};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Command as Process, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use stage_api::Stage;

use super::child::JobFile;
use super::descendants::Descendants;
use super::direct;
use super::executor::{Executor, Outcome, Report, Reporter, Running, Task};
use super::guard::Guard;
use super::metrics_poller::{MetricsPoller, PolledCommand};
use super::process_group::{Group, pid, wait};
use crate::command::{Command, CommandParams};

/// Steps as processes.
pub struct Subprocess {
    program: PathBuf,
    descendants: OnceCell<Descendants>,
    guard: OnceCell<Guard>,
    metrics: MetricsPoller,
}

impl Subprocess {
    /// Runs `program step JOBFILE` for each step.
    pub fn new(program: PathBuf) -> Self {
        Self {
            program,
            descendants: OnceCell::new(),
            guard: OnceCell::new(),
            metrics: MetricsPoller::default(),
        }
    }

    /// Runs this very program. On Linux even when its file was replaced meanwhile, by a rebuild say: parent and
    /// child must agree on what a stage does.
    ///
    /// # Errors
    /// When the program's file cannot be found.
    pub fn this_program() -> io::Result<Self> {
        if cfg!(target_os = "linux") {
            Ok(Self::new("/proc/self/exe".into()))
        } else {
            std::env::current_exe().map(Self::new)
        }
    }
}

impl Subprocess {
    fn descendants(&self) -> Descendants {
        self.descendants.get_or_init(Descendants::adopt).clone()
    }

    /// The guard of this run, started when it is first needed.
    fn guard(&self) -> io::Result<Guard> {
        if self.guard.get().is_none() {
            let descendants = self.descendants();
            let guard = Guard::start(&self.program, descendants.first())?;
            guard.process().into_iter().for_each(|process| descendants.add(process));
            let _ = self.guard.set(guard);
        }
        self.guard.get().cloned().ok_or_else(|| io::Error::other("there is no guard"))
    }
}

impl Executor for Subprocess {
    fn start(&self, task: Task, reporter: Reporter) -> io::Result<Box<dyn Running>> {
        let (mut guard, mut metrics) = (None, None);
        if task.stage == <Command as Stage>::NAME {
            let params =
                CommandParams::parse(&task.params).map_err(|error| io::Error::other(error.to_string()))?;
            if params.is_direct() {
                let (guard, descendants) = (self.guard()?, self.descendants());
                return direct::start(task, params, reporter, guard, descendants, &self.metrics);
            }
            // Any other command is the child of a process of this program, which may be killed before it.
            guard = Some(self.guard()?);
            metrics = Some(self.metrics.add(&task, &reporter));
        }
        let threads = task.host.threads.to_string();
        let log = OpenOptions::new().create(true).append(true).open(&task.log)?;
        let job_file = task.out.with_file_name("job.json");
        let mut command = Process::new(&self.program);
        command
            .arg0("repro")
            .arg("step")
            .arg(&job_file)
            .env("RAYON_NUM_THREADS", &threads)
            .env("CANDLE_NUM_THREADS", &threads)
            // An error of a stage is a sentence for its user; a panic keeps what RUST_BACKTRACE says.
            .env("RUST_LIB_BACKTRACE", "0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .process_group(0);
        if let Some(gpus) = task.visible_gpus() {
            command.env("CUDA_VISIBLE_DEVICES", gpus);
        }
        let job = JobFile { task, parent: std::process::id() };
        std::fs::write(&job_file, serde_json::to_vec(&job)?)?;
        let descendants = self.descendants();
        let (mark, child) = descendants.marked(|| command.spawn());
        let mut child = child?;
        let pid = pid(&child)?;
        if let Some(guard) = &guard {
            guard.watch(pid);
        }
        descendants.add(pid);
        let group = Arc::new(Mutex::new(Some(pid)));
        let stdout = child.stdout.take();
        let watched = Arc::clone(&group);
        let listener = std::thread::spawn({
            let reporter = reporter.clone();
            move || stdout.and_then(|stdout| listen(BufReader::new(stdout), &reporter))
        });
        std::thread::spawn(move || {
            let status = wait(child, pid, &watched, &descendants, mark);
            if let Some(guard) = guard {
                guard.leave(pid);
            }
            let said = listener.join().ok().flatten();
            metrics.into_iter().for_each(PolledCommand::finish);
            reporter.send(Report::Ended(outcome_of(status, said)));
        });
        Ok(Box::new(Group(group)))
    }
}

/// Passes on what a child says; returns how it said it ended. A line that is no report (a library that prints)
/// is passed over.
fn listen(lines: impl BufRead, reporter: &Reporter) -> Option<Outcome> {
    let mut ended = None;
    for line in lines.split(b'\n') {
        match line.map(|line| serde_json::from_slice(&line)) {
            Ok(Ok(Report::Ended(outcome))) => ended = Some(outcome),
            Ok(Ok(report)) => reporter.send(report),
            Ok(Err(_)) => {}
            Err(_) => break,
        }
    }
    ended
}

/// How a step ended, from its exit and from what it said.
fn outcome_of(status: io::Result<ExitStatus>, said: Option<Outcome>) -> Outcome {
    match (status, said) {
        (Err(error), _) => Outcome::Failed(format!("it has not ended as a whole: {error}")),
        (Ok(status), said) => match (status.signal(), said) {
            (Some(signal), _) => Outcome::Failed(signal_text(signal)),
            (None, Some(outcome)) if status.success() || outcome != Outcome::Done => outcome,
            _ => Outcome::Failed(format!("its process ended early ({status})")),
        },
    }
}

fn signal_text(signal: i32) -> String {
    let what = match signal {
        2 => "SIGINT: interrupted",
        6 => "SIGABRT: it aborted",
        7 => "SIGBUS: a file it had mapped became shorter, or the disk failed",
        9 => {
            "SIGKILL: often the kernel, when memory runs out; try `-j 1`, or say in `needs` how much memory a step takes"
        }
        11 => "SIGSEGV: it touched memory that is not its own",
        15 => "SIGTERM: asked to end",
        _ => return format!("its process was killed by signal {signal}"),
    };
    format!("its process was killed by signal {signal} ({what})")
}
