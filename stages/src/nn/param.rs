//! A parameter with the buffer that its gradient is added to.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{Result, Tensor, Var};

use super::backend::{Backend, Memory};

/// One parameter: its value and, if it is trained, its gradient. Clones share both.
#[derive(Debug, Clone)]
pub struct Param {
    value: Tensor,
    gradient: Option<Arc<Gradient>>,
}

impl Param {
    /// A parameter that stays as it is.
    pub fn frozen(value: Tensor) -> Self {
        Self { value, gradient: None }
    }

    /// A parameter that receives gradients and is changed in place by the optimizer.
    ///
    /// # Errors
    /// Only if a copy fails: a trained parameter has memory of its own.
    pub fn trained(value: &Tensor) -> Result<Self> {
        Ok(Self { value: Var::from_tensor(value)?.into_inner(), gradient: Some(Arc::default()) })
    }

    /// The present value.
    pub fn value(&self) -> &Tensor {
        &self.value
    }

    /// Replaces the value, in place: what shares storage with it follows.
    ///
    /// # Errors
    /// A tensor of another shape, kind or device.
    pub fn set(&self, value: &Tensor) -> Result<()> {
        Var::from_tensor(&self.value)?.set(value)
    }

    /// Where its gradient is added up; nothing for a frozen one.
    pub fn gradient(&self) -> Option<&Gradient> {
        self.gradient.as_deref()
    }

    /// Whether it receives gradients.
    pub fn is_trained(&self) -> bool {
        self.gradient.is_some()
    }
}

/// The gradient of a parameter, added up over the operations that use it and the micro-batches of an update.
#[derive(Debug, Default)]
pub struct Gradient(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    memory: Option<Memory>,
    /// Whether the memory holds a gradient of this update; else its content is left over from the last one.
    filled: bool,
}

impl Gradient {
    /// Calls `f` with the buffer of `count` values and whether to add to them or to replace them.
    ///
    /// # Errors
    /// Those of `f`, or no memory.
    pub fn accumulate<B: Backend>(
        &self,
        on: &B,
        count: usize,
        f: impl FnOnce(&mut B::Buffer, bool) -> Result<()>,
    ) -> Result<()> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let State { memory, filled } = &mut *state;
        let memory = match memory {
            Some(memory) => memory,
            None => memory.insert(on.memory_of(on.zeros(count)?)),
        };
        f(on.buffer_in(memory)?, *filled)?;
        *filled = true;
        Ok(())
    }

    /// Replaces the memory by what `f` returns of it; `f` gets the gradient of this update, if there is one.
    ///
    /// # Errors
    /// Those of `f`.
    pub fn update(&self, f: impl FnOnce(Option<Memory>) -> Result<Memory>) -> Result<()> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = state.memory.take().filter(|_| state.filled);
        state.memory = Some(f(before)?);
        state.filled = true;
        Ok(())
    }

    /// Calls `f` with the gradient, if there is one of this update.
    ///
    /// # Errors
    /// Those of `f`.
    pub fn read<B: Backend, R>(
        &self,
        on: &B,
        f: impl FnOnce(&mut B::Buffer) -> Result<R>,
    ) -> Result<Option<R>> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *state {
            State { memory: Some(memory), filled: true } => f(on.buffer_in(memory)?).map(Some),
            _ => Ok(None),
        }
    }

    /// The gradient of the composed reference, if there is one of this update.
    pub fn tensor(&self) -> Option<Tensor> {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*state {
            State { memory: Some(Memory::Tensor(tensor)), filled: true } => Some(tensor.clone()),
            _ => None,
        }
    }

    /// Whether there is a gradient of this update.
    pub fn is_filled(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).filled
    }

    /// Forgets the gradient; the memory stays for the next one.
    pub fn reset(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).filled = false;
    }
}
