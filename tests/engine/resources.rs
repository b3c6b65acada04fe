//! Resources of steps: never more than the total, never two steps on one GPU, and the errors when there is not
//! enough.

use std::collections::BTreeMap;

use proptest::prelude::*;
use repro::pipeline::needs::{Gpus, Needs};
use repro::run::{Gpu, Resources};
use serde_json::Value;

use super::support::TestSpace;

fn needs() -> impl Strategy<Value = Needs> {
    let gpu = prop_oneof![Just(0.0), Just(0.25), Just(0.4), Just(0.5), Just(1.0), Just(2.0)];
    let memory_of_gpu = prop_oneof![3 => Just(0), 1 => 1..30u64];
    (1..6usize, 0..5u64, gpu, memory_of_gpu, proptest::option::of(1..3usize)).prop_map(
        |(cpu, memory, gpu, gpu_memory, net)| Needs {
            cpu,
            memory,
            gpu: Gpus::new(if gpu_memory > 0 { 0.0 } else { gpu }).unwrap(),
            gpu_memory,
            pools: net.map(|places| ("net".to_owned(), places)).into_iter().collect(),
        },
    )
}

proptest! {
    /// Steps start and end at random. The test counts what is in use independently of the engine.
    #[test]
    fn no_resource_is_ever_oversubscribed(
        (cpus, memory, gpus, net) in (1..5usize, 0..6u64, 0..4usize, 1..4usize),
        moves in proptest::collection::vec((needs(), any::<proptest::sample::Index>(), any::<bool>()), 1..80),
    ) {
        let whole = Resources {
            cpus,
            memory,
            // One GPU of unknown memory, then smaller and smaller ones.
            gpus: (0..gpus)
                .map(|number| Gpu { memory: 24u64.checked_div(number as u64), ..Gpu::whole(format!("GPU-{number}")) })
                .collect(),
            gpus_for_programs: false,
            pools: BTreeMap::from([("net".to_owned(), net)]),
            cluster: None,
        };
        let mut free = whole.clone();
        let mut running = Vec::new();
        for (needs, which, starts) in moves {
            if !starts && !running.is_empty() {
                free.release(running.swap_remove(which.index(running.len())));
                continue;
            }
            let taken = free.acquire(&needs, &whole);
            if running.is_empty() {
                prop_assert_eq!(taken.is_none(), whole.refuses(&needs).is_some(), "alone, it fits or never will");
            }
            running.extend(taken);
            prop_assert!(running.iter().map(|share| share.threads).sum::<usize>() <= cpus);
            prop_assert!(running.iter().map(|share| share.memory).sum::<u64>() <= memory);
            prop_assert!(running.iter().filter_map(|share| share.pools.get("net")).sum::<usize>() <= net);
            for gpu in &whole.gpus {
                let on_it = running.iter().flat_map(|share| &share.gpus).filter(|taken| taken.id == gpu.id);
                prop_assert!(on_it.map(|taken| taken.thousandths).sum::<u32>() <= Gpus::ONE, "{}", gpu.id);
            }
        }
        running.into_iter().for_each(|share| free.release(share));
        prop_assert_eq!(free, whole, "what is given back is all there was");
    }
}

