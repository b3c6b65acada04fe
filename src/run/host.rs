//! What the machine offers, and which of it is taken: CPU threads, memory, GPUs, places in declared pools. What
//! is handed out is never handed out twice.

use std::collections::BTreeMap;

use crate::pipeline::needs::{Gpus, Needs, bytes};

/// What may be in use at one time, or what is left of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capacity {
    /// CPU threads of all running steps together.
    pub cpus: usize,
    /// Memory in bytes of all running steps together, as far as they say what they need.
    pub memory: u64,
    /// GPUs. None on a machine without any.
    pub gpus: Vec<Gpu>,
    /// Places in the pools that the pipeline declares.
    pub pools: BTreeMap<String, usize>,
}

/// A GPU and how much of it is free, in thousandths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    /// As `CUDA_VISIBLE_DEVICES` names it: a number, `GPU-…` or `MIG-…`.
    pub id: String,
    /// What of it is free, or, of a share, what is taken.
    pub thousandths: u32,
}

impl Gpu {
    /// A whole one.
    pub fn whole(id: impl Into<String>) -> Self {
        Self { id: id.into(), thousandths: Gpus::ONE }
    }
}

/// What a running step was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// CPU threads.
    pub threads: usize,
    /// Memory in bytes.
    pub memory: u64,
    /// GPUs, with what was taken of each.
    pub gpus: Vec<Gpu>,
    /// Places in declared pools.
    pub pools: BTreeMap<String, usize>,
}

impl Share {
    /// The device as a stage names it. A step sees only its own GPUs, so the first one is number 0 to it. A build
    /// that cannot compute on GPUs still hands them out: the program of a step may.
    pub fn device(&self) -> &'static str {
        match self.gpus.is_empty() {
            false if cfg!(feature = "metal") => "metal:0",
            false if cfg!(feature = "cuda") => "cuda:0",
            _ => "cpu",
        }
    }

    /// The GPUs as `CUDA_VISIBLE_DEVICES` lists them.
    pub fn gpu_ids(&self) -> Vec<String> {
        self.gpus.iter().map(|gpu| gpu.id.clone()).collect()
    }
}

impl Capacity {
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
        let short = |(pool, wanted): (&String, &usize)| {
            let places = self.pools.get(pool).copied().unwrap_or(0);
            (*wanted > places).then(|| format!("it needs {wanted} of pool `{pool}`, which has {places}"))
        };
        needs.pools.iter().find_map(short)
    }

    /// Takes what a step needs, if there is room. `of` is what there is in all: a step that asks for more
    /// threads gets all of them; a step that asks for a GPU where there is none runs on the CPU.
    pub fn take(&mut self, needs: &Needs, of: &Self) -> Option<Share> {
        let threads = needs.cpu.clamp(1, of.cpus);
        let left = |pool: &String| self.pools.get(pool).copied().unwrap_or(0);
        if threads > self.cpus
            || needs.memory > self.memory
            || needs.pools.iter().any(|(pool, wanted)| *wanted > left(pool))
        {
            return None;
        }
        let gpus = if of.gpus.is_empty() { Vec::new() } else { self.pick(needs.gpu)? };
        self.cpus -= threads;
        self.memory -= needs.memory;
        for (pool, wanted) in &needs.pools {
            if let Some(places) = self.pools.get_mut(pool) {
                *places -= wanted;
            }
        }
        for taken in &gpus {
            if let Some(gpu) = self.gpus.iter_mut().find(|gpu| gpu.id == taken.id) {
                gpu.thousandths -= taken.thousandths;
            }
        }
        Some(Share { threads, memory: needs.memory, gpus, pools: needs.pools.clone() })
    }

    /// The first GPUs that nobody uses; for a share the fullest one that has room, so that whole ones stay free.
    fn pick(&self, wanted: Gpus) -> Option<Vec<Gpu>> {
        let share = wanted.share();
        if share > 0 {
            let fits = self.gpus.iter().filter(|gpu| gpu.thousandths >= share);
            let gpu = fits.min_by_key(|gpu| gpu.thousandths)?;
            return Some(vec![Gpu { id: gpu.id.clone(), thousandths: share }]);
        }
        let free = self.gpus.iter().filter(|gpu| gpu.thousandths == Gpus::ONE);
        let picked: Vec<Gpu> = free.take(wanted.whole()).cloned().collect();
        (picked.len() == wanted.whole()).then_some(picked)
    }

    /// Gives back what a step had.
    pub fn give_back(&mut self, share: Share) {
        self.cpus += share.threads;
        self.memory += share.memory;
        for (pool, places) in share.pools {
            *self.pools.entry(pool).or_default() += places;
        }
        for back in share.gpus {
            if let Some(gpu) = self.gpus.iter_mut().find(|gpu| gpu.id == back.id) {
                gpu.thousandths += back.thousandths;
            }
        }
    }
}
