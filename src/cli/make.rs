//! `repro make`.

use std::io;
use std::process::ExitCode;
use std::time::Instant;

use clap::Args;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use stage_api::Registry;

use super::after_run::AfterRun;
use super::console::Console;
use super::dry_run::dry_run;
use super::error::CliError;
use super::executor_args::ExecutorArgs;
use super::remote_args::RemoteArgs;
use super::resource_args::ResourceArgs;
use super::{Global, make_summary};
use crate::make::{MakeOptions, MakeRequest, StopHandle, make};
use crate::run::Backend;

/// Run the stale steps of targets and publish the reports.
#[derive(Args)]
pub struct Make {
    /// Targets or steps. Default: `all`.
    targets: Vec<String>,
    /// Another target or step, in addition to those given or to `all`.
    #[arg(long, value_name = "TARGET")]
    with: Vec<String>,
    #[command(flatten)]
    resource_args: ResourceArgs,
    #[command(flatten)]
    remote_args: RemoteArgs,
    #[command(flatten)]
    executor: ExecutorArgs,
    /// After a failure, continue with steps that do not depend on the failed one.
    #[arg(short, long)]
    keep_going: bool,
    /// Fail instead of waiting for steps that another process runs.
    #[arg(long)]
    no_wait: bool,
    /// Print what would run, why, and the estimated time, and run nothing.
    #[arg(long)]
    dry_run: bool,
    /// Do not write the reports; exit with code 4 if they differ from the current results.
    #[arg(long, conflicts_with = "dry_run")]
    check: bool,
    /// Run this step even if it is fresh.
    #[arg(long, value_name = "STEP")]
    force: Vec<String>,
    #[command(flatten)]
    after_run: AfterRun,
}

impl Make {
    pub fn run(&self, global: &Global, registry: &Registry) -> Result<ExitCode, CliError> {
        let since = Instant::now();
        let project = global.project(registry)?;
        let request = MakeRequest { targets: self.requested(), force: self.force.clone() };
        let backend = self.executor.backend()?;
        // A closed terminal ends local steps. Jobs of a cluster outlive it, and the next run finds them.
        let jobs_outlive = matches!(backend, Backend::Slurm(_));
        let options = MakeOptions {
            limits: self.resource_args.limits(),
            backend,
            remote: self.remote_args.address(),
            keep_going: self.keep_going,
            no_wait: self.no_wait,
            check: self.check,
            on_start: Some(&|handle| stop_on_signals(handle, jobs_outlive)),
        };
        if self.dry_run {
            return dry_run(global, &project, &request, &options);
        }
        let done = make(&project, &request, &options, &mut Console::new(global.json));
        let after = (!self.after_run.is_empty())
            .then(|| make_summary::for_commands(&project, &request, &done, since));
        let ended = match done {
            Ok(summary) => make_summary::print(global, &project, &request, &summary, since),
            Err(error) => make_summary::print_error(global, &request, error),
        };
        if let Some((summary, is_complete)) = after {
            self.after_run.run(project.root(), &summary, !is_complete);
        }
        ended
    }

    /// The names of what to bring up to date.
    fn requested(&self) -> Vec<String> {
        let all = (self.targets.is_empty() && !self.with.is_empty()).then(|| "all".to_owned());
        all.iter().chain(&self.targets).chain(&self.with).cloned().collect()
    }
}

/// From here on, signals stop the run.
pub fn stop_on_signals(handle: StopHandle, jobs_outlive: bool) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    if !jobs_outlive {
        signals.add_signal(SIGHUP)?;
    }
    std::thread::spawn(move || {
        for _ in signals.forever() {
            if !handle.stop() {
                return;
            }
        }
    });
    Ok(())
}
