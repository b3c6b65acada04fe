//! What computes the operations of a model, asked once for the device. It knows no operation and no graph.

use std::fmt;
use std::sync::Arc;

use candle_core::{Device, Result, Tensor, Var};

use super::composed::Composed;
use super::cpu::Cpu;
use super::gpu::Gpu;
use super::maps::MapBackend;
use super::op::Locked;
use super::{Param, Precision};

/// What computes the operations of a model: the device is asked once, here.
#[derive(Clone)]
pub struct Compute(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) engine: Engine,
    /// Whether layers take sequences without their padding.
    packs: bool,
    /// One element. Every node depends on it, so that candle records nodes whose inputs need no gradient but whose parameters do.
    pub(super) root: Tensor,
}

pub(super) enum Engine {
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

    /// The CPU's passes over padded sequences: what leaving out the padding is compared with.
    ///
    /// # Errors
    /// None.
    #[cfg(test)]
    pub fn padded(precision: Precision) -> Result<Self> {
        Self::with_packing(Engine::Cpu(Cpu { precision }), false, &Device::Cpu)
    }

    fn new(engine: Engine, device: &Device) -> Result<Self> {
        let packs = !matches!(engine, Engine::Composed(_));
        Self::with_packing(engine, packs, device)
    }

    fn with_packing(engine: Engine, packs: bool, device: &Device) -> Result<Self> {
        let root = Var::zeros(1, candle_core::DType::F32, device)?.into_inner();
        Ok(Self(Arc::new(Inner { engine, packs, root })))
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

    /// Where the tensors are that it computes with.
    pub(super) fn device(&self) -> &Device {
        self.0.root.device()
    }

    /// Whether layers take sequences without their padding.
    pub(super) fn packs(&self) -> bool {
        self.0.packs
    }

    /// Whether it is the reference.
    pub(super) fn is_composed(&self) -> bool {
        matches!(self.0.engine, Engine::Composed(_))
    }

    /// Calls `job` with the backend.
    pub(super) fn run<J: Job>(&self, job: J) -> Result<J::Output> {
        match &self.0.engine {
            Engine::Cpu(cpu) => job.run(cpu),
            Engine::Gpu(gpu) => job.run(gpu),
            Engine::Composed(composed) => job.composed(composed),
        }
    }
}

/// Work for whatever backend there is, outside of the graph.
pub(super) trait Job {
    /// What it returns.
    type Output;
    /// By the passes of a backend.
    fn run<B: MapBackend>(self, on: &B) -> Result<Self::Output>;
    /// By candle's operations.
    fn composed(self, on: &Composed) -> Result<Self::Output>;
}

/// The values of a tensor in host memory.
pub(super) struct Values<'a>(pub(super) &'a Tensor);

impl Job for Values<'_> {
    type Output = Vec<f32>;

    fn run<B: MapBackend>(self, on: &B) -> Result<Vec<f32>> {
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

    fn run<B: MapBackend>(self, on: &B) -> Result<Option<Tensor>> {
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
