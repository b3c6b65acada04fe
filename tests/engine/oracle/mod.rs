//! The engine's last word: after any series of edits, failures, kills and damage, an incremental run leaves the trees
//! and the reports that a clean run leaves, no fresh step runs, and judging step by step while running ends where
//! judging everything afresh ends. `PROPTEST_CASES` says how many series; docs/trust.md says what was run.

mod drawn;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::channel;

use petgraph::graph::NodeIndex;
use proptest::prelude::*;
use repro::digest::Digest;
use repro::key::StageKey;
use repro::pipeline::Pipeline;
use repro::plan::{Plan, Request, Verdict, judge};
use repro::publish::Part;
use repro::run::{Capacity, Event, InProcess, Observer, Options, run};
use repro::store::{ContentStore, Writer};
use repro::tree::Manifest;
use repro::workspace::Workspace;

use drawn::{Drawn, Edit, FILES};

/// What a run leaves: the tree of each step that could run, and the reports.
#[derive(Debug, Clone, PartialEq, Default)]
struct Left {
    trees: BTreeMap<usize, Digest>,
    reports: BTreeMap<PathBuf, Vec<u8>>,
}

/// How to run.
#[derive(Debug, Clone, Copy, Default)]
struct How {
    forced: Option<usize>,
    target: Option<usize>,
    killed_at: Option<usize>,
    keep_going: bool,
    /// Whether results are forced to disk at the end: a record that is not is believed once its tree was hashed.
    synced: bool,
}

/// Counts what ran; ends the run like a kill at an event.
struct Watch {
    ran: Vec<String>,
    events: usize,
    killed_at: Option<usize>,
}

struct Killed;

impl Observer for Watch {
    fn on(&mut self, event: &Event) {
        if let Event::Finished { step, .. } = event {
            self.ran.push((*step).to_owned());
        }
        if matches!(event, Event::Started { .. } | Event::Finished { .. }) {
            if self.killed_at == Some(self.events) {
                resume_unwind(Box::new(Killed));
            }
            self.events += 1;
        }
    }
}

/// A project in a folder, and what is known of it.
struct Project {
    root: PathBuf,
    steps: Vec<Drawn>,
    /// What each file of the project holds.
    files: [u8; FILES],
    /// What clean runs left, by steps and files.
    clean: HashMap<(Vec<Drawn>, [u8; FILES]), Left>,
}

impl Project {
    fn write(&mut self, file: usize, text: u8) {
        self.files[file] = text;
        fs::write(self.root.join(format!("file{file}")), [b'a' + text]).unwrap();
    }

    /// What a clean run of the pipeline as it is now leaves.
    fn clean(&mut self) -> Left {
        let key = (self.steps.clone(), self.files);
        if let Some(known) = self.clean.get(&key) {
            return known.clone();
        }
        let place = format!("clean{}", self.clean.len());
        let how = How { keep_going: true, ..How::default() };
        let left = self.make(&place, how).expect("nobody kills a clean run");
        fs::remove_dir_all(self.root.join(&place)).unwrap();
        self.clean.insert(key, left.clone());
        left
    }

