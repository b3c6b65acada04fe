//! Changes to a project between two runs.

use std::fs;

use repro::store::ContentStore;

use super::clean::letter;
use super::contents;
use super::drawn::Edit;
use super::project::Project;
use super::script;

/// Applies an edit to the project.
pub fn apply(project: &mut Project, edit: &Edit) {
    let cache = project.cache();
    match edit {
        Edit::File(file, text) => project.write_file(*file, *text),
        Edit::Folder => {
            project.files.second = match project.files.second {
                Some(_) => {
                    fs::remove_file(project.root().join("folder/second")).unwrap();
                    None
                }
                None => {
                    project.write("folder/second", &[letter(1)]);
                    Some(1)
                }
            };
        }
        Edit::Bytes(step) => {
            if let Some(tree) = tree_of(project, *step) {
                let _ = fs::remove_dir_all(tree);
            }
        }
        Edit::Flip(step) => {
            let text = tree_of(project, *step).map(|tree| tree.join("text"));
            if let Some((path, mut bytes)) = text.and_then(|path| Some((path.clone(), fs::read(path).ok()?)))
            {
                match bytes.first_mut() {
                    Some(first) => *first ^= 1,
                    None => bytes.push(b'x'),
                }
                fs::remove_file(&path).unwrap();
                fs::write(&path, bytes).unwrap();
            }
        }
        Edit::Record(step) => {
            let store = ContentStore::open(&cache).unwrap();
            let name = script::name(&project.steps, *step);
            if let Some(record) = store.records().into_iter().rev().find(|record| record.step == name) {
                store.lock(&mut |_| {}).unwrap().forget(&record.key_text.key()).unwrap();
            }
        }
        Edit::Torn(share) | Edit::FlipLog(share) => {
            let log = cache.join("state");
            let Ok(mut bytes) = fs::read(&log) else { return };
            let at = bytes.len() * share / 1000;
            match (edit, bytes.get_mut(at)) {
                (Edit::FlipLog(_), Some(byte)) => *byte ^= 4,
                // An earlier cut may have left nothing to flip.
                _ => bytes.truncate(at),
            }
            fs::write(&log, bytes).unwrap();
        }
        Edit::Reports => remove_reports(project),
        Edit::Cache => {
            let _ = fs::remove_dir_all(&cache);
            remove_reports(project);
        }
        Edit::Report(report, deleted) => {
            let files = contents(&project.reports());
            let ours: Vec<_> = files.keys().filter(|path| !project.by_others.contains_key(*path)).collect();
            if let Some(path) = (!ours.is_empty()).then(|| project.reports().join(ours[report % ours.len()]))
            {
                if *deleted {
                    fs::remove_file(&path).unwrap();
                } else {
                    fs::write(&path, "scribbled").unwrap();
                }
            }
        }
        Edit::Note => {
            for path in ["notes", "0/notes"] {
                let file = project.reports().join(path);
                fs::create_dir_all(file.parent().unwrap()).unwrap();
                fs::write(&file, "by hand").unwrap();
                project.by_others.insert(path.into(), b"by hand".to_vec());
            }
        }
        Edit::OtherPipeline => {
            let run = project.run(&["--file", "other.ron", "make"].map(str::to_owned));
            assert_eq!(run.code, Some(0), "another pipeline: {}", run.err);
            project.by_others.insert("other/text".into(), b"other".to_vec());
        }
        Edit::Evidence => {
            // It reports an error if a step is stale or its bytes are missing.
            let run = project.run(&["evidence".to_owned()]);
            assert!(matches!(run.code, Some(0 | 1 | 2 | 4)), "evidence: {:?} {}", run.code, run.err);
        }
        Edit::User => project.next_user(),
        _ => {}
    }
    project.hand_over();
}

fn remove_reports(project: &mut Project) {
    let _ = fs::remove_dir_all(project.reports());
    project.by_others.clear();
}

/// The folder of the newest result of a step.
fn tree_of(project: &Project, step: usize) -> Option<std::path::PathBuf> {
    let store = ContentStore::open(&project.cache()).unwrap();
    let name = script::name(&project.steps, step);
    let record = store.records().into_iter().rev().find(|record| record.step == name)?;
    Some(project.cache().join("trees").join(record.tree.to_string()))
}
