//! The resources of the machine and their allocation: CPU threads, memory, GPUs, declared pools. Nothing is allocated
//! twice.

use std::borrow::Cow;
use std::collections::BTreeMap;

use stage_api::Stage;

use super::slurm::Site;
use crate::command::Command;
use crate::pipeline::Step;
use crate::pipeline::needs::{Gpus, Needs, bytes};

/// The total resources, or the free ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resources {
    /// CPU threads of all running steps together.
    pub cpus: usize,
    /// Memory in bytes of all running steps together, as far as they declare it.
    pub memory: u64,
    /// GPUs; empty on a machine without any.
    pub gpus: Vec<Gpu>,
    /// Whether only programs (`command` steps) get GPUs. This build computes nothing on them and no option requests
    /// it, so its own stages would only wait for each other.
    pub gpus_for_programs: bool,
    /// The sizes of the pools that the pipeline declares.
    pub pools: BTreeMap<String, usize>,
    /// The cluster, if steps run there.
    pub cluster: Option<Cluster>,
}

/// A cluster. It allocates the resources of its machines itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// Limit of jobs, waiting or running.
    pub jobs: usize,
    /// The site file; only the steps that stay on this machine matter here.
    pub site: Site,
}

/// A GPU and its free share, in thousandths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    /// Its name in `CUDA_VISIBLE_DEVICES`: a number, `GPU-…` or `MIG-…`.
    pub id: String,
    /// The free share, or the allocated one.
    pub thousandths: u32,
    /// Its memory in bytes, if it is known.
    pub memory: Option<u64>,
}

impl Gpu {
    /// A whole GPU.
    pub fn whole(id: impl Into<String>) -> Self {
        Self { id: id.into(), thousandths: Gpus::ONE, memory: None }
    }

    /// The share, in thousandths, for a step that needs this much of its memory: all of it if its memory is unknown,
    /// `None` if it has less.
    fn part(&self, memory: u64) -> Option<u32> {
        let Some(total) = self.memory else { return Some(Gpus::ONE) };
        let part = (u128::from(memory) * u128::from(Gpus::ONE)).div_ceil(u128::from(total.max(1)));
        u32::try_from(part).ok().filter(|part| *part <= Gpus::ONE)
    }
}

/// The allocation of a running step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allocation {
    /// CPU threads.
    pub threads: usize,
    /// Memory in bytes.
    pub memory: u64,
    /// GPUs with the allocated shares.
    pub gpus: Vec<Gpu>,
    /// Amounts of declared pools.
    pub pools: BTreeMap<String, usize>,
    /// Whether it is a job on the cluster, which allocates the rest.
    pub is_job: bool,
}

/// The name of the device for a step with or without a GPU. A step sees only its own GPUs, so the first one has
/// number 0. A build that cannot compute on GPUs still allocates them, because the program of a step may use them.
pub(super) fn device(has_gpu: bool) -> &'static str {
    match has_gpu {
        true if cfg!(feature = "metal") => "metal:0",
        true if cfg!(feature = "cuda") => "cuda:0",
        _ => "cpu",
    }
}

impl Allocation {
    /// The name of the device. A job determines it on its node.
    pub fn device(&self) -> &'static str {
        if self.is_job { "slurm" } else { device(!self.gpus.is_empty()) }
    }

    /// The GPUs as `CUDA_VISIBLE_DEVICES` lists them.
    pub fn gpu_ids(&self) -> Vec<String> {
        self.gpus.iter().map(|gpu| gpu.id.clone()).collect()
    }
}

impl Resources {
    /// Whether a step goes to the cluster.
    pub fn is_remote(&self, step: &Step) -> bool {
        self.cluster.as_ref().is_some_and(|cluster| !cluster.site.is_here(&step.stage, &step.name))
    }

    /// The reason why a step can never run, as far as this machine knows; a cluster reports its own limits.
    pub fn refuses_step(&self, step: &Step) -> Option<String> {
        if self.is_remote(step) { None } else { self.refuses(&self.needs_of(step)) }
    }

    /// Allocates what a step needs where it runs, if it is free. `of` holds the total resources.
    pub fn acquire_for(&mut self, step: &Step, of: &Self) -> Option<Allocation> {
        let needs = of.needs_of(step);
        if of.is_remote(step) { self.acquire_job(&needs) } else { self.acquire(&needs, of) }
    }

    /// Whether no step can start until another ends: every step takes a thread, or a job.
    pub fn is_full(&self) -> bool {
        match &self.cluster {
            Some(cluster) => cluster.jobs == 0 && (self.cpus == 0 || !cluster.site.keeps_some()),
            None => self.cpus == 0,
        }
    }