    /// Runs in this process with cache and reports in `place`; `None` when killed.
    fn make(&self, place: &str, how: How) -> Option<Left> {
        let (pipeline, nodes) = drawn::pipeline(&self.root, &self.steps);
        let (cache, reports) = (self.root.join(place).join("cache"), self.root.join(place).join("reports"));
        let all: Vec<NodeIndex> = pipeline.graph.node_indices().collect();
        let targets = match how.target.map(|target| nodes.get(&target)) {
            None => all.clone(),
            Some(target) => target.into_iter().copied().collect(),
        };
        let forced: BTreeSet<NodeIndex> =
            how.forced.iter().filter_map(|step| nodes.get(step)).copied().collect();
        let request = Request { targets: targets.clone(), forced: forced.clone() };
        let before = whole_results(&cache);
        let workspace = Workspace::open(&pipeline, &cache, &reports).unwrap();
        let writer = workspace.store().lock(&mut |_| {}).unwrap();
        let mut plan = judge(&pipeline, &workspace, &request);
        repro::run::doubt_unpublished(&pipeline, &workspace, &mut plan);
        let executor = InProcess::new(Arc::new(super::toy::registry()));
        // One at a time where it is killed: a thread that goes on alone would be no killed process.
        let cpus = if how.killed_at.is_some() { 1 } else { 3 };
        let capacity = Capacity {
            cpus,
            memory: 0,
            gpus: vec![],
            gpus_for_programs: false,
            pools: BTreeMap::new(),
            cluster: None,
        };
        let options = Options {
            capacity,
            keep_going: how.keep_going,
            wait: true,
            estimated_seconds: None,
            shared: None,
        };
        let mut watch = Watch { ran: Vec::new(), events: 0, killed_at: how.killed_at };
        let summary = catch_unwind(AssertUnwindSafe(|| {
            run(&pipeline, &workspace, &writer, &mut plan, &executor, &options, channel(), &mut watch)
        }));
        let node_of =
            |name: &String| all.iter().copied().find(|node| pipeline.graph[*node].name == *name).unwrap();
        for node in watch.ran.iter().map(node_of) {
            let key = plan.of(node).key_text.as_ref().unwrap().key();
            assert!(
                forced.contains(&node) || !before.contains(&key),
                "a fresh step ran: {}",
                pipeline.graph[node].name
            );
        }
        let count = |step| watch.ran.iter().filter(|other| *other == step).count();
        assert!(watch.ran.iter().all(|step| count(step) == 1), "a step ran twice: {:?}", watch.ran);
        let summary = match summary {
            Ok(summary) => summary,
            Err(payload) if payload.is::<Killed>() => return None,
            Err(payload) => resume_unwind(payload),
        };
        if how.synced {
            writer.sync().unwrap();
        }
        let fails = plan.needed().any(|node| pipeline.graph[node].stage == "trouble");
        assert_eq!(summary.is_complete(), !fails, "{summary:?}");
        if summary.is_complete() {
            publish(&pipeline, &workspace, &writer, &plan);
        }
        // Judging everything afresh, with nothing remembered, sees the same.
        let again = Workspace::open(&pipeline, &cache, &reports).unwrap();
        let fresh = judge(&pipeline, &again, &Request { targets, forced: BTreeSet::new() });
        for node in all {
            // A run that a failure ended need not have looked again at what a step of the same key has done.
            let not_looked = fails && plan.of(node).tree.is_none();
            assert!(not_looked || fresh.of(node).tree == plan.of(node).tree);
            assert!(fails || fresh.verdict(node) == plan.verdict(node), "{:?}", fresh.verdict(node));
            assert!(fails || matches!(fresh.verdict(node), Verdict::Fresh | Verdict::Unneeded));
        }
        let trees =
            nodes.iter().filter_map(|(number, node)| Some((*number, fresh.of(*node).tree?))).collect();
        Some(Left { trees, reports: contents(&reports) })
    }
}

/// The keys whose results are there and whole: nothing that would make them again may run.
fn whole_results(cache: &Path) -> BTreeSet<StageKey> {
    let store = ContentStore::open(cache).unwrap();
    let is_whole =
        |tree: &Digest| Manifest::of_folder(&store.tree(tree)).is_ok_and(|found| found.digest() == *tree);
    let records = store.records();
    records.iter().filter(|record| is_whole(&record.tree)).map(|record| record.key_text.key()).collect()
}

fn publish(pipeline: &Pipeline, workspace: &Workspace, writer: &Writer, plan: &Plan) {
    let graph = &pipeline.graph;
    let parts: Vec<Part> = plan
        .needed()
        .filter_map(|node| {
            let (below, tree) = (graph[node].publish.as_deref()?, plan.of(node).tree?);
            let manifest = workspace.manifest(&tree).unwrap().as_ref().clone();
            Some(Part { step: &graph[node].name, below, manifest, tree: workspace.store().tree(&tree) })
        })
        .collect();
    workspace.reports().publish(writer, pipeline, &parts, &mut workspace.digests()).unwrap();
}

fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut found, mut folders) = (BTreeMap::new(), vec![folder.to_owned()]);
    while let Some(inner) = folders.pop() {
        for item in fs::read_dir(inner).into_iter().flatten().flatten() {
            if item.path().is_dir() {
                folders.push(item.path());
            } else {
                found.insert(
                    item.path().strip_prefix(folder).unwrap().to_owned(),
                    fs::read(item.path()).unwrap(),
                );
            }
        }
    }
    found
}

/// Does to the cache what an edit says.
fn damage(cache: &Path, edit: &Edit, trees: &BTreeMap<usize, Digest>) {
    let log = cache.join("state");
    match edit {
        Edit::Bytes(step) => {
            if let Some(tree) = trees.get(step) {
                let _ = fs::remove_dir_all(cache.join("trees").join(tree.to_string()));
            }
        }
        Edit::Flip(step) => {
            let text = trees.get(step).map(|tree| cache.join("trees").join(tree.to_string()).join("text"));
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
            let store = ContentStore::open(cache).unwrap();
            let record = store.records().into_iter().find(|r| trees.get(step) == Some(&r.tree));
            if let Some(record) = record {
                store.lock(&mut |_| {}).unwrap().forget(&record.key_text.key()).unwrap();
            }
        }
        Edit::Torn(share) | Edit::FlipLog(share) => {
            let Ok(mut bytes) = fs::read(&log) else { return };
            let at = bytes.len() * share / 1000;
            match (edit, bytes.get_mut(at)) {
                (Edit::FlipLog(_), Some(byte)) => *byte ^= 4,
                // An earlier cut may have left nothing to flip.
                _ => bytes.truncate(at),
            }
            fs::write(&log, bytes).unwrap();
        }
        _ => {}
    }
}

/// How many series: few enough for every day, or as many as `PROPTEST_CASES` says.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(1000)
}

/// A folder for many small files, in memory where the system has such a place.
fn in_memory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn check(steps: Vec<Drawn>, edits: Vec<Edit>) -> Result<(), TestCaseError> {
    let folder = in_memory();
    let mut project =
        Project { root: folder.path().to_owned(), steps, files: [0; FILES], clean: HashMap::new() };
    (0..FILES).for_each(|file| project.write(file, 0));
    let cache = project.root.join("place/cache");
    let mut trees = BTreeMap::new();
    for (number, edit) in [Edit::KeepGoing].into_iter().chain(edits).enumerate() {
        let mut how = How { synced: number % 2 == 0, ..How::default() };
        drawn::apply(&mut project.steps, &edit);
        damage(&cache, &edit, &trees);
        match edit {
            Edit::File(file, text) => project.write(file, text),
            Edit::Reports => drop(fs::remove_dir_all(project.root.join("place/reports"))),
            Edit::Force(step) => how.forced = Some(step),
            Edit::Target(step) => how.target = Some(step),
            Edit::Kill(event) => how.killed_at = Some(event),
            Edit::KeepGoing => how.keep_going = true,
            _ => {}
        }
        let Some(left) = project.make("place", how) else { continue };
        let clean = project.clean();
        // What is there is what a clean run makes; where all was asked for and could run, everything is there.
        let wrong: Vec<_> =
            left.trees.iter().filter(|(step, tree)| clean.trees.get(step) != Some(tree)).collect();
        prop_assert!(wrong.is_empty(), "after {edit:?}: {wrong:?} instead of {:?}", clean.trees);
        if how.target.is_none() && how.keep_going {
            prop_assert_eq!(&left.trees, &clean.trees);
        }
        let can_all_run = clean.trees.len() == drawn::pipeline(&project.root, &project.steps).1.len();
        if how.target.is_none() && can_all_run {
            prop_assert_eq!(&left, &clean, "after {:?}", edit);
        }
        trees.extend(left.trees);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_incremental_run_equals_a_clean_one(steps in drawn::steps(), edits in drawn::edits()) {
        check(steps, edits)?;
    }
}
