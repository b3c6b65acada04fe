//! Experiments: params from the command line, sweeps, and the runs that are recorded of them.

use super::support::TestSpace;

/// A training by a command, and what reads it.
const STEPS: &str = r#"
    (name: "train", stage: "command", publish: "run", params: (args: {"lr": 0.5, "seed": 1}, outputs: ["metrics.json"],
     shell: "printf '{\"step\": 1, \"loss\": %s}\\n' {args.lr} >> $REPRO_METRICS; printf '{\"auc\": 0.%s%s}' $(echo {args.lr} | tr -d .) {args.seed} > {out}/metrics.json")),
    (name: "score", stage: "command", inputs: {"run": "train"}, params: (run: ["cat", "{input.run}/metrics.json"], stdout: "score")),
    (name: "other", stage: "join", params: (text: "other")),
"#;

fn ran(space: &TestSpace, options: &[&str]) -> Vec<String> {
    let run = space.run(&[&["make"], options].concat()).expect(0);
    run.ran().into_iter().map(str::to_owned).collect()
}

#[test]
fn a_param_from_the_command_line_gives_a_run_that_is_not_done_again_and_publishes_nothing() {
    let space = TestSpace::new(STEPS);
    assert_eq!(ran(&space, &[]), ["other", "score", "train"]);
    let report = space.read("reports/mini/run/metrics.json");
    assert_eq!(ran(&space, &["--set", "train.lr=0.25"]), ["score", "train"]);
    assert_eq!(ran(&space, &["--set", "train.args.lr=0.25"]), [""; 0]);
    assert_eq!(ran(&space, &[]), [""; 0], "the results of the file are still known");
    assert_eq!(space.read("reports/mini/run/metrics.json"), report);
    // A stage, a name with `*`, and a param that is not one of the args.
    assert_eq!(ran(&space, &["--set", "join.text=new", "other"]), ["other"]);
    assert_eq!(ran(&space, &["--set", "o*.text=new", "other"]), [""; 0]);
    assert_eq!(ran(&space, &["--set", "score.stdout=scores", "score"]), ["score"]);
    let path = space.run(&["path", "train/metrics.json", "--set", "train.lr=0.25"]).expect(0).out;
    assert_eq!(std::fs::read_to_string(path.trim()).unwrap(), "{\"auc\": 0.0251}");
}

#[test]
fn a_wrong_option_is_refused_with_the_nearest_name() {
    let space = TestSpace::new(STEPS);
    let refused = |option: &str, value: &str, expected: &[&str]| {
        let run = space.run(&["make", option, value]).expect(2);
        for text in expected {
            assert!(run.err.contains(text), "{option} {value}: {}", run.err);
        }
        assert_eq!(space.records(), 0);
    };
    refused("--set", "tran.lr=1", &["there is no step or stage `tran`", "did you mean `train`?"]);
    refused("--set", "train.lrr=1", &["step `train` has no param or value `lrr`", "did you mean `lr`?"]);
    refused("--set", "train.args.rl=1", &["args: `rl` is not used"]);
    refused("--set", "train=1", &["write `--set STEP.PARAM=VALUE`"]);
    refused("--set", "train.lr", &["write `--set STEP.PARAM=VALUE`"]);
    refused("--set", "other.txt=1", &["no param or value `txt`", "did you mean `text`?"]);
    refused("--sweep", "train.lr=", &["a value is empty"]);
    let run = space.run(&["gc", "--set", "train.lr=1"]).expect(2);
    assert!(run.err.contains("`gc` takes the pipeline file as it is"), "{}", run.err);
    refused("--sweep", "train.lr=1,1", &["the name `train-lr-1` is given twice"]);
    refused("--sweep", "train.seed=1..4000000", &["the range is too long"]);
}

/// Thirty runs over seeds and a rate.
#[test]
fn a_sweep_is_a_grid_of_ordinary_steps() {
    let space = TestSpace::new(STEPS);
    let sweep = |rates: &str| {
        let rates = format!("train.lr={rates}");
        ran(&space, &["score", "--sweep", &rates, "--sweep", "train.seed=0..9"])
    };
    let first = sweep("0.1,0.2,0.3");
    assert_eq!(first.len(), 60);
    assert!(
        first.contains(&"train-lr-0.1-seed-9".to_owned())
            && first.contains(&"score-lr-0.3-seed-0".to_owned())
    );
    assert_eq!(sweep("0.1,0.2,0.3"), [""; 0]);
    assert_eq!(sweep("0.1,0.3"), [""; 0], "a removed value leaves the others fresh");
    assert_eq!(sweep("0.1,0.4").len(), 20);
    assert_eq!(ran(&space, &["score", "--set", "train.lr=0.1", "--set", "train.seed=3"]), [""; 0]);

    let runs = space.run(&["runs", "train*"]).expect(0).out;
    let head: Vec<&str> = runs.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(head, ["run", "step", "when", "took", "lr", "seed", "loss", "auc"]);
    assert_eq!(runs.lines().count(), 41);
    let best = space.run(&["runs", "train*", "--best", "auc", "--json"]).expect(0).out;
    let best: serde_json::Value = serde_json::from_str(&best).unwrap();
    assert_eq!(best[0]["step"], "train-lr-0.4-seed-9");
    assert_eq!(best[0]["varying"], serde_json::json!({"args.lr": "\"0.4\"", "args.seed": "\"9\""}));
    assert_eq!(best[0]["metrics"], serde_json::json!({"loss": 0.4, "metrics/auc": 0.049}));
    let lowest = space.run(&["runs", "train*", "--best", "loss", "--lowest", "--csv"]).expect(0).out;
    assert!(
        lowest.starts_with("key,step,started_ms,seconds,args.lr,args.seed,loss,metrics/auc\n"),
        "{lowest}"
    );
    assert_eq!(lowest.lines().nth(1).unwrap().split(',').nth(4), Some("0.1"));
    assert!(space.run(&["runs", "--best", "acu"]).expect(2).err.contains("no run has the metric `acu`"));
    assert!(space.run(&["runs", "tain"]).expect(2).err.contains("no run of a step `tain` is recorded"));

    let key = best[0]["key"].as_str().unwrap();
    let diff = space.run(&["diff", "train-lr-0.1-seed-9", &key[..8]]).expect(0).out;
    assert!(diff.contains("param args.lr: \"0.1\" -> \"0.4\""), "{diff}");
    assert!(diff.contains("auc: 0.019 -> 0.049") || diff.contains("auc: 0.0190 -> 0.0490"), "{diff}");
    assert!(!diff.contains("seed: "), "{diff}");
}
