//! Runs each step as a job of Slurm. The job runs this same program on a node, over a file system that both have,
//! and leaves at the step's desk what it reports and how it ended. What depends on what is known here alone: a step
//! is submitted once its inputs are there.
//!
//! A job is found again by its name, which is made of its desk's path. So a run that was killed loses nothing: the
//! next one finds the desk, and the job in the queue or its end at the desk. A job too many, submitted by a call whose answer got lost,
//! does no harm: it does not get the desk's token while another has it, and finds nothing to do afterwards.

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

/// Names of jobs begin so.
const PREFIX: &str = "repro-";
/// How many digits tell one desk from all others.
const DIGITS: usize = 24;

/// Steps as jobs, but those that the site keeps here.
pub struct Slurm {
    here: Subprocess,
    site: Site,
    program: PathBuf,
    orders: Sender<Order>,
}

impl Slurm {
    /// Jobs whose desks are in the store in `store`.
    ///
    /// # Errors
    /// A sentence: Slurm's commands are not there, or the store cannot take the program.
    pub fn new(store: &Path, site: Site) -> Result<Self, String> {
        queue::check()?;
        let program = kept_program(store)
            .map_err(|error| format!("this program cannot be put where the nodes find it: {error}"))?;
        let here = Subprocess::this_program().map_err(|error| error.to_string())?;
        let (orders, receiver) = channel();
        let watch = Watch::new(site.poll());
        std::thread::spawn(move || watch.run(&receiver));
        Ok(Self { here, site, program, orders })
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
            // A part of a GPU is a whole one to Slurm.
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
            return self.here.start(task, reporter);
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
        let gone = |_| io::Error::other("the thread that watches the queue ended");
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
        // Without a watch nobody waits for the job either.
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

/// The name of the job of a desk.
fn name(job_dir: &Path) -> String {
    let digest = Digest::of_bytes(job_dir.as_os_str().as_encoded_bytes()).to_string();
    format!("{PREFIX}{}", &digest[..DIGITS])
}

/// The task with paths that hold in every folder.
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

/// This program in the store. A copy, as a job may begin after the program's own file was built anew, and as both
/// sides must agree on what a stage does.
fn kept_program(store: &Path) -> io::Result<PathBuf> {
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
    fn jobs_of_two_desks_have_two_names_and_that_of_one_is_found_again() {
        assert_eq!(name(Path::new("/a/jobs/1")), name(Path::new("/a/jobs/1")));
        assert_ne!(name(Path::new("/a/jobs/1")), name(Path::new("/b/jobs/1")));
        assert!(name(Path::new("/a")).starts_with(PREFIX));
    }
}
