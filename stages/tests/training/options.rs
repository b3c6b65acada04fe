//! Every param of `train` acts: a run with another value is another run, in the way the param says.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use candle_core::Tensor;
use stage_api::testing::run_stage;
use stages::artifacts::history::History;

use super::space::{Space, params, tensors, values};

fn history(run: &Path) -> History {
    History::read(run).unwrap()
}

/// All values of all tensors, in the order of their names.
fn bits(run: &Path) -> Vec<u32> {
    let mut found: Vec<(String, Tensor)> = tensors(run).into_iter().collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found.iter().flat_map(|(_, tensor)| values(tensor)).collect()
}

#[test]
fn what_is_said_of_learning_changes_what_is_learnt() {
    let space = Space::new();
    // One validation at the end, so that the weights are those of the last update.
    let settings = params("full", "dropout: 0.1").replace("evaluate_every: 2", "evaluate_every: 6");
    let whole = space.train(&settings, "whole").unwrap();
    for (at, (from, to)) in [
        ("seed: 1", "seed: 2"),
        ("batch: 16,", "batch: 8,"),
        ("updates: 6", "updates: 7"),
        ("warm_up: 2", "warm_up: 3"),
        ("lr: 5e-3", "lr: 4e-3"),
        ("dropout: 0.1", "dropout: 0.2"),
        (")", "betas: (0.8, 0.999))"),
        (")", "betas: (0.9, 0.99))"),
        (")", "eps: 1e-3)"),
        (")", "weight_decay: 0.5)"),
        (")", "max_text: 3)"),
        (")", "max_regions: 1)"),
        (")", "order: \"sequential\")"),
        (")", "ablation: \"regions\")"),
        (")", "precision: \"bf16\")"),
    ]
    .into_iter()
    .enumerate()
    {
        let end = if from == ")" { ", " } else { "" };
        let changed = settings.replace(", )", ")").replacen(from, &format!("{end}{to}"), 1);
        assert_ne!(changed, settings, "{from}");
        let run = space.train(&changed, &format!("changed-{at}")).unwrap();
        assert!(bits(&run) != bits(&whole), "`{to}` changes nothing");
    }
}

#[test]
fn log_and_validation_come_as_often_as_asked() {
    let space = Space::new();
    let settings = params("fc", "");
    let run = space.train(&settings.replace("evaluate_every: 2", "evaluate_every: 4"), "every-4").unwrap();
    assert_eq!(history(&run).val.iter().map(|point| point.update).collect::<Vec<_>>(), [4, 6]);
    let run = space.train(&settings.replace("log_every: 2", "log_every: 5"), "log-5").unwrap();
    assert_eq!(history(&run).train.iter().map(|point| point.update).collect::<Vec<_>>(), [5, 6]);
}

#[test]
fn the_size_of_evaluation_batches_changes_nothing_but_rounding() {
    let space = Space::new();
    let losses = |size: usize| {
        let settings = params("pe", "").replace("evaluation_batch: 5", &format!("evaluation_batch: {size}"));
        let run = space.train(&settings, &format!("batch-{size}")).unwrap();
        history(&run).val.iter().map(|point| point.loss).collect::<Vec<f64>>()
    };
    let whole = losses(12);
    for size in [1, 5, 100] {
        for (a, b) in whole.iter().zip(losses(size)) {
            assert!((a - b).abs() < 1e-6, "{size}: {b}, not {a}");
        }
    }
}

#[test]
fn rows_keep_their_order_and_scores_whatever_batches_they_are_scored_in() {
    let space = Space::new();
    let run = space.train(&params("pe", ""), "run").unwrap();
    let inputs = [("run", run.as_path()), ("tokens", space.tokens.as_path()), ("regions", &space.regions)];
    let scores = |batch: usize| -> Vec<(String, f32)> {
        let out = space.dir.path().join(format!("predicted-{batch}"));
        let settings = format!("(split: \"val\", batch: {batch})");
        run_stage(stages::registry().get("predict").unwrap(), &settings, &inputs, &out).unwrap();
        let csv = fs::read_to_string(out.join("predictions.csv")).unwrap();
        let cells = csv.lines().skip(1).map(|line| line.split(',').collect::<Vec<_>>());
        cells.map(|cells| (cells[0].to_owned(), cells[1].parse().unwrap())).collect()
    };
    // Alone, a row has no padding; texts are 4 and 5 pieces long in turns of three.
    let alone = scores(1);
    assert_eq!(
        alone.iter().map(|row| row.0.clone()).collect::<Vec<_>>(),
        Vec::from_iter((40..52).map(|at| format!("m{at}")))
    );
    assert!(alone.iter().any(|row| (row.1 - alone[0].1).abs() > 1e-4), "all rows score alike: {alone:?}");
    for batch in [2, 5, 64] {
        for (one, other) in alone.iter().zip(scores(batch)) {
            assert!(one.0 == other.0 && (one.1 - other.1).abs() < 1e-6, "{batch}: {other:?}, not {one:?}");
        }
    }
}

