//! Imports of the two tiny checkpoints that `fixtures/make.py` writes, whole and damaged.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use stage_api::testing::run_stage;

use super::*;
use crate::artifacts::region_features::{Layout, RegionWriter};
use crate::formats::torch_file;
use crate::models::{Architecture, vilbert, visual_bert};

const SMALL: &str = "vocab_size: 5, hidden_size: 4, num_hidden_layers: 1, num_attention_heads: 2, \
                     intermediate_size: 8, max_position_embeddings: 6, type_vocab_size: 2, adapter_divisor: 2";

fn params(visual: usize) -> String {
    format!("(config: ({SMALL}, visual_embedding_dim: {visual}))")
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/import_model").join(name)
}

fn import(archive: &Path, visual: usize, out: &Path) -> Result<(), StageError> {
    run_stage(&Import::<visual_bert::Config>::new(), &params(visual), &[("archive", archive)], out).map(drop)
}

fn holds_the_base(out: &Path) {
    let tensors = weights::read_tensors(out).unwrap();
    let config: Config = weights::read_config(out).unwrap();
    let expected = config.parameters(Parts::BASE).unwrap();
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
fn every_layout_under_every_prefix_gives_the_base_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["zip.pth", "top.ckpt", "old.pth"] {
        let out = dir.path().join(name).with_extension("out");
        import(&fixture(name), 3, &out).unwrap();
        holds_the_base(&out);
    }
}

#[test]
fn a_compressed_tar_within_a_folder_is_unpacked() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["zip.pth", "top.ckpt", "old.pth"] {
        let folder = dir.path().join(name);
        fs::create_dir(&folder).unwrap();
        let file = File::create(folder.join("checkpoint.tar.gz")).unwrap();
        let mut tar = tar::Builder::new(flate2::write::GzEncoder::new(file, flate2::Compression::fast()));
        tar.append_path_with_name(fixture("make.py"), "config.yaml").unwrap();
        tar.append_path_with_name(fixture(name), format!("some/{name}")).unwrap();
        tar.into_inner().unwrap().finish().unwrap();
        import(&folder, 3, &folder.join("out")).unwrap();
        holds_the_base(&folder.join("out"));
    }
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
            run_stage(&Import::<visual_bert::Config>::new(), &settings, &[("archive", &file)], &out).unwrap();
            weights::read_tensors(&out).unwrap()
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
    // A BERT under the names of a VisualBERT is not taken for one of Hugging Face.
    safetensors(&file, |name| Some(name.to_owned()));
    let settings = format!("(config: ({SMALL}, visual_embedding_dim: 3), from: \"bert\")");
    let out = dir.path().join("names");
    let error = run_stage(&Import::<visual_bert::Config>::new(), &settings, &[("archive", &file)], &out);
    let error = error.err().unwrap().to_string();
    assert!(error.contains("have the names of a VisualBERT"), "{error}");
    safetensors(&file, |name| {
        (!name.contains("_visual") && !name.contains("projection")).then(|| name.to_owned())
    });
    // Without `from`, a BERT is not taken for a VisualBERT.
    let error = import(&file, 3, &dir.path().join("none")).unwrap_err().to_string();
    assert!(error.contains("missing") && error.contains("VisualBERT"), "{error}");
}

