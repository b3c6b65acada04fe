//! `repro verify`: whether what the cache holds is still what it was, and whether a step gives the same again.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use petgraph::graph::NodeIndex;
use stage_api::Registry;

use super::error::CliError;
use super::resource_args::ResourceArgs;
use super::{Global, format, print, print_json};
use crate::pipeline::needs::bytes;
use crate::plan::Verdict;
use crate::project::Project;
use crate::run::{Subprocess, rerun};
use crate::store::{ContentStore, RerunOutcome, RerunVerdict, Verified};

/// Check the cache for damaged results, or run a step again and compare.
///
/// Hashes the results of the named steps in any profile, or of all steps. Damaged results are removed, and `repro make`
/// builds them again.
#[derive(Args)]
pub struct Verify {
    /// Steps to verify. Default: the whole cache.
    #[arg(value_name = "STEP")]
    steps: Vec<String>,
    /// Run each named step again and compare its output: byte by byte, or within the `tolerance` that the step declares.
    /// The cache stores the verdict.
    #[arg(long, requires = "steps")]
    rerun: bool,
    #[command(flatten)]
    resource_args: ResourceArgs,
}

impl Verify {
    pub fn run(&self, global: &Global, registry: &Registry) -> Result<ExitCode, CliError> {
        let project = global.project(registry)?;
        for step in &self.steps {
            project.step(step)?;
        }
        if self.rerun {
            registry.check_host()?;
            return self.again(global, &project);
        }
        let store = project.workspace()?.store().clone();
        let is_selected =
            |step: &str, _: &str| self.steps.is_empty() || self.steps.iter().any(|name| name == step);
        let terminal = std::io::stderr().is_terminal() && !global.json;
        let verified = store.verify(&is_selected, &|done, all| {
            if terminal && (done == all || done % 16 == 0) {
                use std::io::Write as _;
                let end = if done == all { "\n" } else { "" };
                let _ = write!(std::io::stderr(), "\rhashed {done} of {all} results{end}");
            }
        });
        let put_away = put_away(&store, &verified);
        if global.json {
            print_json(&verified)?;
        } else {
            print_damage(&verified)?;
        }
        put_away?;
        let is_sound = verified.damaged.is_empty() && verified.unreadable.is_empty();
        Ok(if is_sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// Runs the named steps again.
    fn again(&self, global: &Global, project: &Project) -> Result<ExitCode, CliError> {
        let pipeline = project.pipeline()?;
        let workspace = project.workspace()?;
        let nodes =
            self.steps.iter().map(|step| project.step(step)).collect::<Result<Vec<NodeIndex>, _>>()?;
        let plan = project.plan(&workspace, nodes.clone(), Default::default())?;
        for node in &nodes {
            let step = &pipeline.graph[*node];
            let refuse = |problem: &str| CliError::Usage {
                message: format!("step `{}` cannot be verified: {problem}", step.name),
                hint: Some(format!("`repro make {} --force {0}` first", step.name)),
            };
            if *plan.verdict(*node) != Verdict::Fresh {
                return Err(refuse("it is not fresh"));
            }
            let sources = pipeline.graph.neighbors_directed(*node, petgraph::Direction::Incoming);
            let trees = sources.chain([*node]).filter_map(|node| plan.of(node).tree);
            if !trees.into_iter().all(|tree| workspace.store().has_bytes(&tree)) {
                return Err(refuse("its result, or something that it reads, is no longer in the cache"));
            }
        }
        let resources = self.resource_args.limits().resources(pipeline, None)?;
        resources.check_plan(pipeline, &plan)?;
        let executor = Subprocess::this_program()
            .map_err(|error| CliError::usage(format!("this program's file cannot be found: {error}")))?;
        let writer = workspace
            .store()
            .lock(&mut |owner| print_err!("waiting for {owner}, which has this cache to itself"))?;
        let (mut proofs, mut all_same) = (Vec::new(), true);
        for node in nodes {
            let step = &pipeline.graph[node];
            print_err!("running {} again", step.name);
            let compared = rerun::rerun(pipeline, &workspace, &writer, &plan, node, &executor, &resources);
            let outcome =
                compared.map_err(|problem| CliError::usage(format!("step `{}`: {problem}", step.name)))?;
            all_same &= !matches!(outcome, RerunOutcome::Differs { .. });
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let proof = RerunVerdict { when_ms: now.as_millis() as u64, outcome };
            if let Some(text) = &plan.of(node).key_text {
                workspace.store().keep_verdict(&text.key(), &proof)?;
            }
            if global.json {
                proofs.push(serde_json::json!({ "step": step.name, "verdict": proof }));
            } else {
                print(&format!("{}: {}\n", step.name, format::verdict(&proof)))?;
            }
        }
        if global.json {
            print_json(&proofs)?;
        }
        Ok(if all_same { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// Removes damaged results.
fn put_away(store: &ContentStore, verified: &Verified) -> Result<(), CliError> {
    if verified.damaged.is_empty() {
        return Ok(());
    }
    let writer =
        store.lock(&mut |owner| print_err!("waiting for {owner}, which has this cache to itself"))?;
    for damaged in &verified.damaged {
        writer.drop_damaged(&damaged.tree)?;
    }
    Ok(())
}

fn print_damage(verified: &Verified) -> Result<(), CliError> {
    let mut text = String::new();
    let found = verified.damaged.iter().map(|found| ("damaged   ", found));
    for (what, found) in found.chain(verified.unreadable.iter().map(|found| ("unreadable", found))) {
        let steps: Vec<String> =
            found.steps.iter().map(|(step, profile)| format!("{step} ({profile})")).collect();
        text.push_str(&format!("{what}  {}  {}\n", found.tree.short(), steps.join(", ")));
        for problem in &found.problems {
            text.push_str(&format!("            {problem}\n"));
        }
    }
    print(&text)?;
    let hashed = format!("{} with {}", format::count(verified.trees, "result"), bytes(verified.bytes));
    if !verified.unreadable.is_empty() {
        print_err!(
            "error: {} of {hashed} cannot be read; nothing is known of them",
            verified.unreadable.len()
        );
        print_err!("hint: set their permissions, or ask the owner of the files");
    }
    match verified.damaged.len() {
        0 if !verified.unreadable.is_empty() => {}
        0 => print_err!("{hashed}: all are what they were"),
        damaged => {
            print_err!("error: {damaged} of {hashed} are damaged and were put away");
            print_err!("hint: `repro make` makes them again where they are needed");
        }
    }
    Ok(())
}
