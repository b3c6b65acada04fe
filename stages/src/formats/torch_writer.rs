//! Writes tensors as a file of `torch.save`, in the zip layout that `torch.load` reads: a pickle that names the tensors
//! under `model`, and a raw file for each tensor's elements. It does not know what the tensors are.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use candle_core::{DType, Tensor};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// Writes `{"model": {name: tensor, …}}` in the order of `tensors`, which are f32 or i64.
///
/// # Errors
/// A file that cannot be written; a tensor of another type.
pub fn write(path: &Path, tensors: &[(String, Tensor)]) -> Result<(), String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let file = File::create(path).map_err(|error| text(&error))?;
    let mut zip = ZipWriter::new(BufWriter::new(file));
    let mut put = |name: &str, bytes: &[u8]| -> Result<(), String> {
        // Large elements may exceed what a zip without the 64-bit fields can say.
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .large_file(bytes.len() >= u32::MAX as usize);
        zip.start_file(format!("archive/{name}"), options).map_err(|error| text(&error))?;
        zip.write_all(bytes).map_err(|error| text(&error))
    };
    put("data.pkl", &pickle(tensors)?)?;
    put("byteorder", b"little")?;
    for (number, (name, tensor)) in tensors.iter().enumerate() {
        let bytes = bytes(tensor).map_err(|error| format!("`{name}`: {error}"))?;
        put(&format!("data/{number}"), &bytes)?;
    }
    put("version", b"3\n")?;
    let mut file = zip.finish().map_err(|error| text(&error))?;
    file.flush().map_err(|error| text(&error))
}

fn bytes(tensor: &Tensor) -> candle_core::Result<Vec<u8>> {
    let tensor = tensor.flatten_all()?;
    Ok(match tensor.dtype() {
        DType::I64 => tensor.to_vec1::<i64>()?.into_iter().flat_map(i64::to_le_bytes).collect(),
        _ => tensor.to_vec1::<f32>()?.into_iter().flat_map(f32::to_le_bytes).collect(),
    })
}

/// The pickle, protocol 2. Its opcodes are those of Python's `pickletools`.
fn pickle(tensors: &[(String, Tensor)]) -> Result<Vec<u8>, String> {
    const DICT: &[u8] = b"ccollections\nOrderedDict\n)R";
    let mut out = b"\x80\x02}".to_vec();
    text(&mut out, "model");
    out.extend_from_slice(DICT);
    out.push(b'(');
    for (number, (name, tensor)) in tensors.iter().enumerate() {
        let storage: &[u8] = match tensor.dtype() {
            DType::F32 => b"ctorch\nFloatStorage\n",
            DType::I64 => b"ctorch\nLongStorage\n",
            other => return Err(format!("`{name}` is {other:?}, which is not written")),
        };
        text(&mut out, name);
        out.extend_from_slice(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        text(&mut out, "storage");
        out.extend_from_slice(storage);
        text(&mut out, &number.to_string());
        text(&mut out, "cpu");
        whole(&mut out, tensor.elem_count());
        // The storage by a persistent id, then offset, shape, strides, no gradient, no hooks.
        out.extend_from_slice(b"tQ");
        whole(&mut out, 0);
        let mut strides: Vec<usize> = tensor
            .dims()
            .iter()
            .rev()
            .scan(1, |step, dim| Some(std::mem::replace(step, *step * dim)))
            .collect();
        strides.reverse();
        for numbers in [tensor.dims(), &strides] {
            out.push(b'(');
            numbers.iter().for_each(|number| whole(&mut out, *number));
            out.push(b't');
        }
        out.push(0x89);
        out.extend_from_slice(DICT);
        out.extend_from_slice(b"tR");
    }
    out.extend_from_slice(b"us.");
    Ok(out)
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.push(b'X');
    out.extend_from_slice(&(text.len() as u32).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn whole(out: &mut Vec<u8>, number: usize) {
    match i32::try_from(number) {
        // As Python writes them: readers may take longer forms for another kind of number.
        Ok(small) => {
            out.push(b'J');
            out.extend_from_slice(&small.to_le_bytes());
        }
        Err(_) => {
            out.extend_from_slice(b"\x8a\x09");
            out.extend_from_slice(&(number as u64).to_le_bytes());
            out.push(0);
        }
    }
}
