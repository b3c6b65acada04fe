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

use std::collections::HashMap;

use candle_core::{Device, Error, Result, Tensor};

use super::backend::{AdamWSlot, Backend, Memory};
use super::composed::Composed;
use super::compute::{Compute, Job};
use super::{Param, ParamStore};

/// The constants of the optimizer.
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
    param: Param,
    decay: f64,
    updates: u64,
    m: Memory,
    v: Memory,
}

/// The optimizer with its moments, ordered by parameter name.
#[derive(Debug)]
pub struct AdamW {
    config: AdamWConfig,
    compute: Compute,
    slots: Vec<Slot>,
}

/// The state of the optimizer that belongs to one parameter.
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
    /// An optimizer of the trained ones of `params`; those for which `decays` holds decay.
    ///
    /// # Errors
    /// Only if an allocation fails.
    pub fn new(params: &ParamStore, config: AdamWConfig, decays: impl Fn(&str) -> bool) -> Result<Self> {
        let compute = params.compute().clone();
        let slot = |(name, param): (&str, &Param)| {
            let decay = if decays(name) { config.weight_decay } else { 0.0 };
            let zeros = || compute.run(Upload(&param.value().zeros_like()?));
            let (m, v) = (zeros()?, zeros()?);
            Ok(Slot { name: name.to_owned(), param: param.clone(), decay, updates: 0, m, v })
        };
        let slots = params.trained().map(slot).collect::<Result<_>>()?;
        Ok(Self { config, slots, compute })
    }

    /// One update with learning rate `lr` by the gradients that were added up, which are forgotten then.
    ///
    /// # Errors
    /// A gradient that does not fit its parameter.
    pub fn step(&mut self, lr: f64) -> Result<()> {
        let AdamWConfig { betas, eps, .. } = self.config;
        let slots =
            self.slots.iter_mut().filter(|slot| slot.param.gradient().is_some_and(|grad| grad.is_filled()));
        let slots = slots.map(|Slot { param, decay, updates, m, v, .. }| {
            *updates += 1;
            let t = *updates as f64;
            let step = lr * (1.0 - libm::pow(betas.1, t)).sqrt() / (1.0 - libm::pow(betas.0, t));
            AdamWSlot { param, m, v, step, shrink: lr * *decay }
        });
        self.compute.run(Step { slots: slots.collect(), betas, eps })?;
        self.forget_gradients();
        Ok(())
    }

    /// Forgets the gradients that were added up.
    pub fn forget_gradients(&self) {
        self.slots.iter().filter_map(|slot| slot.param.gradient()).for_each(|gradient| gradient.reset());
    }

    /// The state by parameter name, copied into host memory: what [`AdamW::restore`] takes to go on as if nothing had happened.
    ///
    /// # Errors
    /// Only if a copy fails.
    pub fn state(&mut self) -> Result<Vec<(String, Momentum)>> {
        let compute = self.compute.clone();
        let state = |slot: &mut Slot| {
            let shape = slot.param.value().shape().clone();
            let tensor = |memory: &mut Memory| compute.run(Download(memory))?.reshape(shape.clone());
            let (m, v) = (tensor(&mut slot.m)?, tensor(&mut slot.v)?);
            Ok((slot.name.clone(), Momentum { m, v, updates: slot.updates }))
        };
        self.slots.iter_mut().map(state).collect()
    }

    /// Takes back what [`AdamW::state`] gave.
    ///
    /// # Errors
    /// A parameter that `state` lacks, or moments of another shape; the optimizer is then of no use any more.
    pub fn restore(&mut self, state: &HashMap<String, Momentum>) -> Result<()> {
        for slot in &mut self.slots {
            let missing = || Error::msg(format!("no moments of `{}`", slot.name));
            let kept = state.get(&slot.name).ok_or_else(missing)?;
            for moment in [&kept.m, &kept.v] {
                if moment.shape() != slot.param.value().shape() {
                    return Err(Error::msg(format!("the moments of `{}` have another shape", slot.name)));
                }
            }
            slot.updates = kept.updates;
            let device = slot.param.value().device();
            slot.m = self.compute.run(Upload(&kept.m.to_device(device)?))?;
            slot.v = self.compute.run(Upload(&kept.v.to_device(device)?))?;
        }
        Ok(())
    }
}

/// One update of all slots.
struct Step<'a> {
    slots: Vec<AdamWSlot<'a>>,
    betas: (f64, f64),
    eps: f64,
}

impl Job for Step<'_> {
    type Output = ();

    fn run<B: Backend>(mut self, on: &B) -> Result<()> {
        on.adamw(&mut self.slots, self.betas, self.eps)
    }

    fn composed(self, _: &Composed) -> Result<()> {
        let ((beta1, beta2), eps) = (self.betas, self.eps);
        for AdamWSlot { param, m, v, step, shrink } in self.slots {
            let Some(grad) = param.gradient().and_then(|gradient| gradient.tensor()) else { continue };
            let (Memory::Tensor(m), Memory::Tensor(v)) = (m, v) else {
                return Err(Error::msg("memory of another device"));
            };
            *m = ((&*m * beta1)? + (&grad * (1.0 - beta1))?)?;
            *v = ((&*v * beta2)? + (grad.sqr()? * (1.0 - beta2))?)?;
            let change = (&*m / (v.sqrt()? + eps)?)?;
            let p = (param.value().detach() - (change * step)?)?;
            param.set(&(&p - (&p * shrink)?)?)?;
        }
        Ok(())
    }
}

