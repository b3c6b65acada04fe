//! Devices for tests: one that runs the kernels on the CPU, one that computes nothing and counts.

mod counting;
mod on_cpu;

pub use counting::{Counting, Counts};
pub use on_cpu::OnCpu;
