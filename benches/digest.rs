//! What hashing costs: one large file, a tree of many small ones, and the same tree when nothing of it has changed.

use std::fs;
use std::path::Path;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use repro::digest::Digest;
use repro::tree::Manifest;

const LARGE: usize = 256 << 20;
const FILES: usize = 5_000;

/// Bytes that no file system stores more cheaply than others.
fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    std::iter::repeat_with(next).flat_map(u64::to_le_bytes).take(length).collect()
}

fn tree(root: &Path) -> u64 {
    let mut bytes = 0;
    for number in 0..FILES {
        let folder = root.join(format!("{:02}", number % 100));
        fs::create_dir_all(&folder).expect("a folder");
        let length = 2_000 + number * 7919 % 16_000;
        fs::write(folder.join(number.to_string()), noise(length, number as u64)).expect("a file");
        bytes += length as u64;
    }
    bytes
}

fn hashing(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("large");
    fs::write(&file, noise(LARGE, 7)).expect("a file");
    let mut group = criterion.benchmark_group("hash");
    group.sample_size(20);
    group.throughput(Throughput::Bytes(LARGE as u64));
    group.bench_function("a file of 256 MiB", |bench| {
        bench.iter(|| Digest::of_file(&file).expect("a digest"))
    });
    let root = folder.path().join("tree");
    group.throughput(Throughput::Bytes(tree(&root)));
    group.bench_function("a tree of 5,000 files", |bench| {
        bench.iter(|| Manifest::of_folder(&root).expect("a manifest"));
    });
    group.finish();
}

criterion_group!(benches, hashing);
criterion_main!(benches);
