//! Operations as nodes of candle's graph. It knows no operation.
//!
//! Composed from candle's operations a training step spends most of its time in passes over memory, gradients of frozen
//! factors and accumulation. Here the graph has one node for each [`Op`] and holds no parameter.

use std::sync::{Mutex, PoisonError};

use candle_core::op::BackpropOp;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, CustomOp2, CustomOp3, Error, Layout, MetalStorage, Result, Shape,
    Storage, Tensor,
};

use super::backend::Backend;
use super::compute::{Compute, Engine};
use super::cpu::Cpu;
use super::gpu::Gpu;
use super::op::{Locked, Op};

impl Compute {
    /// The result of `op` on `inputs`, of shape `shape`; a node of the graph if anything of it needs a gradient.
    ///
    /// # Errors
    /// Inputs that are not contiguous f32 tensors on the device, or a device that fails.
    pub(super) fn apply<O: Op>(&self, op: O, inputs: &[&Tensor], shape: &[usize]) -> Result<Tensor> {
        let inputs = inputs.iter().map(|input| input.contiguous()).collect::<Result<Vec<_>>>()?;
        let needs_grad: Vec<bool> = inputs.iter().map(Tensor::track_op).collect();
        let trains = op.params().iter().any(|param| param.is_trained());
        let keep = (trains || needs_grad.contains(&true)).then_some(&needs_grad[..]);
        let (value, saved) = match &self.0.engine {
            Engine::Cpu(cpu) => {
                let (value, saved) = forward(&op, cpu, &inputs, keep)?;
                (value, saved.map(Saved::Cpu))
            }
            Engine::Gpu(gpu) => {
                let (value, saved) = forward(&op, gpu, &inputs, keep)?;
                (value, saved.map(Saved::Gpu))
            }
            Engine::Composed(composed) => {
                let inputs: Vec<Tensor> = inputs.iter().map(Tensor::detach).collect();
                let value = op.composed(composed, &inputs)?.detach().contiguous()?;
                if keep.is_none() {
                    return value.reshape(shape);
                }
                (value.storage_and_layout().0.try_clone(value.layout())?, Some(Saved::Composed))
            }
        };
        let shape = Shape::from(shape);
        let Some(saved) = saved else {
            return Ok(Tensor::from_storage(value, shape, BackpropOp::none(), false));
        };
        let node = Node {
            op,
            compute: self.clone(),
            needs_grad,
            value: Mutex::new(Some(value)),
            saved: Mutex::new(Some(saved)),
            shape,
        };
        let root = &self.0.root;
        match &inputs[..] {
            [] => root.apply_op1(node),
            [one] => one.apply_op2(root, node),
            [one, two] => one.apply_op3(two, root, node),
            more => Err(Error::msg(format!("an operation of {} inputs", more.len()))),
        }
    }
}

fn forward<O: Op, B: Backend>(
    op: &O,
    on: &B,
    inputs: &[Tensor],
    keep: Option<&[bool]>,
) -> Result<(Storage, Option<O::Saved<B>>)> {
    let locked = inputs.iter().map(Locked::new).collect::<Result<Vec<_>>>()?;
    let views = locked.iter().map(|input| input.view(on)).collect::<Result<Vec<_>>>()?;
    let (value, saved) = op.forward(on, &views, keep)?;
    Ok((on.storage_of(value), saved))
}

/// What an operation saved, by backend.
enum Saved<O: Op> {
    Cpu(O::Saved<Cpu>),
    Gpu(O::Saved<Gpu>),
    Composed,
}

/// An operation in candle's graph. Its arguments are the inputs, then the root.
struct Node<O: Op> {
    op: O,
    compute: Compute,
    needs_grad: Vec<bool>,
    value: Mutex<Option<Storage>>,
    saved: Mutex<Option<Saved<O>>>,
    shape: Shape,
}

fn take<T>(cell: &Mutex<Option<T>>) -> Result<T> {
    let taken = cell.lock().unwrap_or_else(PoisonError::into_inner).take();
    taken.ok_or_else(|| Error::msg("an operation's result was taken twice"))
}

