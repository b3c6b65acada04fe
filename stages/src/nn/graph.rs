//! Operations as nodes of candle's graph. An [`Op`] is a whole part of a layer: it says what it keeps for its backward pass, adds
//! the gradients of its trained parameters to their own buffers, and hands on those of its inputs. It knows no model.
//!
//! Composed from candle's operations a training step spends most of its time in passes over memory, gradients of frozen
//! factors and accumulation. Here the graph has one node for each [`Op`] and holds no parameter.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::op::BackpropOp;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, CustomOp2, CustomOp3, Device, Error, Layout, MetalStorage, Result,
    Shape, Storage, StorageRef, Tensor, Var,
};

use super::backend::{Backend, Kept};
use super::composed::Composed;
use super::cpu::Cpu;
use super::gpu::Gpu;
use super::{Param, Precision};

/// What computes the operations of a model: the device is asked once, here.
#[derive(Clone)]
pub struct Compute(Arc<Inner>);

struct Inner {
    engine: Engine,
    /// One element. Every node depends on it, so that candle records nodes whose inputs need no gradient but whose parameters do.
    root: Tensor,
}

enum Engine {
    Cpu(Cpu),
    Gpu(Gpu),
    Composed(Composed),
}

impl fmt::Debug for Compute {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let engine = match &self.0.engine {
            Engine::Cpu(_) => "CPU",
            Engine::Gpu(_) => "GPU",
            Engine::Composed(_) => "composed",
        };
        write!(f, "Compute({engine})")
    }
}

impl Compute {
    /// The fastest on `device`, with products of factors in `precision`.
    ///
    /// # Errors
    /// A GPU that cannot run the kernels.
    pub fn for_device(device: &Device, precision: Precision) -> Result<Self> {
        match device {
            Device::Cpu => Self::new(Engine::Cpu(Cpu { precision }), device),
            Device::Cuda(_) => Self::new(Engine::Gpu(Gpu::open(device, precision)?), device),
            Device::Metal(_) => Self::composed(device, precision),
        }
    }

    /// The reference: each operation composed from candle's.
    ///
    /// # Errors
    /// Only if the device fails.
    pub fn composed(device: &Device, precision: Precision) -> Result<Self> {
        Self::new(Engine::Composed(Composed::new(precision)), device)
    }

    /// The kernels of `gpu` on tensors of `device`: for tests, whose drivers compute in host memory.
    ///
    /// # Errors
    /// Only if the device fails.
    pub fn on(gpu: Gpu, device: &Device) -> Result<Self> {
        Self::new(Engine::Gpu(gpu), device)
    }

    fn new(engine: Engine, device: &Device) -> Result<Self> {
        let root = Var::zeros(1, candle_core::DType::F32, device)?.into_inner();
        Ok(Self(Arc::new(Inner { engine, root })))
    }

    /// The sum of the values of `tensors`, in host memory: waits for the device.
    ///
    /// # Errors
    /// Tensors that are not f32 on the device, or a device that fails.
    pub fn sum(&self, tensors: &[Tensor]) -> Result<f64> {
        let values = tensors.iter().map(|tensor| self.run(Values(tensor))).collect::<Result<Vec<_>>>()?;
        Ok(values.into_iter().flatten().map(f64::from).sum())
    }

    /// The gradient of `param` that was added up, in host memory; nothing where there is none. Waits for the device.
    ///
    /// # Errors
    /// Only if the device fails.
    pub fn gradient(&self, param: &Param) -> Result<Option<Tensor>> {
        self.run(ReadGradient(param))
    }

    /// Calls `job` with the backend.
    pub(super) fn run<J: Job>(&self, job: J) -> Result<J::Output> {
        match &self.0.engine {
            Engine::Cpu(cpu) => job.run(cpu),
            Engine::Gpu(gpu) => job.run(gpu),
            Engine::Composed(composed) => job.composed(composed),
        }
    }

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

/// Work for whatever backend there is, outside of the graph.
pub(super) trait Job {
    /// What it returns.
    type Output;
    /// By the passes of a backend.
    fn run<B: Backend>(self, on: &B) -> Result<Self::Output>;
    /// By candle's operations.
    fn composed(self, on: &Composed) -> Result<Self::Output>;
}

/// The values of a tensor in host memory.
struct Values<'a>(&'a Tensor);

