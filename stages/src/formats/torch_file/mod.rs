//! Tensors out of a file of `torch.save`: the zip layout (PyTorch 1.6 and later) and the older one, a row of pickles
//! followed by the raw storages. The table of tensors is read as data ([`Pickle`]), their elements in any strides. It does
//! not know which tensors matter.

mod calls;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use zip::ZipArchive;

use crate::formats::file_kind;
use crate::formats::pickle::{Pickle, Value};

/// What the older layout begins with: the pickles of torch's magic number and of the layout's version, 1001.
const OLD_LAYOUT: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.";
/// The longest pickle: the table of a model of a million tensors is shorter.
const LONGEST_PICKLE: u64 = 64 << 20;
/// How many times larger than their file the tensors may be together: weights that two parts share are stored once.
const MAX_SHARED: u64 = 4;

/// A file whose table of tensors has been read.
pub struct TorchFile {
    /// The tensors, by name.
    infos: Vec<TensorInfo>,
    /// Bytes of the file.
    bytes: u64,
    source: Source,
}

enum Source {
    /// The zip layout: a file within it for each storage.
    Zip(ZipArchive<BufReader<File>>),
    /// The older layout.
    Old {
        /// The file, at the first storage.
        file: BufReader<File>,
        /// Storages in the order of the file: key, bytes an element.
        storages: Vec<(String, u64)>,
    },
}

/// A tensor as the table describes it.
struct TensorInfo {
    name: String,
    /// The class of its storage, which says what its elements are.
    class: String,
    dims: Vec<usize>,
    strides: Vec<usize>,
    /// Its first element within the storage.
    offset: usize,
    /// Where its storage is: a file within the zip, or its key in the older layout.
    storage: String,
}

/// Reads the table of tensors, at the file's top level or under `model`.
///
/// # Errors
/// A file of another kind, or one that does not hold what its table says.
pub fn open(path: &Path) -> Result<TorchFile, String> {
    let head = file_kind::head(path).map_err(|error| error.to_string())?;
    if head.starts_with(b"PK") {
        return open_zip(path);
    }
    if !head.starts_with(OLD_LAYOUT) {
        return Err(file_kind::mismatch("a torch file of either layout", &head));
    }
    open_old(path)
}

fn open_zip(path: &Path) -> Result<TorchFile, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let bytes = file.metadata().map_err(|error| error.to_string())?.len();
    let broken = |error: zip::result::ZipError| format!("cannot be read as a torch file: {error}");
    let mut zip = ZipArchive::new(BufReader::new(file)).map_err(broken)?;
    let (mut infos, mut tables, mut keys) = (Vec::new(), 0, String::new());
    for at in 0..zip.len() {
        let entry = zip.by_index(at).map_err(broken)?;
        let name = entry.name().map_err(broken)?.into_owned();
        let Some(folder) = name.strip_suffix(".pkl").filter(|_| name.ends_with("data.pkl")) else { continue };
        let mut table = Vec::new();
        // Torch does not compress, so no pickle is longer than the file.
        let max_bytes = bytes.min(LONGEST_PICKLE);
        entry.take(max_bytes + 1).read_to_end(&mut table).map_err(|error| format!("`{name}`: {error}"))?;
        if table.len() as u64 > max_bytes {
            return Err(format!(
                "`{name}` is longer than {max_bytes} bytes, which no table of tensors needs"
            ));
        }
        let (pickle, _) = Pickle::read(&table).map_err(|problem| format!("`{name}`: {problem}"))?;
        infos.extend(tensors(&pickle, &format!("{folder}/"))?);
        keys = top_level(&pickle);
        tables += 1;
    }
    match (tables, infos.is_empty()) {
        (0, _) => Err("is a zip archive without a `data.pkl`, not a torch file".to_owned()),
        (_, true) => Err(without_tensors(&keys)),
        _ => Ok(TorchFile::new(infos, bytes, Source::Zip(zip))),
    }
}

