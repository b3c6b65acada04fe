//! A ViLBERT goes through the same stages: pretraining, the three modes, evaluation and prediction.

use stage_api::testing::run_stage;
use stages::artifacts::history::History;
use stages::artifacts::metrics::Metrics;
use stages::artifacts::weights;
use stages::models::{Config, Family};

use super::space::{Fixture, Space, bytes, params, tensors, values};

const MODEL: &str = "model: \"vilbert\", ";

#[test]
fn each_mode_trains_its_own_tensors_and_no_other() {
    let space = Space::of(Fixture::new(), MODEL);
    let base = tensors(&space.base);
    assert_eq!(weights::read_config::<Config>(&space.base).unwrap().family(), Family::Vilbert);
    for (mode, is_trained, adapters) in [
        ("fc", (|name: &str| name.starts_with("model.classifier.")) as fn(&str) -> bool, 0),
        // Two layers of text, one of regions.
        ("pe", |name| name.starts_with("model.classifier.") || name.contains("Adapt"), 12),
        ("full", |name| !name.contains("q_dense"), 0),
    ] {
        let run = space.train(&params(mode, ""), mode).unwrap();
        let found = tensors(&run);
        assert_eq!(found.keys().filter(|name| name.contains("Adapt")).count(), adapters, "{mode}");
        for (name, before) in &base {
            let same = values(before) == values(&found[name]);
            assert!(is_trained(name) || same, "{mode} changed `{name}`");
        }
        let history = History::read(&run).unwrap();
        assert_eq!((history.run.kind(), history.run.dataset.as_str()), (format!("vilbert-{mode}"), "toy"));
        let metrics =
            Metrics::read(&space.evaluate(&run, "()", &format!("{mode}-evaluated")).unwrap()).unwrap();
        assert_eq!((metrics.roc_auc, &metrics.run), (history.best.roc_auc, &history.run));
        let inputs =
            [("run", run.as_path()), ("tokens", space.tokens.as_path()), ("regions", &space.regions)];
        let out = space.dir.path().join(format!("{mode}-predicted"));
        let predict = stages::registry();
        run_stage(predict.get("predict").unwrap(), "(split: \"val\")", &inputs, &out).unwrap();
        assert_eq!(std::fs::read_to_string(out.join("predictions.csv")).unwrap().lines().count(), 13);
    }
}

#[test]
fn adapters_may_be_in_co_attention_and_a_visual_bert_has_none() {
    let place = "adapter_place: \"co-attention\"";
    let space = Space::of(Fixture::new(), MODEL);
    let run = space.train(&params("pe", place), "run").unwrap();
    assert!(tensors(&run).contains_key("model.bert.encoder.c_layer.0.v_output.AdaptImg1.weight"));
    let error = Space::new().train(&params("pe", place), "run").unwrap_err().to_string();
    assert!(error.contains("no co-attention"), "{error}");
}

#[test]
fn where_regions_are_counts_for_a_vilbert_alone() {
    let moved = || {
        let mut fixture = Fixture::new();
        for (_, regions) in &mut fixture.regions {
            regions.boxes.iter_mut().for_each(|corners| corners[2] = 30.0);
        }
        fixture
    };
    for (model, counts) in [("", false), (MODEL, true)] {
        let [here, there] = [Fixture::new(), moved()]
            .map(|fixture| Space::of(fixture, model))
            .map(|space| bytes(&space.train(&params("full", ""), "run").unwrap()));
        assert_eq!(here != there, counts, "{model}");
    }
    // A picture without extent has no places in it.
    let mut flat = Fixture::new();
    flat.regions[3].1.size = (0, 32);
    let dir = tempfile::tempdir().unwrap();
    let (tokens, regions) = flat.write(dir.path());
    let inputs = [("tokens", tokens.as_path()), ("regions", &regions)];
    let pretrain = stages::registry();
    let error =
        run_stage(pretrain.get("pretrain").unwrap(), super::PRETRAIN, &inputs, &dir.path().join("out"));
    let error = error.map(drop).unwrap_err().to_string();
    assert!(error.contains("`3.png`") && error.contains("place"), "{error}");
}