impl Job for Values<'_> {
    type Output = Vec<f32>;

    fn run<B: Backend>(self, on: &B) -> Result<Vec<f32>> {
        let locked = Locked::new(self.0)?;
        on.values(&on.copy(locked.view(on)?)?)
    }

    fn composed(self, _: &Composed) -> Result<Vec<f32>> {
        self.0.flatten_all()?.to_vec1()
    }
}

/// The gradient of a parameter in host memory.
struct ReadGradient<'a>(&'a Param);

impl Job for ReadGradient<'_> {
    type Output = Option<Tensor>;

    fn run<B: Backend>(self, on: &B) -> Result<Option<Tensor>> {
        let values = self.0.gradient().map(|gradient| gradient.read(on, |buffer| on.values(buffer)));
        let values = values.transpose()?.flatten();
        values.map(|values| Tensor::from_vec(values, self.0.value().shape(), &Device::Cpu)).transpose()
    }

    fn composed(self, _: &Composed) -> Result<Option<Tensor>> {
        self.0
            .gradient()
            .and_then(|gradient| gradient.tensor())
            .map(|grad| grad.to_device(&Device::Cpu))
            .transpose()
    }
}

/// An operation with its backward pass, written once for all backends.
pub(super) trait Op: Send + Sync + 'static {
    /// What the backward pass needs in addition to the inputs.
    type Saved<B: Backend>: Send + Sync + 'static;

    /// Its parameters.
    fn params(&self) -> Vec<&Param>;

    /// Whether the backward pass reads the inputs. An operation that returns `false` gets none there.
    fn reads_inputs(&self) -> bool {
        true
    }

    /// The result again, from what was saved, where that is a pass over memory; `None` where it is not.
    ///
    /// # Errors
    /// Only if the device fails.
    fn result_again<B: Backend>(&self, _: &B, _: &Self::Saved<B>) -> Result<Option<B::Buffer>> {
        Ok(None)
    }

    /// Whether there is a [`result_again`](Op::result_again).
    fn has_result_again(&self) -> bool {
        false
    }

    /// The result. Where there will be a backward pass, `keep` says which inputs need a gradient, and what that pass needs is
    /// returned too.
    fn forward<B: Backend>(
        &self,
        on: &B,
        inputs: &[B::View<'_>],
        keep: Option<&[bool]>,
    ) -> Result<Kept<B::Buffer, Self::Saved<B>>>;

    /// The gradient of each input that is `needs_grad`, given that of the result. Those of trained parameters are added to the
    /// parameters' own buffers.
    fn backward<B: Backend>(
        &self,
        on: &B,
        inputs: &[B::View<'_>],
        saved: Self::Saved<B>,
        grad: B::View<'_>,
        needs_grad: &[bool],
    ) -> Result<Vec<Option<B::Buffer>>>;

    /// The same by candle's operations, which give the gradients too: the reference, and the way of devices without kernels.
    fn composed(&self, on: &Composed, inputs: &[Tensor]) -> Result<Tensor>;
}

/// A contiguous tensor, locked for reading.
pub(super) struct Locked<'a> {
    storage: StorageRef<'a>,
    range: Range<usize>,
}

impl<'a> Locked<'a> {
    /// # Errors
    /// A tensor that is not contiguous.
    pub(super) fn new(tensor: &'a Tensor) -> Result<Self> {
        let (storage, layout) = tensor.storage_and_layout();
        let Some((start, end)) = layout.contiguous_offsets() else {
            return Err(Error::msg("an operation needs contiguous tensors"));
        };
        Ok(Self { storage, range: start..end })
    }

    /// Its values for `on`.
    ///
    /// # Errors
    /// A tensor that is not f32 on the backend's device.
    pub(super) fn view<'b, B: Backend>(&'b self, on: &B) -> Result<B::View<'b>> {
        on.view_storage(&self.storage, self.range.clone())
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
    Ok((on.into_storage(value), saved))
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
                Tensor::from_storage(on.into_storage(buffer), input.shape(), BackpropOp::none(), false)
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
