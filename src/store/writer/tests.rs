use std::path::PathBuf;

use super::super::files::FORCED;
use super::*;
use crate::key::KeyText;
use crate::record::Machine;

/// Commits the result of a step that took `seconds`. Returns the paths below the store that were synced.
fn synced_for(seconds: f64) -> Vec<PathBuf> {
    let folder = tempfile::tempdir().unwrap();
    let writer = ContentStore::open(folder.path()).unwrap().lock(&mut |_| {}).unwrap();
    let key_text = KeyText::new("join", 1, "()", vec![]);
    let TryClaim::Acquired(claim) = writer.claim(key_text.key()).unwrap() else {
        panic!("the claim is free")
    };
    let work = writer.begin(key_text.key(), claim).unwrap();
    fs::create_dir(work.out.join("inner")).unwrap();
    fs::write(work.out.join("inner/file"), "bytes").unwrap();
    let manifest = writer.hash(&work).unwrap();
    let record = RunRecord {
        key_text,
        step: "a".to_owned(),
        profile: "mini".to_owned(),
        tree: manifest.digest(),
        outputs: manifest.top_level(),
        inputs: Vec::new(),
        bytes: manifest.bytes(),
        started_ms: 1,
        seconds,
        peak_memory: None,
        work: None,
        machine: Machine::default(),
        log: String::new(),
        accepted: None,
    };
    FORCED.take();
    writer.commit(work, &manifest, &record).unwrap();
    let relative = |path: PathBuf| {
        let path = path.strip_prefix(folder.path()).unwrap().to_string_lossy().into_owned();
        // The work directory has a different name each time.
        PathBuf::from(path.split_once("/out").map_or(path.clone(), |(_, inner)| format!("out{inner}")))
    };
    FORCED.take().into_iter().map(relative).collect()
}

#[test]
fn a_step_of_at_least_a_second_is_synced_before_its_record_and_a_shorter_one_is_not() {
    assert_eq!(synced_for(0.999), [""; 0].map(PathBuf::from));
    let expected = ["out/inner/file", "out/inner", "out", "trees", "state", ""];
    assert_eq!(synced_for(1.0), expected.map(PathBuf::from));
}
