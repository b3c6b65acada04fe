//! Imports of the two tiny checkpoints that `fixtures/make.py` writes, whole and damaged.

use candle_core::Device;
use stage_api::testing::run_stage;

use super::*;

const SMALL: &str = "vocab_size: 5, hidden_size: 4, num_hidden_layers: 1, num_attention_heads: 2, \
                     intermediate_size: 8, max_position_embeddings: 6, type_vocab_size: 2, adapter_divisor: 2";

fn params(visual: usize) -> String {
    format!("(config: ({SMALL}, visual_embedding_dim: {visual}))")
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/import_visual_bert/fixtures").join(name)
}

fn import(archive: &Path, visual: usize, out: &Path) -> Result<(), StageError> {
    run_stage(&ImportVisualBert, &params(visual), &[("archive", archive)], out).map(drop)
}

fn holds_the_base(out: &Path) {
    let tensors = weights::read_tensors(out, &Device::Cpu).unwrap();
    let config: Config = weights::read_config(out).unwrap();
    let expected = shapes::base_parameters(&config);
    assert_eq!(tensors.len(), expected.len());
    // The fixture lists tensors in the model's own order: element i of tensor n is 1000·n + i.
    for (place, (name, shape)) in expected.iter().enumerate() {
        assert_eq!(tensors[name].dims(), shape, "{name}");
        let values = tensors[name].flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let counted: Vec<f32> = (0..values.len()).map(|i| (1000 * place + i) as f32).collect();
        assert_eq!(values, counted, "{name}");
    }
}

#[test]
fn both_layouts_give_the_base_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["zip.pth", "old.pth"] {
        let out = dir.path().join(name).with_extension("out");
        import(&fixture(name), 3, &out).unwrap();
        holds_the_base(&out);
    }
}

#[test]
fn a_compressed_tar_within_a_folder_is_unpacked() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("fetched");
    fs::create_dir(&folder).unwrap();
    let file = File::create(folder.join("checkpoint.tar.gz")).unwrap();
    let mut tar = tar::Builder::new(flate2::write::GzEncoder::new(file, flate2::Compression::fast()));
    tar.append_path_with_name(fixture("make.py"), "config.yaml").unwrap();
    tar.append_path_with_name(fixture("old.pth"), "some/model.pth").unwrap();
    tar.into_inner().unwrap().finish().unwrap();
    import(&folder, 3, &dir.path().join("out")).unwrap();
    holds_the_base(&dir.path().join("out"));
}

/// The tensors of `zip.pth` under names that `rename` gives, as a safetensors file.
fn safetensors(path: &Path, rename: impl Fn(&str) -> Option<String>) {
    let file = torch_file::open(&fixture("zip.pth")).unwrap();
    let names: Vec<String> = file.names().map(str::to_owned).collect();
    let found = file.load(&names.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
    let renamed = found.into_iter().filter_map(|(name, tensor)| Some((rename(&name)?, tensor)));
    candle_core::safetensors::save(&renamed.collect::<HashMap<_, _>>(), path).unwrap();
}

#[test]
fn safetensors_are_read_under_mmfs_and_hugging_faces_names() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("model.safetensors");
    safetensors(&file, |name| Some(name.to_owned()));
    import(&file, 3, &dir.path().join("mmf")).unwrap();
    holds_the_base(&dir.path().join("mmf"));
    safetensors(&file, |name| {
        let name = name.replace("model.bert.", "visual_bert.");
        let name = name.replace(".position_embeddings_visual.", ".visual_position_embeddings.");
        let name = name.replace(".token_type_embeddings_visual.", ".visual_token_type_embeddings.");
        Some(name.replace(".projection.", ".visual_projection."))
    });
    import(&file, 3, &dir.path().join("hf")).unwrap();
    holds_the_base(&dir.path().join("hf"));
}

#[test]
fn any_bert_becomes_a_base_with_visual_tables_like_its_texts() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("model.safetensors");
    let values = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    for (at, prefix) in ["bert.", ""].into_iter().enumerate() {
        safetensors(&file, |name| {
            let visual = name.contains("_visual") || name.contains("projection");
            let name = name
                .replace("LayerNorm.weight", "LayerNorm.gamma")
                .replace("LayerNorm.bias", "LayerNorm.beta");
            (!visual).then(|| name.replace("model.bert.", prefix))
        });
        let bert = |seed: u64, out: &str| {
            let out = dir.path().join(format!("{at}-{seed}-{out}"));
            let settings =
                format!("(config: ({SMALL}, visual_embedding_dim: 3), from: \"bert\", seed: {seed})");
            run_stage(&ImportVisualBert, &settings, &[("archive", &file)], &out).unwrap();
            weights::read_tensors(&out, &Device::Cpu).unwrap()
        };
        let (found, other) = (bert(1, "a"), bert(2, "b"));
        assert_eq!(found.len(), 9 + 16 + 2);
        let part = |name: &str| format!("model.bert.embeddings.{name}");
        for table in ["position_embeddings", "token_type_embeddings"] {
            let (text, visual) = (part(&format!("{table}.weight")), part(&format!("{table}_visual.weight")));
            assert_eq!(values(&found[&text]), values(&found[&visual]), "{table}");
        }
        let projection = part("projection.weight");
        assert!(values(&found[&projection]).iter().all(|&value| value != 0.0 && value.abs() < 0.2));
        assert_ne!(values(&found[&projection]), values(&other[&projection]));
        assert_eq!(values(&found[&part("word_embeddings.weight")])[..2], [0.0, 1.0]);
    }
    // Without being told so, a BERT is not taken for a VisualBERT.
    let error = import(&file, 3, &dir.path().join("none")).unwrap_err().to_string();
    assert!(error.contains("missing") && error.contains("VisualBERT"), "{error}");
}

#[test]
fn a_tensor_too_much_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("model.safetensors");
    safetensors(&file, |name| Some(name.replace("pooler.dense.bias", "pooler.other.bias")));
    let error = import(&file, 3, &dir.path().join("out")).unwrap_err().to_string();
    assert!(error.contains("`model.bert.pooler.other.bias`"), "{error}");
}

#[test]
fn what_does_not_fit_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let refused = |archive: &Path, params: &str| {
        run_stage(&ImportVisualBert, params, &[("archive", archive)], &out).err().unwrap().to_string()
    };
    let shape = refused(&fixture("old.pth"), &params(7));
    assert!(
        shape.contains("embeddings.projection.weight` has shape [4, 3], the model needs [4, 7]"),
        "{shape}"
    );
    let missing = refused(&fixture("zip.pth"), "()");
    assert!(
        missing.contains("176 of 203 tensors are missing, first `model.bert.encoder.layer.1."),
        "{missing}"
    );
    let other = refused(&fixture("make.py"), &params(3));
    assert!(other.contains("neither layout"), "{other}");
    for name in ["zip.pth", "old.pth"] {
        let whole = fs::read(fixture(name)).unwrap();
        let cut = dir.path().join(name);
        // Everywhere a file may be cut, in steps that hit headers, tables and data alike.
        for length in (0..whole.len()).step_by(97) {
            fs::write(&cut, &whole[..length]).unwrap();
            assert!(import(&cut, 3, &out).is_err(), "{name} cut at {length}");
        }
    }
}
