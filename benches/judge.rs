//! What judging costs when nothing is to be done: 1,000 and 10,000 `command` steps in layers, everything known. And
//! what loading the pipeline costs, by parsing its text and as it was kept.

use std::hint::black_box;
use std::path::Path;

use criterion::{Criterion, criterion_group, criterion_main};
use repro::command::Command;
use repro::digest::Digest;
use repro::key::StageKey;
use repro::pipeline::{Pipeline, Step};
use repro::plan::{BuildState, Request, judge};
use repro::record::RunRecord;
use stage_api::Registry;

/// Every key has a result, made up from the key.
struct Everything;

impl BuildState for Everything {
    fn tree(&self, key: &StageKey) -> Option<Digest> {
        Some(key.0)
    }
    fn last(&self, _step: &Step) -> Option<RunRecord> {
        None
    }
    fn output(&self, tree: &Digest, _path: &str) -> Option<Digest> {
        Some(*tree)
    }
    fn has_bytes(&self, _tree: &Digest, _path: Option<&str>) -> bool {
        true
    }
    fn file(&self, path: &Path) -> Option<Digest> {
        Some(Digest::of_bytes(path.as_os_str().as_encoded_bytes()))
    }
    fn surroundings(&self, _step: &Step) -> Result<Vec<(String, String)>, String> {
        Ok(Vec::new())
    }
    fn is_published(&self, _step: &Step, _tree: &Digest) -> bool {
        true
    }
}

fn text(steps: usize) -> String {
    let width = steps / 10;
    let step = |number: usize| {
        let place = number % width;
        let inputs = match number.checked_sub(width) {
            None => format!("\"./src/{place}.txt\""),
            Some(above) => format!("\"s{above}/t\", \"s{}/t\"", above - place + (place + 1) % width),
        };
        format!(
            "(name: \"s{number}\", stage: \"command\", inputs: {{\"a\": [{inputs}]}}, \
             params: (run: [\"head\", \"-qn1\", \"{{input.a}}\"], stdout: \"t\")),\n"
        )
    };
    let steps: String = (0..steps).map(step).collect();
    format!("(default_profile: \"p\", profiles: [(name: \"p\", about: \"\")], steps: [\n{steps}])")
}

fn judging(criterion: &mut Criterion) {
    let registry = Registry::new().with(Command);
    for steps in [1_000, 10_000] {
        let (file, text) = (Path::new("pipeline.ron"), text(steps));
        let pipeline = Pipeline::parse(file, &text, None, &registry).expect("a pipeline");
        let request = Request { targets: pipeline.graph.node_indices().collect(), ..Request::default() };
        criterion.bench_function(&format!("judge {steps} fresh steps"), |bench| {
            bench.iter(|| judge(black_box(&pipeline), &Everything, &request).needed().count());
        });
        criterion.bench_function(&format!("parse {steps} steps"), |bench| {
            bench.iter(|| Pipeline::parse(file, black_box(&text), None, &registry).expect("a pipeline"));
        });
        let bytes = pipeline.to_bytes().expect("bytes");
        criterion.bench_function(&format!("load {steps} kept steps"), |bench| {
            bench.iter(|| Pipeline::from_bytes(black_box(&bytes), file).expect("a pipeline"));
        });
    }
}

criterion_group!(benches, judging);
criterion_main!(benches);
