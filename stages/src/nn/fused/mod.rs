//! Hand-written CPU kernels as nodes of candle's graph. It knows no layer: those hand in their [`Kernel`].
//!
//! Composed from candle's operations a training step spends most of its time in passes over memory: every
//! operation allocates its result, every gradient is accumulated as zeros plus a sum, and frozen weights get
//! unused gradients. A [`Kernel`] covers a whole layer, says what it keeps for its backward pass, and
//! computes the required gradients alone.
//!
//! Candle's custom operations take three inputs at most, a layer may have more. [`apply`] therefore hangs the
//! inputs into the graph by a chain of one-element nodes; in the backward pass the kernel leaves all gradients in
//! a shared cell and the chain hands each to its input.

pub mod math;
pub mod parallel;

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{
    CpuStorage, CustomOp1, CustomOp3, DType, Device, Error, Layout, Result, Shape, Storage, Tensor,
};

/// A layer's forward and backward pass over f32 slices of contiguous tensors.
pub trait Kernel: Send + Sync + 'static {
    /// What the backward pass needs in addition to the inputs.
    type Saved: Send + Sync + 'static;

    /// The output's elements, and what the backward pass needs; without `keep` there will be none.
    fn forward(&self, inputs: &[&[f32]], keep: bool) -> (Vec<f32>, Self::Saved);

    /// The gradient of each input that is `needs_grad`, given that of the output.
    fn backward(
        &self,
        inputs: &[&[f32]],
        saved: &Self::Saved,
        grad: &[f32],
        needs_grad: &[bool],
    ) -> Vec<Option<Vec<f32>>>;
}

/// Runs `kernel` on `inputs`, and records it in the graph if any of them is tracked. The caller has checked the
/// shapes: the kernel takes them for granted.
///
/// # Errors
/// An input that is not f32 on the CPU.
pub fn apply<K: Kernel>(kernel: K, inputs: &[&Tensor], shape: &[usize]) -> Result<Tensor> {
    let inputs = inputs.iter().map(|input| input.contiguous()).collect::<Result<Vec<_>>>()?;
    let needs_grad: Vec<bool> = inputs.iter().map(Tensor::track_op).collect();
    let keep = needs_grad.contains(&true);
    let (value, saved) = with_slices(&inputs, |slices| kernel.forward(slices, keep))?;
    if !keep {
        return Tensor::from_vec(value, shape, &Device::Cpu);
    }
    let gradients = Gradients::default();
    let nothing = Tensor::zeros(1, DType::F32, &Device::Cpu)?;
    let mut arguments = nothing.clone();
    let places: Vec<usize> = (0..inputs.len()).filter(|&place| needs_grad[place]).collect();
    for pair in places.chunks(2) {
        let places = [Some(pair[0]), pair.get(1).copied()];
        let second = places[1].map_or(&nothing, |place| &inputs[place]);
        let link = Link { first: !arguments.track_op(), places, gradients: gradients.clone() };
        arguments = arguments.apply_op3(&inputs[pair[0]], second, link)?;
    }
    let value = Mutex::new(Some(value));
    let shape = Shape::from(shape);
    arguments.apply_op1(Node { kernel, inputs, saved, needs_grad, value, shape, gradients })
}

/// Where a kernel's gradients wait for the links that hand them on, by place of the input.
type Gradients = Arc<Mutex<Vec<Option<Tensor>>>>;

struct Node<K: Kernel> {
    kernel: K,
    inputs: Vec<Tensor>,
    saved: K::Saved,
    needs_grad: Vec<bool>,
    value: Mutex<Option<Vec<f32>>>,
    shape: Shape,
    gradients: Gradients,
}

impl<K: Kernel> CustomOp1 for Node<K> {
    fn name(&self) -> &'static str {
        "fused-kernel"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        let value = self.value.lock().unwrap_or_else(PoisonError::into_inner).take();
        let value = value.ok_or_else(|| Error::msg("a fused kernel's value was taken twice"))?;
        Ok((CpuStorage::F32(value), self.shape.clone()))
    }

    fn bwd(&self, arguments: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = [grad.contiguous()?];
        let gradients = with_slices(&grad, |grad| {
            with_slices(&self.inputs, |inputs| {
                self.kernel.backward(inputs, &self.saved, grad[0], &self.needs_grad)
            })
        })??;
        let gradients = gradients.into_iter().zip(&self.inputs).map(|(gradient, input)| {
            gradient.map(|values| Tensor::from_vec(values, input.shape(), &Device::Cpu)).transpose()
        });
        let gradients = gradients.collect::<Result<Vec<_>>>()?;
        *self.gradients.lock().unwrap_or_else(PoisonError::into_inner) = gradients;
        Ok(Some(arguments.zeros_like()?))
    }
}

/// A one-element node through which up to two inputs hang in the graph.
struct Link {
    /// Whether nothing hangs before it.
    first: bool,
    places: [Option<usize>; 2],
    gradients: Gradients,
}

impl CustomOp3 for Link {
    fn name(&self) -> &'static str {
        "fused-kernel-input"
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
        Ok((CpuStorage::F32(vec![0.0]), Shape::from(1)))
    }

    fn bwd(
        &self,
        before: &Tensor,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let before = if self.first { None } else { Some(before.zeros_like()?) };
        let mut gradients = self.gradients.lock().unwrap_or_else(PoisonError::into_inner);
        let mut take = |place: Option<usize>| place.and_then(|place| gradients.get_mut(place)?.take());
        let [first, second] = self.places;
        Ok((before, take(first), take(second)))
    }
}

/// Calls `f` with the elements of contiguous f32 CPU tensors.
fn with_slices<T>(tensors: &[Tensor], f: impl FnOnce(&[&[f32]]) -> T) -> Result<T> {
    let guards: Vec<_> = tensors.iter().map(Tensor::storage_and_layout).collect();
    let mut slices = Vec::with_capacity(guards.len());
    for (storage, layout) in &guards {
        slices.push(elements(storage, layout)?);
    }
    Ok(f(&slices))
}

/// The elements of a contiguous f32 tensor on the CPU.
pub fn elements<'a>(storage: &'a Storage, layout: &Layout) -> Result<&'a [f32]> {
    let Storage::Cpu(CpuStorage::F32(values)) = storage else {
        return Err(Error::msg("a fused kernel needs f32 tensors on the CPU"));
    };
    let range = layout.contiguous_offsets();
    let (start, end) = range.ok_or_else(|| Error::msg("a fused kernel needs contiguous tensors"))?;
    Ok(&values[start..end])
}
