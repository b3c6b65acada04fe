//! Features in every form, for the same two pictures, and what is refused.

use std::fs;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use stage_api::testing::run_stage;

use super::*;
use crate::artifacts::labels::Label;
use crate::artifacts::region_features::RegionFeatures;
use crate::artifacts::samples::{Sample, Split};
use crate::formats::lmdb::LmdbWriter;

fn fixture(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/mmf").join(name)).unwrap()
}

fn samples(dir: &Path, images: &[&str]) {
    let sample = |image: &&str| Sample {
        id: (*image).to_owned(),
        image: (*image).to_owned(),
        text: String::new(),
        label: Some(Label::One(0)),
        soft: None,
        split: Split::Train,
    };
    let set = SampleSet {
        dataset: "hmd".to_owned(),
        samples: images.iter().map(sample).collect(),
        ..SampleSet::default()
    };
    set.write(&dir.join("samples")).unwrap();
}

fn import(dir: &Path, params: &str) -> Result<RegionFeatures, StageError> {
    let inputs = [("features", dir.join("features")), ("samples", dir.join("samples"))];
    let inputs = [("features", inputs[0].1.as_path()), ("samples", inputs[1].1.as_path())];
    let out = dir.join("out");
    let _ = fs::remove_dir_all(&out);
    run_stage(&ImportFeatures, params, &inputs, &out)?;
    Ok(RegionFeatures::open(&out).unwrap())
}

fn base64(values: &[f32]) -> String {
    STANDARD.encode(values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>())
}

fn write_form(dir: &Path, form: &str) {
    let features = dir.join("features");
    let _ = fs::remove_dir_all(&features);
    fs::create_dir_all(&features).unwrap();
    match form {
        "lmdb" | "published" => {
            let folder = if form == "lmdb" { features } else { features.join("detectron.lmdb") };
            let mut writer = LmdbWriter::create(&folder).unwrap();
            writer.put(b"8291", &fixture("value-4.pickle")).unwrap();
            writer.put(b"ab_c", &fixture("value-fortran.pickle")).unwrap();
            writer.put(b"keys", &fixture("keys.pickle")).unwrap();
            writer.finish().unwrap();
        }
        "npy" => {
            for name in ["08291", "ab_c"] {
                fs::write(features.join(format!("{name}.npy")), fixture("fortran.npy")).unwrap();
                fs::write(features.join(format!("{name}_info.npy")), fixture("c_info.npy")).unwrap();
            }
        }
        _ => {
            let boxes = base64(&[1.0, 2.0, 30.0, 40.0, 5.0, 6.0, 70.0, 80.5]);
            let values = base64(&[0.0, 1.0, 2.0, 10.0, 11.0, 12.0]);
            let classes = STANDARD.encode([7i64, 1599].map(i64::to_le_bytes).as_flattened());
            let scores = base64(&[0.5, 0.25]);
            let line = |id: &str| match form {
                "tsv" => format!("{id}\t640\t480\t2\t{boxes}\t{values}\n"),
                _ => format!(
                    "{id}\t480\t640\t{classes}\t{scores}\t{classes}\t{scores}\t2\t{boxes}\t{values}\n"
                ),
            };
            fs::write(features.join("a.tsv"), line("8291")).unwrap();
            fs::write(features.join("b.tsv"), line("ab_c")).unwrap();
        }
    }
}

#[test]
fn every_form_gives_the_same() {
    let dir = tempfile::tempdir().unwrap();
    samples(dir.path(), &["img/08291.png", "ab_c.jpg", "img/08291.png"]);
    for form in ["lmdb", "published", "npy", "tsv", "lxmert"] {
        write_form(dir.path(), form);
        let found = import(dir.path(), "(regions: 3, shard: 1)").unwrap();
        assert_eq!((found.width, found.max_regions, found.images().len()), (3, 3, 2), "{form}");
        for image in ["img/08291.png", "ab_c.jpg"] {
            let picture = found.picture(found.find(image).unwrap());
            assert_eq!(picture.features, [0.0, 1.0, 2.0, 10.0, 11.0, 12.0], "{form}");
            assert_eq!(picture.boxes, [[1.0, 2.0, 30.0, 40.0], [5.0, 6.0, 70.0, 80.5]], "{form}");
            assert_eq!(picture.size, (640, 480), "{form}");
            assert_eq!(picture.objects, if form == "tsv" { [0, 0] } else { [7, 1599] }, "{form}");
            assert_eq!(picture.scores, if form == "lxmert" { [0.5, 0.25] } else { [0.0, 0.0] }, "{form}");
        }
    }
    let found = import(dir.path(), "(regions: 1, half: true)").unwrap();
    assert_eq!(found.picture(found.find("ab_c.jpg").unwrap()).features, [0.0, 1.0, 2.0]);
}

