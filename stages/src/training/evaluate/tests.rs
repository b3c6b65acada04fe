//! Predictions of others for the rows of a small data set, and which inputs may be connected together.

use std::fs;

use stage_api::testing::run_stage;

use super::*;
use crate::artifacts::labels::{Classes, Label};
use crate::artifacts::metrics::Metrics;
use crate::artifacts::scores;
use crate::artifacts::token_set::{TokenRow, TokenSetInfo, TokenWriter};

/// Four rows of `val`, labelled 0, 1, 0, 1; one of `test` without label.
fn tokens(dir: &std::path::Path) {
    let info = TokenSetInfo {
        dataset: "hmd".to_owned(),
        classes: Classes::default(),
        vocab_size: 9,
        max_length: 4,
        pad: 0,
        cls: 1,
        sep: 2,
        mask: None,
        unknown: 4,
    };
    let mut set = TokenWriter::new(info);
    for (id, split, label) in [
        ("10", Split::Val, Some(Label::One(0))),
        ("11", Split::Val, Some(Label::One(1))),
        ("x", Split::Test, None),
        ("12", Split::Val, Some(Label::One(0))),
        ("13", Split::Val, Some(Label::One(1))),
    ] {
        let row = TokenRow { id: id.to_owned(), image: format!("{id}.png"), split, label, soft: None };
        set.push(row, &[1, 2]);
    }
    fs::create_dir_all(dir).unwrap();
    set.write(dir).unwrap();
}

/// What `evaluate` makes of a file.
fn evaluate(text: &str, params: &str) -> Result<(Metrics, Vec<String>, Vec<scores::Score>), String> {
    let dir = tempfile::tempdir().unwrap();
    let (file, data, out) =
        (dir.path().join("theirs.csv"), dir.path().join("tokens"), dir.path().join("out"));
    tokens(&data);
    fs::write(&file, text).unwrap();
    let params = format!("(name: \"theirs\", resamples: 100, {params})");
    let done = run_stage(&Evaluate, &params, &[("predictions", &file), ("tokens", &data)], &out);
    let done = done.map_err(|error| error.to_string())?;
    let notes = done.notes.into_inner().unwrap();
    Ok((Metrics::read(&out).unwrap(), notes, scores::read(&out).unwrap()))
}

#[test]
fn predictions_of_others_get_the_metrics_of_runs() {
    let (found, notes, scores) = evaluate("id,proba\n13,0.75\n10,0.25\n12,0.5\n11,0.5\n", "").unwrap();
    // Pairs of a hateful and another row: 3 in order, 1 tied.
    assert_eq!((found.roc_auc, found.rows, found.positives), (0.875, 4, Some(2)));
    // Only 13 is above one half.
    assert_eq!((found.accuracy, found.predicted_positives), (0.75, Some(1)));
    assert!((found.f1.unwrap() - 2.0 / 3.0).abs() < 1e-12);
    let loss = -(libm::log(0.75) * 2.0 + libm::log(0.5) * 2.0) / 4.0;
    assert!((found.loss - loss).abs() < 1e-12, "{}", found.loss);
    assert_eq!((found.run.kind().as_str(), found.dataset.as_str()), ("theirs-predictions", "hmd"));
    assert!(found.intervals.roc_auc.is_some() && notes.is_empty());
    // In the order of the data set, so that they are paired with those of runs.
    let ids: Vec<&str> = scores.iter().map(|score| score.id.as_str()).collect();
    assert_eq!(ids, ["10", "11", "12", "13"]);
    // A certain mistake costs no more than float32 can tell.
    let (found, notes, _) = evaluate("id,proba,label\n13,0,1\n10,1,1\n12,0,0\n11,1,1\n", "").unwrap();
    assert!((found.loss + libm::log(f64::from(f32::EPSILON)) / 2.0).abs() < 1e-6, "{}", found.loss);
    assert_eq!(notes.len(), 1);
    assert!(notes[0].starts_with("1 of 4 rows have another `label`"), "{notes:?}");
}

#[test]
fn ids_that_do_not_fit_are_named_with_their_line() {
    let whole = "id,proba\n10,0.5\n11,0.5\n12,0.5\n13,0.5\n";
    for (text, params, problem) in [
        (format!("{whole}14,0.5\n"), "", "line 6: `14` is not an id of `hmd`"),
        (format!("{whole}x,0.5\n"), "", "line 6: `x` is in the split `test`, not in `val`"),
        (
            "id,proba\n13,0.5\n".to_owned(),
            "",
            "lacks 3 of the 4 ids of the split `val` of `hmd`, first `10`, `11`, `12`",
        ),
        ("id,proba\nx,0.5\n".to_owned(), "split: \"test\"", "row `x` of split `test` has no label"),
        (whole.to_owned(), "split: \"train\"", "the split `train` has no rows"),
        (whole.replace("11,", "10,"), "", "line 3: `10` is on line 2, too"),
    ] {
        let error = evaluate(&text, params).unwrap_err();
        assert!(error.contains(problem), "{problem}: {error}");
    }
}

#[test]
fn it_reads_a_run_or_predictions() {
    let params = |name: Option<&str>, shift: bool| EvaluateParams {
        split: val(),
        batch: 16,
        shift,
        resamples: 100,
        seed: 1,
        name: name.map(str::to_owned),
    };
    let check = |name, shift, ports: &[&str]| Stage::check_wiring(&Evaluate, &params(name, shift), ports);
    let (run, given) = (["run", "tokens", "regions"], ["tokens", "predictions"]);
    assert_eq!(check(None, true, &run), Ok(()));
    assert_eq!(check(Some("theirs"), false, &given), Ok(()));
    for (name, shift, ports, problem) in [
        (None, false, &run[..2], "either run and regions, or predictions"),
        (None, false, &["tokens"], "either run and regions, or predictions"),
        (Some("theirs"), false, &["run", "tokens", "regions", "predictions"], "either"),
        (Some("theirs"), false, &run, "a run has its own"),
        (None, false, &given, "need a name"),
        (Some("theirs"), true, &given, "shift is of runs"),
    ] {
        let error = check(name, shift, ports).unwrap_err();
        assert!(error.contains(problem), "{error}");
    }
    for (name, problem) in
        [("", "a line of at most"), ("a\nb", "a line of at most"), ("vilbert", "runs of that model")]
    {
        let error = Stage::check(&Evaluate, &params(Some(name), false)).unwrap_err();
        assert!(error.contains(problem), "{error}");
    }
    // A file that the pipeline names and that is not there yet is not connected.
    let asked = |ports: &[&str]| Evaluate.needs_human(&params(None, false), ports, &AllowedEnv::default());
    assert!(asked(&["tokens"]).unwrap().contains("columns id and proba"));
    assert_eq!((asked(&run), asked(&given)), (None, None));
}
