//! More classes than two, and rows that may have several: trained, evaluated, predicted, and with predictions of others.

use std::fs;
use std::path::Path;

use stage_api::testing::run_stage;
use stages::artifacts::history::History;
use stages::artifacts::labels::{Classes, Label};
use stages::artifacts::metrics::Metrics;
use stages::artifacts::scores;
use stages::artifacts::weights;
use stages::models::{Config, Head, ProblemType};

use super::space::{Fixture, LOUD, Space, params, tensors};

/// The fixture with three classes, which the second last word tells; with `multi_label` a row has that one, and each fourth row
/// the last one, too.
fn fixture(multi_label: bool) -> Fixture {
    let mut fixture = Fixture::new();
    fixture.info.classes =
        Classes { names: ["low", "middle", "high"].map(String::from).to_vec(), multi_label };
    for (at, (row, ids)) in fixture.rows.iter_mut().enumerate() {
        let class = (at % 3) as u8;
        let place = ids.len() - 2;
        ids[place] = LOUD + u32::from(class);
        row.label = Some(match multi_label {
            false => Label::One(class),
            true => Label::Several([class].into_iter().chain((at % 4 == 0).then_some(2)).collect()),
        });
    }
    fixture
}

fn long(mode: &str) -> String {
    params(mode, "dropout: 0.0")
        .replace("updates: 6", "updates: 60")
        .replace("evaluate_every: 2", "evaluate_every: 20")
}

#[test]
fn three_classes_are_learned_and_measured() {
    let space = Space::of(fixture(false), "");
    let run = space.train(&long("full"), "run").unwrap();
    let config: Config = weights::read_config(&run).unwrap();
    let head = Head { labels: 3, problem: ProblemType::SingleLabelClassification };
    assert_eq!(config.dimensions().head, head);
    assert_eq!(tensors(&run)["model.classifier.1.weight"].dims(), [3, 16]);
    let text = fs::read_to_string(run.join("config.json")).unwrap();
    assert!(text.contains("\"num_labels\": 3") && !text.contains("problem_type"), "{text}");

    let evaluated = space.evaluate(&run, "()", "evaluated").unwrap();
    let (found, best) = (Metrics::read(&evaluated).unwrap(), History::read(&run).unwrap().best);
    assert_eq!(found.classes.names, ["low", "middle", "high"]);
    assert!(found.accuracy > 0.9 && found.roc_auc > 0.95, "{found:?}");
    // What the best validation found, and what scikit-learn's definitions make of the scores.
    assert_eq!(
        (found.accuracy, found.f1_macro, found.roc_auc, found.loss),
        (best.accuracy, Some(best.f1), best.roc_auc, best.loss)
    );
    assert_eq!(
        (found.f1_micro, found.f1, found.positives, found.calibration_error),
        (Some(found.accuracy), None, None, None)
    );
    let supports: Vec<u64> = found.by_class.iter().map(|of| of.support).collect();
    assert_eq!((supports, found.class_intervals.len()), (vec![4, 4, 4], 3));
    let interval = found.intervals.roc_auc.unwrap();
    assert!(interval.low <= found.roc_auc && found.roc_auc <= interval.high);
    let rows = scores::read(&evaluated).unwrap();
    assert!(rows.iter().all(|row| (row.probabilities.iter().sum::<f32>() - 1.0).abs() < 1e-5));

    // Predictions are the evaluation's; given as predictions of others they have the same metrics but for rounding.
    let inputs = [("run", run.as_path()), ("tokens", &space.tokens), ("regions", &space.regions)];
    let registry = stages::registry();
    let out = space.dir.path().join("predicted");
    run_stage(registry.get("predict").unwrap(), "(split: \"val\")", &inputs, &out).unwrap();
    let csv = |dir: &Path| fs::read(dir.join("predictions.csv")).unwrap();
    assert!(csv(&out).starts_with(b"id,label,p0,p1,p2\r\nm40,1,") && csv(&out) == csv(&evaluated));
    let theirs = out.join("predictions.csv");
    let inputs = [("predictions", theirs.as_path()), ("tokens", &space.tokens)];
    let out = space.dir.path().join("given");
    run_stage(registry.get("evaluate").unwrap(), "(name: \"theirs\")", &inputs, &out).unwrap();
    let given = Metrics::read(&out).unwrap();
    assert_eq!((given.roc_auc, given.by_class), (found.roc_auc, found.by_class));
    assert!((given.loss - found.loss).abs() < 1e-5);
}

