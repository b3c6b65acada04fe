//! What a run may use of the machine, as options: threads, memory, GPUs, and pools that it must leave alone.

use clap::Args;

use crate::pipeline::needs::size;
use crate::run::{ResourceLimits, machine};

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
    /// The limits as the engine takes them.
    pub fn limits(&self) -> ResourceLimits {
        ResourceLimits {
            jobs: self.jobs.map(usize::from),
            memory: self.memory,
            gpus: self.gpus.clone().map(|GpuList(ids)| ids),
            deny_pools: self.deny_pool.clone(),
        }
    }
}
