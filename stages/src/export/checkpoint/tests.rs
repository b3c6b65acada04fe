//! Exports of a small run, read back. That `torch.load` and transformers read them too, and compute the same, is what
//! `tests/reference/exports.py` shows; it needs both.

use stage_api::testing::run_stage;

use super::*;
use crate::artifacts::history::History;
use crate::formats::torch_file;
use crate::models;
use crate::models::visual_bert::Config;
use crate::models::{
    AdapterPlace, Mode, ProblemType, SmallConfig, Start, init_from_pretrained, init_random, vilbert,
};
use crate::training::import_model::ImportRun;

fn config() -> Config {
    Config {
        vocab_size: 11,
        hidden_size: 12,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        intermediate_size: 20,
        max_position_embeddings: 9,
        visual_embedding_dim: 7,
        adapter_divisor: 4,
        ..Config::base()
    }
}

fn classes() -> Vec<String> {
    ["fine", "odd"].map(String::from).to_vec()
}

fn run(dir: &Path) -> HashMap<String, Tensor> {
    run_of(dir, &config().into(), Mode::Pe)
}

fn run_of(dir: &Path, config: &models::Config, mode: Mode) -> HashMap<String, Tensor> {
    let base = init_random(&**config, 1, &Device::Cpu).unwrap();
    let tensors = init_from_pretrained(&base, &**config, mode, Start::Base, 1, &Device::Cpu).unwrap();
    weights::write(dir, config, &tensors).unwrap();
    tensors
}

/// Imports `archive` and says what it found.
fn imported(
    archive: &Path,
    params: &str,
    out: &Path,
) -> (models::Config, HashMap<String, Tensor>, History, Vec<String>) {
    let params = format!("(dataset: \"hmd\", {params})");
    let noted = run_stage(&ImportRun, &params, &[("archive", archive)], out).unwrap();
    let config = weights::read_config(out).unwrap();
    let notes = noted.notes.into_inner().unwrap();
    (config, weights::read_tensors(out).unwrap(), History::read(out).unwrap(), notes)
}

fn assert_same(expected: &HashMap<String, Tensor>, found: &HashMap<String, Tensor>) {
    assert_eq!(expected.len(), found.len());
    for (name, tensor) in expected {
        assert_eq!(tensor.dims(), found[name].dims(), "{name}");
        assert_eq!(values(tensor), values(&found[name]), "{name}");
    }
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
    weights_and_code(dir.path(), &classes(), &out).unwrap();
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
fn what_a_head_tells_apart_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let problem_type = ProblemType::MultiLabelClassification;
    let config = models::Config::from(Config { num_labels: 3, problem_type, ..config() });
    let expected = run_of(dir.path(), &config, Mode::Full);
    let (folder, file) = (dir.path().join("exported"), dir.path().join("run.pth"));
    weights_and_code(dir.path(), &["a", "b", "c"].map(String::from), &folder).unwrap();
    let stated: serde_json::Value =
        serde_json::from_slice(&fs::read(folder.join("config.json")).unwrap()).unwrap();
    assert_eq!((&stated["id2label"]["2"], &stated["label2id"]["b"]), (&json!("c"), &json!(1)));
    assert_eq!(stated["problem_type"], json!("multi_label_classification"));
    let out = dir.path().join("again");
    let (found, tensors, ..) = imported(&folder, "", &out);
    assert_eq!(found.dimensions().head, config.dimensions().head);
    assert_same(&expected, &tensors);
    // A file of MMF does not say what is decided of a row.
    mmf(dir.path(), &file).unwrap();
    let heads = "num_attention_heads: 2";
    let (found, ..) = imported(&file, &format!("config: ({heads})"), &out);
    assert_eq!((found.dimensions().head.labels, found.dimensions().head.is_multi_label()), (3, false));
    let said = format!("config: ({heads}, problem_type: \"multi_label_classification\")");
    let (found, ..) = imported(&file, &said, &out);
    assert!(found.dimensions().head.is_multi_label());
}

