//! The engine's last word: after any series of edits, an incremental run leaves the trees that a clean run leaves,
//! and judging step by step while running ends where judging everything afresh ends.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::channel;

use petgraph::graph::{DiGraph, NodeIndex};
use proptest::prelude::*;
use repro::digest::Digest;
use repro::pipeline::{Needs, Pipeline, Source, Step, StepInput};
use repro::plan::{Request, Verdict, judge};
use repro::run::{Capacity, Event, InProcess, Observer, Options, run};
use repro::workspace::Workspace;

/// A step as drawn: its stage and param, and which earlier steps or files it reads.
#[derive(Debug, Clone)]
struct Drawn {
    head: bool,
    param: u8,
    reads: Vec<(usize, bool)>,
    file: Option<usize>,
}

#[derive(Debug, Clone)]
enum Edit {
    Param(usize, u8),
    File(usize, u8),
    Reads(usize, Vec<(usize, bool)>),
    Stage(usize),
    /// The bytes of a step's tree vanish.
    Bytes(usize),
    /// The record of a step vanishes.
    Record(usize),
    Force(usize),
    /// Only this step is asked for.
    Target(usize),
}

const FILES: usize = 2;
const STEPS: usize = 7;

fn reads() -> impl Strategy<Value = Vec<(usize, bool)>> {
    prop::collection::vec((0..STEPS, any::<bool>()), 0..3)
}

fn drawn() -> impl Strategy<Value = Drawn> {
    (any::<bool>(), 0..3u8, reads(), prop::option::weighted(0.3, 0..FILES))
        .prop_map(|(head, param, reads, file)| Drawn { head, param, reads, file })
}

fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        (0..STEPS, 0..3u8).prop_map(|(step, param)| Edit::Param(step, param)),
        (0..FILES, 0..3u8).prop_map(|(file, text)| Edit::File(file, text)),
        (0..STEPS, reads()).prop_map(|(step, reads)| Edit::Reads(step, reads)),
        (0..STEPS).prop_map(Edit::Stage),
        (0..STEPS).prop_map(Edit::Bytes),
        (0..STEPS).prop_map(Edit::Record),
        (0..STEPS).prop_map(Edit::Force),
        (0..STEPS).prop_map(Edit::Target),
    ]
}

/// The pipeline of drawn steps; a step reads only earlier ones.
fn pipeline(root: &Path, drawn: &[Drawn]) -> Pipeline {
    let mut graph = DiGraph::new();
    for (number, step) in drawn.iter().enumerate() {
        let port = || "in".to_owned();
        let mut inputs = Vec::new();
        for (read, part) in step.reads.iter().filter(|(read, _)| *read < number) {
            let output = part.then(|| "text".to_owned());
            inputs.push(StepInput {
                port: port(),
                source: Source::Step { step: NodeIndex::new(*read), output },
                position: (1, 1),
            });
        }
        if let Some(file) = step.file {
            let source = Source::File(PathBuf::from(format!("file{file}")));
            inputs.push(StepInput { port: port(), source, position: (1, 1) });
        }
        let (stage, params) = if step.head {
            ("head", format!("(chars:{})", step.param))
        } else {
            ("join", format!("(text:\"{}\",ms:0,style:(loud:false))", step.param))
        };
        let node = graph.add_node(Step {
            name: format!("s{number}"),
            stage: stage.to_owned(),
            unproven: false,
            version: 1,
            params,
            surroundings: stage_api::Surroundings::default(),
            inputs: inputs.clone(),
            needs: Needs::default(),
            publish: None,
            line: number + 1,
        });
        for input in inputs {
            if let Source::Step { step, .. } = input.source {
                graph.update_edge(step, node, ());
            }
        }
    }
    let targets = BTreeMap::from([("all".to_owned(), graph.node_indices().collect())]);
    Pipeline {
        file: root.join("pipeline.ron"),
        root: root.to_owned(),
        text: Digest::of_bytes(b"drawn"),
        looked_for: Vec::new(),
        profile: "mini".to_owned(),
        about: String::new(),
        profiles: vec!["mini".to_owned()],
        pools: BTreeMap::new(),
        graph,
        targets,
    }
}

struct Count(BTreeMap<String, usize>);

