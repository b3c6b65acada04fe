//! The update of AdamW in one pass over parameter, gradient and moments.

use std::cell::RefCell;

use candle_core::{CpuStorage, Error, InplaceOp1, Layout, Result};

use super::instruction_set::per_instruction_set;
use super::{Cpu, parallel};
use crate::nn::backend::{AdamWSlot, Backend};

/// Updates one parameter from its gradient, if it has one.
pub fn update(on: &Cpu, slot: &mut AdamWSlot<'_>, betas: (f64, f64), eps: f64) -> Result<()> {
    let AdamWSlot { param, m, v, step, shrink } = slot;
    let scalars = Scalars { betas, eps, step: *step, shrink: *shrink };
    let Some(gradient) = param.gradient() else { return Ok(()) };
    let moments = RefCell::new((on.buffer_in(m)?.as_mut_slice(), on.buffer_in(v)?.as_mut_slice()));
    gradient.read(on, |grad| param.value().inplace_op1(&Update { grad, moments: &moments, scalars }))?;
    Ok(())
}

#[derive(Clone, Copy)]
struct Scalars {
    betas: (f64, f64),
    eps: f64,
    step: f64,
    shrink: f64,
}

type Moments<'a> = RefCell<(&'a mut [f32], &'a mut [f32])>;

struct Update<'a, 'b> {
    grad: &'a [f32],
    moments: &'a Moments<'b>,
    scalars: Scalars,
}

impl InplaceOp1 for Update<'_, '_> {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn cpu_fwd(&self, p: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let (CpuStorage::F32(p), Some((start, end))) = (p, layout.contiguous_offsets()) else {
            return Err(Error::msg("the optimizer needs contiguous parameters in f32"));
        };
        let (p, g, scalars) = (&mut p[start..end], self.grad, self.scalars);
        if g.len() != p.len() {
            return Err(Error::msg(format!("a gradient of {} for a parameter of {}", g.len(), p.len())));
        }
        let (m, v) = &mut *self.moments.borrow_mut();
        parallel::rows3(p, m, v, |first, p, m, v| pass(p, &g[first..first + p.len()], m, v, scalars));
        Ok(())
    }
}

per_instruction_set! {
    fn pass(p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], scalars: Scalars) {
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