#[test]
fn a_model_that_transformers_lacks_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let config = models::Config::Vilbert(vilbert::Config::base());
    weights::write(dir.path(), &config, &HashMap::new()).unwrap();
    let error = weights_and_code(dir.path(), &classes(), &dir.path().join("out")).unwrap_err().to_string();
    assert!(error.contains("ViLBERT") && error.contains("`--to mmf`"), "{error}");
}

#[test]
fn what_cannot_be_written_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    run(dir.path());
    let error = mmf(dir.path(), &dir.path().join("no/such/folder.pth")).unwrap_err().to_string();
    assert!(error.contains("folder.pth"), "{error}");
}

#[test]
fn an_export_is_imported_as_the_run_it_was() {
    let dir = tempfile::tempdir().unwrap();
    for (place, mode) in [
        (AdapterPlace::Output, Mode::Pe),
        (AdapterPlace::Attention, Mode::Pe),
        (AdapterPlace::Both, Mode::Pe),
        (AdapterPlace::Output, Mode::Full),
    ] {
        let dir = dir.path().join(format!("{place:?} {mode}"));
        fs::create_dir(&dir).unwrap();
        // Without adapters, nothing says how wide they would be.
        let divisor = if mode == Mode::Pe { 4 } else { Config::base().adapter_divisor };
        let expected = Config { adapter_place: place, adapter_divisor: divisor, ..config() }.into();
        let tensors = run_of(&dir, &expected, mode);
        let counts = expected.counts(mode).unwrap();

        let file = dir.join("run.pth");
        mmf(&dir, &file).unwrap();
        let heads = "config: (num_attention_heads: 2)";
        let (found, same, history, notes) = imported(&file, heads, &dir.join("from-mmf"));
        assert_eq!(found, expected);
        assert_same(&tensors, &same);
        assert_eq!((history.run.kind(), history.run.dataset.as_str()), (mode.to_string(), "hmd"));
        let ours = history.parameters;
        assert_eq!((ours.total, ours.trained), (counts.total, counts.trained));
        let left =
            "1 tensors not taken, a constant that models compute themselves: `model.bert.embeddings.*`";
        assert_eq!(notes.len(), 2);
        assert_eq!(notes[0], left);
        assert!(notes[1].starts_with(&format!("{} tensors imported", tensors.len())), "{notes:?}");

        let folder = dir.join("exported");
        weights_and_code(&dir, &classes(), &folder).unwrap();
        let (found, same, _, notes) = imported(&folder, "", &dir.join("from-huggingface"));
        assert_eq!(found, expected);
        assert_same(&tensors, &same);
        assert_eq!(notes.len(), 1);
    }
}

#[test]
fn a_vilbert_is_imported_as_the_run_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let small = SmallConfig {
        words: 11,
        positions: 9,
        features: 7,
        hidden: 128,
        layers: 4,
        heads: 1,
        intermediate: 20,
        dropout: 0.1,
        initializer_range: 0.02,
    };
    for place in [AdapterPlace::Output, AdapterPlace::CoAttention] {
        let dir = dir.path().join(format!("{place:?}"));
        fs::create_dir(&dir).unwrap();
        // As many heads as follow from the paper's model, and its order of layers.
        let config = vilbert::Config {
            num_attention_heads: 2,
            adapter_place: place,
            ..vilbert::Config::small(&small)
        };
        let expected = models::Config::Vilbert(config);
        let tensors = run_of(&dir, &expected, Mode::Pe);
        let file = dir.join("run.pth");
        mmf(&dir, &file).unwrap();
        let (found, same, history, _) = imported(&file, "", &dir.join("out"));
        assert_eq!(found, expected);
        assert_same(&tensors, &same);
        assert_eq!(history.run.kind(), "vilbert-pe");
    }
}
