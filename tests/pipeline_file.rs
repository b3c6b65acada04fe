//! The pipeline file: its features, and the errors that its author sees.

use std::path::Path;

use repro::pipeline::{Folder, Pipeline, PipelineError, Source};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stage_api::{Job, NoParams, Port, Registry, Stage, StageError};

struct Make;
impl Stage for Make {
    type Params = NoParams;
    const NAME: &'static str = "make";
    const ABOUT: &'static str = "makes something";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Port] = &[];
    fn run(&self, _: &NoParams, _: &Job) -> Result<(), StageError> {
        Ok(())
    }
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct TrainParams {
    mode: String,
    #[serde(default = "one")]
    seed: u64,
    #[serde(default)]
    lr: f64,
}

fn one() -> u64 {
    1
}

struct Train;
impl Stage for Train {
    type Params = TrainParams;
    const NAME: &'static str = "train";
    const ABOUT: &'static str = "trains something";
    const VERSION: u32 = 3;
    const INPUTS: &'static [Port] = &[Port::one("data"), Port::placed("extra")];
    fn check(&self, params: &TrainParams) -> Result<(), String> {
        if params.lr < 0.0 { Err("lr is negative".to_owned()) } else { Ok(()) }
    }
    fn run(&self, _: &TrainParams, _: &Job) -> Result<(), StageError> {
        Ok(())
    }
}

struct Gather;
impl Stage for Gather {
    type Params = NoParams;
    const NAME: &'static str = "gather";
    const ABOUT: &'static str = "reads many";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Port] = &[Port::many("runs")];
    fn run(&self, _: &NoParams, _: &Job) -> Result<(), StageError> {
        Ok(())
    }
}

fn load(text: &str, profile: Option<&str>) -> Result<Pipeline, PipelineError> {
    let registry = Registry::new().with(Make).with(Train).with(Gather);
    Pipeline::parse(Path::new("pipeline.ron"), text, profile, &registry)
}

const GOOD: &str = r#"(
    default_profile: "mini",
    profiles: [
        (name: "mini", about: "small", sources: [(name: "raw", stage: "make"), (name: "data", from: "raw/part")],
         defaults: {"train": (lr: 1e-3, seed: 7)}),
        (name: "paper", about: "large", sources: [(name: "data", stage: "make")]),
    ],
    steps: [
        // a comment
        (for: {"mode": ["fc", "pe"], "seed": [1, 2]}, name: "run-{mode}-{seed}", stage: "train",
         inputs: {"data": "data"}, params: (mode: "{mode}", seed: "{seed}"), needs: (gpu: 1)),
        (name: "one", stage: "train", inputs: {"data": "data/inner"}, params: (mode: "{profile}")),
        (name: "table", stage: "gather", inputs: {"runs": ["run-{fc,pe}-1", "one"]}, publish: "tables"),
    ],
    targets: {"runs": ["run-{fc,pe}-{1,2}"], "all": ["table", "runs"]},
)"#;