/// A tensor's values as memory of the backend.
struct Upload<'a>(&'a Tensor);

impl Job for Upload<'_> {
    type Output = Memory;

    fn run<B: Backend>(self, on: &B) -> Result<Memory> {
        let tensor = self.0.contiguous()?;
        let locked = super::op::Locked::new(&tensor)?;
        Ok(on.memory_of(on.copy(locked.view(on)?)?))
    }

    fn composed(self, _: &Composed) -> Result<Memory> {
        Ok(Memory::Tensor(self.0.copy()?))
    }
}

/// Memory of the backend as a flat tensor in host memory.
struct Download<'a>(&'a mut Memory);

impl Job for Download<'_> {
    type Output = Tensor;

    fn run<B: Backend>(self, on: &B) -> Result<Tensor> {
        let values = on.values(on.buffer_in(self.0)?)?;
        let count = values.len();
        Tensor::from_vec(values, count, &Device::Cpu)
    }

    fn composed(self, _: &Composed) -> Result<Tensor> {
        match self.0 {
            Memory::Tensor(tensor) => tensor.flatten_all()?.to_device(&Device::Cpu)?.copy(),
            _ => Err(Error::msg("memory of another device")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::Precision;

    fn computes() -> [Compute; 2] {
        let composed = Compute::composed(&Device::Cpu, Precision::F32).unwrap();
        [composed, Compute::for_device(&Device::Cpu, Precision::F32).unwrap()]
    }

    fn params(compute: &Compute) -> ParamStore {
        let device = &Device::Cpu;
        let tensors = [
            ("a.weight", Tensor::new(&[[1.0f32, -2.0], [0.5, 0.0]], device).unwrap()),
            ("b.bias", Tensor::new(&[0.3f32, -0.7], device).unwrap()),
            ("c.unused", Tensor::new(&[5.0f32], device).unwrap()),
        ];
        let tensors = tensors.into_iter().map(|(name, tensor)| (name.to_owned(), tensor)).collect();
        ParamStore::new(tensors, |_| true).unwrap().with_compute(compute.clone())
    }

    /// Adds gradients that differ from update to update, in two parts; none for `c.unused`.
    fn add_gradients(params: &ParamStore, update: u32) {
        for (name, param) in params.trained().filter(|(name, _)| *name != "c.unused") {
            let grad = if name == "a.weight" {
                (param.value() * 2.0).unwrap()
            } else {
                (param.value().ones_like().unwrap() * f64::from(update)).unwrap()
            };
            for part in [0.25, 0.75] {
                params.compute().run(Add(param, &(&grad * part).unwrap())).unwrap();
            }
        }
    }

    struct Add<'a>(&'a Param, &'a Tensor);

    impl Job for Add<'_> {
        type Output = ();

        fn run<B: Backend>(self, on: &B) -> Result<()> {
            let grad = self.1.flatten_all()?.to_vec1::<f32>()?;
            let gradient = self.0.gradient().unwrap();
            gradient.accumulate(on, grad.len(), |sum, add| {
                let before = if add { on.values(sum)? } else { vec![0.0; grad.len()] };
                let values: Vec<f32> = before.iter().zip(&grad).map(|(before, grad)| before + grad).collect();
                let tensor = Tensor::from_vec(values, grad.len(), &Device::Cpu)?;
                let locked = crate::nn::op::Locked::new(&tensor)?;
                *sum = on.copy(locked.view(on)?)?;
                Ok(())
            })
        }

        fn composed(self, _: &Composed) -> Result<()> {
            self.0.gradient().unwrap().add(self.1)
        }
    }

    fn values(params: &ParamStore) -> Vec<f32> {
        let flat =
            |(_, param): (&str, &Param)| param.value().flatten_all().unwrap().to_vec1::<f32>().unwrap();
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
        for compute in computes() {
            let params = params(&compute);
            let mut adamw = AdamW::new(&params, CONFIG, decays).unwrap();
            for (t, lr) in (1..).zip(RATES) {
                add_gradients(&params, t);
                adamw.step(lr).unwrap();
            }
            for (found, expected) in values(&params).into_iter().zip(expected()) {
                assert!((f64::from(found) - expected).abs() < 1e-6, "{compute:?}: {found}, not {expected}");
            }
        }
    }

    #[test]
    fn restored_it_goes_on_as_if_nothing_had_happened() {
        for compute in computes() {
            let whole = params(&compute);
            let mut adamw = AdamW::new(&whole, CONFIG, decays).unwrap();
            let mut halves: Option<(ParamStore, AdamW)> = None;
            for (t, lr) in (1..).zip(RATES) {
                if t == 3 {
                    let again =
                        ParamStore::new(whole.tensors(), |_| true).unwrap().with_compute(compute.clone());
                    let mut restored = AdamW::new(&again, CONFIG, decays).unwrap();
                    restored.restore(&adamw.state().unwrap().into_iter().collect()).unwrap();
                    halves = Some((again, restored));
                }
                add_gradients(&whole, t);
                adamw.step(lr).unwrap();
                if let Some((params, adamw)) = &mut halves {
                    add_gradients(params, t);
                    adamw.step(lr).unwrap();
                }
            }
            let (again, _) = halves.unwrap();
            let bits = |params| values(params).into_iter().map(f32::to_bits).collect::<Vec<_>>();
            assert_eq!(bits(&again), bits(&whole), "{compute:?}");
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
