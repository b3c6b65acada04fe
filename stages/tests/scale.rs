//! The size of MMHS150K, with made-up words and pictures: 134,823 + 5,000 + 10,000 entries are written, indexed and
//! tokenized; times and peak memory are printed. Takes a minute and 2 GB of disk, so it runs only on request (and not
//! again within a minute: ext4 gives out the numbers of files just deleted slowly):
//!
//! ```text
//! REPRO_SCALE=1 RAYON_NUM_THREADS=2 cargo test --release --workspace --test scale -- --nocapture
//! ```

#![allow(clippy::print_stdout)]

mod memory;

use std::fs::{self, File};
use std::io::{BufWriter, Cursor, Write};
use std::path::Path;
use std::time::Instant;

use image::{DynamicImage, ImageFormat, Rgb, RgbImage};
use stage_api::testing::run_stage;
use stages::artifacts::data_summary::DataSummary;
use stages::artifacts::token_set::TokenSet;
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
    memory::line("VmHWM:")
}
