//! The state log: for any bytes, opening it gives whole records or none; and writing to it keeps what was whole.
//!
//! Lines of the input that begin with `=` are given the checksum they need, so that the fuzzer gets behind it.

#![no_main]

use std::fs;
use std::path::PathBuf;

use libfuzzer_sys::fuzz_target;
use repro::digest::Digest;
use repro::key::StageKey;
use repro::record::RunRecord;
use repro::store::ContentStore;
use xxhash_rust::xxh3::xxh3_64;

thread_local! {
    /// A store in memory, created once; each input replaces its log.
    static FOLDER: PathBuf = {
        let folder = PathBuf::from(format!("/dev/shm/repro-fuzz-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        ContentStore::open(&folder).unwrap().lock(&mut |_| {}).unwrap();
        folder
    };
}

fn log(input: &[u8]) -> Vec<u8> {
    let mut log = Vec::with_capacity(input.len() + 64);
    for line in input.split_inclusive(|byte| *byte == b'\n') {
        match line.strip_prefix(b"=") {
            Some(line) => {
                let text = line.strip_suffix(b"\n").unwrap_or(line);
                log.extend_from_slice(format!("{:016x} ", xxh3_64(text)).as_bytes());
                log.extend_from_slice(line);
            }
            None => log.extend_from_slice(line),
        }
    }
    log
}

/// Asks everything that can be asked.
fn read(store: &ContentStore) -> Vec<RunRecord> {
    let records = store.records();
    for record in &records {
        let key = record.key_text.key();
        assert_eq!(store.record(&key).map(|found| found.tree), store.tree_of(&key));
        let _ = (store.last(&record.profile, &record.step), store.manifest(&record.tree));
    }
    assert!(store.tree_of(&StageKey(Digest::of_bytes(b"nothing"))).is_none());
    let _ = (store.damaged(), store.lost(), store.stat_cache());
    records
}

fuzz_target!(|input: &[u8]| {
    FOLDER.with(|folder| {
        fs::write(folder.join("state"), log(input)).unwrap();
        let store = ContentStore::open(folder).unwrap();
        let before = read(&store);
        // Writing takes longer: every eighth input.
        if xxh3_64(input) % 8 == 0 {
            let writer = store.lock(&mut |_| {}).unwrap();
            writer.forget(&StageKey(Digest::of_bytes(b"nothing"))).unwrap();
            writer.sync().unwrap();
            drop(writer);
            let again = ContentStore::open(folder).unwrap();
            assert_eq!(read(&again), before);
        }
    });
});
