//! What a run may use of the machine, as options: threads, memory, GPUs, and pools that it must leave alone.

use clap::Args;

use crate::pipeline::needs::size;
use crate::run::{ResourceLimits, machine};

/// Options that bound what running steps use.
#[derive(Args, Clone, Default)]
pub struct Limits {
    /// CPU threads that running steps may use together; as many as there are cores by default. On a cluster: jobs
    /// that may be there at one time; 100 by default.
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
    /// Memory that running steps may use together, by what they say they need (`24 GiB`); all by default.
    #[arg(long, value_name = "SIZE", value_parser = size)]
    memory: Option<u64>,
    /// GPUs to hand out, as CUDA_VISIBLE_DEVICES names them (`0,1`), or `none`; all that are found by default.
    #[arg(long, value_name = "LIST", value_parser = gpu_list)]
    gpus: Option<GpuList>,
    /// Refuse to begin (exit code 4) when a step that needs this pool (`gpu`, or a declared one) must or may run.
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

impl Limits {
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