#[test]
fn a_folder_of_save_pretrained_needs_no_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, regions, out) =
        (dir.path().join("bert"), dir.path().join("regions"), dir.path().join("out"));
    [&folder, &regions].into_iter().for_each(|dir| fs::create_dir(dir).unwrap());
    let weights = folder.join("model.safetensors");
    safetensors(&weights, |name| {
        let visual = name.contains("_visual") || name.contains("projection");
        (!visual).then(|| name.replace("model.bert.", ""))
    });
    let layout = Layout { width: 3, max_regions: 1, shard: 1, half: false };
    RegionWriter::new(&regions, layout).finish().unwrap();
    let stated = serde_json::json!({
        "model_type": "bert", "architectures": ["BertModel"], "hidden_act": "gelu", "position_embedding_type": null,
        "vocab_size": 5, "hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8,
        "max_position_embeddings": 6, "type_vocab_size": 2, "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    });
    let config = folder.join("config.json");
    let import = |params: &str, inputs: &[(&str, &Path)]| {
        run_stage(&Import::<visual_bert::Config>::new(), params, inputs, &out)
            .map(drop)
            .map_err(|error| error.to_string())
    };
    let of = |params: &str| import(params, &[("archive", &folder), ("regions", &regions)]);
    let write = |value: &serde_json::Value| fs::write(&config, value.to_string()).unwrap();
    write(&stated);
    of("(from: \"bert\")").unwrap();
    let found: Config = weights::read_config(&out).unwrap();
    let dimensions = found.dimensions();
    assert_eq!((dimensions.words, dimensions.features, dimensions.dropout), (5, 3, 0.0));
    assert_eq!(found.known().num_attention_heads, Some(2));
    // A file alone has no neighbours; its config comes in by a port, and what params say goes before it.
    let inputs = [("archive", weights.as_path()), ("regions", &regions), ("config", &config)];
    import("(from: \"bert\")", &inputs).unwrap();
    assert_eq!(weights::read_config::<Config>(&out).unwrap(), found);
    assert!(import("(from: \"bert\")", &inputs[..2]).unwrap_err().contains("missing"));
    let given = format!("(config: ({SMALL}, visual_embedding_dim: 7), from: \"bert\")");
    import(&given, &inputs).unwrap();
    let config: Config = weights::read_config(&out).unwrap();
    assert_eq!((config.dimensions().features, config.dimensions().dropout), (3, 0.1));

    for (name, value, problem) in [
        ("model_type", serde_json::json!("roberta"), "is of a `roberta`, and `from` says BERT"),
        ("hidden_act", serde_json::json!("relu"), "`hidden_act` is \"relu\"; only \"gelu\" is computed here"),
        ("position_embedding_type", serde_json::json!("relative_key"), "only \"absolute\" is computed here"),
        ("num_attention_heads", serde_json::json!(3), "is not a multiple of `num_attention_heads` 3"),
        ("num_hidden_layers", serde_json::json!("one"), "invalid type: string"),
    ] {
        let mut changed = stated.clone();
        changed[name] = value;
        write(&changed);
        let error = of("(from: \"bert\")").unwrap_err();
        assert!(error.contains("config.json") && error.contains(problem), "{error}");
    }
    write(&serde_json::json!({"word_embedding_dimension": 384}));
    assert!(of("(from: \"bert\")").unwrap_err().contains("it has no `hidden_size`"));
}

/// A small ViLBERT.
fn vilbert() -> vilbert::Config {
    vilbert::Config {
        vocab_size: 5,
        hidden_size: 4,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        intermediate_size: 8,
        max_position_embeddings: 6,
        v_feature_size: 3,
        v_hidden_size: 6,
        v_num_hidden_layers: 1,
        v_num_attention_heads: 2,
        v_intermediate_size: 6,
        bi_hidden_size: 6,
        bi_num_attention_heads: 2,
        t_biattention_id: vec![1],
        v_biattention_id: vec![0],
        adapter_divisor: 2,
        ..vilbert::Config::base()
    }
}

/// Imports the tensors of `names`, each filled with its place in the list, as a ViLBERT's.
fn import_vilbert(
    dir: &Path,
    names: &[(String, Vec<usize>)],
    from: &str,
) -> Result<HashMap<String, Tensor>, StageError> {
    let tensor = |(at, (name, shape)): (usize, &(String, Vec<usize>))| {
        (name.clone(), Tensor::full(at as f32, shape.as_slice(), &Device::Cpu).unwrap())
    };
    let file = dir.join("vilbert.safetensors");
    let tensors: HashMap<_, _> = names.iter().enumerate().map(tensor).collect();
    candle_core::safetensors::save(&tensors, &file).unwrap();
    let params = format!("(config: {}{from})", ron::to_string(&vilbert()).unwrap());
    let out = dir.join("out");
    run_stage(&Import::<vilbert::Config>::new(), &params, &[("archive", &file)], &out)?;
    assert_eq!(weights::read_config::<Config>(&out).unwrap(), Config::Vilbert(vilbert()));
    Ok(weights::read_tensors(&out).unwrap())
}

#[test]
fn a_vilbert_is_taken_by_its_exact_names() {
    let dir = tempfile::tempdir().unwrap();
    let base = vilbert().parameters(Parts::BASE).unwrap();
    // As MMF saves it: pretraining heads and a buffer with the base.
    let mut names = base.clone();
    names.push(("model.cls.predictions.bias".to_owned(), vec![5]));
    names.push(("model.bert.embeddings.position_ids".to_owned(), vec![1, 6]));
    let found = import_vilbert(dir.path(), &names, "").unwrap();
    assert_eq!(found.len(), base.len());
    for (at, (name, shape)) in base.iter().enumerate() {
        let values = found[name].flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert!(found[name].dims() == shape && values.iter().all(|&value| value == at as f32), "{name}");
    }
    names.retain(|(name, _)| !name.ends_with("c_layer.0.biOutput.q_dense1.bias"));
    let error = import_vilbert(dir.path(), &names, "").unwrap_err().to_string();
    assert!(error.contains("q_dense1.bias") && error.contains("ViLBERT"), "{error}");
}

#[test]
fn a_bert_gives_a_vilbert_its_text() {
    let dir = tempfile::tempdir().unwrap();
    let is_text = |name: &str| name.contains("bert.embeddings.") || name.contains("encoder.layer.");
    let base = vilbert().parameters(Parts::BASE).unwrap();
    let text = base.iter().filter(|(name, _)| is_text(name));
    let mut names: Vec<_> =
        text.map(|(name, shape)| (name.replace("model.bert.", "bert."), shape.clone())).collect();
    // Its pooler is of another shape, its head of another task.
    names.push(("bert.pooler.dense.weight".to_owned(), vec![4, 4]));
    names.push(("cls.seq_relationship.bias".to_owned(), vec![2]));
    let found = import_vilbert(dir.path(), &names, ", from: \"bert\"").unwrap();
    assert_eq!(found.len(), base.len());
    let values = |name: &str| found[name].flatten_all().unwrap().to_vec1::<f32>().unwrap();
    for (at, (name, _)) in names.iter().enumerate().filter(|(_, (name, _))| is_text(name)) {
        assert!(values(&format!("model.{name}")).iter().all(|&value| value == at as f32), "{name}");
    }
    let fresh = values("model.bert.encoder.c_layer.0.biattention.query1.weight");
    assert!(fresh.iter().all(|&value| value != 0.0 && value.abs() < 0.2));
    assert!(values("model.bert.v_embeddings.LayerNorm.weight").iter().all(|&value| value == 1.0));
    let error = import_vilbert(dir.path(), &names, ", from: \"visualbert\"").unwrap_err().to_string();
    assert!(error.contains("expected `vilbert` or `bert`"), "{error}");
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
        run_stage(&Import::<visual_bert::Config>::new(), params, &[("archive", archive)], &out)
            .err()
            .unwrap()
            .to_string()
    };
    let shape = refused(&fixture("old.pth"), &params(7));
    assert!(
        shape.contains("embeddings.projection.weight` has shape [4, 3], the model needs [4, 7]"),
        "{shape}"
    );
    let missing = refused(&fixture("zip.pth"), "()");
    assert!(
        missing.contains("176 of 203 tensors of a VisualBERT of these dimensions are missing, first `model.bert.encoder.layer.1."),
        "{missing}"
    );
    assert!(missing.contains("names in it: `model.bert.encoder.layer.0."), "{missing}");
    let other = refused(&fixture("make.py"), &params(3));
    assert!(other.contains("is not a torch file of either layout: it begins with `"), "{other}");
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

#[test]
fn a_folder_of_hugging_face_is_read_as_its_library_does() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, out) = (dir.path().join("snapshot"), dir.path().join("out"));
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("optimizer.pt"), "not a model").unwrap();
    fs::copy(fixture("zip.pth"), folder.join("pytorch_model.bin")).unwrap();
    import(&folder, 3, &out).unwrap();
    holds_the_base(&out);
    // In several files, with an index of them: the names that do not end in `weight`, and the others.
    fs::remove_file(folder.join("pytorch_model.bin")).unwrap();
    let parts = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    let of = |name: &str| parts[usize::from(name.ends_with("weight"))];
    let mut map = serde_json::Map::new();
    for part in parts {
        safetensors(&folder.join(part), |name| (of(name) == part).then(|| name.to_owned()));
    }
    for name in torch_file::open(&fixture("zip.pth")).unwrap().names() {
        map.insert(name.to_owned(), of(name).into());
    }
    let index = folder.join("model.safetensors.index.json");
    let write = |map: &serde_json::Map<String, serde_json::Value>| {
        let text = serde_json::json!({"metadata": {"total_size": 1}, "weight_map": map});
        fs::write(&index, text.to_string()).unwrap();
    };
    write(&map);
    let out = dir.path().join("sharded");
    import(&folder, 3, &out).unwrap();
    holds_the_base(&out);

    let refused = |archive: &Path, problem: &str| {
        let error = import(archive, 3, &dir.path().join("none")).unwrap_err().to_string();
        assert!(error.contains(problem), "{error}");
    };
    refused(&index, "is the index of a checkpoint in several files; name the folder");
    refused(&folder.join(parts[0]), "is a part of a checkpoint in several files; name the folder");
    let name = map.keys().next().unwrap().clone();
    for file in ["../model.safetensors", "/etc/passwd", "", "model.safetensors.index.json"] {
        let mut changed = map.clone();
        changed.insert(name.clone(), file.into());
        write(&changed);
        refused(&folder, "may only name files next to it");
    }
    let mut changed = map.clone();
    changed.insert("another".to_owned(), parts[0].into());
    write(&changed);
    refused(&folder, "`another` is in `model-00001-of-00002.safetensors`, which does not hold it");
    write(&map);
    fs::remove_file(folder.join(parts[1])).unwrap();
    refused(&folder, "`model-00002-of-00002.safetensors`");
    fs::remove_file(&index).unwrap();
    fs::remove_file(folder.join("optimizer.pt")).unwrap();
    safetensors(&folder.join(parts[1]), |name| Some(name.to_owned()));
    refused(&folder, "without their index");
}

