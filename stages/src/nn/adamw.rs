//! AdamW as the original (MMF) runs it: Hugging Face's variant, which differs from PyTorch's and candle's.
//!
//! For update t of a parameter p with gradient g, learning rate η and decay λ:
//! ```text
//! m ← β₁ m + (1 − β₁) g
//! v ← β₂ v + (1 − β₂) g²
//! p ← p − η √(1 − β₂ᵗ) / (1 − β₁ᵗ) · m / (√v + ε)     ε is added to the uncorrected √v
//! p ← p − η λ p                                       after the step, with the plain η
//! ```
//! A parameter without a gradient is skipped whole: no moments, no decay. It knows no schedule: the learning rate
//! is handed in with each update.

use std::cell::RefCell;
use std::collections::HashMap;

use candle_core::backprop::GradStore;
use candle_core::{CpuStorage, Device, Error, InplaceOp2, Layout, Result, Tensor, Var};

use super::cpu::per_instruction_set;
use super::fused::parallel;
use super::{Kernels, ParamStore};

/// The constants of the optimiser.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWConfig {
    /// β₁ and β₂.
    pub betas: (f64, f64),
    /// ε.
    pub eps: f64,
    /// λ of the parameters that decay.
    pub weight_decay: f64,
}

impl Default for AdamWConfig {
    /// What the paper's runs use.
    fn default() -> Self {
        Self { betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.01 }
    }
}

/// The original's rule for which parameters decay: all but biases and the weights of LayerNorms.
pub fn decays(name: &str) -> bool {
    !(name.contains("bias") || name.contains("LayerNorm.weight"))
}

#[derive(Debug)]
struct Slot {
    name: String,
    var: Var,
    decay: f64,
    updates: u64,
    moments: Moments,
}

/// m and v of one parameter.
#[derive(Debug)]
enum Moments {
    /// For the fused kernel: on the host, changed in place.
    Host { m: Vec<f32>, v: Vec<f32> },
    /// For candle's operations: on the parameter's device.
    Tensors { m: Tensor, v: Tensor },
}

/// The scalars of one update of one parameter.
#[derive(Debug, Clone, Copy)]
struct Scalars {
    betas: (f64, f64),
    eps: f64,
    /// η √(1 − β₂ᵗ) / (1 − β₁ᵗ)
    step: f64,
    /// η λ
    shrink: f64,
}

/// The optimiser with its moments, ordered by parameter name.
#[derive(Debug)]
pub struct AdamW {
    config: AdamWConfig,
    slots: Vec<Slot>,
}

impl AdamW {
    /// An optimiser of the trained ones of `params`; those for which `decays` holds decay.
    ///
    /// # Errors
    /// Only if an allocation fails.
    pub fn new(params: &ParamStore, config: AdamWConfig, decays: impl Fn(&str) -> bool) -> Result<Self> {
        let slot = |(name, var): (&str, &Var)| {
            let decay = if decays(name) { config.weight_decay } else { 0.0 };
            let moments = match params.kernels() {
                Kernels::Composed | Kernels::Bf16 => {
                    Moments::Tensors { m: var.zeros_like()?, v: var.zeros_like()? }
                }
                Kernels::Fused => {
                    let zeros = vec![0f32; var.elem_count()];
                    Moments::Host { m: zeros.clone(), v: zeros }
                }
            };
            Ok(Slot { name: name.to_owned(), var: var.clone(), decay, updates: 0, moments })
        };
        Ok(Self { config, slots: params.trained().map(slot).collect::<Result<_>>()? })
    }

    /// One update with learning rate `lr`.
    ///
    /// # Errors
    /// A gradient that does not fit its parameter.
    pub fn step(&mut self, grads: &GradStore, lr: f64) -> Result<()> {
        for slot in &mut self.slots {
            if let Some(grad) = grads.get(slot.var.as_tensor()) {
                slot.updates += 1;
                slot.step(grad, lr, &self.config)?;
            }
        }
        Ok(())
    }
}

/// The state of the optimiser that belongs to one parameter.
#[derive(Debug, Clone)]
pub struct Momentum {
    /// m, shaped as the parameter.
    pub m: Tensor,
    /// v, shaped as the parameter.
    pub v: Tensor,
    /// Updates the parameter has taken part in.
    pub updates: u64,
}

impl AdamW {
    /// The state by parameter name, copied: what [`AdamW::restore`] takes to go on as if nothing had happened.
    ///
    /// # Errors
    /// Only if a copy fails.
    pub fn state(&self) -> Result<Vec<(String, Momentum)>> {
        let state = |slot: &Slot| {
            let shape = slot.var.shape();
            let (m, v) = match &slot.moments {
                Moments::Host { m, v } => {
                    let tensor = |values: &[f32]| Tensor::from_slice(values, shape, &Device::Cpu);
                    (tensor(m)?, tensor(v)?)
                }
                Moments::Tensors { m, v } => (m.clone(), v.clone()),
            };
            Ok((slot.name.clone(), Momentum { m, v, updates: slot.updates }))
        };
        self.slots.iter().map(state).collect()
    }

