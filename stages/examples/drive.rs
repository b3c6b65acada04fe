//! Runs one stage by hand: drive STAGE PARAMS OUT port=path…
fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let registry = stages::registry();
    let stage = registry.get(&args[0]).expect("stage");
    let inputs: Vec<(&str, &std::path::Path)> = args[3..].iter().map(|a| a.split_once('=').unwrap()).map(|(p, f)| (p, std::path::Path::new(f))).collect();
    let start = std::time::Instant::now();
    let done = stage_api::testing::run_stage(stage, &args[1], &inputs, std::path::Path::new(&args[2])).unwrap_or_else(|e| panic!("{e}"));
    for (name, step, value) in done.scalars.lock().unwrap().iter() { if std::env::var("Q").is_err() { println!("{name} {step} {value:.4}"); } }
    println!("{} took {:.2} s", args[0], start.elapsed().as_secs_f64());
}
