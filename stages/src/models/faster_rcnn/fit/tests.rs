//! How well-conditioned the fits of a detector are, on the scenes of the golden test and of the mini profile.

// The figures are worth a look: `cargo test --release -p stages --lib faster_rcnn::fit -- --nocapture`.
#![allow(clippy::print_stdout)]

use stage_api::testing::run_stage;

use super::ridge::observe::fits;
use super::*;
use crate::regions::make_detector::read_examples;

/// What `make-detector` reads of scenes that `synthesize` draws.
fn examples(params: &str, count: usize) -> (Config, Vec<Example>) {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("memes");
    run_stage(crate::registry().get("synthesize").unwrap(), params, &[], &out).unwrap();
    let (examples, names) = read_examples(&out.join("scenes"), count).unwrap();
    (Config::mini(names.len() + 1), examples)
}

#[test]
fn rounding_moves_a_fit_by_rounding() {
    // The other pictures do not matter here.
    let few = "hmd_train: 16, hmd_dev_seen: 16, hmd_dev_unseen: 4, hmd_test_seen: 4, hmd_test_unseen: 4, \
               mmh_train: 16, mmh_val: 16, mmh_test: 16, scenes_val: 4";
    for (about, params, count) in [
        ("golden", format!("({few}, seed: 3, scenes: 12, descriptions: 2)"), 8),
        ("mini", format!("({few}, seed: 7, scenes: 160)"), 160),
    ] {
        let (config, examples) = examples(&params, count);
        let fits = fits(|| drop(fit(&config, &examples, 1).unwrap()));
        // Objectness and deltas of each shape of anchor, the first head layer, the class scores.
        assert_eq!(fits.len(), 2 * config.anchor_ratios.len() + 2);
        for fit in fits {
            println!("{about}: {fit}");
            let [_, inputs, _] = fit.sizes;
            assert!(fit.conditions[1] <= inputs as f64 / PENALTY + 1.0, "{about}: {fit}");
            assert!(fit.moved.iter().all(|&moved| moved < 1e-6), "{about}: {fit}");
        }
    }
}
