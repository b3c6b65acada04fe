//! The size of MMHS150K, with made-up words and pictures: 134,823 + 5,000 + 10,000 entries are written, indexed and
//! tokenized, and as many rows with narrow features are trained on; times and peak memory are printed. Takes a minute and 2 GB of disk, so it runs only on request (and not
//! again within a minute: ext4 gives out the numbers of files just deleted slowly):
//!
//! ```text
//! REPRO_SCALE=1 RAYON_NUM_THREADS=2 cargo test --release --workspace --test scale -- --nocapture
//! ```

#![allow(clippy::print_stdout)]

use std::fs::{self, File};
use std::io::{BufWriter, Cursor, Write};
use std::path::Path;
use std::time::Instant;

use image::{DynamicImage, ImageFormat, Rgb, RgbImage};
use stage_api::testing::run_stage;
use stages::artifacts::data_summary::DataSummary;
use stages::artifacts::region_features::{Layout, PictureRegions, RegionWriter};
use stages::artifacts::samples::Split;
use stages::artifacts::token_set::{TokenRow, TokenSet, TokenSetInfo, TokenWriter};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

const SPLITS: [(&str, usize); 3] = [("train", 134_823), ("val", 5_000), ("test", 10_000)];
const ENTRIES: usize = 149_823;

#[test]
fn the_size_of_mmhs150k_is_indexed_and_tokenized_in_seconds() {
    if std::env::var_os("REPRO_SCALE").is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let archive = dir.path().join("mmhs150k.zip");
    write_archive(&archive);
    let registry = stages::registry();

    let index = dir.path().join("index");
    let before = (Instant::now(), reset_peak());
    run_stage(registry.get("index-mmhs").unwrap(), "()", &[("archive", &archive)], &index).unwrap();
    let (seconds, peak) = (before.0.elapsed().as_secs_f64(), peak());
    println!("index: {seconds:.1} s, peak {peak} MiB");
    let summary = DataSummary::read(&index).unwrap();
    assert_eq!((summary.listed, summary.dropped, summary.pictures.distinct), (ENTRIES, 0, ENTRIES));
    assert_eq!(summary.checks.len(), 1, "the sizes are the real ones");
    assert!(seconds < 10.0 && peak < 300, "index: {seconds:.1} s, {peak} MiB");

    let vocabulary = dir.path().join("vocab.txt");
    fs::write(&vocabulary, vocabulary_text()).unwrap();
    let tokens = dir.path().join("tokens");
    let samples = index.join("samples");
    let before = (Instant::now(), reset_peak());
    let inputs = [("samples", samples.as_path()), ("vocabulary", vocabulary.as_path())];
    run_stage(registry.get("tokens").unwrap(), "()", &inputs, &tokens).unwrap();
    let (seconds, peak) = (before.0.elapsed().as_secs_f64(), self::peak());
    println!("tokens: {seconds:.1} s, peak {peak} MiB");
    let before = Instant::now();
    let set = TokenSet::read(&tokens).unwrap();
    println!("read: {:.2} s, {} rows", before.elapsed().as_secs_f64(), set.rows.len());
    assert!(set.length(0) > 10);
    assert!(seconds < 15.0, "tokens: {seconds:.1} s");
}

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
    let (own, mapped) = peaks_of(|| {
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
    let info = TokenSetInfo { dataset, vocab_size, max_length, pad: 0, unknown: 1, cls: 2, sep: 3, mask: 4 };
    let mut rows = TokenWriter::new(info);
    let layout = Layout { width: WIDTH, max_regions: REGIONS, shard: 2000, half: false };
    let (mut features, mut pictures) = (RegionWriter::new(regions, layout), Vec::new());
    let mut number = 0;
    for (split, count) in SPLITS {
        let split = match split {
            "train" => Split::Train,
            "val" => Split::Val,
            _ => Split::Test,
        };
        for _ in 0..count {
            let image = format!("{number}.png");
            let words = (0..5 + number % 15).map(|at| 5 + ((number * 31 + at * 7) % 995) as u32);
            let ids: Vec<u32> = std::iter::once(2).chain(words).chain([3]).collect();
            let label = Some((number % 2) as u8);
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

/// The most memory in MiB that `work` took while it ran: of this process's own, and of files mapped into it, which the
/// system takes back when it needs room.
fn peaks_of(work: impl FnOnce()) -> (u64, u64) {
    use std::sync::atomic::{AtomicBool, Ordering};
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let (mut own, mut mapped) = (0, 0);
            while !done.load(Ordering::Relaxed) {
                own = own.max(memory("RssAnon:"));
                mapped = mapped.max(memory("RssFile:"));
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            (own, mapped)
        });
        work();
        done.store(true, Ordering::Relaxed);
        watch.join().unwrap()
    })
}

fn word(number: usize) -> String {
    const SYLLABLES: [&str; 16] =
        ["ba", "do", "fi", "gu", "ka", "lo", "mi", "nu", "pa", "ro", "si", "tu", "va", "zo", "qui", "the"];
    let mut word = String::new();
    let mut rest = number.wrapping_mul(2_654_435_761) >> 7;
    for _ in 0..1 + number % 4 {
        word.push_str(SYLLABLES[rest % 16]);
        rest /= 16;
    }
    word
}

/// The special tokens, every letter as a beginning and within, and some thousand words.
fn vocabulary_text() -> String {
    let mut lines: Vec<String> = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].map(str::to_owned).into();
    for letter in ('a'..='z').chain('0'..='9').chain("@#.,:!?'/&;".chars()) {
        lines.extend([letter.to_string(), format!("##{letter}")]);
    }
    let words: std::collections::BTreeSet<String> = (0..20_000).map(word).collect();
    lines.extend(words.into_iter().filter(|word| word.len() > 1).take(20_000));
    lines.join("\n") + "\n"
}

