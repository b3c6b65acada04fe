//! Pretraining, training and evaluation end to end, on a few made-up memes: which tensors change, which
//! checkpoint is kept, that bytes repeat, and how bad input is reported.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use candle_core::{Device, Tensor};
use stage_api::testing::run_stage;
use stage_api::{AllowedEnv, Host, Input, Inputs, Job, Progress, StageError, Unit};
use stages::artifacts::history::History;
use stages::artifacts::labels::Label;
use stages::artifacts::metrics::Metrics;
use stages::artifacts::weights;
use stages::models::Config;

mod classes;
mod options;
mod resume;
mod space;
mod vilbert;

use space::{Fixture, PRETRAIN, Space, WORDS, bytes, params, tensors, values};

#[test]
fn each_mode_trains_its_own_tensors_and_no_other() {
    let space = Space::new();
    let base = tensors(&space.base);
    assert!(base.keys().all(|name| name.starts_with("model.bert.")));
    for (mode, is_trained) in [
        ("fc", (|name: &str| name.starts_with("model.classifier.")) as fn(&str) -> bool),
        ("pe", |name| name.starts_with("model.classifier.") || name.contains("Adapt")),
        ("full", |_| true),
    ] {
        let run = space.train(&params(mode, ""), mode).unwrap();
        let found = tensors(&run);
        let adapters = found.keys().filter(|name| name.contains("Adapt")).count();
        assert_eq!(adapters, if mode == "pe" { 8 } else { 0 });
        for (name, before) in &base {
            let same = values(before) == values(&found[name]);
            assert!(is_trained(name) || same, "{mode} changed the frozen `{name}`");
        }
        if mode == "full" {
            let query = "model.bert.encoder.layer.0.attention.self.query.weight";
            assert_ne!(values(&base[query]), values(&found[query]), "full fine-tuning left the base alone");
        }
        let history = History::read(&run).unwrap();
        assert_eq!((history.run.dataset.as_str(), history.run.mode.as_str()), ("toy", mode));
        assert_eq!(history.rows, (40, 12));
        assert_eq!(history.train.iter().map(|point| point.update).collect::<Vec<_>>(), [2, 4, 6]);
        assert_eq!(history.val.iter().map(|point| point.update).collect::<Vec<_>>(), [2, 4, 6]);
        // Logged after update n: the rate that update n + 1 would use.
        let rates: Vec<f64> = history.train.iter().map(|point| point.lr).collect();
        assert_eq!(rates, [5e-3, 2.5e-3, 0.0]);
    }
}

#[test]
fn evaluation_finds_what_the_best_validation_found() {
    let space = Space::new();
    let run = space.train(&params("pe", "dropout: 0.2"), "run").unwrap();
    let history = History::read(&run).unwrap();
    let most = history.val.iter().map(|point| point.roc_auc).fold(0.0, f64::max);
    let first = history.val.iter().find(|point| point.roc_auc == most).unwrap();
    assert_eq!(history.best, *first);
    let out = space.evaluate(&run, "(batch: 5)", "evaluated").unwrap();
    let metrics = Metrics::read(&out).unwrap();
    assert_eq!(
        (metrics.roc_auc, metrics.accuracy, metrics.f1, metrics.loss),
        (first.roc_auc, first.accuracy, Some(first.f1), first.loss)
    );
    assert_eq!((metrics.rows, metrics.positives, metrics.best_update), (12, Some(6), first.update));
    let csv = fs::read_to_string(out.join("predictions.csv")).unwrap();
    let lines: Vec<&str> = csv.split("\r\n").collect();
    assert_eq!(lines.len(), 1 + 12 + 1);
    assert!(lines[0] == "id,proba,label" && lines[1].starts_with("m40,"), "{lines:?}");
    // The training split has no part in this, but can be asked for.
    let train = Metrics::read(&space.evaluate(&run, "(split: \"train\")", "on-train").unwrap()).unwrap();
    assert_eq!(train.rows, 40);
    let test = space.evaluate(&run, "()", "again").map(|out| bytes(&out)).unwrap();
    assert_eq!(test.keys().collect::<Vec<_>>(), ["/metrics.json", "/predictions.csv", "/scores.csv"]);
}