    /// The reason why a step can never run here: it needs more than the total. A step with too many threads gets all
    /// of them, and without any GPU a step runs on the CPU.
    pub fn refuses(&self, needs: &Needs) -> Option<String> {
        if needs.memory > self.memory {
            let (needed, total) = (bytes(needs.memory), bytes(self.memory));
            return Some(format!("it needs {needed} of memory; the limit here is {total}"));
        }
        if !self.gpus.is_empty() && needs.gpu.whole() > self.gpus.len() {
            let ids: Vec<&str> = self.gpus.iter().map(|gpu| gpu.id.as_str()).collect();
            let (needed, number) = (needs.gpu, ids.len());
            return Some(format!(
                "it needs {needed} GPUs, but this machine has {number} ({})",
                ids.join(", ")
            ));
        }
        if needs.gpu_memory > 0
            && !self.gpus.is_empty()
            && self.gpus.iter().all(|gpu| gpu.part(needs.gpu_memory).is_none())
        {
            let largest = self.gpus.iter().filter_map(|gpu| gpu.memory).max().unwrap_or(0);
            let (needed, largest) = (bytes(needs.gpu_memory), bytes(largest));
            return Some(format!("it needs {needed} of a GPU's memory; the largest GPU here has {largest}"));
        }
        let short = |(pool, needed): (&String, &usize)| {
            let places = self.pools.get(pool).copied().unwrap_or(0);
            (*needed > places).then(|| format!("it needs {needed} of pool `{pool}`, which has size {places}"))
        };
        needs.pools.iter().find_map(short)
    }

    /// What a step takes here: its needs, without a GPU that it could not use.
    pub fn needs_of<'a>(&self, step: &'a Step) -> Cow<'a, Needs> {
        if self.gpus_for_programs && step.stage != Command::NAME && step.needs.has_gpu() {
            Cow::Owned(Needs { gpu: Gpus::default(), gpu_memory: 0, ..step.needs.clone() })
        } else {
            Cow::Borrowed(&step.needs)
        }
    }

    /// Allocates what a step needs, if it is free. `of` holds the total: a step with more threads than that gets all
    /// of them. Without any GPU, a step runs on the CPU.
    pub fn acquire(&mut self, needs: &Needs, of: &Self) -> Option<Allocation> {
        let threads = needs.cpu.clamp(1, of.cpus);
        if threads > self.cpus || needs.memory > self.memory || !self.has_places(needs) {
            return None;
        }
        let gpus = if of.gpus.is_empty() { Vec::new() } else { self.pick(needs)? };
        self.cpus -= threads;
        self.memory -= needs.memory;
        self.take_places(needs);
        for taken in &gpus {
            if let Some(gpu) = self.gpus.iter_mut().find(|gpu| gpu.id == taken.id) {
                gpu.thousandths -= taken.thousandths;
            }
        }
        Some(Allocation { threads, memory: needs.memory, gpus, pools: needs.pools.clone(), is_job: false })
    }

    /// Allocates a job and amounts of declared pools.
    fn acquire_job(&mut self, needs: &Needs) -> Option<Allocation> {
        if !self.has_places(needs) {
            return None;
        }
        let cluster = self.cluster.as_mut().filter(|cluster| cluster.jobs > 0)?;
        cluster.jobs -= 1;
        self.take_places(needs);
        let pools = needs.pools.clone();
        Some(Allocation { threads: needs.cpu, memory: needs.memory, gpus: Vec::new(), pools, is_job: true })
    }

    fn has_places(&self, needs: &Needs) -> bool {
        needs.pools.iter().all(|(pool, needed)| *needed <= self.pools.get(pool).copied().unwrap_or(0))
    }

    fn take_places(&mut self, needs: &Needs) {
        for (pool, needed) in &needs.pools {
            if let Some(places) = self.pools.get_mut(pool) {
                *places -= needed;
            }
        }
    }

    /// The first free GPUs. For a part of one, the fullest GPU that has room, so that whole ones stay free.
    fn pick(&self, needs: &Needs) -> Option<Vec<Gpu>> {
        let whole = needs.gpu.whole();
        if whole > 0 || !needs.has_gpu() {
            let free = self.gpus.iter().filter(|gpu| gpu.thousandths == Gpus::ONE);
            let picked: Vec<Gpu> = free.take(whole).cloned().collect();
            return (picked.len() == whole).then_some(picked);
        }
        let part = |gpu: &Gpu| match needs.gpu_memory {
            0 => Some(needs.gpu.share()),
            memory => gpu.part(memory),
        };
        let fits = self
            .gpus
            .iter()
            .filter_map(|gpu| Some((gpu, part(gpu).filter(|part| *part <= gpu.thousandths)?)));
        let (gpu, thousandths) = fits.min_by_key(|(gpu, _)| gpu.thousandths)?;
        Some(vec![Gpu { thousandths, ..gpu.clone() }])
    }

    /// Releases the allocation of a step.
    pub fn release(&mut self, allocation: Allocation) {
        match &mut self.cluster {
            Some(cluster) if allocation.is_job => cluster.jobs += 1,
            _ => {
                self.cpus += allocation.threads;
                self.memory += allocation.memory;
            }
        }
        for (pool, places) in allocation.pools {
            *self.pools.entry(pool).or_default() += places;
        }
        for back in allocation.gpus {
            if let Some(gpu) = self.gpus.iter_mut().find(|gpu| gpu.id == back.id) {
                gpu.thousandths += back.thousandths;
            }
        }
    }
}