#[test]
fn features_without_places_are_taken() {
    let dir = tempfile::tempdir().unwrap();
    samples(dir.path(), &["a.png"]);
    fs::create_dir_all(dir.path().join("features")).unwrap();
    fs::write(dir.path().join("features/a.npy"), fixture("half.npy")).unwrap();
    let found = import(dir.path(), "()").unwrap();
    let picture = found.picture(found.find("a.png").unwrap());
    assert_eq!((picture.boxes, picture.size), (vec![[0.0; 4]; 2], (1, 1)));
}

#[test]
fn says_what_is_missing_or_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let features = dir.path().join("features");
    samples(dir.path(), &["08291.png", "7.png", "8.png"]);
    let refused = |problem: &str| {
        let error = import(dir.path(), "()").err().unwrap().to_string();
        assert!(error.contains(problem) && error.contains("features"), "{error}");
    };
    fs::create_dir_all(&features).unwrap();
    refused("is empty, and neither data.mdb");
    write_form(dir.path(), "lmdb");
    refused("no features of 2 of 3 pictures, the first is `7.png`");
    samples(dir.path(), &["08291.png"]);
    let lmdb = |value: &[u8]| {
        let mut writer = LmdbWriter::create(&features).unwrap();
        writer.put(b"8291", value).unwrap();
        writer.finish().unwrap();
    };
    // os.system("true"), as a pickle would have it called.
    lmdb(b"\x80\x02cposix\nsystem\nX\x04\0\0\0true\x85R.");
    refused("`8291`: is not a dict with `features`");
    lmdb(b"\x80\x02}X\x08\0\0\0featurescposix\nsystem\nX\x04\0\0\0true\x85Rs.");
    refused("`8291`: `features`: is not an array");
    fs::write(features.join("data.mdb"), b"nothing").unwrap();
    refused("is not an LMDB of format 1 (LMDB 0.9): it begins with `nothing`");
    fs::remove_file(features.join("data.mdb")).unwrap();
    fs::write(features.join("x.tsv"), "8291\t1\t2\n").unwrap();
    refused("3 columns");
    fs::write(features.join("x.tsv"), "8291\t1\t2\t1\t!!\t!!\n").unwrap();
    refused("column 5");
    fs::write(
        features.join("x.tsv"),
        format!("8291\t1\t2\t1\t{}\t{}\n", base64(&[0.0; 4]), base64(&[f32::NAN])),
    )
    .unwrap();
    refused("not a finite number");
}

/// A folder of `.npy` files in which all features of a picture are `value`.
fn write_arrays(dir: &Path, entries: &[(&str, f32)]) {
    let features = dir.join("features");
    let _ = fs::remove_dir_all(&features);
    for (entry, value) in entries {
        let path = features.join(format!("{entry}.npy"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2), }";
        let length = (header.len() as u16).to_le_bytes();
        let bytes = value.to_le_bytes().repeat(2);
        fs::write(path, [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes(), &bytes].concat()).unwrap();
    }
}

#[test]
fn pictures_get_their_own_features() {
    let dir = tempfile::tempdir().unwrap();
    let images = ["1.png", "2.png", "mami_1.png", "mami_2.png"];
    samples(dir.path(), &images);
    write_arrays(dir.path(), &[("1", 1.0), ("2", 2.0), ("mami_1", 101.0), ("mami_2", 102.0)]);
    let found = import(dir.path(), "()").unwrap();
    for (image, value) in images.into_iter().zip([1.0, 2.0, 101.0, 102.0]) {
        assert_eq!(found.picture(found.find(image).unwrap()).features, [value; 2], "{image}");
    }
    // In folders, too.
    write_arrays(dir.path(), &[("a/1", 1.0), ("a/2", 2.0), ("b/mami_1", 101.0), ("b/mami_2", 102.0)]);
    let found = import(dir.path(), "()").unwrap();
    assert_eq!(found.picture(found.find("mami_2.png").unwrap()).features, [102.0; 2]);
    // Numbers are names of an LMDB and of a table, not of files.
    write_arrays(dir.path(), &[("1", 1.0), ("2", 2.0)]);
    let error = import(dir.path(), "()").err().unwrap().to_string();
    assert!(error.contains("no features of 2 of 4 pictures") && error.contains("`mami_1.png`"), "{error}");
}