    /// Takes back what [`AdamW::state`] gave.
    ///
    /// # Errors
    /// A parameter that `state` lacks, or moments of another shape; the optimiser is then of no use any more.
    pub fn restore(&mut self, state: &HashMap<String, Momentum>) -> Result<()> {
        for slot in &mut self.slots {
            let missing = || Error::msg(format!("no moments of `{}`", slot.name));
            let kept = state.get(&slot.name).ok_or_else(missing)?;
            for moment in [&kept.m, &kept.v] {
                if moment.shape() != slot.var.shape() {
                    return Err(Error::msg(format!("the moments of `{}` have another shape", slot.name)));
                }
            }
            slot.updates = kept.updates;
            match &mut slot.moments {
                Moments::Host { m, v } => {
                    *m = kept.m.flatten_all()?.to_vec1()?;
                    *v = kept.v.flatten_all()?.to_vec1()?;
                }
                Moments::Tensors { m, v } => {
                    *m = kept.m.to_device(slot.var.device())?;
                    *v = kept.v.to_device(slot.var.device())?;
                }
            }
        }
        Ok(())
    }
}

impl Slot {
    fn step(&mut self, grad: &Tensor, lr: f64, config: &AdamWConfig) -> Result<()> {
        let (beta1, beta2) = config.betas;
        let t = self.updates as f64;
        let step = lr * (1.0 - libm::pow(beta2, t)).sqrt() / (1.0 - libm::pow(beta1, t));
        let scalars = Scalars { betas: config.betas, eps: config.eps, step, shrink: lr * self.decay };
        match &mut self.moments {
            Moments::Host { m, v } => {
                let moments = RefCell::new((m.as_mut_slice(), v.as_mut_slice()));
                self.var.inplace_op2(&grad.contiguous()?, &Fused { moments, scalars })
            }
            Moments::Tensors { m, v } => {
                *m = ((&*m * beta1)? + (grad * (1.0 - beta1))?)?;
                *v = ((&*v * beta2)? + (grad.sqr()? * (1.0 - beta2))?)?;
                let change = (&*m / (v.sqrt()? + config.eps)?)?;
                let p = (self.var.as_detached_tensor() - (change * step)?)?;
                self.var.set(&(&p - (&p * scalars.shrink)?)?)
            }
        }
    }
}

/// The update in one pass over parameter, gradient and moments.
struct Fused<'a> {
    moments: RefCell<(&'a mut [f32], &'a mut [f32])>,
    scalars: Scalars,
}

impl InplaceOp2 for Fused<'_> {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn cpu_fwd(
        &self,
        p: &mut CpuStorage,
        p_layout: &Layout,
        g: &CpuStorage,
        g_layout: &Layout,
    ) -> Result<()> {
        let (CpuStorage::F32(p), CpuStorage::F32(g)) = (p, g) else {
            return Err(Error::msg("the optimiser needs parameters and gradients in f32"));
        };
        let (Some((p_start, p_end)), Some((g_start, g_end))) =
            (p_layout.contiguous_offsets(), g_layout.contiguous_offsets())
        else {
            return Err(Error::msg("the optimiser needs contiguous parameters and gradients"));
        };
        let (p, g) = (&mut p[p_start..p_end], &g[g_start..g_end]);
        let (mut moments, scalars) = (self.moments.borrow_mut(), self.scalars);
        let (m, v) = &mut *moments;
        if g.len() != p.len() {
            return Err(Error::msg(format!("a gradient of {} for a parameter of {}", g.len(), p.len())));
        }
        parallel::rows3(p, m, v, |first, p, m, v| update(p, &g[first..first + p.len()], m, v, scalars));
        Ok(())
    }
}

