//! The files of a checkpoint: one of torch, one of safetensors, or, as Hugging Face saves a large model, several and an
//! index of them. It does not know what the tensors are called.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use serde::Deserialize;

use crate::formats::file_kind;
use crate::formats::torch_file::{self, TorchFile};

/// What Hugging Face's `from_pretrained` looks for in a folder, in its order.
const HUGGING_FACE: [&str; 4] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
];
/// How the name of an index ends.
const INDEX: &str = ".index.json";
/// Endings of files that are or hold a checkpoint.
const ENDINGS: [&str; 6] = [".pth", ".ckpt", ".pt", ".safetensors", ".tar.gz", ".tgz"];

/// The index of a checkpoint in several files.
#[derive(Deserialize)]
struct Index {
    /// The file of each tensor.
    weight_map: BTreeMap<String, String>,
}

/// The tensors of a checkpoint, or where they are.
pub(super) enum Checkpoint {
    Torch(TorchFile),
    Safetensors(HashMap<String, Tensor>),
    /// Several of them, which together have every tensor once.
    Sharded(Vec<Checkpoint>),
}

impl Checkpoint {
    /// Opens the file of a checkpoint, or the index of several.
    pub(super) fn open(path: &Path) -> Result<Self, String> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.ends_with(INDEX) {
            return Self::open_shards(path);
        }
        let head = file_kind::head(path).map_err(|error| error.to_string())?;
        // A safetensors file begins with the length of a JSON header.
        if head.get(8) == Some(&b'{') && !head.starts_with(b"PK") {
            return safetensors(path).map(Self::Safetensors);
        }
        if name.ends_with(".safetensors") {
            return Err(file_kind::mismatch("a safetensors file", &head));
        }
        torch_file::open(path).map(Self::Torch)
    }

    fn open_shards(path: &Path) -> Result<Self, String> {
        let text = fs::read(path).map_err(|error| error.to_string())?;
        let index: Index = serde_json::from_slice(&text).map_err(|error| {
            file_kind::placeholder(&text)
                .unwrap_or_else(|| format!("is not an index of a checkpoint: {error}"))
        })?;
        let files: BTreeSet<&String> = index.weight_map.values().collect();
        if files.is_empty() {
            return Err("names no files: its `weight_map` is empty".to_owned());
        }
        let folder = path.parent().unwrap_or(Path::new(""));
        let (mut shards, mut owners) = (Vec::new(), HashMap::new());
        for file in files {
            let fail = |problem: String| format!("`{}`: {problem}", file_kind::shown(file));
            // An index names its neighbours, and nothing outside its folder.
            let shard = Path::new(file);
            if shard.file_name().is_none_or(|name| name != shard.as_os_str()) || file.ends_with(INDEX) {
                return Err(fail("the index may only name files next to it".to_owned()));
            }
            let shard = Self::open(&folder.join(file)).map_err(fail)?;
            for name in shard.names() {
                if let Some(other) = owners.insert(name.clone(), file) {
                    return Err(format!("`{name}` is in both `{other}` and `{file}`"));
                }
            }
            shards.push(shard);
        }
        for (name, file) in &index.weight_map {
            if owners.get(name) != Some(&file) {
                return Err(format!("says that `{name}` is in `{file}`, which does not hold it"));
            }
        }
        Ok(Self::Sharded(shards))
    }

    /// The names of its tensors, sorted.
    pub(super) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = match self {
            Self::Torch(file) => file.names().map(str::to_owned).collect(),
            Self::Safetensors(tensors) => tensors.keys().cloned().collect(),
            Self::Sharded(shards) => shards.iter().flat_map(Self::names).collect(),
        };
        names.sort_unstable();
        names
    }

    /// Reads the tensors `names`, and perhaps more.
    pub(super) fn load(self, names: &[&str]) -> Result<HashMap<String, Tensor>, String> {
        match self {
            Self::Torch(file) => file.load(names),
            Self::Safetensors(tensors) => Ok(tensors),
            Self::Sharded(shards) => {
                let mut found = HashMap::new();
                for shard in shards {
                    found.extend(shard.load(names)?);
                }
                Ok(found)
            }
        }
    }
}

fn safetensors(path: &Path) -> Result<HashMap<String, Tensor>, String> {
    candle_core::safetensors::load(path, &Device::Cpu).map_err(|error| {
        let bytes = fs::metadata(path).map_or(0, |meta| meta.len());
        let text = error.to_string();
        if text.contains("incomplete metadata") || text.contains("invalid header length") {
            return format!("its table of tensors does not fit its {bytes} bytes: {text}");
        }
        format!("cannot be read as safetensors: {text}")
    })
}

/// The file to open: `path` itself, what Hugging Face would open in that folder, or the only checkpoint or archive
/// somewhere below it.
///
/// # Errors
/// The path and what is wrong with it: no checkpoint, several, a part of one.
pub(super) fn find(path: &Path) -> Result<PathBuf, (PathBuf, String)> {
    let fail = |problem: String| (path.to_owned(), problem);
    if !path.is_dir() {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // A step reads what its input names, so the files next to it are out of its reach.
        let part = if name.ends_with(INDEX) { "the index of" } else { "a part of" };
        if name.ends_with(INDEX) || is_shard(&name) {
            return Err(fail(format!(
                "is {part} a checkpoint in several files; name the folder that holds them"
            )));
        }
        return Ok(path.to_owned());
    }
    if let Some(name) = HUGGING_FACE.iter().find(|name| path.join(name).is_file()) {
        return Ok(path.join(name));
    }
    let (mut found, mut others) = (BTreeSet::new(), BTreeSet::new());
    let mut folders = vec![path.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(|error| (folder.clone(), error.to_string()))? {
            let entry = entry.map_err(|error| (folder.clone(), error.to_string()))?.path();
            if entry.is_dir() {
                folders.push(entry);
                continue;
            }
            let list = if is_checkpoint(&entry) { &mut found } else { &mut others };
            list.insert(entry);
        }
    }
    let list = |files: BTreeSet<PathBuf>| {
        let name = |file: &PathBuf| {
            let within = file.strip_prefix(path).unwrap_or(file).to_string_lossy().into_owned();
            format!("`{}`", file_kind::shown(&within))
        };
        files.iter().take(5).map(name).collect::<Vec<_>>().join(", ")
    };
    match (found.len(), others.len()) {
        (1, _) => Ok(found.pop_first().unwrap_or_default()),
        (0, 0) => Err(fail("is empty".to_owned())),
        (0, _) => Err(fail(format!("holds {}, and no {} file", list(others), ENDINGS.join(", ")))),
        _ if found.iter().all(|file| is_shard(&file.file_name().unwrap_or_default().to_string_lossy())) => {
            let problem =
                "the parts of a checkpoint without their index, such as `model.safetensors.index.json`";
            Err(fail(format!("holds {problem}")))
        }
        _ => Err(fail(format!("holds several checkpoints, {}; let the input name one of them", list(found)))),
    }
}

/// Whether a name is that of a file that is or holds a checkpoint.
pub(super) fn is_checkpoint(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    ENDINGS.iter().any(|ending| name.ends_with(ending))
}

/// Whether a name is one of several: `model-00001-of-00002.safetensors`.
fn is_shard(name: &str) -> bool {
    let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    let Some((first, count)) = stem.rsplit_once("-of-") else { return false };
    let is_number = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number(count) && count != "00001" && first.rsplit('-').next().is_some_and(is_number)
}
