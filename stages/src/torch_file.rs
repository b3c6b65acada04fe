//! Tensors out of a file of `torch.save`: the zip layout (PyTorch 1.6 and later) and the older one, a row of pickles
//! followed by the raw storages. Candle's unpickler reads the table of tensors; their elements are read here, in any
//! strides. It does not know which tensors matter.

mod calls;

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use candle_core::pickle::{Object, Stack, TensorInfo};
use candle_core::{Device, Tensor};
use zip::ZipArchive;

/// What the older layout begins with: the pickles of torch's magic number and of the layout's version, 1001.
const OLD_LAYOUT: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.";

/// A file whose table of tensors has been read.
pub struct TorchFile {
    /// The tensors, by name.
    infos: Vec<TensorInfo>,
    source: Source,
}

enum Source {
    /// The zip layout: a file within it for each storage.
    Zip {
        zip: ZipArchive<BufReader<File>>,
        /// Bytes of the file, which no tensor can exceed: torch does not compress.
        bytes: usize,
    },
    /// The older layout.
    Old {
        /// The file, at the first storage.
        file: BufReader<File>,
        /// Storages in the order of the file: key, bytes an element.
        storages: Vec<(String, u64)>,
    },
}

/// Reads the table of tensors, at the file's top level or under `model`.
///
/// # Errors
/// A file of another kind, or a damaged one.
pub fn open(path: &Path) -> Result<TorchFile, String> {
    let mut file = BufReader::new(File::open(path).map_err(|error| error.to_string())?);
    let head = file.fill_buf().map_err(|error| error.to_string())?;
    if head.starts_with(b"PK") {
        return unpickled(|| open_zip(path));
    }
    if !head.starts_with(OLD_LAYOUT) {
        return Err("is neither layout of a torch file".to_owned());
    }
    file.consume(OLD_LAYOUT.len());
    unpickled(|| open_old(file))
}

/// Runs `read`, which goes through candle's unpickler: that one takes arguments out of a pickle's tuples without
/// counting them, so a damaged file makes it panic where this program wants an error.
fn unpickled<T>(read: impl FnOnce() -> candle_core::Result<T>) -> Result<T, String> {
    let problem = match catch_unwind(AssertUnwindSafe(read)) {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "its pickle is malformed".to_owned(),
    };
    Err(format!("cannot be read as a torch file: {problem}; get it again"))
}

fn open_zip(path: &Path) -> candle_core::Result<TorchFile> {
    let file = File::open(path)?;
    let bytes = file.metadata()?.len() as usize;
    let mut zip = ZipArchive::new(BufReader::new(file)).map_err(candle_core::Error::wrap)?;
    let mut infos = Vec::new();
    for at in 0..zip.len() {
        let entry = zip.by_index(at).map_err(candle_core::Error::wrap)?;
        let name = entry.name().map_err(candle_core::Error::wrap)?.into_owned();
        let Some(folder) = name.strip_suffix(".pkl").filter(|_| name.ends_with("data.pkl")) else { continue };
        let mut stack = Stack::empty();
        stack.read_loop(&mut BufReader::new(entry))?;
        infos.extend(tensors(stack.finalize()?, Path::new(folder))?);
    }
    infos.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(TorchFile { infos, source: Source::Zip { zip, bytes } })
}

/// The tensors of a pickle whose storages lie in `folder`.
fn tensors(saved: Object, folder: &Path) -> candle_core::Result<Vec<TensorInfo>> {
    if let Some(function) = calls::foreign(&saved) {
        candle_core::bail!(
            "its pickle would call `{function}`, which no table of tensors needs; nothing was executed"
        );
    }
    let mut infos = Vec::new();
    for (name, value) in state(saved) {
        if let Some(info) = value.into_tensor_info(name, folder)? {
            infos.push(info);
        }
    }
    Ok(infos)
}

fn open_old(mut file: BufReader<File>) -> candle_core::Result<TorchFile> {
    let mut next = || {
        let mut stack = Stack::empty();
        stack.read_loop(&mut file)?;
        stack.finalize()
    };
    let _byte_order_and_sizes = next()?;
    let saved = next()?;
    let keys = next()?;
    let mut sizes = HashMap::new();
    storage_sizes(&saved, &mut sizes);
    let Object::List(keys) = keys else { candle_core::bail!("the list of storages is missing") };
    let mut storages = Vec::new();
    for key in keys {
        let key = key.unicode().map_err(|_| candle_core::Error::msg("a storage has no name"))?;
        let Some(&size) = sizes.get(&key) else { candle_core::bail!("storage {key} is of an unknown kind") };
        storages.push((key, size));
    }
    let mut infos = tensors(saved, Path::new(""))?;
    infos.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(TorchFile { infos, source: Source::Old { file, storages } })
}

