//! Our matrix products beside the crate `gemm`'s, both in one process and in turn: GFLOP/s by instruction set, and the ratio of the
//! best to the library. Shapes are those of VisualBERT (19 pictures of 192 positions), of an attention head, of the mini
//! profile's models and of convolutions.
//!
//! ```sh
//! cargo build --release --manifest-path benches/gemm/Cargo.toml
//! chrt -f 10 benches/gemm/target/release/bench-gemm THREADS
//! ```

#![allow(dead_code, unused_imports, unused_macros, reason = "parts of another crate")]

#[path = "../../../stages/src/nn"]
mod nn {
    pub mod cpu;
    pub mod gemm;
}

use std::time::Instant;

use nn::cpu::{InstructionSet, select};
use nn::gemm::{Matrix, product};

/// Rows, columns and inner dimension; whether a and b are read transposed.
const SHAPES: [(usize, usize, usize, bool, bool); 18] = [
    (3648, 768, 768, false, true),
    (3648, 3072, 768, false, true),
    (3648, 768, 3072, false, true),
    (3648, 768, 768, false, false),
    (768, 768, 3648, true, false),
    (16, 768, 768, false, true),
    (512, 128, 128, false, true),
    (600, 512, 128, false, true),
    (600, 128, 512, false, false),
    (128, 512, 600, true, false),
    (228, 228, 64, false, true),
    (228, 64, 228, false, false),
    (228, 64, 228, true, false),
    (117, 117, 64, false, true),
    (117, 64, 117, false, false),
    (40, 40, 32, false, true),
    (256, 10_000, 256, false, false),
    (64, 10_000, 576, false, false),
];

/// Multiplications from which on both sides use all threads.
const WORTH_SHARING: usize = 1 << 21;

fn values(count: usize, factor: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * factor + 7) % 1013) as f32 / 506.0 - 1.0).collect()
}

fn library(out: &mut [f32], a: &[f32], b: &[f32], shape: (usize, usize, usize, bool, bool), threads: usize) {
    let (m, n, k, is_a_transposed, is_b_transposed) = shape;
    let strides = |is_transposed: bool, rows: usize, columns: usize| {
        if is_transposed { (1, rows as isize) } else { (columns as isize, 1) }
    };
    let (a_strides, b_strides) = (strides(is_a_transposed, m, k), strides(is_b_transposed, k, n));
    let is_shared = threads > 1 && m * n * k >= WORTH_SHARING;
    let parallelism = if is_shared { gemm::Parallelism::Rayon(0) } else { gemm::Parallelism::None };
    // SAFETY: the strides stay within the slices, which `main` makes of these sizes.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            n as isize,
            false,
            a.as_ptr(),
            a_strides.1,
            a_strides.0,
            b.as_ptr(),
            b_strides.1,
            b_strides.0,
            1.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}

fn main() {
    let threads = std::env::args().nth(1).map_or(1, |count| count.parse().expect("a number of threads"));
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().expect("threads");
    let sets: Vec<InstructionSet> =
        InstructionSet::supported().filter(|set| *set != InstructionSet::Scalar).collect();
    for shape in SHAPES {
        let (m, n, k, is_a_transposed, is_b_transposed) = shape;
        let (a, b) = (values(m * k, 37), values(k * n, 53));
        let left = if is_a_transposed { Matrix::new(&a, k, m, m).t() } else { Matrix::new(&a, m, k, k) };
        let right = if is_b_transposed { Matrix::new(&b, n, k, k).t() } else { Matrix::new(&b, k, n, n) };
        let mut out = vec![0f32; m * n];
        let repeats = (400_000_000 / (m * n * k)).clamp(3, 3000);
        // The best of seven rounds, all sides in turn.
        let mut best = vec![f64::MAX; sets.len() + 1];
        for _ in 0..7 {
            for side in 0..=sets.len() {
                if let Some(&set) = sets.get(side) {
                    select(set).expect("supported");
                }
                let start = Instant::now();
                for _ in 0..repeats {
                    if side < sets.len() {
                        product(&mut out, n, left, right, 1.0, false);
                    } else {
                        library(&mut out, &a, &b, shape, threads);
                    }
                }
                best[side] = best[side].min(start.elapsed().as_secs_f64() / repeats as f64);
            }
        }
        let speed = |seconds: f64| 2e-9 * (m * n * k) as f64 / seconds;
        print!(
            "{m} x {n} x {k}{}{}:",
            if is_a_transposed { " a^T" } else { "" },
            if is_b_transposed { " b^T" } else { "" }
        );
        for (set, seconds) in sets.iter().zip(&best) {
            print!(" {set} {:.0},", speed(*seconds));
        }
        let library = best[sets.len()];
        let ours = best[..sets.len()].iter().copied().fold(f64::MAX, f64::min);
        println!(" library {:.0} GFLOP/s, ratio {:.2}", speed(library), library / ours);
    }
}