#[test]
fn a_good_file_becomes_a_graph() {
    let pipeline = load(GOOD, None).unwrap();
    assert_eq!((pipeline.profile.as_str(), pipeline.about.as_str()), ("mini", "small"));
    let names: Vec<&str> = pipeline.graph.node_weights().map(|step| step.name.as_str()).collect();
    assert_eq!(names, ["raw", "run-fc-1", "run-fc-2", "run-pe-1", "run-pe-2", "one", "table"]);
    let step = |name: &str| pipeline.graph.node_weights().find(|step| step.name == name).unwrap();
    assert_eq!(step("run-pe-2").params, r#"(mode:"pe",seed:2,lr:0.001)"#);
    assert_eq!(step("one").params, r#"(mode:"mini",seed:7,lr:0.001)"#, "defaults of the profile are in");
    assert_eq!(step("one").version, 3);
    assert_eq!(step("run-fc-1").needs.gpu.whole(), 1);
    let raw = pipeline.targets["raw"][0];
    assert_eq!(
        step("one").inputs[0].source,
        Source::Step { step: raw, output: Some("part/inner".to_owned()) },
        "an alias is looked through"
    );
    assert_eq!(step("table").inputs.len(), 3);
    assert_eq!(pipeline.targets["all"].len(), 5);
    assert_eq!(step("table").line, 13);
}

#[test]
fn seeds_are_a_dimension_with_a_number_for_its_length() {
    let seeded = GOOD
        .replace("default_profile", "seeds: 5, default_profile")
        .replace("\"seed\": [1, 2]", "\"seed\": \"1..{seeds}\"")
        .replace("run-{fc,pe}-{1,2}", "run-{fc,pe}-{2..{seeds}}");
    let of = |text: &str, profile| {
        let pipeline = load(text, Some(profile)).unwrap();
        let runs = pipeline.graph.node_weights().filter(|step| step.name.starts_with("run-")).count();
        (runs, pipeline.targets["runs"].len())
    };
    assert_eq!(of(&seeded, "mini"), (10, 8));
    assert_eq!(of(&seeded.replace("name: \"paper\",", "name: \"paper\", seeds: 30,"), "paper"), (60, 58));
    assert_eq!(
        of(&seeded.replace("seeds: 5", "seeds: 1"), "mini"),
        (2, 0),
        "a range that is empty names nothing"
    );
    for (from, to, expected) in [
        ("seeds: 5", "seeds: 0", "seeds: at least 1 is required"),
        ("1..{seeds}", "1-{seeds}", "`1-5` is not a range; write two numbers with `..` between them"),
        ("1..{seeds}", "1..4000000000", "this range has more than 100000 numbers"),
        ("\"seed\": \"1", "\"seeds\": \"1", "variable `seeds` is already defined"),
    ] {
        let error = load(&seeded.replace(from, to), None).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn the_profile_chooses_sources_and_defaults() {
    let pipeline = load(GOOD, Some("paper")).unwrap();
    let one = pipeline.graph.node_weights().find(|step| step.name == "one").unwrap();
    assert_eq!(one.params, r#"(mode:"paper",seed:1,lr:0.0)"#);
}

#[test]
fn defaults_by_step_name_override_those_of_the_stage() {
    let text =
        GOOD.replace("{\"train\": (lr", "{\"run-*-2\": (lr: 2.0), \"run-pe-*\": (lr: 3.0), \"train\": (lr");
    assert_ne!(text, GOOD);
    let pipeline = load(&text, None).unwrap();
    let params = |name: &str| {
        pipeline.graph.node_weights().find(|step| step.name == name).map(|step| step.params.clone()).unwrap()
    };
    assert_eq!(params("run-fc-1"), r#"(mode:"fc",seed:1,lr:0.001)"#);
    assert_eq!(params("run-fc-2"), r#"(mode:"fc",seed:2,lr:2.0)"#);
    assert_eq!(params("run-pe-2"), r#"(mode:"pe",seed:2,lr:3.0)"#, "later ones win");
}

#[test]
fn defaults_that_match_no_step_are_errors() {
    let (at, message, hint) = broken(r#""train": (lr"#, r#""trian": (lr"#);
    assert!(at.starts_with("\"trian\""), "{at}");
    assert_eq!(message, "these defaults match no step: `trian` is not the name of a stage or step");
    assert_eq!(hint, "did you mean `train`?");
}

#[test]
fn defaults_of_the_file_are_for_every_profile_and_the_profiles_own_override_them() {
    let text = GOOD.replace(
        "    steps: [",
        "    defaults: {\"{train,make}\": (), \"train\": (seed: 5, lr: 9.0), \"one\": (mode: \"{about}\")},\n    steps: [",
    );
    let error = load(&text, None).unwrap_err().to_string();
    assert!(error.ends_with("`train` is given twice"), "{error}");
    let text = text.replace("\"{train,make}\": (), ", "").replace("(mode: \"{profile}\")", "()");
    let params = |profile| {
        let pipeline = load(&text, Some(profile)).unwrap();
        pipeline.graph.node_weights().find(|step| step.name == "one").map(|step| step.params.clone()).unwrap()
    };
    assert_eq!(params("mini"), r#"(mode:"small",seed:7,lr:0.001)"#);
    assert_eq!(params("paper"), r#"(mode:"large",seed:5,lr:9.0)"#);
}

#[test]
fn needs_may_be_said_once_for_a_stage() {
    let with = |needs: &str| {
        load(&GOOD.replace("    steps: [", &format!("    needs: {needs},\n    steps: [")), None)
    };
    let pipeline = with("{\"train\": (cpu: 2, gpu: 0.5), \"one\": (memory: \"1 GiB\")}").unwrap();
    let needs = |name: &str| {
        pipeline
            .graph
            .node_weights()
            .find(|step| step.name == name)
            .map(|step| step.needs.to_string())
            .unwrap()
    };
    assert_eq!(needs("run-fc-1"), "cpu 2, gpu 1", "a step's own needs override them");
    assert_eq!(needs("one"), "cpu 2, memory 1.0 GiB, gpu 0.5");
    assert_eq!(needs("table"), "cpu 1");
    for (wrong, problem) in [
        ("{\"tarin\": (cpu: 2)}", "these needs match no step: `tarin` is not the name of a stage or step"),
        ("{\"train\": (cpuu: 2)}", "there is no pool `cpuu`"),
        ("{\"train\": (gpu_memory: \"1 GiB\")}", "a step takes either `gpu` or `gpu_memory`"),
    ] {
        let error = with(wrong).expect_err(wrong);
        assert!(error.position.is_some() && error.message.contains(problem), "{wrong}: {error}");
    }
}

#[test]
fn a_profile_in_a_file_of_its_own_is_like_one_in_the_pipeline_file() {
    let dir = tempfile::tempdir().unwrap();
    let inline = r#"(name: "paper", about: "large", sources: [(name: "data", stage: "make")])"#;
    let text = GOOD.replace(inline, "\"./paper.ron\"");
    assert_ne!(text, GOOD);
    let (file, other) = (dir.path().join("pipeline.ron"), dir.path().join("paper.ron"));
    let registry = Registry::new().with(Make).with(Train).with(Gather);
    let load = |profile| Pipeline::parse(&file, &text, Some(profile), &registry);

    let error = load("mini").unwrap_err();
    assert_eq!((error.position, &error.file), (Some((6, 9)), &file));
    assert!(error.message.starts_with("./paper.ron: cannot be read: "), "{error}");

    std::fs::write(&other, format!("// large\n{inline}\n")).unwrap();
    let pipeline = load("paper").unwrap();
    assert_eq!(
        (&pipeline.profiles[..], pipeline.about.as_str()),
        (&["mini".to_owned(), "paper".to_owned()][..], "large")
    );
    let step = |name: &str| pipeline.graph.node_weights().find(|step| step.name == name).unwrap();
    assert_eq!((pipeline.file_of(step("data")), step("data").line), (other.clone(), 2));
    assert_eq!(pipeline.file_of(step("one")), file);

    // It is kept with the pipeline, and a change of it is seen.
    let kept = pipeline.to_bytes().unwrap();
    assert!(Pipeline::from_bytes(&kept, &file).is_some());
    for (right, wrong, message) in [
        ("\"make\"", "\"maek\"", "there is no stage `maek`"),
        ("about", "abuot", "unknown field `abuot`"),
        (" [(name: \"data\"", " (name: \"data\"", ""),
        ("\"data\"", "\"./data\"", "`./data` is not a valid name"),
    ] {
        let wrong_text = inline.replace(right, wrong);
        std::fs::write(&other, &wrong_text).unwrap();
        let error = load("paper").unwrap_err();
        let column = wrong_text.find(wrong).unwrap() + 1;
        assert_eq!((error.position, &error.file), (Some((1, column)), &other), "{error}");
        assert!(error.message.contains(message), "{error}");
        assert!(Pipeline::from_bytes(&kept, &file).is_none());
    }
    let outside = GOOD.replace(inline, "\"../paper.ron\"");
    let error = Pipeline::parse(&file, &outside, None, &registry).unwrap_err();
    assert!(error.message.contains("`../paper.ron` is no `./file` of the project"), "{error}");
}

#[test]
fn comments_and_spacing_have_no_meaning() {
    let spaced = GOOD.replace("(mode: \"{profile}\")", "( /* here */ mode : \"{profile}\" , )");
    assert_ne!(spaced, GOOD);
    let params =
        |text: &str| load(text, None).unwrap().graph.node_weights().map(|s| s.params.clone()).collect();
    let (a, b): (Vec<String>, Vec<String>) = (params(&spaced), params(GOOD));
    assert_eq!(a, b);
}

/// Loads `GOOD` with one change. Returns the text the error points at, the message and the hint.
fn broken(from: &str, to: &str) -> (String, String, String) {
    assert!(GOOD.contains(from), "the test changes something");
    let text = GOOD.replacen(from, to, 1);
    let error = load(&text, None).expect_err("the file is wrong");
    let (line, column) = error.position.expect("a place");
    let at = text.lines().nth(line - 1).unwrap().chars().skip(column - 1).collect();
    (at, error.message, error.hint.unwrap_or_default())
}

#[test]
fn wrong_needs_are_errors_with_a_position_and_the_valid_values() {
    for (needs, at, expected, expected_hint) in [
        ("(cpu: 0)", "0)", "cpu: at least 1 is required", ""),
        ("(memory: \"8\")", "\"8\"", "`8` is no size; write a number with its unit", ""),
        ("(memory: 8)", "8)", "`memory: 8`: a size with a unit is required", "memory: \"8 GiB\""),
        ("(gpu: 1.5)", "1.5", "only a share of one GPU may be a fraction", ""),
        ("(gpu: -1)", "-1", "`gpu: -1` is no number of GPUs", ""),
        ("(gpu: inf)", "inf", "is no number of GPUs", ""),
        ("(gpuu: 1)", "1)", "there is no pool `gpuu`", "did you mean `gpu`?"),
        ("(net: 1)", "1)", "there is no pool `net`", "known here: cpu, gpu, gpu_memory, memory"),
        ("(cpu: 1, cpu: 2)", "", "`cpu` is given twice", ""),
        ("3", "3", "", ""),
    ] {
        let (found, message, hint) = broken("needs: (gpu: 1)", &format!("needs: {needs}"));
        assert!(found.contains(at), "{needs}: {found}");
        assert!(message.contains(expected), "{needs}: {message}");
        assert!(hint.contains(expected_hint), "{needs}: {hint}");
    }
}

#[test]
fn declared_pools_are_checked() {
    for (pools, needs, expected) in [
        ("{\"net\": 2}", "(net: 3)", "pool `net` has size 2: a step can use 1 to 2 of it"),
        ("{\"net\": 2}", "(net: 0)", "pool `net` has size 2: a step can use 1 to 2 of it"),
        ("{\"net\": 0}", "(gpu: 1)", "pool `net`: a size of at least 1 is required"),
        ("{\"gpu\": 2}", "(gpu: 1)", "`gpu` is a resource of the machine and cannot be declared as a pool"),
        ("{\"a b\": 2}", "(gpu: 1)", "`a b` is not a valid name of a pool"),
        ("{\"net\": 1, \"net\": 2}", "(gpu: 1)", "pool `net` is declared twice"),
        ("{\"net\": -1}", "(gpu: 1)", ""),
    ] {
        let text = GOOD.replace("needs: (gpu: 1)", &format!("needs: {needs}"));
        let text = text.replace("    steps: [", &format!("    pools: {pools},\n    steps: ["));
        let error = load(&text, None).expect_err(pools);
        assert!(error.position.is_some() && error.message.contains(expected), "{pools}: {error}");
    }
    let text = GOOD.replace("needs: (gpu: 1)", "needs: (net: 2, memory: \"1.5 GiB\", gpu: 0.5)");
    let text = text.replace("    steps: [", "    pools: {\"net\": 2},\n    steps: [");
    let pipeline = load(&text, None).unwrap();
    let step = pipeline.graph.node_weights().find(|step| step.name == "run-fc-1").unwrap();
    assert_eq!(step.needs.to_string(), "cpu 1, memory 1.5 GiB, gpu 0.5, net 2");
}

#[test]
fn a_misspelt_stage_is_named_with_the_nearest() {
    let (at, message, hint) = broken(r#"stage: "gather""#, r#"stage: "gahter""#);
    assert!(at.starts_with("\"gahter\""), "{at}");
    assert_eq!(message, "there is no stage `gahter`");
    assert_eq!(hint, "did you mean `gather`?");
}

#[test]
fn a_misspelt_input_step_is_named_with_the_nearest() {
    let (at, message, hint) = broken(r#""data": "data/inner""#, r#""data": "dta/inner""#);
    assert!(at.starts_with("\"dta/inner\""), "{at}");
    assert_eq!(message, "there is no step `dta`");
    assert_eq!(hint, "did you mean `data`?");
}

#[test]
fn a_misspelt_port_field_param_and_variable_are_named_with_the_nearest() {
    let (at, message, hint) = broken(r#"{"runs": ["#, r#"{"rums": ["#);
    assert!(at.starts_with("\"rums\""), "{at}");
    assert_eq!(message, "stage `gather` has no input `rums`");
    assert_eq!(hint, "did you mean `runs`?");

    let (at, message, hint) = broken("publish:", "publsh:");
    assert!(at.starts_with("publsh:"), "{at}");
    assert_eq!(message, "unknown field `publsh`");
    assert_eq!(hint, "did you mean `publish`?");

    let (at, message, hint) = broken("lr: 1e-3", "lrr: 1e-3");
    assert!(at.starts_with("1e-3"), "{at}");
    assert_eq!(message, "stage `train` has no param or value `lrr`");
    assert!(hint.contains("lr"), "{hint}");

    let (at, message, hint) = broken(r#"name: "run-{mode}-{seed}""#, r#"name: "run-{mod}-{seed}""#);
    assert!(at.starts_with("\"run-{mod}"), "{at}");
    assert_eq!(message, "`{mod}` in \"run-{mod}-1\" is not a variable here");
    assert_eq!(hint, "did you mean `mode`?");
}

#[test]
fn a_param_of_the_wrong_type_points_at_its_value() {
    let (at, message, hint) = broken("seed: 7", "seed: \"seven\"");
    assert!(at.starts_with("\"seven\""), "{at}");
    assert!(message.starts_with("params of stage `train`:"), "{message}");
    assert_eq!(hint, "by default of the stage, `seed` is 1");
}

#[test]
fn a_missing_param_and_a_refused_one_are_errors() {
    let (at, message, _) = broken("(mode: \"{profile}\")", "()");
    assert!(at.starts_with("())"), "{at}");
    assert!(message.contains("mode"), "{message}");
    let (at, message, hint) = broken("(mode: \"{profile}\")", "(mode: \"x\", lr: -1.0)");
    assert!(at.starts_with("-1.0"), "{at}");
    assert_eq!(message, "params of stage `train`: lr is negative");
    assert_eq!(hint, "by default of the stage, `lr` is 0.0");
}

#[test]
fn missing_and_surplus_inputs_are_errors() {
    let (_, message, hint) = broken(r#"inputs: {"data": "data/inner"}, "#, "");
    assert_eq!(message, "step `one` lacks the input `data`");
    assert_eq!(hint, "stage `train` reads data, extra");
    let (_, message, _) = broken(r#"{"data": "data/inner"}"#, r#"{"data": "data", "data": "raw"}"#);
    assert_eq!(message, "input `data` is connected twice");
    let (_, message, _) = broken(r#"{"data": "data/inner"}"#, r#"{"data": ["data"]}"#);
    assert_eq!(message, "input `data` accepts one source, not a list");
}

#[test]
fn a_file_on_an_optional_port_is_connected_if_it_exists() {
    let dir = tempfile::tempdir().unwrap();
    let text = GOOD.replace(r#"{"data": "data/inner"}"#, r#"{"data": "data", "extra": "./placed.zip"}"#);
    let registry = Registry::new().with(Make).with(Train).with(Gather);
    let inputs = |file: &Path| {
        let pipeline = Pipeline::parse(file, &text, None, &registry).unwrap();
        pipeline.graph.node_weights().find(|step| step.name == "one").unwrap().inputs.len()
    };
    let file = dir.path().join("pipeline.ron");
    assert_eq!(inputs(&file), 1);
    std::fs::write(dir.path().join("placed.zip"), "x").unwrap();
    assert_eq!(inputs(&file), 2);
}

#[test]
fn a_cycle_is_printed_as_a_walk() {
    let text = r#"(default_profile: "p", profiles: [(name: "p", about: "")], steps: [
        (name: "a", stage: "train", inputs: {"data": "c"}, params: (mode: "x")),
        (name: "b", stage: "train", inputs: {"data": "a"}, params: (mode: "x")),
        (name: "c", stage: "train", inputs: {"data": "b"}, params: (mode: "x")),
    ])"#;
    let error = load(text, None).expect_err("a cycle");
    assert_eq!(error.message, "the steps form a cycle: a -> b -> c -> a");
    assert_eq!(error.position, Some((2, 16)));
}

#[test]
fn names_given_twice_are_errors() {
    let (_, message, hint) = broken(r#"name: "one""#, r#"name: "run-pe-2""#);
    assert_eq!(message, "the name `run-pe-2` is given twice");
    assert_eq!(hint, "it was first given on line 10");
    let (_, message, _) = broken(r#""all": "#, r#""table": "#);
    assert_eq!(message, "`table` is already the name of a step or a target");
}

#[test]
fn an_unknown_profile_or_target_member_is_named_with_the_nearest() {
    let error = load(GOOD, Some("papper")).expect_err("no such profile");
    assert_eq!(error.to_string(), "pipeline.ron: there is no profile `papper`");
    assert_eq!(error.hint.as_deref(), Some("did you mean `paper`?"));
    let (_, message, hint) = broken(r#"["table", "runs"]"#, r#"["tabel", "runs"]"#);
    assert_eq!(message, "target `all`: there is no step, and no target above, called `tabel`");
    assert_eq!(hint, "did you mean `table`?");
}

#[test]
fn a_path_that_leaves_its_folder_is_an_error() {
    let (_, message, _) = broken(r#""data": "data/inner""#, r#""data": "./../../etc/passwd""#);
    assert_eq!(message, "`./../../etc/passwd` leads out of the project");
    let (_, message, _) = broken(r#"publish: "tables""#, r#"publish: "../tables""#);
    assert_eq!(message, "`../tables` leads out of the reports folder");
    for whole in ["./", "./.", "./a/.."] {
        let (_, message, _) = broken(r#""data": "data/inner""#, &format!("\"data\": \"{whole}\""));
        assert!(message.contains("is the project folder itself"), "{message}");
    }
    // A path that returns stays inside.
    for (written, meant) in [("./a/../b", "b"), ("././x/y/", "x/y"), ("./a//b/./c/../d", "a/b/d")] {
        let text = GOOD.replace(r#""data": "data/inner""#, &format!("\"data\": \"{written}\""));
        let pipeline = load(&text, None).unwrap();
        let files = pipeline.graph.node_weights().flat_map(|step| &step.inputs);
        assert!(files.into_iter().any(|input| input.source == Source::File(meant.into())), "{written}");
    }
}

#[test]
fn a_project_file_without_its_dot_slash_is_an_error_with_a_hint() {
    let text = GOOD.replace(r#""data": "data/inner""#, r#""data": "sub/data.txt""#);
    struct WithData;
    impl Folder for WithData {
        fn has(&self, path: &Path) -> bool {
            path == Path::new("sub/data.txt")
        }
        fn read(&self, _: &Path) -> Result<String, String> {
            Err("is not there".to_owned())
        }
    }
    let registry = Registry::new().with(Make).with(Train).with(Gather);
    let error = Pipeline::parse_in(&WithData, Path::new("pipeline.ron"), &text, None, &registry).unwrap_err();
    assert_eq!(
        error.hint.as_deref(),
        Some("there is a file or folder `sub/data.txt`: read it as `./sub/data.txt`")
    );
}

#[test]
fn broken_syntax_and_an_alias_with_more_than_a_source_are_errors() {
    let error =
        load("(default_profile: \"mini\",\n profiles: [\n  (name \"x\")])", None).expect_err("no colon");
    assert_eq!(error.position.map(|(line, _)| line), Some(3));
    let (_, message, _) = broken(r#"from: "raw/part""#, r#"from: "raw/part", params: ()"#);
    assert_eq!(message, "an alias has only a name and `from:`");
    let (_, message, _) = broken(r#", from: "raw/part""#, "");
    assert_eq!(message, "this entry has neither `stage:` (a step) nor `from:` (an alias)");
}

#[test]
fn profiles_are_optional_and_the_first_one_is_the_default() {
    let pipeline = load("(steps: [(name: \"a\", stage: \"make\", about: \"in {profile}\")])", None).unwrap();
    assert_eq!((pipeline.profile.as_str(), pipeline.about.as_str()), ("default", ""));
    assert_eq!(pipeline.graph.node_weights().next().unwrap().about.as_deref(), Some("in default"));
    assert_eq!(load("(steps: [])", Some("default")).unwrap().profiles, ["default"]);
    let error = load("(steps: [])", Some("mini")).unwrap_err();
    assert_eq!(error.to_string(), "pipeline.ron: there is no profile `mini`");
    assert_eq!(error.hint.as_deref(), Some("known here: default"));
    let first = GOOD.replace("default_profile: \"mini\",", "");
    assert_eq!(load(&first, None).unwrap().profile, "mini");
    assert_eq!(load(&first, Some("paper")).unwrap().profile, "paper");
}

#[test]
fn steps_and_targets_may_have_a_sentence() {
    let text = GOOD.replace(
        "\"runs\": [\"run-{fc,pe}-{1,2}\"]",
        "\"runs\": (about: \"all runs, of {profile}\", steps: [\"run-{fc,pe}-{1,2}\"])",
    );
    let text = text.replace(
        "name: \"run-{mode}-{seed}\",",
        "name: \"run-{mode}-{seed}\", about: \"{mode}, seed {seed}\",",
    );
    let (plain, pipeline) = (load(GOOD, None).unwrap(), load(&text, None).unwrap());
    assert_eq!(pipeline.targets, plain.targets);
    assert_eq!(
        pipeline.target_abouts.iter().collect::<Vec<_>>(),
        [(&"runs".to_owned(), &"all runs, of mini".to_owned())]
    );
    let abouts: Vec<_> = pipeline.graph.node_weights().map(|step| step.about.as_deref()).collect();
    assert_eq!(abouts[1..3], [Some("fc, seed 1"), Some("fc, seed 2")]);
    let kept = Pipeline::from_bytes(&pipeline.to_bytes().unwrap(), Path::new("pipeline.ron")).unwrap();
    assert_eq!(kept.target_abouts, pipeline.target_abouts);
    let error = load(&text.replace("about: \"all", "abuot: \"all"), None).unwrap_err();
    assert_eq!(
        (error.message.as_str(), error.hint.as_deref()),
        ("unknown field `abuot`", Some("did you mean `about`?"))
    );
    let (_, message, _) = broken("from: \"raw/part\"", "from: \"raw/part\", about: \"x\"");
    assert_eq!(message, "an alias has only a name and `from:`");
}
