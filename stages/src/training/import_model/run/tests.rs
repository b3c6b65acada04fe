//! Finished models that cannot be imported, and what the log says of what is left. `export` has the round trips.

use std::collections::HashMap;
use std::fs;

use candle_core::{DType, Device};
use serde_json::json;
use stage_api::testing::run_stage;

use super::*;
use crate::models::{Start, init_from_pretrained, init_random, visual_bert};

fn config() -> visual_bert::Config {
    visual_bert::Config {
        vocab_size: 11,
        hidden_size: 12,
        num_hidden_layers: 1,
        num_attention_heads: 2,
        intermediate_size: 20,
        max_position_embeddings: 9,
        visual_embedding_dim: 7,
        ..visual_bert::Config::base()
    }
}

fn model(mode: Mode) -> HashMap<String, Tensor> {
    let base = init_random(&config(), 1, &Device::Cpu).unwrap();
    init_from_pretrained(&base, &config(), mode, Start::Base, 1, &Device::Cpu).unwrap()
}

/// Imports a file of `tensors`, with a `config.json` next to it where there is one; what it noted.
fn import(
    tensors: &HashMap<String, Tensor>,
    stated: Option<serde_json::Value>,
    params: &str,
) -> Result<Vec<String>, String> {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("model");
    fs::create_dir(&folder).unwrap();
    let file = folder.join("model.safetensors");
    candle_core::safetensors::save(tensors, &file).unwrap();
    let input = match stated {
        Some(stated) => {
            fs::write(folder.join(CONFIG), stated.to_string()).unwrap();
            folder
        }
        None => file,
    };
    let params = format!("(dataset: \"hmd\", {params})");
    let done = run_stage(&ImportRun, &params, &[("archive", &input)], &dir.path().join("out"));
    done.map(|done| done.notes.into_inner().unwrap()).map_err(|error| error.to_string())
}

const HEADS: &str = "config: (num_attention_heads: 2)";

#[track_caller]
fn refused(tensors: &HashMap<String, Tensor>, params: &str, problem: &str) {
    let error = import(tensors, None, params).unwrap_err();
    assert!(error.contains(problem), "{error}");
}

#[test]
fn what_is_left_is_named_with_the_reason() {
    let zeros = || Tensor::zeros(2, DType::F32, &Device::Cpu).unwrap();
    let mut tensors = model(Mode::Fc);
    for name in ["model.cls.predictions.bias", "model.cls.predictions.transform.dense.bias", "epoch"] {
        tensors.insert(name.to_owned(), zeros());
    }
    let notes = import(&tensors, None, HEADS).unwrap();
    assert_eq!(notes[0], "2 tensors not taken, the head of pretraining: `model.cls.predictions.*` (2)");
    assert_eq!(notes[1], "1 tensors not taken, which the model does not have: `epoch`");
    assert!(notes[2].contains("a VisualBERT of mode full; attention heads: 2"), "{notes:?}");
    assert_eq!(notes.len(), 3);
}

#[test]
fn a_model_that_is_not_whole_is_refused_by_name() {
    let mut tensors = model(Mode::Pe);
    tensors.remove("model.bert.encoder.layer.0.output.AdaptComb2.bias");
    refused(
        &tensors,
        HEADS,
        "1 of 37 tensors of a VisualBERT of these dimensions are missing, first `model.bert.enc",
    );
    tensors.retain(|name, _| !name.contains("classifier") && !name.contains("Adapt"));
    refused(
        &tensors,
        HEADS,
        "6 of 33 tensors of a VisualBERT of these dimensions are missing, first `model.classifier.",
    );
    tensors.retain(|name, _| !name.contains("word_embeddings"));
    refused(&tensors, HEADS, "`model.bert.embeddings.word_embeddings.weight` is missing");
    tensors.retain(|name, _| name.contains("nothing"));
    tensors.insert("x".to_owned(), Tensor::zeros(2, DType::F32, &Device::Cpu).unwrap());
    refused(&tensors, HEADS, "holds no tensor of a VisualBERT; the first of the 1 names in it: `x`");
}

#[test]
fn shapes_that_do_not_belong_together_are_refused() {
    let changed = |name: &str, shape: &[usize]| {
        let mut tensors = model(Mode::Pe);
        tensors.insert(name.to_owned(), Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap());
        tensors
    };
    let name = "model.bert.pooler.dense.bias";
    refused(
        &changed(name, &[3]),
        HEADS,
        "`model.bert.pooler.dense.bias` has shape [3], the model needs [12]",
    );
    let name = "model.bert.embeddings.projection.weight";
    refused(&changed(name, &[7]), HEADS, "has shape [7]; expected a matrix");
    let name = "model.bert.encoder.layer.18446744073709551615.output.dense.bias";
    refused(&changed(name, &[12]), HEADS, "is not part of a model of the dimensions");
    let name = "model.bert.encoder.layer.0.output.AdaptComb1.weight";
    refused(&changed(name, &[5, 12]), HEADS, "5 of 12 wide, which is the width divided by no whole number");
}

#[test]
fn what_shapes_do_not_tell_comes_from_params_or_a_config() {
    refused(&model(Mode::Fc), "", "set `config: (num_attention_heads: …)`");
    refused(&model(Mode::Fc), "config: (num_attention_heads: 5)", "`num_attention_heads` 5");
    refused(
        &model(Mode::Pe),
        "config: (num_attention_heads: 2), mode: \"full\"",
        "so its mode is pe and not full",
    );
    refused(&model(Mode::Fc), "config: (num_attention_heads: 2), mode: \"pe\"", "has no adapters");

    let stated = |change: fn(&mut serde_json::Value)| {
        let mut stated = serde_json::to_value(config()).unwrap();
        stated["model_type"] = json!("visual_bert");
        change(&mut stated);
        import(&model(Mode::Fc), Some(stated), "mode: \"fc\"")
    };
    let notes = stated(|_| ()).unwrap();
    assert!(notes[0].contains("of mode fc; attention heads: 2"), "{notes:?}");
    for (change, problem) in [
        (
            (|stated| stated["hidden_size"] = json!(24)) as fn(&mut serde_json::Value),
            "`hidden_size` is 24; by the",
        ),
        (|stated| stated["hidden_act"] = json!("relu"), "`hidden_act` is \"relu\""),
        (|stated| stated["model_type"] = json!("vilbert"), "missing field"),
        (|stated| stated["model_type"] = json!("bert"), "unknown variant `bert`"),
        (|stated| *stated = json!([]), "config.json"),
    ] {
        let error = stated(change).unwrap_err();
        assert!(error.contains(problem) && error.contains("config.json"), "{error}");
    }
}