fn open_old(path: &Path) -> Result<TorchFile, String> {
    let mut file = File::open(path).map_err(|error| error.to_string())?;
    let bytes = file.metadata().map_err(|error| error.to_string())?.len();
    let mut head = Vec::new();
    let max_bytes = 2 * LONGEST_PICKLE;
    (&mut file).take(max_bytes).read_to_end(&mut head).map_err(|error| error.to_string())?;
    let mut at = OLD_LAYOUT.len();
    let mut next = |what: &str| {
        let (pickle, length) = Pickle::read(&head[at..]).map_err(|problem| format!("{what}: {problem}"))?;
        at += length;
        Ok::<_, String>(pickle)
    };
    next("the byte order and sizes")?;
    let saved = next("the table of tensors")?;
    let keys = next("the list of storages")?;
    let sizes = storage_sizes(&saved);
    let keys = keys.items(keys.root()).ok_or("the list of storages is missing")?.map(text);
    let mut storages = Vec::new();
    for key in keys {
        let key = key.ok_or("a storage has no name")?;
        let size = sizes.get(key).ok_or_else(|| format!("storage {key} is of an unknown kind"))?;
        storages.push((key.to_owned(), *size));
    }
    let infos = tensors(&saved, "")?;
    if infos.is_empty() {
        return Err(without_tensors(&top_level(&saved)));
    }
    let mut file = BufReader::new(file);
    file.seek(SeekFrom::Start(at as u64)).map_err(|error| error.to_string())?;
    Ok(TorchFile::new(infos, bytes, Source::Old { file, storages }))
}

/// The tensors of a pickle whose storages are in `folder`.
fn tensors(pickle: &Pickle, folder: &str) -> Result<Vec<TensorInfo>, String> {
    if let Some(function) = calls::foreign(pickle) {
        return Err(format!(
            "its pickle would call `{function}`, which no table of tensors needs; nothing was executed"
        ));
    }
    let root = pickle.root();
    let state = pickle.get(root, "model").filter(|model| matches!(model, Value::Dict(_))).unwrap_or(root);
    let Value::Dict(entries) = state else { return Ok(Vec::new()) };
    let mut infos = Vec::new();
    for (name, value) in entries {
        let Some(name) = text(pickle.value(*name)) else { continue };
        if let Some(arguments) = rebuild_arguments(pickle, pickle.value(*value)) {
            let info = tensor_info(pickle, name, &arguments, folder);
            infos.push(info.ok_or_else(|| format!("`{name}`: its pickle is malformed"))?);
        }
    }
    Ok(infos)
}

fn text<'a>(value: &Value<'a>) -> Option<&'a str> {
    match value {
        Value::Text(text) => Some(text),
        // Python 2's texts.
        Value::Bytes(bytes) => std::str::from_utf8(bytes).ok(),
        _ => None,
    }
}

/// The keys of what was saved, as a message has them.
fn top_level(pickle: &Pickle) -> String {
    match pickle.root() {
        Value::Dict(entries) => {
            let keys = entries.iter().filter_map(|(key, _)| text(pickle.value(*key)));
            keys.take(8).map(|key| format!("`{}`", file_kind::shown(key))).collect::<Vec<_>>().join(", ")
        }
        _ => String::new(),
    }
}

fn without_tensors(keys: &str) -> String {
    match keys {
        "" => "holds no table of tensors: save the model's `state_dict()`".to_owned(),
        keys => format!("holds no tensors at its top level or under `model`; its keys are {keys}"),
    }
}

/// What a tensor is rebuilt from, whatever it is wrapped in; nothing for what is not a tensor.
fn rebuild_arguments<'s, 'a>(pickle: &'s Pickle<'a>, value: &'s Value<'a>) -> Option<Vec<&'s Value<'a>>> {
    let call = |value: &'s Value<'a>| {
        let Value::Object { callable, arguments, .. } = value else { return None };
        let Value::Global(module, name) = pickle.value(*callable) else { return None };
        Some((*module, *name, pickle.items(pickle.value(*arguments))?.collect::<Vec<_>>()))
    };
    let (mut module, mut name, mut arguments) = call(value)?;
    if (module, name) == ("torch._utils", "_rebuild_parameter") {
        (module, name, arguments) = call(*arguments.first()?)?;
    }
    if (module, name) == ("torch._tensor", "_rebuild_from_type_v2") {
        let [Value::Global("torch._utils", "_rebuild_tensor_v2"), _, inner, ..] = arguments.as_slice() else {
            return None;
        };
        return pickle.items(inner).map(Iterator::collect);
    }
    ((module, name) == ("torch._utils", "_rebuild_tensor_v2")).then_some(arguments)
}

