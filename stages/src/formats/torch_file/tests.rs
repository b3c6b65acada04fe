//! Files that torch wrote, whole and damaged, and such as it would never write.

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
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/import_model");
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

/// A file of the older layout with this table, no storages.
fn old_layout(saved: &[u8]) -> Vec<u8> {
    [OLD_LAYOUT, b"\x80\x02}.", saved, b"\x80\x02]."].concat()
}

#[test]
fn a_table_of_any_form_takes_little_memory_and_no_stack() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hostile.pth");
    let refused = |saved: &[u8], problem: &str| {
        std::fs::write(&path, old_layout(saved)).unwrap();
        let error = open(&path).err().unwrap();
        assert!(error.contains(problem), "{error}");
        let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
        let stored =
            zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
        zip.start_file("archive/data.pkl", stored).unwrap();
        std::io::Write::write_all(&mut zip, saved).unwrap();
        std::fs::write(&path, zip.finish().unwrap().into_inner()).unwrap();
        let error = open(&path).err().unwrap();
        assert!(error.contains(problem), "{error}");
    };
    // A tuple of two of itself, 60 times: 2^60 values where each is copied.
    let mut doubled = b"\x80\x02N".to_vec();
    for _ in 0..60 {
        doubled.extend_from_slice(b"q\x00h\x00\x86");
    }
    doubled.push(b'.');
    refused(&doubled, "no table of tensors");
    // Tuples and calls within each other, a million deep.
    refused(&[&b"\x80\x02N"[..], &vec![0x85; 1_000_000], b"."].concat(), "no table of tensors");
    let calls = [b"ctorch\nx\n".repeat(300_000), b")".to_vec(), b"R".repeat(300_000), b".".to_vec()].concat();
    refused(&calls, "no table of tensors");
    refused(&vec![b'N'; 5_000_000], "more than 4194304 values");
}

#[test]
fn tensors_that_share_their_bytes_too_often_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("shared.pth");
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/torch_strided.pth");
    std::fs::copy(fixture, &path).unwrap();
    let mut file = open(&path).unwrap();
    // As a table that names one tensor a thousand times would have it.
    let one = file.infos.remove(0);
    file.infos = (0..1000)
        .map(|at| TensorInfo {
            name: at.to_string(),
            class: one.class.clone(),
            dims: one.dims.clone(),
            strides: one.strides.clone(),
            offset: one.offset,
            storage: one.storage.clone(),
        })
        .collect();
    let names: Vec<String> = file.names().map(str::to_owned).collect();
    let error = file.load(&names.iter().map(String::as_str).collect::<Vec<_>>()).err().unwrap();
    assert!(error.contains("share the bytes of the file"), "{error}");
}

#[test]
fn dimensions_beyond_all_memory_are_refused() {
    let info = |dims: &[usize], strides: &[usize]| TensorInfo {
        name: String::new(),
        class: "FloatStorage".to_owned(),
        dims: dims.to_vec(),
        strides: strides.to_vec(),
        offset: 0,
        storage: String::new(),
    };
    assert_eq!(info(&[2, 3], &[3, 1]).extent(4), Some((0, 24)));
    assert_eq!(info(&[0, 3], &[3, 1]).extent(4), Some((0, 0)));
    for dims in [&[1 << 40, 1 << 40][..], &[1 << 40, 1 << 40, 0], &[usize::MAX], &[0, usize::MAX, 2]] {
        assert_eq!(info(dims, &vec![1; dims.len()]).extent(4), None, "{dims:?}");
    }
    assert!(info(&[2], &[usize::MAX]).extent(4).is_none());
}

#[test]
fn what_is_there_instead_of_tensors_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.pth");
    for (bytes, found) in [
        (b"version https://git-lfs.github.com/spec/v1\nsize 7\n".to_vec(), "Git LFS pointer to 7 bytes"),
        (b"<html><title>Log in</title>".to_vec(), "web page (`Log in`)"),
        (Vec::new(), "is empty"),
        (old_layout(b"\x80\x02}(X\x05\0\0\0epochK\x01X\x05\0\0\0state}u."), "its keys are `epoch`, `state`"),
    ] {
        std::fs::write(&path, bytes).unwrap();
        let error = open(&path).err().unwrap();
        assert!(error.contains(found), "{error}");
    }
}