#[test]
fn training_learns_what_the_text_says_and_nothing_without_it() {
    let space = Space::new();
    let longer = |more: &str| {
        format!(
            "(mode: \"full\", seed: 1, batch: 16, updates: 60, warm_up: 5, lr: 5e-3, evaluate_every: 60, \
             log_every: 1, {more})"
        )
    };
    let history = History::read(&space.train(&longer(""), "shown").unwrap()).unwrap();
    assert!(history.best.roc_auc > 0.95, "{:?}", history.best);
    assert!(history.train[59].loss < 0.5 * history.train[0].loss, "{:?}", history.train);
    let blind = space.train(&longer("ablation: \"text\""), "blind").unwrap();
    assert!(History::read(&blind).unwrap().best.roc_auc < 0.9);
    // The evaluation of the run is as blind: rows with equal regions get equal predictions, whatever they say.
    let metrics = Metrics::read(&space.evaluate(&blind, "()", "blind-evaluated").unwrap()).unwrap();
    assert_eq!(metrics.roc_auc, History::read(&blind).unwrap().best.roc_auc);
}

#[test]
fn the_first_update_runs_at_rate_zero() {
    let space = Space::new();
    let one = "(mode: \"full\", updates: 1, warm_up: 1, lr: 1.0, weight_decay: 0.5, evaluate_every: 1, log_every: 1)";
    let run = space.train(one, "one").unwrap();
    let found = tensors(&run);
    for (name, before) in tensors(&space.base) {
        assert_eq!(values(&before), values(&found[&name]), "`{name}` moved at rate zero");
    }
}

#[test]
fn the_same_seed_gives_the_same_bytes_on_any_number_of_threads() {
    let space = Space::new();
    let on = |threads: usize, params: &str, out: &str| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| bytes(&space.train(params, out).unwrap()))
    };
    let full = params("full", "");
    let first = on(1, &full, "a");
    assert!(first == on(2, &full, "b"), "the same seed gave other bytes");
    let other = on(1, &full.replace("seed: 1", "seed: 2"), "c");
    assert_ne!(first["/weights.safetensors"], other["/weights.safetensors"]);
    let again = space.dir.path().join("base-again");
    space.pretrain(&again).unwrap();
    assert!(bytes(&space.base) == bytes(&again), "pretraining gave other bytes");
}

#[test]
fn pretraining_guesses_masked_words_better_and_better() {
    let space = Space::new();
    let out = space.dir.path().join("longer");
    let inputs = [("tokens", space.tokens.as_path()), ("regions", &space.regions)];
    let longer = PRETRAIN.replace("updates: 4", "updates: 200").replace("lr: 1e-3", "lr: 5e-3");
    run_stage(stages::registry().get("pretrain").unwrap(), &longer, &inputs, &out).unwrap();
    let points: serde_json::Value =
        serde_json::from_slice(&fs::read(out.join("pretrain-history.json")).unwrap()).unwrap();
    let loss = |at: usize| points[at]["val_loss"].as_f64().unwrap();
    let last = points.as_array().unwrap().len() - 1;
    // A fresh model guesses one of 16 words, at a loss of ln 16 = 2.8.
    assert!(loss(0) > 2.3 && loss(last) < loss(0) - 0.3, "{} → {}", loss(0), loss(last));
}

/// The error of training on a spoilt fixture.
fn refused(spoil: impl FnOnce(&mut Fixture)) -> String {
    let space = Space::new();
    let mut fixture = Fixture::new();
    spoil(&mut fixture);
    let spoilt = tempfile::tempdir().unwrap();
    let (tokens, regions) = fixture.write(spoilt.path());
    let space = Space { tokens, regions, ..space };
    trained(&space)
}

/// The error of training on what a space holds.
fn trained(space: &Space) -> String {
    space.train(&params("fc", ""), "refused").unwrap_err().to_string()
}