/// The dictionary of tensors: that under `model`, or the whole.
fn state(saved: Object) -> Vec<(Object, Object)> {
    let Object::Dict(entries) = saved else { return Vec::new() };
    let model = entries.iter().position(|(key, value)| {
        matches!(key, Object::Unicode(key) if key == "model") && matches!(value, Object::Dict(_))
    });
    match model.map(|at| entries[at].1.clone()) {
        Some(Object::Dict(model)) => model,
        _ => entries,
    }
}

/// Bytes an element of every storage that `object` refers to, by key: all must be known to find any in the file.
fn storage_sizes(object: &Object, sizes: &mut HashMap<String, u64>) {
    match object {
        Object::PersistentLoad(id) => {
            if let Object::Tuple(parts) = id.as_ref()
                && let [_, Object::Class { class_name, .. }, Object::Unicode(key), ..] = parts.as_slice()
            {
                let size = match class_name.as_str() {
                    "DoubleStorage" | "LongStorage" => 8,
                    "FloatStorage" | "IntStorage" => 4,
                    "HalfStorage" | "BFloat16Storage" | "ShortStorage" => 2,
                    "ByteStorage" | "CharStorage" | "BoolStorage" => 1,
                    _ => return,
                };
                sizes.insert(key.clone(), size);
            }
        }
        Object::Tuple(parts) | Object::List(parts) => {
            parts.iter().for_each(|part| storage_sizes(part, sizes));
        }
        Object::Dict(entries) => entries.iter().for_each(|(_, value)| storage_sizes(value, sizes)),
        Object::Reduce { callable, args } | Object::Build { callable, args } => {
            storage_sizes(callable, sizes);
            storage_sizes(args, sizes);
        }
        _ => {}
    }
}

impl TorchFile {
    /// The names of its tensors, in order.
    pub fn names(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.infos.iter().map(|info| info.name.as_str())
    }