fn events(out: &str) -> Vec<Value> {
    out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The largest number of concurrent steps, in total and on one GPU.
fn crowds(events: &[Value]) -> (usize, usize) {
    let (mut running, mut most, mut most_on_one) = (BTreeMap::new(), 0, 0);
    for event in events {
        let step = event["step"].as_str().unwrap_or_default().to_owned();
        match event["event"].as_str() {
            Some("started") => drop(running.insert(step, event["gpus"].as_array().cloned().unwrap())),
            Some("finished" | "failed") => drop(running.remove(&step)),
            _ => {}
        }
        most = most.max(running.len());
        let ids: Vec<&Value> = running.values().flatten().collect();
        let on_one = ids.iter().map(|id| ids.iter().filter(|other| *other == id).count()).max();
        most_on_one = most_on_one.max(on_one.unwrap_or(0));
    }
    (most, most_on_one)
}

fn six(needs: &str) -> TestSpace {
    let step =
        |n| format!("(name: \"s{n}\", stage: \"join\", params: (text: \"{n}\", ms: 120), needs: ({needs})),");
    TestSpace::new(&(0..6).map(step).collect::<String>())
}

#[test]
fn a_gpu_belongs_to_one_step_unless_steps_take_shares() {
    let run = six("gpu: 1").run(&["make", "-j", "6", "--gpus", "0,1", "--json"]).expect(0);
    assert_eq!(crowds(&events(&run.out)), (2, 1));
    let run = six("gpu: 0.5").run(&["make", "-j", "6", "--gpus", "0,1", "--json"]).expect(0);
    assert_eq!(crowds(&events(&run.out)), (4, 2));
    let run = six("gpu: 1").run(&["make", "-j", "6", "--gpus", "none", "--json"]).expect(0);
    assert_eq!(crowds(&events(&run.out)).1, 0, "without a GPU they run on the CPU");
}

#[test]
fn steps_with_gpu_memory_share_a_gpu() {
    let make = |needs: &str, gpus: &str| {
        let space = six(needs);
        // A replacement for `nvidia-smi`: a GPU of 24 GiB and one of 8 GiB.
        space.write("bin/nvidia-smi", "#!/bin/sh\necho '0, GPU-aa, 24576'\necho '1, GPU-bb, 8192'\n");
        let file = space.path("bin/nvidia-smi");
        std::fs::set_permissions(file, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let path = format!("{}:{}", space.path("bin").display(), std::env::var("PATH").unwrap());
        let args = ["make", "-j", "6", "--gpus", gpus, "--json"];
        super::process::finished(space.command(&args).env("PATH", path).output().unwrap())
    };
    // Three on the large one, one on the small one.
    let run = make("gpu_memory: \"7 GiB\"", "0,GPU-bb").expect(0);
    assert_eq!(crowds(&events(&run.out)), (4, 3));
    let run = make("gpu_memory: \"9 GiB\"", "0,1").expect(0);
    assert_eq!(crowds(&events(&run.out)), (2, 2));
    let run = make("gpu_memory: \"9 GiB\"", "GPU-unknown").expect(0);
    assert_eq!(crowds(&events(&run.out)), (1, 1), "one whose memory is not known is not shared");
    let run = make("gpu_memory: \"25 GiB\"", "0,1").expect(2);
    assert!(
        run.err.contains("it needs 25.0 GiB of a GPU's memory; the largest GPU here has 24.0 GiB"),
        "{}",
        run.err
    );
    let run = make("gpu_memory: \"1 GiB\", gpu: 1", "0").expect(2);
    assert!(run.err.contains("either `gpu` or `gpu_memory`"), "{}", run.err);
}

#[test]
fn memory_and_declared_pools_limit_concurrent_steps() {
    let run = six("memory: \"2 GiB\"").run(&["make", "-j", "6", "--memory", "5 GiB", "--json"]).expect(0);
    assert_eq!(crowds(&events(&run.out)).0, 2);
    let space = six("net: 1");
    let text = space.read("pipeline.ron");
    space.write("pipeline.ron", &text.replacen("steps:", "pools: {\"net\": 3}, steps:", 1));
    let run = space.run(&["make", "-j", "6", "--json"]).expect(0);
    assert_eq!(crowds(&events(&run.out)).0, 3);
}

#[test]
fn gpus_are_named_as_the_environment_names_them() {
    let space = TestSpace::new(
        r#"(name: "on", stage: "trouble", params: (how: "gpus"), needs: (gpu: 1)),
           (name: "off", stage: "trouble", params: (how: "gpus "), inputs: {"in": ["on"]}),"#,
    );
    let seen = |step: &str| space.run(&["log", step]).expect(0).out;
    let make = |gpus: &str, args: &[&str]| {
        let args = [&["make", "--force", "on", "--force", "off"], args].concat();
        super::process::finished(space.command(&args).env("CUDA_VISIBLE_DEVICES", gpus).output().unwrap())
    };
    make("MIG-aa/1/0,GPU-bb", &[]).expect(0);
    assert_eq!((seen("on").as_str(), seen("off").as_str()), ("[MIG-aa/1/0]\n", "[]\n"));
    make("3,5", &["--gpus", "5"]).expect(0);
    assert_eq!(seen("on"), "[5]\n");
    let run = make("3,5", &["--gpus", "0"]).expect(2);
    assert!(run.err.contains("CUDA_VISIBLE_DEVICES does not allow `0`"), "{}", run.err);
    assert!(run.err.contains("hint: it allows 3,5"), "{}", run.err);
}

#[test]
fn a_step_that_needs_more_than_the_machine_has_is_an_error_before_any_step_runs() {
    let space = TestSpace::new(
        r#"(name: "first", stage: "join"),
           (name: "large", stage: "join", params: (text: "2"), needs: (memory: "8 GiB", gpu: 2)),"#,
    );
    let run = space.run(&["make", "--memory", "4 GiB"]).expect(2);
    let what = "pipeline.ron:4: step `large`: it needs 8.0 GiB of memory; the limit here is 4.0 GiB";
    assert!(run.err.contains(what) && run.err.contains("hint: "), "{}", run.err);
    let run = space.run(&["make", "--memory", "8 GiB", "--gpus", "7"]).expect(2);
    assert!(run.err.contains("it needs 2 GPUs, but this machine has 1 (7)"), "{}", run.err);
    assert!(!space.path("cache").exists(), "nothing began");
    space.run(&["make", "--memory", "8 GiB", "--gpus", "none"]).expect(0);
}

#[test]
fn a_pool_of_size_0_stops_a_run_before_it_starts() {
    let steps = r#"
        (name: "data", stage: "join", params: (text: "a")),
        (name: "train", stage: "join", inputs: {"in": ["data"]}, needs: (gpu: 1)),
        (name: "table", stage: "join", inputs: {"in": ["train"]}),
    "#;
    let space = TestSpace::new(steps);
    let run = space.run(&["make", "--deny-pool", "gpu"]).expect(4);
    assert!(run.err.contains("error: --deny-pool gpu: 1 step"), "{}", run.err);
    assert!(run.err.contains("`train`: it waits for `data`: no earlier run of it is known"), "{}", run.err);
    assert!(!space.path("cache").exists(), "nothing ran, not even what needs no GPU");
    space.run(&["make", "data", "--deny-pool", "gpu"]).expect(0);
    space.make().expect(0);
    space.run(&["make", "--deny-pool", "gpu"]).expect(0);
    space.steps(&steps.replace("\"a\"", "\"b\""));
    let run = space.run(&["make", "--deny-pool", "gpu", "--json"]).expect(4);
    let denied = &events(&run.out)[0];
    assert_eq!((&denied["event"], &denied["steps"][0]["step"]), (&"denied".into(), &"train".into()));
    let run = space.run(&["make", "--deny-pool", "gpus"]).expect(2);
    assert!(run.err.contains("has no pool `gpus`") && run.err.contains("did you mean `gpu`?"), "{}", run.err);
}

#[test]
fn wrong_limits_are_errors_with_the_valid_values() {
    let space = TestSpace::new("(name: \"a\", stage: \"join\"),");
    for (args, expected) in [
        (["--memory", "8"], "write a number with its unit"),
        (["--memory", "lots"], "`lots` is no size"),
        (["--gpus", "0,x"], "`x` names no GPU"),
        (["--gpus", "0,0"], "`0` is named twice"),
        (["--gpus", ""], "`` names no GPU"),
        (["--jobs", "0"], "0 is not in 1..=65535"),
        (["--deny-pool", "net"], "has no pool `net`"),
    ] {
        let run = space.run(&[&["make"], &args[..]].concat()).expect(2);
        assert!(run.err.contains(expected), "{args:?}: {}", run.err);
    }
}
