//! What a run may use of the machine, as options: threads, memory, GPUs, and pools that it must leave alone.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use petgraph::graph::NodeIndex;

use super::context::Context;
use super::error::CliError;
use super::{Global, print_line};
use crate::pipeline::needs::{BUILT_IN_POOLS, size};
use crate::pipeline::{Step, nearest};
use crate::plan::{Plan, Verdict};
use crate::run::{Cluster, Gpu, Resources, Site, machine};

/// Default number of jobs on a cluster at a time: schedulers limit how many one user may queue.
const MOST_JOBS: usize = 100;

/// Options that bound what running steps use.
#[derive(Args, Clone, Default)]
pub struct ResourceArgs {
    /// CPU threads for all running steps together. Default: the number of cores. On a cluster: jobs at a time, default 100.
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
    /// Memory for all running steps together, by their declared needs (`24 GiB`). Default: all.
    #[arg(long, value_name = "SIZE", value_parser = size)]
    memory: Option<u64>,
    /// GPUs to use, as CUDA_VISIBLE_DEVICES names them (`0,1`), or `none`. Default: all that are found.
    #[arg(long, value_name = "LIST", value_parser = gpu_list)]
    gpus: Option<GpuList>,
    /// Exit with code 4 before the first step if a step that needs this pool (`gpu` or a declared one) may run.
    #[arg(long, value_name = "POOL")]
    deny_pool: Vec<String>,
}

#[derive(Clone)]
struct GpuList(Vec<String>);

fn gpu_list(text: &str) -> Result<GpuList, String> {
    if text == "none" {
        return Ok(GpuList(Vec::new()));
    }
    let mut found: Vec<String> = Vec::new();
    for id in text.split(',').map(str::trim) {
        if !machine::is_gpu_id(id) {
            return Err(format!("`{id}` names no GPU: a number, GPU-…, MIG-…, or `none` alone"));
        }
        if found.iter().any(|other| other == id) {
            return Err(format!("`{id}` is named twice"));
        }
        found.push(id.to_owned());
    }
    Ok(GpuList(found))
}

impl ResourceArgs {
    /// Whether pools are named, which only the pipeline knows.
    pub fn names_pools(&self) -> bool {
        !self.deny_pool.is_empty()
    }

    /// What may be in use at one time: of this machine, or, where steps go to a cluster, of that; then `--jobs`
    /// says how many may be there.
    pub fn resources(&self, context: &Context, site: Option<Site>) -> Result<Resources, CliError> {
        let gpus = match &self.gpus {
            Some(GpuList(wanted)) => {
                if let Some(allowed) = machine::allowed_gpus()
                    && let Some(outside) = wanted.iter().find(|id| !allowed.contains(id))
                {
                    let allowed = if allowed.is_empty() { "none".to_owned() } else { allowed.join(",") };
                    return Err(CliError::Usage {
                        message: format!("--gpus: CUDA_VISIBLE_DEVICES does not allow `{outside}`"),
                        hint: Some(format!("it allows {allowed}; name some of these, or unset it")),
                    });
                }
                wanted.clone()
            }
            None => machine::gpus(),
        };
        let computes = cfg!(any(feature = "cuda", feature = "metal"));
        let gpus_for_programs = !computes && self.gpus.is_none() && machine::allowed_gpus().is_none();
        // Asking takes a while, and most pipelines need not know.
        let asks = |step: &Step| step.needs.gpu_memory > 0;
        let memory = match !gpus.is_empty() && context.pipeline.graph.node_weights().any(asks) {
            true => machine::gpu_memory(),
            false => BTreeMap::new(),
        };
        let gpu = |id: String| Gpu { memory: memory.get(&id).copied(), ..Gpu::whole(id) };
        Ok(Resources {
            cpus: self.jobs.filter(|_| site.is_none()).map_or_else(machine::cpus, usize::from),
            memory: self.memory.unwrap_or_else(machine::memory),
            gpus: gpus.into_iter().map(gpu).collect(),
            gpus_for_programs,
            pools: context.pipeline.pools.clone(),
            cluster: site.map(|site| Cluster { jobs: self.jobs.map_or(MOST_JOBS, usize::from), site }),
        })
    }

    /// Refuses names of pools that are none.
    pub fn check(&self, context: &Context) -> Result<(), CliError> {
        let known = || BUILT_IN_POOLS.into_iter().chain(context.pipeline.pools.keys().map(String::as_str));
        match self.deny_pool.iter().find(|pool| known().all(|name| name != *pool)) {
            Some(pool) => Err(CliError::Usage {
                message: format!("--deny-pool: {} has no pool `{pool}`", context.pipeline.file.display()),
                hint: nearest(pool, known()),
            }),
            None => Ok(()),
        }
    }

    /// Refuses, before anything runs, a plan that this machine can never carry out.
    pub fn refuse_impossible(
        &self,
        context: &Context,
        plan: &Plan,
        resources: &Resources,
    ) -> Result<(), CliError> {
        for node in plan.needed().filter(|node| *plan.verdict(*node) != Verdict::Fresh) {
            let step = &context.pipeline.graph[node];
            if let Some(problem) = resources.refuses_step(step) {
                let file = context.pipeline.file_of(step);
                return Err(CliError::Usage {
                    message: format!("{}:{}: step `{}`: {problem}", file.display(), step.line, step.name),
                    hint: Some(
                        "run it on a larger machine, lower its `needs`, or say with --memory or --gpus what there is"
                            .to_owned(),
                    ),
                });
            }
        }
        Ok(())
    }

    /// The exit code of a refused run, after printing the reason: a step that must or may run needs a
    /// pool that is denied.
    pub fn denied(
        &self,
        global: &Global,
        context: &Context,
        plan: &Plan,
        reason: impl Fn(NodeIndex) -> String,
    ) -> Result<Option<ExitCode>, CliError> {
        for pool in &self.deny_pool {
            let stale = plan.needed().filter(|node| *plan.verdict(*node) != Verdict::Fresh);
            let steps: Vec<_> = stale.filter(|node| context.pipeline.graph[*node].needs.uses(pool)).collect();
            if steps.is_empty() {
                continue;
            }
            let name = |node: NodeIndex| context.pipeline.graph[node].name.as_str();
            if global.json {
                let steps: Vec<_> =
                    steps.iter().map(|node| json!({"step": name(*node), "reason": reason(*node)})).collect();
                print_line(&json!({"event": "denied", "pool": pool, "steps": steps}))?;
            }
            print_err!(
                "error: --deny-pool {pool}: {}",
                match steps.len() {
                    1 => "1 step that needs it is not fresh".to_owned(),
                    number => format!("{number} steps that need it are not fresh"),
                }
            );
            for node in &steps {
                print_err!("  `{}`: {}", name(*node), reason(*node));
            }
            print_err!(
                "hint: run them where that pool may be used and renew the evidence, or `repro accept` what did not \
                 change the result"
            );
            return Ok(Some(ExitCode::from(4)));
        }
        Ok(None)
    }
}