per_instruction_set! {
    fn update(p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], scalars: Scalars) {
        let Scalars { betas: (beta1, beta2), eps, step, shrink } = scalars;
        let (beta1, rest1, beta2, rest2) =
            (beta1 as f32, (1.0 - beta1) as f32, beta2 as f32, (1.0 - beta2) as f32);
        let (eps, step, shrink) = (eps as f32, step as f32, shrink as f32);
        for (((p, g), m), v) in p.iter_mut().zip(g).zip(m).zip(v) {
            *m = beta1 * *m + rest1 * g;
            *v = beta2 * *v + rest2 * g * g;
            *p -= step * (*m / (v.sqrt() + eps));
            *p -= shrink * *p;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(kernels: Kernels) -> ParamStore {
        let device = &Device::Cpu;
        let tensors = [
            ("a.weight", Tensor::new(&[[1.0f32, -2.0], [0.5, 0.0]], device).unwrap()),
            ("b.bias", Tensor::new(&[0.3f32, -0.7], device).unwrap()),
            ("c.unused", Tensor::new(&[5.0f32], device).unwrap()),
        ];
        let tensors = tensors.into_iter().map(|(name, tensor)| (name.to_owned(), tensor)).collect();
        ParamStore::new(tensors, |_| true).unwrap().with_kernels(kernels)
    }

    /// Gradients that differ from update to update; none for `c.unused`.
    fn gradients(params: &ParamStore, update: u32) -> GradStore {
        let weight = params.get("a.weight").unwrap().sqr().unwrap().sum_all().unwrap();
        let bias = params.get("b.bias").unwrap().sum_all().unwrap();
        (weight + (bias * f64::from(update)).unwrap()).unwrap().backward().unwrap()
    }

    fn values(params: &ParamStore) -> Vec<f32> {
        let flat = |(_, var): (&str, &Var)| var.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        params.trained().flat_map(flat).collect()
    }

    const CONFIG: AdamWConfig = AdamWConfig { betas: (0.9, 0.999), eps: 1e-3, weight_decay: 0.5 };
    const RATES: [f64; 4] = [0.0, 0.1, 0.05, 0.2];

    /// The definition in double precision, element by element.
    fn expected() -> Vec<f64> {
        let mut p = [1.0, -2.0, 0.5, 0.0, 0.3, -0.7];
        let (mut m, mut v) = ([0.0; 6], [0.0; 6]);
        for (t, lr) in (1..).map(f64::from).zip(RATES) {
            for i in 0..6 {
                let (g, decay) = if i < 4 { (2.0 * p[i], 0.5) } else { (t, 0.0) };
                m[i] = 0.9 * m[i] + 0.1 * g;
                v[i] = 0.999 * v[i] + 0.001 * g * g;
                let step = lr * (1.0 - libm::pow(0.999, t)).sqrt() / (1.0 - libm::pow(0.9, t));
                p[i] -= step * m[i] / (f64::sqrt(v[i]) + 1e-3);
                p[i] -= lr * decay * p[i];
            }
        }
        [&p[..], &[5.0]].concat()
    }

    #[test]
    fn follows_its_definition() {
        for kernels in [Kernels::Composed, Kernels::Fused] {
            let params = params(kernels);
            let mut adamw = AdamW::new(&params, CONFIG, decays).unwrap();
            for (t, lr) in (1..).zip(RATES) {
                adamw.step(&gradients(&params, t), lr).unwrap();
            }
            for (found, expected) in values(&params).into_iter().zip(expected()) {
                assert!((f64::from(found) - expected).abs() < 1e-6, "{kernels:?}: {found}, not {expected}");
            }
        }
    }

    #[test]
    fn restored_it_goes_on_as_if_nothing_had_happened() {
        for kernels in [Kernels::Composed, Kernels::Fused] {
            let whole = params(kernels);
            let mut adamw = AdamW::new(&whole, CONFIG, decays).unwrap();
            let mut halves: Option<(ParamStore, AdamW)> = None;
            for (t, lr) in (1..).zip(RATES) {
                if t == 3 {
                    let again = ParamStore::new(whole.tensors(), |_| true).unwrap().with_kernels(kernels);
                    let mut restored = AdamW::new(&again, CONFIG, decays).unwrap();
                    restored.restore(&adamw.state().unwrap().into_iter().collect()).unwrap();
                    halves = Some((again, restored));
                }
                adamw.step(&gradients(&whole, t), lr).unwrap();
                if let Some((params, adamw)) = &mut halves {
                    adamw.step(&gradients(params, t), lr).unwrap();
                }
            }
            let (again, _) = halves.unwrap();
            let bits = |params| values(params).into_iter().map(f32::to_bits).collect::<Vec<_>>();
            assert_eq!(bits(&again), bits(&whole), "{kernels:?}");
            assert!(adamw.restore(&HashMap::new()).unwrap_err().to_string().contains("`a.weight`"));
        }
    }

    #[test]
    fn biases_and_norms_do_not_decay() {
        for name in ["model.classifier.1.weight", "model.bert.embeddings.word_embeddings.weight"] {
            assert!(decays(name), "{name}");
        }
        for name in ["model.classifier.0.LayerNorm.weight", "x.LayerNorm.bias", "x.dense.bias"] {
            assert!(!decays(name), "{name}");
        }
    }
}