#[test]
fn what_is_there_instead_of_a_checkpoint_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |name: &str, bytes: &[u8], problem: &str| {
        let file = dir.path().join(name);
        fs::write(&file, bytes).unwrap();
        let error = import(&file, 3, &dir.path().join("none")).unwrap_err().to_string();
        assert!(error.contains(problem), "{name}: {error}");
    };
    let lfs = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 440449768\n";
    for name in ["a.safetensors", "a.pth"] {
        refused(name, lfs, "is a Git LFS pointer to 440449768 bytes");
        refused(name, b"<!DOCTYPE html><html>Sign in</html>", "is a web page (`Sign in`)");
        refused(name, b"", "is empty");
    }
    let file = dir.path().join("whole.safetensors");
    safetensors(&file, |name| Some(format!("_orig_mod.{name}")));
    let whole = fs::read(&file).unwrap();
    refused(
        "names.safetensors",
        &whole,
        "names in it: `_orig_mod.model.bert.embeddings.word_embeddings.weight`",
    );
    refused("cut.safetensors", &whole[..whole.len() - 9], "does not fit its");
    refused("long.safetensors", &[&whole[..], b"more"].concat(), "does not fit its");
    // Elements without bytes, as many as no memory holds.
    let header = br#"{"x":{"dtype":"F32","shape":[1099511627776,1099511627776,0],"data_offsets":[0,0]}}"#;
    let bytes = [&(header.len() as u64).to_le_bytes()[..], header].concat();
    refused("empty.safetensors", &bytes, "safetensors");
}

#[test]
fn a_compressed_tar_is_read_to_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let pack = |names: &[&str], after: &[u8]| {
        let mut tar = tar::Builder::new(Vec::new());
        for name in names {
            tar.append_path_with_name(fixture("zip.pth"), name).unwrap();
        }
        let bytes = [&tar.into_inner().unwrap()[..], after].concat();
        let file = dir.path().join("packed.tar.gz");
        let mut packed =
            flate2::write::GzEncoder::new(File::create(&file).unwrap(), flate2::Compression::fast());
        std::io::Write::write_all(&mut packed, &bytes).unwrap();
        packed.finish().unwrap();
        import(&file, 3, &dir.path().join("out")).map_err(|error| error.to_string())
    };
    let two = pack(&["a/model.pth", "b/model.pth"], b"").unwrap_err();
    assert!(two.contains("several checkpoints, `a/model.pth` and `b/model.pth`"), "{two}");
    let more = pack(&["a/model.pth"], b"second\n").unwrap_err();
    assert!(more.contains("goes on after its end mark") && more.contains("`second`"), "{more}");
    pack(&["a/model.pth"], &[0; 1024]).unwrap();
}
