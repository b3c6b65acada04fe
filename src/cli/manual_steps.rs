//! Manual steps (licences, downloads), checked before anything runs: all steps that must run are checked, so that all of it is
//! said on one screen.

use stage_api::{AllowedEnv, Registry, secrets};

use super::Global;
use super::console;
use super::context::Context;
use super::error::CliError;
use crate::plan::{Plan, Verdict};
use crate::run::{Event, Failure};

/// The needed steps that a person must do something for first.
pub fn failures(context: &Context, plan: &Plan, registry: &Registry) -> Vec<Failure> {
    let must_run = plan.needed().filter(|node| *plan.verdict(*node) != Verdict::Fresh);
    let steps = must_run.map(|node| &context.pipeline.graph[node]);
    steps
        .filter_map(|step| {
            let stage = registry.get(&step.stage)?;
            let ports: Vec<&str> = step.inputs.iter().map(|input| input.port.as_str()).collect();
            let allowed_env = AllowedEnv::select(stage.allowed_env(), std::env::vars_os());
            let problem = stage.load(&step.params).ok()?.needs_human(&ports, &allowed_env)?;
            let problem = secrets::shown(&problem);
            Some(Failure { step: step.name.clone(), problem, log: None, needs_human: true })
        })
        .collect()
}

/// Tells all of it, and how to go on then.
pub fn tell(global: &Global, targets: &[String], failures: &[Failure]) -> Result<(), CliError> {
    if global.json {
        let mut observer = console::observer(true);
        for failure in failures {
            observer.on(&Event::Failed { step: &failure.step, problem: &failure.problem });
        }
    }
    failures.iter().for_each(tell_one);
    tell_how_to_go_on(targets);
    print_err!("hint: with -k, all that does not wait for you is done first");
    Ok(())
}

/// Tells what one step asks for.
pub fn tell_one(failure: &Failure) {
    print_err!("error: step `{}` needs you: {}", failure.step, failure.problem.replace('\n', "\n  "));
}

/// Tells which command to go on with.
pub fn tell_how_to_go_on(targets: &[String]) {
    let targets: String = targets.iter().map(|target| format!(" {target}")).collect();
    print_err!("hint: then go on with `repro make{targets}`");
}