#[test]
fn adapters_have_the_width_and_place_asked_for() {
    let space = Space::new();
    // The model is 16 wide and has two layers; by default an adapter is 16 / 10 = 1 wide.
    let adapters = |more: &str, name: &str| {
        let run = space.train(&params("pe", more), name).unwrap();
        let history = history(&run);
        let found: HashMap<String, Vec<usize>> = tensors(&run)
            .into_iter()
            .filter(|(name, _)| name.ends_with("AdaptComb1.weight"))
            .map(|(name, tensor)| (name.replace("model.bert.encoder.layer.", ""), tensor.dims().to_vec()))
            .collect();
        assert!(space.evaluate(&run, "()", &format!("{name}-evaluated")).is_ok());
        (found, history.parameters.adapters)
    };
    let places = |parts: &[&str], width: usize| -> HashMap<String, Vec<usize>> {
        let name = |layer: usize, part: &&str| format!("{layer}.{part}.AdaptComb1.weight");
        let all = (0..2).flat_map(|layer| parts.iter().map(move |part| (name(layer, part), vec![width, 16])));
        all.collect()
    };
    let count = |width: u64| 2 * (2 * 16 * width + width + 16);
    assert_eq!(adapters("", "default"), (places(&["output"], 1), count(1)));
    assert_eq!(adapters("adapter_divisor: 4", "wider"), (places(&["output"], 4), count(4)));
    let after_attention = adapters("adapter_place: \"attention\"", "attention");
    assert_eq!(after_attention, (places(&["attention.output"], 1), count(1)));
    let both = adapters("adapter_place: \"both\", adapter_divisor: 2", "both");
    assert_eq!(both, (places(&["attention.output", "output"], 8), 2 * count(8)));
}

#[test]
fn a_finished_run_is_trained_further() {
    let space = Space::new();
    let run = space.train(&params("pe", ""), "first").unwrap();
    let inputs = [("tokens", space.tokens.as_path()), ("regions", &space.regions), ("weights", &run)];
    let further = |settings: &str, name: &str| {
        let out = space.dir.path().join(name);
        run_stage(stages::registry().get("train").unwrap(), settings, &inputs, &out).map(|_| out)
    };
    // At rate zero the first validation finds what the first run's best one found.
    let still = params("pe", "start: \"run\", dropout: 0.0").replace("lr: 5e-3", "lr: 0.0");
    let again = history(&further(&still, "still").unwrap());
    assert_eq!(again.val[0].loss, history(&run).best.loss);
    let moved = further(&params("pe", "start: \"run\""), "moved").unwrap();
    assert!(bits(&moved) != bits(&run));
    // A head is not silently thrown away with adapters, nor kept under another mode.
    let error = further(&params("pe", ""), "base").unwrap_err().to_string();
    assert!(error.contains("AdaptComb") && error.contains("start"), "{error}");
}

#[test]
fn dropout_acts_in_the_frozen_base_in_training_alone() {
    let space = Space::new();
    // One update at rate zero: the model is what it was, so only dropout can tell the runs apart.
    let one = |mode: &str, dropout: f64| {
        let settings = format!(
            "(mode: \"{mode}\", updates: 1, warm_up: 1, evaluate_every: 1, log_every: 1, dropout: {dropout:?})"
        );
        history(&space.train(&settings, &format!("{mode}-{}", dropout > 0.0)).unwrap())
    };
    for mode in ["fc", "pe", "full"] {
        let (without, with) = (one(mode, 0.0), one(mode, 0.3));
        assert_ne!(without.train[0].loss, with.train[0].loss, "{mode}: dropout does nothing in training");
        assert_eq!(without.val, with.val, "{mode}: dropout acts in evaluation");
    }
}
