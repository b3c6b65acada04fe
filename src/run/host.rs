//! What the machine offers: CPU threads and GPUs, and which of them are taken.

use crate::pipeline::Needs;

/// What may be in use at one time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capacity {
    /// CPU threads of all running steps together.
    pub cpus: usize,
    /// GPUs, by number. Empty on a machine without any that this build can use.
    pub gpus: Vec<usize>,
}

impl Capacity {
    /// `jobs` CPU threads, or as many as there are cores, and the GPUs that this build can use.
    pub fn detect(jobs: Option<usize>) -> Self {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        Self { cpus: jobs.unwrap_or_else(cores).max(1), gpus: gpus() }
    }

    /// Takes what a step needs, if there is room. A step that asks for more threads than there are gets all of
    /// them; a step that asks for a GPU where there is none runs on the CPU.
    pub fn take(&mut self, needs: &Needs, of: &Self) -> Option<Share> {
        let threads = needs.cpu.clamp(1, of.cpus);
        let gpus = needs.gpu.min(of.gpus.len());
        if threads > self.cpus || gpus > self.gpus.len() {
            return None;
        }
        self.cpus -= threads;
        Some(Share { threads, gpus: self.gpus.drain(..gpus).collect() })
    }

    /// Gives back what a step had.
    pub fn give_back(&mut self, share: Share) {
        self.cpus += share.threads;
        self.gpus.extend(share.gpus);
        self.gpus.sort_unstable();
    }
}

/// What a running step was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// CPU threads.
    pub threads: usize,
    /// GPUs, by number.
    pub gpus: Vec<usize>,
}

impl Share {
    /// The device as a stage names it. A step sees only its own GPUs, so the first one is number 0 to it.
    pub fn device(&self) -> &'static str {
        match self.gpus.is_empty() {
            true => "cpu",
            false if cfg!(feature = "metal") => "metal:0",
            false => "cuda:0",
        }
    }
}

/// The GPUs of this machine that this build can use: those the environment allows, else those the driver shows.
fn gpus() -> Vec<usize> {
    if cfg!(feature = "metal") {
        return vec![0];
    }
    if !cfg!(feature = "cuda") {
        return Vec::new();
    }
    if let Ok(allowed) = std::env::var("CUDA_VISIBLE_DEVICES") {
        return allowed.split(',').filter_map(|number| number.trim().parse().ok()).collect();
    }
    let driver = std::fs::read_dir("/proc/driver/nvidia/gpus");
    (0..driver.map_or(0, |gpus| gpus.flatten().count())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_is_not_given_twice() {
        let whole = Capacity { cpus: 2, gpus: vec![0, 3] };
        let mut free = whole.clone();
        let gpu = Needs { cpu: 1, gpu: 1 };
        let first = free.take(&gpu, &whole).unwrap();
        let second = free.take(&gpu, &whole).unwrap();
        assert_eq!((first.gpus.clone(), second.gpus.clone()), (vec![0], vec![3]));
        assert_eq!(free.take(&gpu, &whole), None);
        free.give_back(second);
        free.give_back(first);
        assert_eq!(free, whole);
    }

    #[test]
    fn a_step_that_asks_for_too_much_gets_all_there_is() {
        let whole = Capacity { cpus: 2, gpus: vec![] };
        let mut free = whole.clone();
        let share = free.take(&Needs { cpu: 16, gpu: 1 }, &whole).unwrap();
        assert_eq!(share, Share { threads: 2, gpus: vec![] });
        assert_eq!(share.device(), "cpu");
        assert_eq!(free.cpus, 0);
    }
}
