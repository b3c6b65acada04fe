//! The passes against definitions in double precision: on the CPU, or on the GPU that `REPRO_TEST_DEVICE` names.

mod attention;
mod maps;
mod norms;
mod products;
mod rows;

use std::ffi::c_void;
use std::sync::{Arc, OnceLock};

use candle_core::{Device, Tensor};

use super::driver::Driver;
use super::kernels::SOURCES;
use super::memory::Buffer;
use super::testing::OnCpu;
use super::{Backend, Gpu, Param, Precision};
use crate::nn::{LayerNorm, Linear, Mask};

/// Numbers that look random, in [-1, 1).
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 32) as u32
    }

    fn below(&mut self, end: u32) -> u32 {
        self.next() % end
    }

    fn values(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| (f64::from(self.next()) / f64::from(1u32 << 31) - 1.0) as f32).collect()
    }

    fn param(&mut self, shape: &[usize], is_trained: bool) -> Param {
        let value = tensor(&self.values(shape.iter().product()), shape);
        if is_trained { Param::trained(&value).unwrap() } else { Param::frozen(value) }
    }

    fn linear(&mut self, inputs: usize, outputs: usize, [weight, bias]: [bool; 2]) -> Linear {
        let weight = self.param(&[outputs, inputs], weight);
        Linear { weight, bias: self.param(&[outputs], bias), inputs, outputs }
    }

    fn norm(&mut self, size: usize, [weight, bias]: [bool; 2]) -> LayerNorm {
        let weight = self.param(&[size], weight);
        LayerNorm { weight, bias: self.param(&[size], bias), size, eps: 1e-12 }
    }
}

fn tensor(values: &[f32], shape: &[usize]) -> Tensor {
    Tensor::from_slice(values, shape, &device()).unwrap()
}

fn indices(values: &[u32], shape: &[usize]) -> Tensor {
    Tensor::from_slice(values, shape, &device()).unwrap()
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().copied().map(f64::from).collect()
}

/// The values of a parameter.
fn value(param: &Param) -> Vec<f64> {
    wide(&param.value().flatten_all().unwrap().to_vec1().unwrap())
}

/// The gradient of a parameter, if it has one.
fn gradient(gpu: &Gpu, param: &Param) -> Option<Vec<f32>> {
    param.gradient()?.read(gpu, |gradient| gpu.values(gradient)).unwrap()
}

/// Where the passes compute: see [`stage_api::testing::device`].
fn device() -> Device {
    static DEVICE: OnceLock<Device> = OnceLock::new();
    let open = || match stage_api::testing::device().split_once(':') {
        Some(("cuda", number)) => super::open(number.parse().unwrap()).unwrap(),
        _ => Device::Cpu,
    };
    DEVICE.get_or_init(open).clone()
}

/// The driver of the GPU under test, or one that runs the kernels on this CPU.
fn driver(has_tf32: bool) -> Arc<dyn Driver> {
    if device().is_cuda() { super::driver_of(&device()).unwrap() } else { on_cpu(has_tf32) }
}

/// A device that runs the kernels on this CPU.
fn on_cpu(has_tf32: bool) -> Arc<dyn Driver> {
    fn run(kernel: &str, grid: [u32; 3], block: u32, args: &[*mut c_void], seed: u64) -> Result<(), String> {
        // SAFETY: the device compares the number of arguments and their sizes with the kernel's; the passes under test name
        // memory that is there.
        #[allow(unsafe_code)]
        unsafe {
            gpu_on_cpu::launch(kernel, grid, block, args, seed)
        }
    }
    Arc::new(OnCpu::new(run, gpu_on_cpu::parameters, has_tf32))
}

/// A backend, and how a factor of its products is rounded.
struct Case {
    name: &'static str,
    gpu: Gpu,
    round: fn(f32) -> f64,
}

/// Every way of multiplying.
fn cases() -> Vec<Case> {
    fn exact(x: f32) -> f64 {
        x.into()
    }
    // Tensor cores drop the bits that TF32 has not.
    fn tf32(x: f32) -> f64 {
        f32::from_bits(x.to_bits() & !0x1fff).into()
    }
    fn bf16(x: f32) -> f64 {
        half::bf16::from_f32(x).into()
    }
    let case = |name, precision, splits, has_tf32, round| Case {
        name,
        gpu: Gpu::new(driver(has_tf32), precision, splits).unwrap().splitting_from(1),
        round,
    };
    let exactly = vec![
        case("split", Precision::F32, true, true, exact),
        case("f32", Precision::F32, false, true, exact),
    ];
    if device().is_cuda() {
        // How a GPU's library rounds the factors of TF32 products is its own choice, and some GPUs have none.
        return exactly;
    }
    let others = [
        case("f32 before TF32", Precision::F32, true, false, exact),
        case("tf32", Precision::Tf32, true, true, tf32),
        case("bf16", Precision::Bf16, true, true, bf16),
    ];
    exactly.into_iter().chain(others).collect()
}

/// The backend that most tests use.
fn gpu() -> Gpu {
    Gpu::new(driver(true), Precision::F32, true).unwrap().splitting_from(1)
}

fn upload(gpu: &Gpu, values: &[f32]) -> Buffer {
    let words: Vec<u32> = values.iter().map(|value| value.to_bits()).collect();
    gpu.driver.upload(&words).unwrap()
}

/// Compares with the definition: off by at most `tolerance` of the largest value.
#[track_caller]
fn assert_close(what: &str, found: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}: values");
    let largest = expected.iter().fold(1e-3, |most: f64, value| most.max(value.abs()));
    for (place, (&found, expected)) in found.iter().zip(expected).enumerate() {
        let off = (f64::from(found) - expected).abs();
        assert!(
            off <= tolerance * largest,
            "{what}: value {place} is {found}, not {expected} (largest {largest})"
        );
    }
}

/// A mask of dropout with probability 0.3 whose element 0 is the whole batch's element `first`.
fn mask(first: u32) -> Mask {
    let dropout = crate::nn::Dropout::new(0.3, 11).unwrap();
    dropout.at(5).micro_batch(first as usize, 1).site(crate::nn::Site::new("a.site")).over(1)
}

/// f64 of a mask's factors.
fn factors(mask: Option<Mask>, count: usize) -> Vec<f64> {
    let factor = |element| mask.map_or(1.0, |mask| f64::from(mask.factor(element as u32)));
    (0..count).map(factor).collect()
}

#[test]
fn every_kernel_is_compiled_for_this_cpu() {
    for source in &SOURCES {
        for kernel in source.kernels {
            assert!(gpu_on_cpu::parameters(kernel).is_some(), "{} has no `{kernel}`", source.file);
        }
    }
}

#[test]
fn tf32_and_bf16_need_tensor_cores() {
    for precision in [Precision::Tf32, Precision::Bf16] {
        let error = Gpu::new(on_cpu(false), precision, true).unwrap_err().to_string();
        assert!(error.contains("8.0"), "{error}");
    }
}
