//! A feature set as MMF has it, 10,000 pictures of 100 regions of 2,048 values (8.2 GB as LMDB), written and imported; the
//! rate from page cache and the memory of the process's own are printed and held against limits. So much the system does
//! not keep before the disk has taken it, so it also shows how fast the file is copied there: an import is to reach half
//! a gigabyte a second, or nearly what the disk takes. Runs only on request, and takes 17 GB of disk; with another number
//! than 1 so many pictures, of which 2,000 and fewer must reach the rate:
//!
//! ```text
//! REPRO_SCALE=1 RAYON_NUM_THREADS=2 cargo test --release --workspace --test feature_scale -- --nocapture
//! ```

#![allow(clippy::print_stdout)]

mod memory;

use std::fs::{self, File};
use std::time::Instant;

use stage_api::testing::run_stage;
use stages::artifacts::mmf_writer;
use stages::artifacts::region_features::{PictureRegions, RegionFeatures};
use stages::artifacts::samples::{Sample, SampleSet, Split};
use stages::formats::lmdb::LmdbWriter;

const REGIONS: usize = 100;
const WIDTH: usize = 2048;
const PICTURES: usize = 10_000;
/// So many pictures are in memory before the disk has to have them.
const FITS: usize = 2000;

#[test]
fn an_lmdb_is_imported_at_half_a_gigabyte_a_second_in_bounded_memory() {
    let Some(scale) = std::env::var("REPRO_SCALE").ok() else { return };
    let count = scale.parse().ok().filter(|count| *count > 1).unwrap_or(PICTURES);
    let dir = tempfile::tempdir().unwrap();
    let (features, samples, out) =
        (dir.path().join("features"), dir.path().join("samples"), dir.path().join("out"));
    let mut writer = LmdbWriter::create(&features).unwrap();
    let mut picture = PictureRegions {
        features: (0..REGIONS * WIDTH).map(|at| (at % 101) as f32 / 101.0).collect(),
        boxes: vec![[0.0, 0.0, 9.0, 9.0]; REGIONS],
        scores: vec![0.5; REGIONS],
        objects: vec![3; REGIONS],
        size: (640, 480),
    };
    let mut set = SampleSet { dataset: "toy".to_owned(), samples: Vec::new(), ..SampleSet::default() };
    let mut bytes = 0;
    for number in 0..count {
        picture.features[0] = number as f32;
        let value = mmf_writer::value(&number.to_string(), &picture, None);
        bytes += value.len();
        writer.put(number.to_string().as_bytes(), &value).unwrap();
        let (image, split) = (format!("{number:05}.png"), Split::Train);
        set.samples.push(Sample {
            id: number.to_string(),
            image,
            text: String::new(),
            label: None,
            soft: None,
            split,
        });
    }
    writer.finish().unwrap();
    let data = features.join("data.mdb");
    File::open(&data).unwrap().sync_all().unwrap();
    set.write(&samples).unwrap();

    let registry = stages::registry();
    let inputs = [("features", features.as_path()), ("samples", samples.as_path())];
    let began = Instant::now();
    let (own, _) = memory::peaks_of(|| {
        run_stage(registry.get("import-features").unwrap(), "()", &inputs, &out).unwrap();
    });
    let rate = bytes as f64 / 1e9 / began.elapsed().as_secs_f64();
    println!("import: {count} pictures, {bytes} bytes at {rate:.2} GB/s, at most {own} MiB of its own");
    let found = RegionFeatures::open(&out).unwrap();
    let last = found.find(&format!("{:05}.png", count - 1)).unwrap();
    // MMF's form keeps no scores.
    let found = found.picture(last);
    assert!(found == PictureRegions { scores: vec![0.0; REGIONS], ..picture }, "the last picture is another");
    fs::remove_dir_all(&out).unwrap();
    let began = Instant::now();
    fs::copy(&data, dir.path().join("copy")).unwrap();
    let copied = bytes as f64 / 1e9 / began.elapsed().as_secs_f64();
    println!("the file is copied at {copied:.2} GB/s");
    assert!(own < 100, "{own} MiB");
    let is_bound_by_disk = count > FITS && rate >= 0.8 * copied;
    assert!(rate >= 0.5 || is_bound_by_disk, "{rate:.2} GB/s, a copy {copied:.2} GB/s");
}