impl Observer for Count {
    fn on(&mut self, event: &Event) {
        if let Event::Finished { step, .. } = event {
            *self.0.entry((*step).to_owned()).or_default() += 1;
        }
    }
}

/// Runs in this process; returns the trees of the targets and of all that they read.
fn make(pipeline: &Pipeline, cache: &Path, request: &Request) -> BTreeMap<String, Digest> {
    let executor = InProcess::new(Arc::new(super::toy::registry()));
    let workspace = Workspace::open(pipeline, cache, &pipeline.root.join("reports")).unwrap();
    let writer = workspace.store().lock(&mut |_| {}).unwrap();
    let mut plan = judge(pipeline, &workspace, request);
    let capacity =
        Capacity { cpus: 3, memory: 0, gpus: vec![], gpus_for_programs: false, pools: BTreeMap::new() };
    let options = Options { capacity, keep_going: false, wait: true, estimated_seconds: None };
    let mut count = Count(BTreeMap::new());
    let summary = run(pipeline, &workspace, &writer, &mut plan, &executor, &options, channel(), &mut count);
    assert!(summary.is_complete(), "{summary:?}");
    assert!(count.0.values().all(|count| *count == 1), "a step ran twice: {:?}", count.0);
    // Judging everything afresh, with nothing remembered, sees the same.
    let again = Workspace::open(pipeline, cache, &pipeline.root.join("reports")).unwrap();
    let request = Request { targets: request.targets.clone(), forced: BTreeSet::new() };
    let fresh = judge(pipeline, &again, &request);
    for node in pipeline.graph.node_indices() {
        assert_eq!(fresh.verdict(node), plan.verdict(node));
        assert_eq!(fresh.of(node).tree, plan.of(node).tree);
        assert!(matches!(fresh.verdict(node), Verdict::Fresh | Verdict::Unneeded));
    }
    fresh.needed().map(|node| (pipeline.graph[node].name.clone(), fresh.of(node).tree.unwrap())).collect()
}

/// How many cases: few enough for every day, or as many as `PROPTEST_CASES` says.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(200)
}

/// A folder for a thousand small files, in memory where the system has such a place.
fn in_memory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_incremental_run_equals_a_clean_one(
        start in prop::collection::vec(drawn(), STEPS),
        edits in prop::collection::vec(edit(), 1..7),
    ) {
        let folder = in_memory();
        let root = folder.path();
        let write = |file: usize, text: u8| std::fs::write(root.join(format!("file{file}")), [b'a' + text]).unwrap();
        (0..FILES).for_each(|file| write(file, 0));
        let (mut steps, cache) = (start, root.join("cache"));
        let all = |pipeline: &Pipeline| Request {
            targets: pipeline.graph.node_indices().collect(),
            forced: BTreeSet::new(),
        };
        let first = pipeline(root, &steps);
        let mut trees = make(&first, &cache, &all(&first));
        for (number, edit) in edits.into_iter().enumerate() {
            let mut forced = BTreeSet::new();
            let mut target = None;
            match edit {
                Edit::Param(step, param) => steps[step].param = param,
                Edit::File(file, text) => write(file, text),
                Edit::Reads(step, reads) => steps[step].reads = reads,
                Edit::Stage(step) => steps[step].head = !steps[step].head,
                Edit::Bytes(step) => {
                    if let Some(tree) = trees.get(&format!("s{step}")) {
                        let _ = std::fs::remove_dir_all(cache.join("trees").join(tree.to_string()));
                    }
                }
                Edit::Record(step) => {
                    let store = repro::store::ContentStore::open(&cache).unwrap();
                    if let Some(record) = store.records().iter().find(|r| r.step == format!("s{step}")) {
                        let key = record.key_text.key();
                        store.lock(&mut |_| {}).unwrap().forget(&key).unwrap();
                    }
                }
                Edit::Force(step) => drop(forced.insert(NodeIndex::new(step))),
                Edit::Target(step) => target = Some(NodeIndex::new(step)),
            }
            let now = pipeline(root, &steps);
            let mut request = all(&now);
            request.forced = forced;
            if let Some(target) = target {
                request.targets = vec![target];
            }
            trees = make(&now, &cache, &request);
            request.forced.clear();
            let clean = make(&now, &root.join(format!("clean{number}")), &request);
            prop_assert_eq!(&trees, &clean);
        }
    }
}
