//! Exports of a small run, read back. That `torch.load` and transformers read them too, and compute the same, is what
//! `tests/reference/exports.py` shows; it needs both.

use super::*;
use crate::models::visual_bert::Config;
use crate::models::{Mode, Start, complete, fresh, vilbert};
use crate::{models, torch_file};

fn run(dir: &Path) -> HashMap<String, Tensor> {
    let config = Config {
        vocab_size: 11,
        hidden_size: 12,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        intermediate_size: 20,
        max_position_embeddings: 9,
        visual_embedding_dim: 7,
        adapter_divisor: 4,
        ..Config::base()
    };
    let base = fresh(&config, 1, &Device::Cpu).unwrap();
    let tensors = complete(&base, &config, Mode::Pe, Start::Base, 1, &Device::Cpu).unwrap();
    weights::write(dir, &config, &tensors).unwrap();
    tensors
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn an_export_for_mmf_holds_the_state_under_its_names() {
    let dir = tempfile::tempdir().unwrap();
    let tensors = run(dir.path());
    let out = dir.path().join("run.pth");
    mmf(dir.path(), &out).unwrap();
    let file = torch_file::open(&out).unwrap();
    let names: Vec<String> = file.names().map(str::to_owned).collect();
    assert_eq!(names.len(), tensors.len() + 1);
    assert!(names.contains(&"model.bert.embeddings.position_ids".to_owned()));
    let found = file.load(&names.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
    for (name, tensor) in &tensors {
        assert_eq!(tensor.dims(), found[name].dims(), "{name}");
        assert_eq!(values(tensor), values(&found[name]), "{name}");
    }
    let again = dir.path().join("again.pth");
    mmf(dir.path(), &again).unwrap();
    assert!(fs::read(&out).unwrap() == fs::read(&again).unwrap(), "the same run gives the same bytes");
}

#[test]
fn an_export_for_hugging_face_has_its_names() {
    let dir = tempfile::tempdir().unwrap();
    let tensors = run(dir.path());
    let out = dir.path().join("exported");
    huggingface(dir.path(), &out).unwrap();
    let found = candle_core::safetensors::load(out.join("model.safetensors"), &Device::Cpu).unwrap();
    assert_eq!(found.len(), tensors.len());
    for (ours, theirs) in [
        ("model.bert.embeddings.projection.weight", "visual_bert.embeddings.visual_projection.weight"),
        (
            "model.bert.embeddings.token_type_embeddings_visual.weight",
            "visual_bert.embeddings.visual_token_type_embeddings.weight",
        ),
        (
            "model.bert.encoder.layer.1.output.AdaptComb2.bias",
            "visual_bert.encoder.layer.1.output.AdaptComb2.bias",
        ),
        ("model.classifier.0.dense.weight", "classifier.0.dense.weight"),
    ] {
        assert_eq!(values(&tensors[ours]), values(&found[theirs]), "{theirs}");
    }
    let config: serde_json::Value =
        serde_json::from_slice(&fs::read(out.join("config.json")).unwrap()).unwrap();
    assert_eq!((&config["adapter_width"], &config["adapter_parts"][0]), (&json!(3), &json!("output")));
}

#[test]
fn a_model_that_transformers_lacks_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let config = models::Config::Vilbert(vilbert::Config::base());
    weights::write(dir.path(), &config, &HashMap::new()).unwrap();
    let error = huggingface(dir.path(), &dir.path().join("out")).unwrap_err().to_string();
    assert!(error.contains("ViLBERT") && error.contains("`--to mmf`"), "{error}");
}

#[test]
fn what_cannot_be_written_is_told() {
    let dir = tempfile::tempdir().unwrap();
    run(dir.path());
    let error = mmf(dir.path(), &dir.path().join("no/such/folder.pth")).unwrap_err().to_string();
    assert!(error.contains("folder.pth"), "{error}");
}