fn write_archive(path: &Path) {
    let mut zip = ZipWriter::new(BufWriter::new(File::create(path).unwrap()));
    let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    let deflated = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated);
    let shapes: Vec<Vec<u8>> = (0..64u32)
        .map(|seed| {
            let image = RgbImage::from_fn(60 + seed, 50, |x, y| {
                Rgb([(x * seed) as u8, (y * 5) as u8, (seed * 4) as u8])
            });
            let mut bytes = Vec::new();
            DynamicImage::from(image).write_to(&mut Cursor::new(&mut bytes), ImageFormat::Jpeg).unwrap();
            bytes
        })
        .collect();
    let mut truth = String::from("{");
    let (mut number, mut bytes) = (0, 0);
    for (split, count) in SPLITS {
        let mut ids = String::new();
        for _ in 0..count {
            let id = 1_021_000_000_000_000_000 + number * 7_919;
            ids.push_str(&format!("{id}\n"));
            let words: Vec<String> = (0..8 + number % 15).map(|at| word(number * 31 + at * 7)).collect();
            let emoji = if number % 5 == 0 { " \\ud83d\\ude02" } else { "" };
            let comma = if number == 0 { "" } else { "," };
            let vote = number % 6;
            truth.push_str(&format!(
                "{comma}\"{id}\":{{\"img_url\":\"http://example.org/media/{id}.jpg\",\"labels\":[{vote},0,{}],\
                 \"labels_str\":[\"NotHate\",\"NotHate\",\"NotHate\"],\"tweet_text\":\"@user{} {}{emoji} \
                 https://example.org/{id}\",\"tweet_url\":\"https://example.org/user/status/{id}\"}}",
                vote / 2,
                number % 977,
                words.join(" ")
            ));
            // A comment makes each picture's bytes its own.
            let shape = &shapes[number % shapes.len()];
            let comment = id.to_string();
            let picture = [&shape[..2], b"\xff\xfe\x00\x15", comment.as_bytes(), &shape[2..]].concat();
            zip.start_file(format!("img_resized/{id}.jpg"), stored).unwrap();
            zip.write_all(&picture).unwrap();
            bytes += picture.len();
            if number % 3 == 0 {
                zip.start_file(format!("img_txt/{id}.json"), stored).unwrap();
                zip.write_all(b"{\"img_text\": \"some words\"}").unwrap();
            }
            number += 1;
        }
        zip.start_file(format!("splits/{split}_ids.txt"), deflated).unwrap();
        zip.write_all(ids.as_bytes()).unwrap();
    }
    truth.push('}');
    zip.start_file("MMHS150K_GT.json", deflated).unwrap();
    zip.write_all(truth.as_bytes()).unwrap();
    zip.finish().unwrap().flush().unwrap();
    println!("{number} entries, pictures {} MB, truth {} MB", bytes / 1_000_000, truth.len() / 1_000_000);
}

/// Makes the kernel count the peak from here on (Linux).
fn reset_peak() {
    let _ = fs::write("/proc/self/clear_refs", "5");
}

/// Most memory of this process in MiB, since the last reset.
fn peak() -> u64 {
    memory("VmHWM:")
}

/// A line of what the kernel says of this process's memory, in MiB.
fn memory(name: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}