/// A tensor of `(storage, offset, size, stride, …)`, where the storage is `("storage", class, key, place, length)`;
/// nothing for other arguments.
fn tensor_info(pickle: &Pickle, name: &str, arguments: &[&Value], folder: &str) -> Option<TensorInfo> {
    let count = |value: &Value| match value {
        Value::Int(number) => usize::try_from(*number).ok(),
        _ => None,
    };
    let counts = |value: &Value| pickle.items(value)?.map(count).collect::<Option<Vec<usize>>>();
    let [Value::Persistent(id), offset, dims, strides, ..] = arguments else { return None };
    let (class, key) = storage_of(pickle, pickle.value(*id))?;
    let (dims, strides) = (counts(dims)?, counts(strides)?);
    (dims.len() == strides.len()).then_some(())?;
    Some(TensorInfo {
        name: name.to_owned(),
        class: class.to_owned(),
        dims,
        strides,
        offset: count(offset)?,
        storage: format!("{folder}{key}"),
    })
}

/// Class and key of a storage.
fn storage_of<'a>(pickle: &Pickle<'a>, id: &Value<'a>) -> Option<(&'a str, &'a str)> {
    let mut parts = pickle.items(id)?.skip(1);
    let (Value::Global(_, class), key) = (parts.next()?, parts.next()?) else { return None };
    Some((class, text(key)?))
}

/// Bytes an element of every storage that a pickle refers to, by key: all must be known to find any in the file.
fn storage_sizes<'a>(pickle: &Pickle<'a>) -> HashMap<&'a str, u64> {
    let storages = pickle.values().filter_map(|value| match value {
        Value::Persistent(id) => storage_of(pickle, pickle.value(*id)),
        _ => None,
    });
    let size = |class: &str| match class {
        "DoubleStorage" | "LongStorage" => Some(8),
        "FloatStorage" | "IntStorage" => Some(4),
        "HalfStorage" | "BFloat16Storage" | "ShortStorage" => Some(2),
        "ByteStorage" | "CharStorage" | "BoolStorage" => Some(1),
        _ => None,
    };
    storages.filter_map(|(class, key)| Some((key, size(class)?))).collect()
}

impl TensorInfo {
    fn dtype(&self) -> Result<DType, String> {
        match self.class.as_str() {
            "FloatStorage" => Ok(DType::F32),
            "DoubleStorage" => Ok(DType::F64),
            "HalfStorage" => Ok(DType::F16),
            "BFloat16Storage" => Ok(DType::BF16),
            "ByteStorage" => Ok(DType::U8),
            "LongStorage" => Ok(DType::I64),
            other => Err(format!("is of the kind `{other}`, which is not read")),
        }
    }

    /// How many elements it has; nothing where that is more than any memory holds.
    fn count(&self) -> Option<usize> {
        // Dimensions next to a zero count, too: they must not overflow where strides are computed from them.
        self.dims.iter().try_fold(1usize, |count, &dim| count.checked_mul(dim.max(1)))?.checked_mul(8)?;
        Some(self.dims.iter().product())
    }

    /// Where it begins and ends within its storage, in bytes; nothing for dimensions that no memory can hold.
    fn extent(&self, size: usize) -> Option<(usize, usize)> {
        let start = self.offset.checked_mul(size)?;
        if self.count()? == 0 {
            return Some((start, start));
        }
        let mut steps =
            self.dims.iter().zip(&self.strides).map(|(&dim, &stride)| (dim - 1).checked_mul(stride));
        let last = steps.try_fold(0usize, |sum, step| sum.checked_add(step?))?;
        Some((start, start.checked_add(last.checked_add(1)?.checked_mul(size)?)?))
    }

    /// The tensor out of the bytes of its storage.
    fn read(&self, storage: &[u8]) -> Result<Tensor, String> {
        let dtype = self.dtype()?;
        let size = dtype.size_in_bytes();
        let bytes = self.extent(size).and_then(|(start, end)| storage.get(start..end));
        let bytes = bytes.ok_or("is not within its storage")?;
        let gathered;
        let bytes = if self.is_contiguous() {
            bytes
        } else {
            // The extent has counted the product, which so does not overflow.
            if self.dims.iter().product::<usize>() > bytes.len() / size {
                return Err("is a view whose elements overlap, which this reader does not know".to_owned());
            }
            gathered = row_major(bytes, size, &self.dims, &self.strides);
            &gathered
        };
        Tensor::from_raw_buffer(bytes, dtype, &self.dims, &Device::Cpu).map_err(|error| error.to_string())
    }

    fn is_contiguous(&self) -> bool {
        let mut expected = 1;
        self.dims.iter().zip(&self.strides).rev().all(|(&dim, &stride)| {
            let is = dim <= 1 || stride == expected;
            expected *= dim.max(1);
            is
        })
    }
}