#[test]
fn rows_with_several_classes_are_learned_and_measured() {
    let space = Space::of(fixture(true), "");
    let run = space.train(&long("full"), "run").unwrap();
    let text = fs::read_to_string(run.join("config.json")).unwrap();
    assert!(text.contains("\"problem_type\": \"multi_label_classification\""), "{text}");
    let evaluated = space.evaluate(&run, "()", "evaluated").unwrap();
    let (found, best) = (Metrics::read(&evaluated).unwrap(), History::read(&run).unwrap().best);
    assert!(found.classes.multi_label && found.roc_auc > 0.8, "{found:?}");
    assert_eq!(
        (found.accuracy, found.f1_macro, found.roc_auc, found.loss),
        (best.accuracy, Some(best.f1), best.roc_auc, best.loss)
    );
    assert_eq!((found.balanced_accuracy, found.f1), (None, None));
    // Rows 40 to 51: four of each class, and of class 2 also 40 and 48, which are of class 1 and 0.
    assert_eq!(found.by_class.iter().map(|of| of.support).collect::<Vec<_>>(), [4, 4, 6]);
    let predicted = fs::read_to_string(evaluated.join("predictions.csv")).unwrap();
    assert!(predicted.starts_with("id,labels,p0,p1,p2\r\n"), "{predicted}");
    let scores = fs::read_to_string(evaluated.join("scores.csv")).unwrap();
    assert!(scores.lines().nth(1).unwrap().starts_with("m40,1 2,"), "{scores}");
    // Micro-batches add up to the batch.
    let parts =
        space.train(&long("full").replace("batch: 16", "batch: 16, micro_batch: 5"), "parts").unwrap();
    let loss = |run: &Path| History::read(run).unwrap().best.loss;
    assert!((loss(&parts) - loss(&run)).abs() < 1e-4, "{} {}", loss(&parts), loss(&run));
}

#[test]
fn a_run_is_evaluated_on_what_it_tells_apart() {
    let space = Space::of(fixture(false), "");
    let run = space.train(&params("fc", ""), "run").unwrap();
    for (other, problem) in [
        (Fixture::new(), "its rows have one of 2 classes, the model gives them one of 3 classes"),
        (fixture(true), "its rows have any number of 3 classes, the model gives them one of 3 classes"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let (tokens, regions) = other.write(dir.path());
        let inputs = [("run", run.as_path()), ("tokens", &tokens), ("regions", &regions)];
        let registry = stages::registry();
        let error = run_stage(registry.get("evaluate").unwrap(), "()", &inputs, &dir.path().join("out"));
        let error = error.map(drop).unwrap_err().to_string();
        assert!(error.contains(problem), "{error}");
    }
    let mut spoilt = fixture(false);
    spoilt.rows[3].0.label = Some(Label::One(3));
    let error = Space::of(spoilt, "").train(&params("fc", ""), "spoilt").unwrap_err().to_string();
    assert!(error.contains("row `m3` has label 3; it must be a number below 3"), "{error}");
    let mut alike = fixture(true);
    alike.rows[40..]
        .iter_mut()
        .for_each(|row| row.0.label = Some(Label::Several([0, 2].into_iter().collect())));
    let error = Space::of(alike, "").train(&params("fc", ""), "alike").unwrap_err().to_string();
    assert!(error.contains("all rows of the split `val` have label 0 2: no ROC-AUC"), "{error}");
}
