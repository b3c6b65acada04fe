//! Every kernel, run on the CPU, against its definition in double precision; and that the ways to run it wrongly are noticed.

mod attention;
mod convolutions;
mod elements;
mod losses;
mod norms;
mod regions;
mod rows;
mod support;

use std::collections::{BTreeMap, BTreeSet};

use support::{Checked, NULL, size};

/// A check of the kernel of this name, with threads in the order that a seed draws.
type Check = fn(&str, u64) -> Checked;

/// Kernels, and what checks them. The width, which is part of the names of attention's
/// and convolutions' kernels, is left to their checks.
const CHECKS: [(&str, Check); 38] = [
    ("activate", elements::activate),
    ("activate_backward", elements::activate_backward),
    ("adamw", elements::adamw),
    ("add_first_rows", rows::add_first_rows),
    ("add_gradients", elements::add_gradients),
    ("add_parts", elements::add_parts),
    ("add_rows", elements::add_rows),
    ("attention_backward_keys", attention::backward_keys),
    ("attention_backward_queries", attention::backward_queries),
    ("attention_delta", attention::delta),
    ("attention_forward", attention::forward),
    ("binary_cross_entropy", losses::binary_cross_entropy),
    ("canvas", regions::canvas),
    ("column_sums", elements::column_sums),
    ("concat", rows::concat),
    ("conv", convolutions::conv),
    ("cross_entropy", losses::cross_entropy),
    ("dropout", elements::dropout),
    ("embed_gradient", rows::embed_gradient),
    ("embed_text", rows::embed_text),
    ("first_rows", rows::first_rows),
    ("max_pool", convolutions::max_pool),
    ("mean_loss", losses::mean_loss),
    ("multiply", elements::multiply),
    ("norm_backward", norms::norm_backward),
    ("norm_forward", norms::norm_forward),
    ("norm_output", norms::norm_output),
    ("norm_parameter_sums", norms::norm_parameter_sums),
    ("roi_align", regions::roi_align),
    ("round_factor", rows::round_factor),
    ("scale_by", elements::scale_by),
    ("scatter_rows", rows::scatter_rows),
    ("select_rows", rows::select_rows),
    ("softmax", regions::softmax),
    ("split_concat", rows::split_concat),
    ("split_factor", rows::split_factor),
    ("winograd_input", convolutions::winograd_input),
    ("winograd_output", convolutions::winograd_output),
];

/// In order, and in three other orders.
const SEEDS: [u64; 4] = [0, 1, 2, 3];

/// The checks of all kernels, by what follows the kernels' names: nothing for those of a current GPU.
fn by_suffix() -> BTreeMap<String, BTreeSet<String>> {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for kernel in gpu_on_cpu::kernels() {
        let (name, suffix) = kernel.split_at(kernel.find('@').unwrap_or(kernel.len()));
        let name = name.trim_end_matches(|end: char| end.is_ascii_digit()).trim_end_matches('_');
        found.entry(suffix.to_owned()).or_default().insert(name.to_owned());
    }
    found
}

fn follow_their_definitions(suffix: &str, of: impl Fn(&str) -> bool) {
    for name in by_suffix()[suffix].iter().filter(|name| of(name)) {
        let (_, check) = CHECKS.iter().find(|(checked, _)| checked == name).unwrap();
        for seed in SEEDS {
            check(&format!("{name}{suffix}"), seed)
                .unwrap_or_else(|error| panic!("{name}{suffix}, seed {seed}: {error}"));
        }
    }
}

#[test]
fn every_kernel_has_a_check() {
    let checked: BTreeSet<String> = CHECKS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(by_suffix()[""], checked);
}

#[test]
fn all_but_attention_follow_their_definitions() {
    follow_their_definitions("", |name| !name.starts_with("attention"));
}

#[test]
fn attention_follows_its_definition() {
    follow_their_definitions("", |name| name.starts_with("attention"));
}

#[test]
fn what_multiplies_without_tensor_cores_follows_its_definition() {
    follow_their_definitions("@sm70", |_| true);
}

#[test]
fn a_missing_barrier_is_noticed() {
    let mut barriers = 0;
    for (suffix, names) in by_suffix().into_iter().filter(|(suffix, _)| suffix.contains("without-barrier")) {
        let fails = |(name, check): &(&str, Check)| {
            names.contains(*name)
                && SEEDS.into_iter().any(|seed| check(&format!("{name}{suffix}"), seed).is_err())
        };
        assert!(CHECKS.iter().any(fails), "{suffix} passes all checks");
        barriers += 1;
    }
    assert!(barriers >= 10, "{barriers} barriers were left out");
}

#[test]
fn a_launch_that_cuda_would_refuse_is_an_error() {
    let launch = |kernel: &str, grid, block, args: usize| {
        support::launch_unchecked(kernel, (grid, block), &[&[NULL; 3], &vec![size(0); args][..]].concat())
    };
    assert_eq!(launch("multiply", [1, 1, 1], 256, 1), Ok(()));
    for (kernel, grid, block, args, expected) in [
        ("multiplyo", [1, 1, 1], 256, 1, "multiplyo: there is no such kernel"),
        ("multiply", [1, 1, 1], 256, 2, "multiply: 5 arguments for 4 parameters"),
        ("multiply", [1, 1, 1], 257, 1, "multiply: 257 threads in a block of at most 256"),
        ("multiply", [1, 0, 1], 256, 1, "multiply: a grid that CUDA does not launch"),
        ("multiply", [1, 65_536, 1], 256, 1, "multiply: a grid that CUDA does not launch"),
    ] {
        assert_eq!(launch(kernel, grid, block, args), Err(expected.to_owned()));
    }
}

#[test]
fn threads_that_wait_for_ever_are_an_error() {
    for (kernel, expected) in [
        ("some_end_before_a_barrier", "threads of a block wait for each other for ever"),
        ("half_a_warp_exchanges", "threads of a block wait for each other for ever"),
        ("lanes_meet_for_different_things", "lanes of a warp wait in different places"),
    ] {
        for _ in 0..2 {
            let found = support::launch_unchecked(&format!("{kernel}@wrong"), ([2, 1, 1], 64), &[NULL]);
            assert_eq!(found, Err(format!("{kernel}@wrong: {expected}")));
        }
        // What comes after such a launch works.
        losses::mean_loss("mean_loss", 1).unwrap();
    }
}
