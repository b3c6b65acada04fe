//! `unpack` against archives that mean harm, and the decoder of JPEG against such files: none writes outside its folder, none
//! panics, none takes more memory or disk than its limits say. The archives are made here, byte by byte where no honest writer would make them.

mod corpus;
mod forge;
mod honest;
mod pictures;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use stage_api::testing::run_stage_outside;
use stage_api::{AllowedEnv, StageError};

use corpus::Fate;

fn files(folder: &Path, prefix: &str, found: &mut BTreeMap<String, Vec<u8>>) {
    for item in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let name = format!("{prefix}{}", item.file_name().to_string_lossy());
        let kind = item.file_type().unwrap();
        if kind.is_dir() {
            files(&item.path(), &format!("{name}/"), found);
        } else {
            assert!(kind.is_file(), "{name} is a link or a device");
            found.insert(name, fs::read(item.path()).unwrap());
        }
    }
}

fn passwords() -> AllowedEnv {
    let variables = [("REPRO_ONE", "one"), ("REPRO_TWO", "two")];
    AllowedEnv::select(&["REPRO_*"], variables.map(|(name, value)| (name.into(), value.into())))
}

fn unpack(archive: &Path, params: &str, out: &Path) -> Result<(), StageError> {
    let registry = stages::registry();
    let stage = registry.get("unpack").unwrap();
    run_stage_outside(stage, params, &[("archive", archive)], out, &passwords()).map(drop)
}

/// The most memory this process ever had, in bytes.
fn most_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

#[test]
fn hostile_archives_come_to_nothing() {
    const DISK: usize = 65 << 20;
    let corpus = corpus::corpus();
    assert!(corpus.len() >= 40, "{}", corpus.len());
    let before = most_memory();
    for (name, bytes, params, fate) in corpus {
        let dir = tempfile::tempdir().unwrap();
        let within = dir.path().join("a/b");
        fs::create_dir_all(&within).unwrap();
        let (archive, out) = (within.join("archive"), within.join("out"));
        fs::write(&archive, bytes).unwrap();
        let result = unpack(&archive, params, &out);
        match (&fate, &result) {
            (Fate::Refused(words), Err(StageError::Input { problem, .. } | StageError::Params(problem))) => {
                assert!(problem.contains(words), "{name}: {problem}");
                assert!(!problem.contains(['\0', '\u{1b}', '\n']), "{name}: {problem:?}");
            }
            // A size that no disk has room for.
            (Fate::Refused(""), Err(StageError::Failed(problem))) => {
                assert!(problem.contains("more are needed"), "{name}: {problem}");
            }
            (Fate::Asked(words), Err(StageError::NeedsHuman { what })) => {
                assert!(what.contains(words), "{name}: {what}");
            }
            (Fate::Files(expected), Ok(())) => {
                let mut found = BTreeMap::new();
                files(&out, "", &mut found);
                let expected =
                    expected.iter().map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec()));
                assert_eq!(found, expected.collect(), "{name}");
            }
            _ => panic!("{name}: {result:?}"),
        }
        let mut around = BTreeMap::new();
        files(dir.path(), "", &mut around);
        let used: usize =
            around.values().map(Vec::len).sum::<usize>() - fs::metadata(&archive).unwrap().len() as usize;
        assert!(used <= DISK, "{name}: {used} bytes on disk");
        around.retain(|path, _| !path.starts_with("a/b/out/") && path != "a/b/archive");
        assert!(around.is_empty(), "{name} wrote {:?}", around.keys());
    }
    assert!(!Path::new("/tmp/evil").exists());
    let grown = most_memory().saturating_sub(before);
    assert!(grown < 160 << 20, "{grown} bytes of memory");
}

#[test]
fn honest_archives_of_every_kind_become_their_files() {
    for (name, bytes) in honest::archives() {
        let dir = tempfile::tempdir().unwrap();
        let (archive, out) = (dir.path().join("archive"), dir.path().join("out"));
        fs::write(&archive, bytes).unwrap();
        unpack(&archive, "(password: \"REPRO_ONE\")", &out).unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut found = BTreeMap::new();
        files(&out, "", &mut found);
        let expected =
            honest::FILES.iter().map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec()));
        assert_eq!(found, expected.collect(), "{name}");
    }
}
