//! A parameter with the buffer that its gradient is added to.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{Result, Tensor};

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
    pub fn trained(value: Tensor) -> Self {
        Self { value, gradient: Some(Arc::default()) }
    }

    /// The present value.
    pub fn value(&self) -> &Tensor {
        &self.value
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
            None => memory.insert(on.into_memory(on.zeros(count)?)),
        };
        f(on.memory(memory)?, *filled)?;
        *filled = true;
        Ok(())
    }

    /// Calls `f` with the gradient, if there is one of this update.
    ///
    /// # Errors
    /// Those of `f`.
    pub fn read<B: Backend, R>(&self, on: &B, f: impl FnOnce(&mut B::Buffer) -> Result<R>) -> Result<Option<R>> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *state {
            State { memory: Some(memory), filled: true } => f(on.memory(memory)?).map(Some),
            _ => Ok(None),
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