#[test]
fn two_pictures_of_one_entry_are_an_error_in_every_form() {
    let dir = tempfile::tempdir().unwrap();
    for form in ["lmdb", "tsv", "lxmert"] {
        write_form(dir.path(), form);
        samples(dir.path(), &["2020_08291.png", "2021_08291.png"]);
        let error = import(dir.path(), "()").err().unwrap().to_string();
        assert!(error.contains("`2020_08291.png` and `2021_08291.png` would both take"), "{form}: {error}");
    }
    write_form(dir.path(), "npy");
    samples(dir.path(), &["08291.jpg", "08291.png"]);
    let error = import(dir.path(), "()").err().unwrap().to_string();
    assert!(error.contains("`08291.jpg` and `08291.png` would both take"), "{error}");
}

#[test]
fn two_rows_of_one_picture_are_an_error_where_they_differ() {
    let dir = tempfile::tempdir().unwrap();
    samples(dir.path(), &["1.png"]);
    fs::create_dir_all(dir.path().join("features")).unwrap();
    let row = |value: f32| format!("1\t9\t9\t1\t{}\t{}\n", base64(&[0.0; 4]), base64(&[value]));
    let file = dir.path().join("features/x.tsv");
    fs::write(&file, row(1.0) + &row(1.0)).unwrap();
    assert!(import(dir.path(), "()").is_ok());
    fs::write(&file, row(1.0) + &row(2.0)).unwrap();
    let error = import(dir.path(), "()").err().unwrap().to_string();
    assert!(error.contains("line 2: `1` has another row before"), "{error}");
}

#[test]
fn shapes_without_numbers_take_no_memory() {
    let dir = tempfile::tempdir().unwrap();
    samples(dir.path(), &["1.png"]);
    fs::create_dir_all(dir.path().join("features")).unwrap();
    for shape in ["(100000000000, 0)", "(0, 100000000000)", "(18446744073709551615, 2)"] {
        let header = format!("{{'descr': '<f4', 'fortran_order': True, 'shape': {shape}, }}");
        let length = (header.len() as u16).to_le_bytes();
        let bytes = [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes()].concat();
        fs::write(dir.path().join("features/1.npy"), bytes).unwrap();
        let error = import(dir.path(), "()").err().unwrap().to_string();
        assert!(error.contains("`1`"), "{error}");
    }
}

#[test]
fn what_is_there_instead_of_features_is_named() {
    let dir = tempfile::tempdir().unwrap();
    samples(dir.path(), &["1.png"]);
    let features = dir.path().join("features");
    fs::create_dir_all(&features).unwrap();
    let lfs = "version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 9\n";
    for name in ["data.mdb", "1.npy", "x.tsv"] {
        let file = features.join(name);
        fs::write(&file, lfs).unwrap();
        let error = import(dir.path(), "()").err().unwrap().to_string();
        assert!(error.contains("is a Git LFS pointer to 9 bytes"), "{name}: {error}");
        fs::remove_file(file).unwrap();
    }
    for name in ["train", "test"] {
        LmdbWriter::create(&features.join(name)).unwrap().finish().unwrap();
    }
    let error = import(dir.path(), "()").err().unwrap().to_string();
    assert!(error.contains("two of MMF's LMDB, `test/data.mdb` and `train/data.mdb`"), "{error}");
    let mut writer = LmdbWriter::create(&features).unwrap();
    writer.put(b"train/00001", &fixture("value-4.pickle")).unwrap();
    writer.put(b"train/00002", &fixture("value-4.pickle")).unwrap();
    writer.put(b"keys", &fixture("keys.pickle")).unwrap();
    writer.finish().unwrap();
    let error = import(dir.path(), "()").err().unwrap().to_string();
    assert!(error.contains("2 entries, the most like it are `train/00001`, `train/00002`"), "{error}");
    assert!(!error.contains("extract"), "{error}");
}