impl<O: Op> Node<O> {
    /// The gradients of `inputs`.
    fn gradients(&self, inputs: &[&Tensor], grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let grad = grad.contiguous()?;
        match (take(&self.saved)?, &self.compute.0.engine) {
            (Saved::Cpu(saved), Engine::Cpu(on)) => self.backward(on, saved, inputs, &grad),
            (Saved::Gpu(saved), Engine::Gpu(on)) => self.backward(on, saved, inputs, &grad),
            (Saved::Composed, Engine::Composed(on)) => on.backward(&self.op, inputs, &self.needs_grad, &grad),
            _ => Err(Error::msg("an operation was computed by another backend")),
        }
    }

    fn backward<B: Backend>(
        &self,
        on: &B,
        saved: O::Saved<B>,
        inputs: &[&Tensor],
        grad: &Tensor,
    ) -> Result<Vec<Option<Tensor>>> {
        let locked = inputs.iter().map(|input| Locked::new(input)).collect::<Result<Vec<_>>>()?;
        let views = locked.iter().map(|input| input.view(on)).collect::<Result<Vec<_>>>()?;
        let grad = Locked::new(grad)?;
        let gradients = self.op.backward(on, &views, saved, grad.view(on)?, &self.needs_grad)?;
        let tensor = |(buffer, input): (Option<B::Buffer>, &&Tensor)| {
            buffer.map(|buffer| {
                Tensor::from_storage(on.storage_of(buffer), input.shape(), BackpropOp::none(), false)
            })
        };
        Ok(gradients.into_iter().zip(inputs).map(tensor).collect())
    }

    fn value<T>(&self, of: impl FnOnce(Storage) -> Option<T>) -> Result<(T, Shape)> {
        let value = of(take(&self.value)?);
        Ok((
            value.ok_or_else(|| Error::msg("an operation was computed on another device"))?,
            self.shape.clone(),
        ))
    }

    fn cpu(&self) -> Result<(CpuStorage, Shape)> {
        self.value(|value| if let Storage::Cpu(value) = value { Some(value) } else { None })
    }

    fn cuda(&self) -> Result<(CudaStorage, Shape)> {
        self.value(|value| if let Storage::Cuda(value) = value { Some(value) } else { None })
    }

    fn metal(&self) -> Result<(MetalStorage, Shape)> {
        self.value(|value| if let Storage::Metal(value) = value { Some(value) } else { None })
    }
}

const NAME: &str = "operation";

impl<O: Op> CustomOp1 for Node<O> {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.cpu()
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        self.cuda()
    }

    fn metal_fwd(&self, _: &MetalStorage, _: &Layout) -> Result<(MetalStorage, Shape)> {
        self.metal()
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        self.gradients(&[], grad)?;
        Ok(None)
    }
}

impl<O: Op> CustomOp2 for Node<O> {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.cpu()
    }

    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.cuda()
    }

    fn metal_fwd(
        &self,
        _: &MetalStorage,
        _: &Layout,
        _: &MetalStorage,
        _: &Layout,
    ) -> Result<(MetalStorage, Shape)> {
        self.metal()
    }

    fn bwd(
        &self,
        x: &Tensor,
        _: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((self.gradients(&[x], grad)?.pop().flatten(), None))
    }
}

impl<O: Op> CustomOp3 for Node<O> {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.cpu()
    }

    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.cuda()
    }

    fn metal_fwd(
        &self,
        _: &MetalStorage,
        _: &Layout,
        _: &MetalStorage,
        _: &Layout,
        _: &MetalStorage,
        _: &Layout,
    ) -> Result<(MetalStorage, Shape)> {
        self.metal()
    }

    #[allow(clippy::type_complexity, reason = "candle's signature")]
    fn bwd(
        &self,
        x: &Tensor,
        y: &Tensor,
        _: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let mut gradients = self.gradients(&[x, y], grad)?.into_iter();
        Ok((gradients.next().flatten(), gradients.next().flatten(), None))
    }
}
