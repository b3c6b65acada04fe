//! What the machine offers, and which of it is taken: CPU threads, memory, GPUs, places in declared pools. What
//! is handed out is never handed out twice.

use std::borrow::Cow;
use std::collections::BTreeMap;

use stage_api::Stage;

use super::slurm::Site;
use crate::command::Command;
use crate::pipeline::Step;
use crate::pipeline::needs::{Gpus, Needs, bytes};

/// What may be in use at one time, or what is left of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resources {
    /// CPU threads of all running steps together.
    pub cpus: usize,
    /// Memory in bytes of all running steps together, as far as they say what they need.
    pub memory: u64,
    /// GPUs. None on a machine without any.
    pub gpus: Vec<Gpu>,
    /// Whether only programs (`command` steps) get GPUs, as this build computes nothing on them and nobody asked
    /// for more: its own stages would only wait for each other.
    pub gpus_for_programs: bool,
    /// Places in the pools that the pipeline declares.
    pub pools: BTreeMap<String, usize>,
    /// The cluster beside this machine, if steps go there.
    pub cluster: Option<Cluster>,
}

/// A cluster, which has machines of its own and shares them out itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// Jobs that may be there at one time, waiting or running.
    pub jobs: usize,
    /// What is said of it; here it counts which steps do not go there.
    pub site: Site,
}

/// A GPU and how much of it is free, in thousandths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    /// As `CUDA_VISIBLE_DEVICES` names it: a number, `GPU-…` or `MIG-…`.
    pub id: String,
    /// What of it is free, or, of a share, what is taken.
    pub thousandths: u32,
    /// Its memory in bytes, where that is known.
    pub memory: Option<u64>,
}

impl Gpu {
    /// A whole one.
    pub fn whole(id: impl Into<String>) -> Self {
        Self { id: id.into(), thousandths: Gpus::ONE, memory: None }
    }

    /// What a step that needs so much of its memory takes of it, in thousandths: all of one whose memory is not
    /// known, `None` of one that has less.
    fn part(&self, memory: u64) -> Option<u32> {
        let Some(total) = self.memory else { return Some(Gpus::ONE) };
        let part = (u128::from(memory) * u128::from(Gpus::ONE)).div_ceil(u128::from(total.max(1)));
        u32::try_from(part).ok().filter(|part| *part <= Gpus::ONE)
    }
}

/// What a running step was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allocation {
    /// CPU threads.
    pub threads: usize,
    /// Memory in bytes.
    pub memory: u64,
    /// GPUs, with what was taken of each.
    pub gpus: Vec<Gpu>,
    /// Places in declared pools.
    pub pools: BTreeMap<String, usize>,
    /// Whether it is a job on the cluster, where it gets the rest.
    pub is_job: bool,
}

/// The device as a stage names it, of a step that has a GPU or not. A step sees only its own GPUs, so the first one is
/// number 0 to it. A build that cannot compute on GPUs still hands them out: the program of a step may.
pub(super) fn device(has_gpu: bool) -> &'static str {
    match has_gpu {
        true if cfg!(feature = "metal") => "metal:0",
        true if cfg!(feature = "cuda") => "cuda:0",
        _ => "cpu",
    }
}

impl Allocation {
    /// The device as a stage names it; of a job, where it is found.
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

    /// Why a step can never run, whatever ends before, as far as this machine knows: what a cluster has, it says.
    pub fn refuses_step(&self, step: &Step) -> Option<String> {
        if self.is_remote(step) { None } else { self.refuses(&self.needs_of(step)) }
    }

    /// Takes what a step needs where it runs, if there is room. `of` is what there is in all.
    pub fn acquire_for(&mut self, step: &Step, of: &Self) -> Option<Allocation> {
        let needs = of.needs_of(step);
        if of.is_remote(step) { self.acquire_job(&needs) } else { self.acquire(&needs, of) }
    }

    /// Whether nothing can start before something ends: every step takes a thread, or a place for a job.
    pub fn is_full(&self) -> bool {
        match &self.cluster {
            Some(cluster) => cluster.jobs == 0 && (self.cpus == 0 || !cluster.site.keeps_some()),
            None => self.cpus == 0,
        }
    }

    /// Why a step can never run here, whatever ends before: it asks for more than there is in all. Threads are
    /// no reason (it gets all there are), nor is a GPU where there is none (it runs on the CPU).
    pub fn refuses(&self, needs: &Needs) -> Option<String> {
        if needs.memory > self.memory {
            let (wanted, total) = (bytes(needs.memory), bytes(self.memory));
            return Some(format!("it needs {wanted} of memory, of {total} here"));
        }
        if !self.gpus.is_empty() && needs.gpu.whole() > self.gpus.len() {
            let ids: Vec<&str> = self.gpus.iter().map(|gpu| gpu.id.as_str()).collect();
            let (wanted, number) = (needs.gpu, ids.len());
            return Some(format!("it needs {wanted} GPUs, of {number} here ({})", ids.join(", ")));
        }
        if needs.gpu_memory > 0
            && !self.gpus.is_empty()
            && self.gpus.iter().all(|gpu| gpu.part(needs.gpu_memory).is_none())
        {
            let largest = self.gpus.iter().filter_map(|gpu| gpu.memory).max().unwrap_or(0);
            let (wanted, largest) = (bytes(needs.gpu_memory), bytes(largest));
            return Some(format!("it needs {wanted} of a GPU's memory; the largest here has {largest}"));
        }
        let short = |(pool, wanted): (&String, &usize)| {
            let places = self.pools.get(pool).copied().unwrap_or(0);
            (*wanted > places).then(|| format!("it needs {wanted} of pool `{pool}`, which has {places}"))
        };
        needs.pools.iter().find_map(short)
    }

    /// What a step takes of what there is here: its needs, without a GPU that it could not use.
    pub fn needs_of<'a>(&self, step: &'a Step) -> Cow<'a, Needs> {
        if self.gpus_for_programs && step.stage != Command::NAME && step.needs.has_gpu() {
            Cow::Owned(Needs { gpu: Gpus::default(), gpu_memory: 0, ..step.needs.clone() })
        } else {
            Cow::Borrowed(&step.needs)
        }
    }

    /// Takes what a step needs, if there is room. `of` is what there is in all: a step that asks for more
    /// threads gets all of them; a step that asks for a GPU where there is none runs on the CPU.
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

    /// Takes a place for a job, and those in declared pools.
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
        needs.pools.iter().all(|(pool, wanted)| *wanted <= self.pools.get(pool).copied().unwrap_or(0))
    }

    fn take_places(&mut self, needs: &Needs) {
        for (pool, wanted) in &needs.pools {
            if let Some(places) = self.pools.get_mut(pool) {
                *places -= wanted;
            }
        }
    }

    /// The first GPUs that nobody uses; for a part of one the fullest one that has room, so that whole ones stay free.
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

    /// Gives back what a step had.
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
