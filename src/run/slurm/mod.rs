//! Runs each step as a Slurm job. The job runs this same program on a node, over a shared file system, and writes
//! reports and the outcome to its job directory. Only this process knows the graph: it submits a step when its inputs
//! are present.
//!
//! The name of a job is derived from the path of its job directory. So a run that was killed loses nothing: the next
//! one finds the job in the queue, or the outcome in the job directory. A surplus job, submitted by a call whose
//! answer was lost, is harmless: it cannot take the job lock while another has it, and afterwards it finds no work.

mod job;
mod job_files;
mod queue;
mod site;
mod watch;

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf, absolute};
use std::sync::mpsc::{Sender, channel};

use stage_api::{Input, Inputs};

pub use job::work_at;
pub use site::{Rule, Site};

use self::queue::Submission;
use self::watch::{Job, Order, Watch};
use super::executor::{Executor, Reporter, Running, Task};
use super::subprocess::Subprocess;
use crate::digest::Digest;

/// The prefix of the names of jobs.
const NAME_PREFIX: &str = "repro-";
/// The number of digits that identify a job directory.
const NAME_DIGITS: usize = 24;

/// Runs steps as jobs, except those that the site file keeps on this machine.
pub struct Slurm {
    local: Subprocess,
    site: Site,
    program: PathBuf,
    orders: Sender<Order>,
}

impl Slurm {
    /// An executor for jobs whose directories are in the store in `store`.
    ///
    /// # Errors
    /// A message: Slurm's commands are missing, or the program cannot be copied to the store.
    pub fn new(store: &Path, site: Site) -> Result<Self, String> {
        queue::check()?;
        let program = copied_program(store)
            .map_err(|error| format!("cannot copy this program into the cache for the nodes: {error}"))?;
        let local = Subprocess::this_program().map_err(|error| error.to_string())?;
        let (orders, receiver) = channel();
        let watch = Watch::new(site.poll());
        std::thread::spawn(move || watch.run(&receiver));
        Ok(Self { local, site, program, orders })
    }

    fn submission(&self, job_dir: &Path, task: &Task) -> Submission {
        let rule = self.site.rule(&task.stage, &task.step);
        let needs = &task.needs;
        let mut options = vec![
            format!("--chdir={}", job_dir.display()),
            format!("--output={}", job_dir.join(job_files::OUTPUT).display()),
            "--open-mode=append".to_owned(),
            "--requeue".to_owned(),
            "--nodes=1".to_owned(),
            "--ntasks=1".to_owned(),
            format!("--cpus-per-task={}", needs.cpu),
        ];
        let memory = Some(needs.memory).filter(|memory| *memory > 0).or(rule.memory);
        options.extend(memory.map(|bytes| format!("--mem={}M", bytes.div_ceil(1 << 20))));
        if needs.has_gpu() {
            // Slurm allocates whole GPUs.
            options.push(format!("--gres=gpu:{}", needs.gpu.whole().max(1)));
        }
        options.extend(rule.partition.map(|partition| format!("--partition={partition}")));
        options.extend(rule.time.map(|time| format!("--time={time}")));
        options.extend(rule.flags);
        let quoted = |path: &Path| format!("'{}'", path.display().to_string().replace('\'', r"'\''"));
        let script = format!("#!/bin/sh\nexec {} job {}\n", quoted(&self.program), quoted(job_dir));
        Submission { name: name(job_dir), options, script }
    }
}

impl Executor for Slurm {
    fn start(&self, task: Task, reporter: Reporter) -> io::Result<Box<dyn Running>> {
        if self.site.is_here(&task.stage, &task.step) {
            return self.local.start(task, reporter);
        }
        let task = located(task)?;
        let job_dir = task.out.parent().map(Path::to_owned).unwrap_or_default();
        let left = job_files::has_task(&job_dir);
        if !left {
            job_files::put_task(&job_dir, &task)?;
        }
        let submission = self.submission(&job_dir, &task);
        let handle = Handle { name: submission.name.clone(), orders: self.orders.clone() };
        let job = Box::new(Job::new(job_dir, submission, reporter, left));
        let gone = |_| io::Error::other("the thread that watches the queue has ended");
        self.orders.send(Order::Watch(job)).map_err(gone)?;
        Ok(Box::new(handle))
    }
}

/// A submitted step.
struct Handle {
    name: String,
    orders: Sender<Order>,
}

impl Handle {
    fn order(&self, at_once: bool) {
        // If the thread has ended, it does not watch the job either.
        let _ = self.orders.send(Order::Stop { name: self.name.clone(), at_once });
    }
}

impl Running for Handle {
    fn stop(&self) {
        self.order(false);
    }
    fn kill(&self) {
        self.order(true);
    }
}

/// The name of the job of a job directory.
fn name(job_dir: &Path) -> String {
    let digest = Digest::of_bytes(job_dir.as_os_str().as_encoded_bytes()).to_string();
    format!("{NAME_PREFIX}{}", &digest[..NAME_DIGITS])
}

/// The task with absolute paths.
fn located(task: Task) -> io::Result<Task> {
    let input = |input: Input| Ok(Input { path: absolute(&input.path)?, ..input });
    Ok(Task {
        inputs: Inputs(task.inputs.0.into_iter().map(input).collect::<io::Result<_>>()?),
        out: absolute(&task.out)?,
        scratch: absolute(&task.scratch)?,
        folder: absolute(&task.folder)?,
        log: absolute(&task.log)?,
        ..task
    })
}

/// The copy of this program in the store. A job may start after the original file was rebuilt, and both sides must
/// have the same stages.
fn copied_program(store: &Path) -> io::Result<PathBuf> {
    let own = if cfg!(target_os = "linux") { "/proc/self/exe".into() } else { std::env::current_exe()? };
    let folder = absolute(store)?.join("programs");
    let kept = folder.join(Digest::of_file(&own)?.short());
    if !kept.exists() {
        fs::create_dir_all(&folder)?;
        let file = tempfile::NamedTempFile::new_in(&folder)?;
        fs::copy(&own, file.path())?;
        file.as_file().set_permissions(fs::Permissions::from_mode(0o755))?;
        file.as_file().sync_all()?;
        file.persist(&kept).map_err(|error| error.error)?;
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_job_is_stable_and_unique_per_job_directory() {
        assert_eq!(name(Path::new("/a/jobs/1")), name(Path::new("/a/jobs/1")));
        assert_ne!(name(Path::new("/a/jobs/1")), name(Path::new("/b/jobs/1")));
        assert!(name(Path::new("/a")).starts_with(NAME_PREFIX));
    }
}
