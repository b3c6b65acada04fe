//! As many rows as MMHS150K has, with narrow features on disk, are trained on; time and memory are printed, and the memory is
//! held against a limit. Takes half a minute and 1 GB of disk, so it runs only on request. A process of its own: what others
//! leave in memory would count.
//!
//! ```text
//! REPRO_SCALE=1 RAYON_NUM_THREADS=2 cargo test --release --workspace --test train_scale -- --nocapture
//! ```

#![allow(clippy::print_stdout)]

mod memory;

use std::fs;
use std::path::Path;
use std::time::Instant;

use stage_api::testing::run_stage;
use stages::artifacts::labels::{Classes, Label};
use stages::artifacts::region_features::{Layout, PictureRegions, RegionWriter};
use stages::artifacts::samples::Split;
use stages::artifacts::token_set::{TokenRow, TokenSetInfo, TokenWriter};

const SPLITS: [(Split, usize); 3] = [(Split::Train, 134_823), (Split::Val, 5_000), (Split::Test, 10_000)];
const ENTRIES: usize = 149_823;
/// Regions of a picture and the width of their features in the set to train on: 614 MB in all.
const REGIONS: usize = 16;
const WIDTH: usize = 64;

#[test]
fn training_on_as_many_rows_takes_memory_for_the_batch_and_not_for_the_set() {
    if std::env::var_os("REPRO_SCALE").is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (tokens, regions) = (dir.path().join("tokens"), dir.path().join("regions"));
    fs::create_dir_all(&tokens).unwrap();
    fs::create_dir_all(&regions).unwrap();
    write_rows(&tokens, &regions);
    let registry = stages::registry();
    let base = dir.path().join("base");
    let data = [("tokens", tokens.as_path()), ("regions", regions.as_path())];
    let small = "(hidden: 32, layers: 2, heads: 2, intermediate: 64, positions: 32, batch: 16, updates: 2, warm_up: 1, \
        evaluate_every: 2, mask_probability: 0.3)";
    run_stage(registry.get("pretrain").unwrap(), small, &data, &base).unwrap();

    let inputs = [data[0], data[1], ("weights", base.as_path())];
    let params =
        "(mode: \"full\", batch: 64, updates: 400, warm_up: 10, evaluate_every: 400, log_every: 100)";
    let began = Instant::now();
    let (own, mapped) = memory::peaks_of(|| {
        run_stage(registry.get("train").unwrap(), params, &inputs, &dir.path().join("run")).unwrap();
    });
    let bytes =
        fs::read_dir(&regions).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).sum::<u64>();
    println!(
        "train: {ENTRIES} rows, {} MB of features, 400 updates of 64 rows and a validation of 5,000: {:.1} s, at most {own} MiB of \
         its own and {mapped} MiB of mapped files",
        bytes / 1_000_000,
        began.elapsed().as_secs_f64()
    );
    assert!(own < 150, "{own} MiB");
}

/// Token rows and region features of a set of the size of MMHS150K.
fn write_rows(tokens: &Path, regions: &Path) {
    let (dataset, vocab_size, max_length) = ("toy".to_owned(), 1000, 24);
    let info = TokenSetInfo {
        dataset,
        classes: Classes::default(),
        vocab_size,
        max_length,
        pad: 0,
        unknown: 1,
        cls: 2,
        sep: 3,
        mask: Some(4),
    };
    let mut rows = TokenWriter::new(info);
    let layout = Layout { width: WIDTH, max_regions: REGIONS, shard: 2000, half: false };
    let (mut features, mut pictures) = (RegionWriter::new(regions, layout), Vec::new());
    let mut number = 0;
    for (split, count) in SPLITS {
        for _ in 0..count {
            let image = format!("{number}.png");
            let words = (0..5 + number % 15).map(|at| 5 + ((number * 31 + at * 7) % 995) as u32);
            let ids: Vec<u32> = std::iter::once(2).chain(words).chain([3]).collect();
            let label = Some(Label::One((number % 2) as u8));
            rows.push(
                TokenRow { id: number.to_string(), image: image.clone(), split, label, soft: None },
                &ids,
            );
            let value = |at: usize| ((number * 37 + at * 11) % 101) as f32 / 101.0;
            let picture = PictureRegions {
                features: (0..REGIONS * WIDTH).map(value).collect(),
                boxes: vec![[0.0, 0.0, 9.0, 9.0]; REGIONS],
                scores: vec![0.5; REGIONS],
                objects: vec![0; REGIONS],
                size: (32, 32),
            };
            pictures.push((image, picture));
            if pictures.len() == layout.shard || number + 1 == ENTRIES {
                features.write(&pictures).unwrap();
                pictures.clear();
            }
            number += 1;
        }
    }
    rows.write(tokens).unwrap();
    features.finish().unwrap();
}