#[test]
fn bad_data_is_refused_before_the_first_update() {
    let row = 7usize;
    for (expected, error) in [
        (vec!["tokens", "`val`", "no rows"], refused(|f| f.rows.truncate(40))),
        (vec!["tokens", "`train`", "no rows"], refused(|f| drop(f.rows.drain(..40)))),
        (vec!["`m7`", "label 3"], refused(|f| f.rows[row].0.label = Some(Label::One(3)))),
        (vec!["`m45`", "`val`", "no label"], refused(|f| f.rows[45].0.label = None)),
        (
            vec!["`val`", "label 1", "ROC-AUC"],
            refused(|f| f.rows[40..].iter_mut().for_each(|row| row.0.label = Some(Label::One(1)))),
        ),
        (vec!["regions", "`7.png`"], refused(|f| drop(f.regions.remove(row)))),
        (vec!["`7.png`", "finite"], refused(|f| f.regions[row].1.features[2] = f32::NAN)),
        (vec!["`7.png`", "finite"], refused(|f| f.regions[row].1.features[2] = f32::INFINITY)),
        (vec!["17 entries", "16"], refused(|f| f.info.vocab_size = 17)),
        (
            vec!["5 wide", "6"],
            refused(|f| {
                f.width = 5;
                f.regions.iter_mut().for_each(|(_, r)| r.features.truncate(r.boxes.len() * 5));
            }),
        ),
    ] {
        assert!(expected.iter().all(|part| error.contains(part)), "{error:?} lacks one of {expected:?}");
    }
    // No writer makes a set whose ids its own vocabulary does not have; somebody's hand may.
    let space = Space::new();
    let file = space.tokens.join("tokens.json");
    let config = fs::read_to_string(&file).unwrap();
    let narrowed = config.replace(&format!("\"vocab_size\": {WORDS}"), "\"vocab_size\": 9");
    assert_ne!(narrowed, config);
    fs::write(&file, narrowed).unwrap();
    let error = trained(&space);
    assert!(error.contains("tokens") && error.contains("outside the vocabulary of 9"), "{error}");
}

#[test]
fn bad_data_is_refused_before_anything_is_predicted() {
    let space = Space::new();
    let run = space.train(&params("fc", ""), "run").unwrap();
    let refused = |stage: &str, spoil: &dyn Fn(&mut Fixture)| {
        let mut fixture = Fixture::new();
        spoil(&mut fixture);
        let spoilt = tempfile::tempdir().unwrap();
        let (tokens, regions) = fixture.write(spoilt.path());
        let inputs = [("run", run.as_path()), ("tokens", &tokens), ("regions", &regions)];
        let out = space.dir.path().join(stage);
        let registry = stages::registry();
        let stage = registry.get(stage).unwrap();
        run_stage(stage, "(split: \"val\")", &inputs, &out).map(drop).unwrap_err().to_string()
    };
    for stage in ["evaluate", "predict"] {
        let nan = refused(stage, &|f| f.regions[45].1.features[0] = f32::NAN);
        assert!(nan.contains("`45.png`") && nan.contains("finite"), "{nan}");
        let words = refused(stage, &|f| f.info.vocab_size = 17);
        assert!(words.contains("17 entries") && words.contains("16"), "{words}");
        let none = refused(stage, &|f| f.rows.truncate(40));
        assert!(none.contains("`val`") && none.contains("no rows"), "{none}");
    }
    let one = refused("evaluate", &|f| f.rows.iter_mut().for_each(|row| row.0.label = Some(Label::One(0))));
    assert!(one.contains("ROC-AUC") && one.contains("one class"), "{one}");
}

#[test]
fn bad_weights_are_refused_by_name() {
    let space = Space::new();
    let spoilt = |change: &dyn Fn(&mut HashMap<String, Tensor>)| {
        let config: Config = weights::read_config(&space.base).unwrap();
        let mut found = tensors(&space.base);
        change(&mut found);
        let dir = space.dir.path().join("spoilt");
        fs::create_dir_all(&dir).unwrap();
        weights::write(&dir, &config, &found).unwrap();
        let inputs = [("tokens", space.tokens.as_path()), ("regions", &space.regions), ("weights", &dir)];
        let out = space.dir.path().join("out");
        let train = stages::registry();
        run_stage(train.get("train").unwrap(), &params("pe", ""), &inputs, &out)
            .map(drop)
            .unwrap_err()
            .to_string()
    };
    let name = "model.bert.pooler.dense.bias";
    let missing = spoilt(&|found| drop(found.remove(name)));
    assert!(missing.contains("weights") && missing.contains(name), "{missing}");
    let misshapen = spoilt(&|found| {
        drop(found.insert(name.to_owned(), Tensor::new(&[1f32, 2.0], &Device::Cpu).unwrap()))
    });
    assert!(misshapen.contains(name) && misshapen.contains("[2]"), "{misshapen}");
    for value in [f32::NAN, f32::INFINITY] {
        let spoiling = spoilt(&|found| {
            let values = Tensor::full(value, found[name].dims(), &Device::Cpu).unwrap();
            drop(found.insert(name.to_owned(), values));
        });
        assert!(spoiling.contains(name) && spoiling.contains("not a finite number"), "{spoiling}");
    }
}

