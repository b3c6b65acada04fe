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

use candle_core::backprop::GradStore;
use candle_core::{Error, Result, Tensor, Var};

use super::Params;

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

/// What must be saved to resume exactly.
#[derive(Debug, Clone, Default)]
pub struct AdamWState {
    /// Updates done, by parameter.
    pub updates: HashMap<String, u64>,
    /// `<parameter>.m` and `<parameter>.v`, each of the parameter's shape.
    pub moments: HashMap<String, Tensor>,
}

#[derive(Debug)]
struct Slot {
    name: String,
    var: Var,
    decay: f64,
    updates: u64,
    m: Tensor,
    v: Tensor,
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
    pub fn new(params: &Params, config: AdamWConfig, decays: impl Fn(&str) -> bool) -> Result<Self> {
        let slot = |(name, var): (&str, &Var)| {
            let decay = if decays(name) { config.weight_decay } else { 0.0 };
            let (m, v) = (var.zeros_like()?, var.zeros_like()?);
            Ok(Slot { name: name.to_owned(), var: var.clone(), decay, updates: 0, m, v })
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

    /// The moments and counters, for saving.
    pub fn state(&self) -> AdamWState {
        let mut state = AdamWState::default();
        for slot in &self.slots {
            state.updates.insert(slot.name.clone(), slot.updates);
            state.moments.insert(format!("{}.m", slot.name), slot.m.clone());
            state.moments.insert(format!("{}.v", slot.name), slot.v.clone());
        }
        state
    }

    /// Continues from a saved state.
    ///
    /// # Errors
    /// A parameter that the state does not have, or has in another shape.
    pub fn load_state(&mut self, state: &AdamWState) -> Result<()> {
        for slot in &mut self.slots {
            let name = &slot.name;
            let missing = || Error::msg(format!("the optimiser's saved state has nothing on `{name}`"));
            slot.updates = *state.updates.get(name).ok_or_else(missing)?;
            for (moment, suffix) in [(&mut slot.m, "m"), (&mut slot.v, "v")] {
                let saved = state.moments.get(&format!("{name}.{suffix}")).ok_or_else(missing)?;
                if saved.dims() != slot.var.dims() {
                    let (found, want) = (saved.dims(), slot.var.dims());
                    return Err(Error::msg(format!(
                        "the optimiser's saved `{name}.{suffix}` has shape {found:?}, the parameter {want:?}"
                    )));
                }
                *moment = saved.copy()?;
            }
        }
        Ok(())
    }
}

impl Slot {
    fn step(&mut self, grad: &Tensor, lr: f64, config: &AdamWConfig) -> Result<()> {
        let (beta1, beta2) = config.betas;
        let t = self.updates as i32;
        let step = lr * (1.0 - beta2.powi(t)).sqrt() / (1.0 - beta1.powi(t));
        self.m = ((&self.m * beta1)? + (grad * (1.0 - beta1))?)?;
        self.v = ((&self.v * beta2)? + (grad.sqr()? * (1.0 - beta2))?)?;
        let change = (&self.m / (self.v.sqrt()? + config.eps)?)?;
        let p = (self.var.as_detached_tensor() - (change * step)?)?;
        self.var.set(&(&p - (&p * (lr * self.decay))?)?)
    }
}
