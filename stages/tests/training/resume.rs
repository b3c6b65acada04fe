//! A run that is cut short and goes on, and a batch that is computed in pieces: neither may change what comes out.

use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use stage_api::{AllowedEnv, Host, Input, Inputs, Job, Progress, StageError, Unit};
use stages::artifacts::history::History;

use super::space::{Space, bytes, params};

/// Lets `left` updates happen, then asks to stop.
#[derive(Default)]
struct Updates {
    left: AtomicU64,
    done: AtomicU64,
    notes: Mutex<Vec<String>>,
}

impl Progress for Updates {
    fn advance(&self, _: u64, _: u64, _: Unit) {
        self.left.fetch_sub(1, Ordering::Relaxed);
        self.done.fetch_add(1, Ordering::Relaxed);
    }
    fn scalar(&self, _: &str, _: u64, _: f64) {}
    fn note(&self, text: &str) {
        self.notes.lock().unwrap().push(text.to_owned());
    }
    fn cancelled(&self) -> bool {
        self.left.load(Ordering::Relaxed) == 0
    }
}

/// An attempt of `updates` updates at most, as the engine makes it: `out` empty, `scratch` as it was left.
fn attempt(space: &Space, params: &str, out: &Path, updates: u64) -> (Result<(), StageError>, Updates) {
    let input = |port: &str, path: &Path| Input::new(port, path);
    let inputs = Inputs(vec![
        input("tokens", &space.tokens),
        input("regions", &space.regions),
        input("weights", &space.base),
    ]);
    let _ = fs::remove_dir_all(out);
    let scratch = out.with_extension("scratch");
    for folder in [out, &scratch] {
        fs::create_dir_all(folder).unwrap();
    }
    let progress = Updates { left: AtomicU64::new(updates), ..Updates::default() };
    let host = Host { device: "cpu".to_owned(), threads: 1 };
    let allowed_env = AllowedEnv::default();
    let job = Job {
        inputs: &inputs,
        out,
        scratch: &scratch,
        host: &host,
        allowed_env: &allowed_env,
        progress: &progress,
    };
    let registry = stages::registry();
    let train = registry.get("train").unwrap();
    let result = train.load(params).unwrap().run(&job);
    (result, progress)
}

#[test]
fn a_run_that_is_cut_short_goes_on_and_ends_with_the_same_bytes() {
    let space = Space::new();
    for mode in ["fc", "pe", "full"] {
        let params = params(mode, "dropout: 0.1").replace("updates: 6", "updates: 9");
        let whole = space.train(&params, &format!("{mode}-whole")).unwrap();
        // Validations, and so checkpoints, follow updates 2, 4, 6, 8 and 9; an epoch has three batches.
        for (first, second) in [(1, 1), (2, 3), (4, 1), (5, 2), (8, 1)] {
            let out = space.dir.path().join(format!("{mode}-{first}-{second}"));
            let (result, progress) = attempt(&space, &params, &out, first);
            assert!(matches!(result, Err(StageError::Cancelled)));
            assert!(progress.notes.lock().unwrap().is_empty());
            drop(attempt(&space, &params, &out, second));
            let (result, progress) = attempt(&space, &params, &out, 100);
            result.unwrap();
            assert_eq!(bytes(&out), bytes(&whole), "{mode}: {first} updates, then {second}");
            let done = progress.done.load(Ordering::Relaxed);
            // The request to stop comes before the validation of its own update.
            assert!(
                done <= 9 - (first - 1) / 2 * 2,
                "{mode}: {done} updates after {first}: {:?}",
                progress.notes
            );
        }
    }
}

#[test]
fn a_checkpoint_of_no_use_is_reported_and_the_run_starts_from_the_beginning() {
    let space = Space::new();
    let (params, other) = (params("pe", ""), params("full", ""));
    let whole = space.train(&params, "whole").unwrap();
    let (damaged, foreign) = (space.dir.path().join("damaged"), space.dir.path().join("foreign"));
    drop(attempt(&space, &params, &damaged, 5));
    let file = damaged.with_extension("scratch").join("checkpoint.safetensors");
    let kept = fs::read(&file).unwrap();
    drop(attempt(&space, &other, &foreign, 5));
    for spoilt in [kept[..kept.len() / 2].to_vec(), kept[..5].to_vec(), Vec::new(), b"nonsense".to_vec()] {
        fs::write(&file, spoilt).unwrap();
        let (result, progress) = attempt(&space, &params, &damaged, 100);
        result.unwrap();
        assert!(progress.notes.lock().unwrap()[0].contains("starts from the beginning"));
        assert_eq!(bytes(&damaged), bytes(&whole));
    }
    let (result, progress) = attempt(&space, &params, &foreign, 100);
    result.unwrap();
    let notes = progress.notes.lock().unwrap();
    assert!(notes[0].contains("does not fit"), "{notes:?}");
    assert_eq!(bytes(&foreign), bytes(&whole));
}

#[test]
fn a_batch_in_pieces_learns_what_the_whole_batch_learns() {
    let space = Space::new();
    for mode in ["fc", "pe", "full"] {
        let run = |more: &str, name: &str| {
            // Dropout must drop the same elements; a greater eps keeps Adam from turning rounding into steps.
            let more = format!("dropout: 0.3, eps: 1e-3, {more}");
            History::read(&space.train(&params(mode, &more), &format!("{mode}-{name}")).unwrap()).unwrap()
        };
        let whole = run("", "whole");
        // Batches have 16, 16 and 8 rows.
        for size in [1, 3, 8, 16, 100] {
            let pieces = run(&format!("micro_batch: {size}"), &size.to_string());
            let losses = |history: &History| {
                let val = history.val.iter().map(|point| point.loss);
                history.train.iter().map(|point| point.loss).chain(val).collect::<Vec<f64>>()
            };
            for (a, b) in losses(&whole).into_iter().zip(losses(&pieces)) {
                assert!((a - b).abs() < 1e-5, "{mode}, {size} rows at once: {b}, not {a}");
            }
        }
    }
}

#[test]
fn patience_ends_a_run_that_gets_no_better() {
    let space = Space::new();
    let run = |patience: &str| {
        // Without a learning rate every validation finds the same, so the first is the best.
        let params = params("fc", patience).replace("lr: 5e-3", "lr: 0.0");
        History::read(&space.train(&params, &format!("out{}", patience.len())).unwrap()).unwrap()
    };
    let updates = |history: &History| history.val.iter().map(|point| point.update).collect::<Vec<_>>();
    assert_eq!(updates(&run("")), [2, 4, 6]);
    let stopped = run("patience: 1");
    assert_eq!((updates(&stopped), stopped.run.updates), (vec![2, 4], 4));
}

#[test]
fn the_order_of_rows_is_a_param() {
    let space = Space::new();
    let run = |more: &str, name: &str| {
        let history = History::read(&space.train(&params("full", more), name).unwrap()).unwrap();
        history.train.iter().map(|point| point.loss.to_bits()).collect::<Vec<_>>()
    };
    let sequential = run("order: \"sequential\"", "a");
    assert_eq!(sequential, run("order: \"sequential\"", "b"));
    assert_ne!(sequential, run("order: \"shuffled\"", "c"));
    assert_eq!(run("", "d"), run("order: \"shuffled\"", "e"));
}