#[test]
fn a_loss_that_is_no_number_stops_the_run() {
    let space = Space::new();
    let wild = params("full", "").replace("lr: 5e-3", "lr: 1e30");
    let error = space.train(&wild, "wild").unwrap_err().to_string();
    assert!(error.contains("update") || error.contains("numbers"), "{error}");
}

#[test]
fn params_are_refused_with_their_name() {
    let registry = stages::registry();
    for (stage, text, expected) in [
        ("train", "(mode: \"fc\", batch: 0)", "batch"),
        ("train", "(mode: \"fc\", updates: 5, warm_up: 6)", "warm_up"),
        ("train", "(mode: \"frozen\")", "frozen"),
        ("train", "(mode: \"fc\", ablation: \"picture\")", "picture"),
        ("train", "(mode: \"fc\", lr: -1.0)", "lr"),
        ("train", "(mode: \"fc\", dropout: 1.0)", "dropout"),
        ("train", "(mode: \"pe\", adapter_divisor: 0)", "adapter_divisor"),
        ("train", "(mode: \"pe\", adapter_place: \"everywhere\")", "everywhere"),
        ("train", "(mode: \"fc\", precision: \"f8\")", "f8"),
        ("train", "(mode: \"fc\", start: \"middle\")", "middle"),
        ("pretrain", "(hidden: 10, heads: 3)", "heads"),
        ("pretrain", "(mask_hidden: 0.9, mask_replaced: 0.2)", "mask_replaced"),
        ("evaluate", "(split: \"dev\")", "dev"),
    ] {
        let error = registry.get(stage).unwrap().load(text).err().unwrap();
        assert!(error.message.contains(expected), "{stage} {text}: {}", error.message);
    }
    assert!(registry.get("train").unwrap().load("(mode: \"fc\")").is_ok());
}

#[test]
fn a_request_to_stop_is_heeded() {
    struct Stop;
    impl Progress for Stop {
        fn advance(&self, _: u64, _: u64, _: Unit) {
            panic!("an update was made after the request to stop");
        }
        fn scalar(&self, _: &str, _: u64, _: f64) {}
        fn note(&self, _: &str) {}
        fn cancelled(&self) -> bool {
            true
        }
    }
    let space = Space::new();
    let input = |port: &str, path: &Path| Input::new(port, path);
    let inputs = Inputs(vec![
        input("tokens", &space.tokens),
        input("regions", &space.regions),
        input("weights", &space.base),
    ]);
    let host = Host { device: "cpu".to_owned(), threads: 1 };
    let allowed_env = AllowedEnv::default();
    let out = space.dir.path();
    let job =
        Job { inputs: &inputs, out, scratch: out, host: &host, allowed_env: &allowed_env, progress: &Stop };
    let registry = stages::registry();
    let train = registry.get("train").unwrap();
    let train = train.load(&params("fc", "")).unwrap();
    assert!(matches!(train.run(&job), Err(StageError::Cancelled)));
}

#[test]
fn predictions_are_those_of_the_evaluation_and_need_no_labels() {
    let space = Space::new();
    let run = space.train(&params("pe", ""), "run").unwrap();
    let evaluated = space.evaluate(&run, "()", "evaluated").unwrap();
    let mut fixture = Fixture::new();
    fixture.rows.iter_mut().for_each(|row| row.0.label = None);
    let unlabelled = tempfile::tempdir().unwrap();
    let (tokens, regions) = fixture.write(unlabelled.path());
    let inputs = [("run", run.as_path()), ("tokens", &tokens), ("regions", &regions)];
    let registry = stages::registry();
    let predict = registry.get("predict").unwrap();
    let out = space.dir.path().join("predicted");
    run_stage(predict, "(split: \"val\")", &inputs, &out).unwrap();
    let csv = |dir: &Path| fs::read(dir.join("predictions.csv")).unwrap();
    assert!(csv(&out) == csv(&evaluated));
    // The fixture has no rows to test on, which is the default.
    let error = run_stage(predict, "()", &inputs, &out).map(drop).unwrap_err().to_string();
    assert!(error.contains("`test`") && error.contains("no rows"), "{error}");
}