    /// Reads the tensors `wanted`, on the CPU, row-major.
    ///
    /// # Errors
    /// Data that end early or do not fit the table; a view whose elements overlap.
    pub fn load(self, wanted: &[&str]) -> Result<HashMap<String, Tensor>, String> {
        let mut found = HashMap::new();
        let infos = self.infos.iter().filter(|info| wanted.contains(&info.name.as_str()));
        match self.source {
            Source::Zip { mut zip, bytes } => {
                for info in infos {
                    let fail = |problem: String| format!("`{}`: {problem}", info.name);
                    let Some((_, end)) = extent(info).filter(|(_, end)| *end <= bytes) else {
                        return Err(fail(
                            "is larger than the file, which is damaged; get it again".to_owned(),
                        ));
                    };
                    let entry = zip.by_name(&info.path).map_err(|error| fail(error.to_string()))?;
                    let mut data = Vec::new();
                    entry.take(end as u64).read_to_end(&mut data).map_err(|error| fail(error.to_string()))?;
                    found.insert(info.name.clone(), tensor(info, &data).map_err(fail)?);
                }
            }
            Source::Old { mut file, storages } => {
                let infos: Vec<&TensorInfo> = infos.collect();
                for (key, size) in storages {
                    let of = || infos.iter().filter(|info| info.path.strip_prefix('/') == Some(&key));
                    let bytes = storage(&mut file, size, of().next().is_some())
                        .map_err(|error| format!("storage {key}: {error}"))?;
                    for info in of() {
                        let tensor =
                            tensor(info, &bytes).map_err(|error| format!("`{}`: {error}", info.name))?;
                        found.insert(info.name.clone(), tensor);
                    }
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
    // `take` reserves nothing, so a damaged length cannot ask for more memory than the file has bytes.
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

fn tensor(info: &TensorInfo, storage: &[u8]) -> Result<Tensor, String> {
    let (layout, size) = (&info.layout, info.dtype.size_in_bytes());
    let bytes = extent(info).and_then(|(start, end)| storage.get(start..end));
    let bytes = bytes.ok_or("lies outside its storage")?;
    let gathered;
    let bytes = if layout.is_contiguous() {
        bytes
    } else {
        // The extent has counted the product, which so does not overflow.
        if layout.dims().iter().product::<usize>() > bytes.len() / size {
            return Err("is a view whose elements overlap, which this reader does not know".to_owned());
        }
        gathered = row_major(bytes, size, layout.dims(), layout.stride());
        &gathered
    };
    Tensor::from_raw_buffer(bytes, info.dtype, layout.dims(), &Device::Cpu).map_err(|error| error.to_string())
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

/// Where a tensor begins and ends within its storage; nothing for dimensions that no memory can hold.
fn extent(info: &TensorInfo) -> Option<(usize, usize)> {
    // Candle gives the offset in bytes.
    let (layout, size) = (&info.layout, info.dtype.size_in_bytes());
    let start = layout.start_offset();
    if layout.dims().len() != layout.stride().len() {
        return None;
    }
    layout.dims().iter().try_fold(size, |bytes, &dim| bytes.checked_mul(dim))?;
    if layout.dims().contains(&0) {
        return Some((start, start));
    }
    let steps = layout.dims().iter().zip(layout.stride());
    let last = steps.map(|(&dim, &stride)| (dim - 1).checked_mul(stride));
    let last = last.into_iter().try_fold(0usize, |sum, step| sum.checked_add(step?))?;
    Some((start, start.checked_add(last.checked_add(1)?.checked_mul(size)?)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_come_in_the_order_of_the_dimensions() {
        let bytes: Vec<u8> = (0..12).collect();
        // A transposed 3 × 4 matrix, and every second column of it.
        assert_eq!(row_major(&bytes, 1, &[4, 3], &[1, 4]), [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]);
        assert_eq!(row_major(&bytes, 1, &[3, 2], &[4, 2]), [0, 2, 4, 6, 8, 10]);
        assert_eq!(row_major(&bytes, 2, &[2, 2], &[1, 3]), [0, 1, 6, 7, 2, 3, 8, 9]);
        assert!(row_major(&bytes, 1, &[0, 2], &[4, 2]).is_empty());
    }

    /// `fixtures/torch_strided.pth`, which torch wrote (`reference/exports.py --strided`): a matrix, its transpose,
    /// every second column of it, and a part of it.
    #[test]
    fn views_of_every_stride_are_read() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/torch_strided.pth");
        let names = ["columns", "part", "transposed", "whole"];
        let found = open(&path).unwrap().load(&names).unwrap();
        let rows = |name: &str| found[name].to_vec2::<f32>().unwrap();
        assert_eq!(rows("whole"), [[0.0, 1.0, 2.0, 3.0], [4.0, 5.0, 6.0, 7.0], [8.0, 9.0, 10.0, 11.0]]);
        assert_eq!(rows("transposed")[1], [1.0, 5.0, 9.0]);
        assert_eq!(rows("columns"), [[0.0, 2.0], [4.0, 6.0], [8.0, 10.0]]);
        assert_eq!(rows("part"), [[5.0, 6.0], [9.0, 10.0]]);
    }

    /// Damage may go unseen, where it hits a number; it must never end the program.
    #[test]
    fn a_damaged_file_is_no_more_than_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("damaged.pth");
        for name in ["zip.pth", "old.pth"] {
            let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/import_model/fixtures");
            let whole = std::fs::read(fixtures.join(name)).unwrap();
            let mut refused = 0;
            for at in (0..whole.len()).step_by(7) {
                let mut damaged = whole.clone();
                damaged[at] ^= 0x55;
                std::fs::write(&path, damaged).unwrap();
                let read = open(&path).and_then(|file| {
                    let names: Vec<String> = file.names().map(str::to_owned).collect();
                    file.load(&names.iter().map(String::as_str).collect::<Vec<_>>())
                });
                refused += usize::from(read.is_err());
            }
            assert!(refused > 100, "{name}: {refused}");
        }
    }

    #[test]
    fn a_pickle_that_lacks_arguments_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("short.pth");
        // {"x": torch._utils._rebuild_tensor_v2()} between the header's dictionary and an empty list of storages.
        let saved = b"\x80\x02}X\x01\0\0\0xctorch._utils\n_rebuild_tensor_v2\n)Rs.";
        let file = [OLD_LAYOUT, b"\x80\x02}.", saved, b"\x80\x02]."].concat();
        std::fs::write(&path, file).unwrap();
        let error = open(&path).err().unwrap();
        assert!(error.contains("malformed"), "{error}");
    }

    #[test]
    fn a_pickle_that_calls_a_function_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hostile.pth");
        // {"model": {"x": posix.system("touch FILE")}}
        let touched = dir.path().join("touched");
        let command = format!("touch {}", touched.display());
        let length = (command.len() as u32).to_le_bytes();
        let call = [b"cposix\nsystem\nX", &length[..], command.as_bytes(), b"\x85R"].concat();
        let saved = [b"\x80\x02}X\x05\0\0\0model}X\x01\0\0\0x", &call[..], b"ss."].concat();
        let old = [OLD_LAYOUT, b"\x80\x02}.", &saved, b"\x80\x02]."].concat();
        let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
        zip.start_file("archive/data.pkl", zip::write::SimpleFileOptions::default()).unwrap();
        std::io::Write::write_all(&mut zip, &saved).unwrap();
        for file in [old, zip.finish().unwrap().into_inner()] {
            std::fs::write(&path, file).unwrap();
            let error = open(&path).err().unwrap();
            assert!(error.contains("would call `posix.system`") && error.contains("nothing was"), "{error}");
            assert!(!touched.exists());
        }
    }
}