impl TorchFile {
    fn new(mut infos: Vec<TensorInfo>, bytes: u64, source: Source) -> Self {
        infos.sort_by(|a, b| a.name.cmp(&b.name));
        Self { infos, bytes, source }
    }

    /// The names of its tensors, in order.
    pub fn names(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.infos.iter().map(|info| info.name.as_str())
    }

    /// Reads the tensors `names`, on the CPU, row-major.
    ///
    /// # Errors
    /// Data that end early or do not fit the table; a view whose elements overlap; tensors that are together many
    /// times larger than the file.
    pub fn load(self, names: &[&str]) -> Result<HashMap<String, Tensor>, String> {
        let names: HashSet<&str> = names.iter().copied().collect();
        let infos = self.infos.iter().filter(|info| names.contains(info.name.as_str()));
        // By storage, so that each is read once: how far it is read, and the tensors in it.
        let mut users: BTreeMap<&str, (usize, Vec<&TensorInfo>)> = BTreeMap::new();
        let mut all = 0u64;
        for info in infos {
            let size = info.dtype().map_err(|problem| format!("`{}` {problem}", info.name))?.size_in_bytes();
            let extent = info.extent(size).filter(|(_, end)| *end as u64 <= self.bytes);
            let (_, end) = extent
                .ok_or_else(|| format!("`{}` ends beyond the file's {} bytes", info.name, self.bytes))?;
            all = all.saturating_add(info.count().unwrap_or(usize::MAX).saturating_mul(size) as u64);
            let (last, of_storage) = users.entry(&info.storage).or_default();
            *last = end.max(*last);
            of_storage.push(info);
        }
        if all > self.bytes.saturating_mul(MAX_SHARED) {
            let problem = "its tensors share the bytes of the file many times over";
            return Err(format!("{problem}: {all} bytes of tensors in {} bytes", self.bytes));
        }
        let mut found = HashMap::new();
        let mut read = |users: Vec<&TensorInfo>, storage: &[u8]| {
            users.into_iter().try_for_each(|info| {
                let tensor = info.read(storage).map_err(|problem| format!("`{}`: {problem}", info.name))?;
                found.insert(info.name.clone(), tensor);
                Ok::<_, String>(())
            })
        };
        match self.source {
            Source::Zip(mut zip) => {
                for (storage, (end, users)) in users {
                    let fail = |problem: String| format!("`{storage}`: {problem}");
                    let entry = zip.by_name(storage).map_err(|error| fail(error.to_string()))?;
                    let mut data = Vec::new();
                    entry.take(end as u64).read_to_end(&mut data).map_err(|error| fail(error.to_string()))?;
                    read(users, &data)?;
                }
            }
            Source::Old { mut file, storages } => {
                for (key, size) in storages {
                    let (_, users) = users.remove(key.as_str()).unwrap_or_default();
                    let bytes = storage(&mut file, size, !users.is_empty())
                        .map_err(|error| format!("storage {key}: {error}"))?;
                    read(users, &bytes)?;
                }
            }
        }
        Ok(found)
    }
}

/// The next storage of the file: its length in elements (u64), then its data; empty when it is only skipped.
fn storage(file: &mut BufReader<File>, size: u64, keep: bool) -> std::io::Result<Vec<u8>> {
    let mut length = [0; 8];
    file.read_exact(&mut length)?;
    let bytes = u64::from_le_bytes(length).saturating_mul(size);
    let mut data = Vec::new();
    // `take` reserves nothing, so a wrong length cannot ask for more memory than the file has bytes.
    let mut source = file.take(bytes);
    let read = if keep {
        source.read_to_end(&mut data)? as u64
    } else {
        std::io::copy(&mut source, &mut std::io::sink())?
    };
    if read < bytes {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    Ok(data)
}

/// The elements, `size` bytes each, of a strided tensor in the order of its dimensions.
fn row_major(bytes: &[u8], size: usize, dims: &[usize], strides: &[usize]) -> Vec<u8> {
    let count = dims.iter().product();
    let (mut index, mut out) = (vec![0; dims.len()], Vec::with_capacity(count * size));
    for _ in 0..count {
        let at: usize = index.iter().zip(strides).map(|(index, stride)| index * stride).sum();
        out.extend_from_slice(&bytes[at * size..][..size]);
        for (index, dim) in index.iter_mut().zip(dims).rev() {
            *index += 1;
            if *index < *dim {
                break;
            }
            *index = 0;
        }
    }
    out
}

#[cfg(test)]
mod tests;
