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
