//! What a person lets a run use: threads, memory, GPUs, and pools that it must leave alone. Of that and of the machine
//! follows what may be in use at one time.

use std::collections::BTreeMap;

use petgraph::graph::NodeIndex;

use super::machine;
use super::resources::{Cluster, Gpu, Resources};
use super::slurm::Site;
use crate::pipeline::needs::BUILT_IN_POOLS;
use crate::pipeline::{Pipeline, Step, nearest};
use crate::plan::{Plan, Verdict};

/// Jobs that are on a cluster at one time by default: schedulers limit what one person may queue.
const DEFAULT_JOBS: usize = 100;

/// What a person lets a run use.
#[derive(Debug, Clone, Default)]
pub struct ResourceLimits {
    /// Threads of all running steps together, or jobs on a cluster; by default all cores, or 100 jobs.
    pub jobs: Option<usize>,
    /// Memory in bytes of all running steps together; by default all there is.
    pub memory: Option<u64>,
    /// GPUs to hand out, as `CUDA_VISIBLE_DEVICES` names them; by default all that are found.
    pub gpus: Option<Vec<String>>,
    /// Pools whose steps must be fresh.
    pub deny_pools: Vec<String>,
}

/// Limits that cannot be kept.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct LimitError {
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

impl ResourceLimits {
    /// What may be in use at one time: of this machine, or of the cluster `site`.
    ///
    /// # Errors
    /// When a GPU is named that `CUDA_VISIBLE_DEVICES` does not allow.
    pub fn resources(&self, pipeline: &Pipeline, site: Option<&Site>) -> Result<Resources, LimitError> {
        let gpus = match &self.gpus {
            Some(named) => {
                if let Some(allowed) = machine::allowed_gpus()
                    && let Some(other) = named.iter().find(|id| !allowed.contains(id))
                {
                    let allowed = if allowed.is_empty() { "none".to_owned() } else { allowed.join(",") };
                    return Err(LimitError {
                        message: format!("--gpus: CUDA_VISIBLE_DEVICES does not allow `{other}`"),
                        hint: Some(format!("it allows {allowed}; name some of these, or unset it")),
                    });
                }
                named.clone()
            }
            None => machine::gpus(),
        };
        let computes = cfg!(any(feature = "cuda", feature = "metal"));
        let gpus_for_programs = !computes && self.gpus.is_none() && machine::allowed_gpus().is_none();
        // Asking takes a while, and most pipelines need not know.
        let asks = |step: &Step| step.needs.gpu_memory > 0;
        let memory = match !gpus.is_empty() && pipeline.graph.node_weights().any(asks) {
            true => machine::gpu_memory(),
            false => BTreeMap::new(),
        };
        let gpu = |id: String| Gpu { memory: memory.get(&id).copied(), ..Gpu::whole(id) };
        Ok(Resources {
            cpus: self.jobs.filter(|_| site.is_none()).unwrap_or_else(machine::cpus),
            memory: self.memory.unwrap_or_else(machine::memory),
            gpus: gpus.into_iter().map(gpu).collect(),
            gpus_for_programs,
            pools: pipeline.pools.clone(),
            cluster: site.map(|site| Cluster { jobs: self.jobs.unwrap_or(DEFAULT_JOBS), site: site.clone() }),
        })
    }

    /// Refuses denied pools that the pipeline does not have.
    ///
    /// # Errors
    /// When there is such a one.
    pub fn check_pools(&self, pipeline: &Pipeline) -> Result<(), LimitError> {
        let known = || BUILT_IN_POOLS.into_iter().chain(pipeline.pools.keys().map(String::as_str));
        match self.deny_pools.iter().find(|pool| known().all(|name| name != *pool)) {
            Some(pool) => Err(LimitError {
                message: format!("--deny-pool: {} has no pool `{pool}`", pipeline.file.display()),
                hint: nearest(pool, known()),
            }),
            None => Ok(()),
        }
    }

    /// The first denied pool that a step which must or may run needs, with all such steps.
    pub fn denied(&self, pipeline: &Pipeline, plan: &Plan) -> Option<(&str, Vec<NodeIndex>)> {
        self.deny_pools.iter().find_map(|pool| {
            let steps: Vec<NodeIndex> =
                not_fresh(plan).filter(|node| pipeline.graph[*node].needs.uses(pool)).collect();
            (!steps.is_empty()).then_some((pool.as_str(), steps))
        })
    }
}

impl Resources {
    /// Refuses, before anything runs, a plan that this machine can never carry out.
    ///
    /// # Errors
    /// When a step asks for more than there is.
    pub fn check_plan(&self, pipeline: &Pipeline, plan: &Plan) -> Result<(), LimitError> {
        for node in not_fresh(plan) {
            let step = &pipeline.graph[node];
            if let Some(problem) = self.refuses_step(step) {
                let file = pipeline.file_of(step);
                return Err(LimitError {
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
}

fn not_fresh(plan: &Plan) -> impl Iterator<Item = NodeIndex> {
    plan.needed().filter(|node| *plan.verdict(*node) != Verdict::Fresh)
}
