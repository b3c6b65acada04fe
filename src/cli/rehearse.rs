//! `repro rehearse`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Args;
use petgraph::Direction::Incoming;
use petgraph::graph::NodeIndex;
use serde_json::json;
use stage_api::Registry;

use super::console::Console;
use super::error::CliError;
use super::make::stop_on_signals;
use super::resource_args::ResourceArgs;
use super::{Global, format, hints, make_summary, print, print_json};
use crate::make::{MakeOptions, MakeRequest, make};
use crate::pipeline::needs::bytes;
use crate::pipeline::{Pipeline, Rehearsal};
use crate::rehearse::{GPUS, Outcome, REACHED, Rehearsed, Sum, rehearsed, sum};
use crate::run::{Resources, machine};

/// Run a whole profile on stand-ins and estimate the real run.
///
/// The pipeline declares a profile that rehearses another one: the same steps and models, synthetic sources, little work.
/// Its results have a cache of their own. A second rehearsal continues the first.
#[derive(Args)]
pub struct Rehearse {
    #[command(flatten)]
    resource_args: ResourceArgs,
    /// Estimate for another GPU: a name (`A100`) or its peak float32 rate in TFLOP/s (`19.5`).
    #[arg(long, value_name = "GPU", value_parser = gpu)]
    gpu: Vec<Gpu>,
}

#[derive(Clone)]
struct Gpu {
    name: String,
    rate: f64,
}

fn gpu(text: &str) -> Result<Gpu, String> {
    let known = GPUS.iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
    let rate = known.map(|(_, rate)| *rate).or_else(|| text.parse().ok().filter(|rate| *rate > 0.0));
    let names = || GPUS.map(|(name, _)| name).join(", ");
    rate.map(|rate| Gpu { name: text.to_owned(), rate }).ok_or_else(|| {
        format!(
            "the speed of `{text}` is not known; give a number of 10¹² operations a second, or one of {}",
            names()
        )
    })
}

/// The findings of a rehearsal.
struct Found<'a> {
    rehearsal: &'a Rehearsal,
    steps: Vec<Rehearsed>,
    /// By target: what the real run comes to.
    sums: Vec<(String, Sum)>,
    gpus: Vec<Gpu>,
    /// Whether a step ran on a GPU, so that its rate is known.
    is_measured: bool,
    resources: Resources,
    seconds: f64,
}

impl Rehearse {
    pub fn run(&self, global: &Global, registry: &Registry) -> Result<ExitCode, CliError> {
        global.refuse_experiment("rehearse")?;
        let since = Instant::now();
        let (profile, root) = rehearsal_of(global, registry)?;
        let cache = global.cache.clone().unwrap_or_else(|| root.join("cache/rehearsal"));
        let global = &Global {
            file: global.file.clone(),
            profile: Some(profile),
            cache: Some(cache),
            // Only what ran here shows anything.
            no_evidence: true,
            set: Vec::new(),
            sweep: Vec::new(),
            json: global.json,
        };
        hints::repeat_all(global);
        let project = global.project(registry)?;
        let pipeline = project.pipeline()?;
        let Some(rehearsal) = &pipeline.rehearsal else {
            return Err(CliError::usage(format!("the profile `{}` rehearses none", pipeline.profile)));
        };
        let is_left_out = |node: NodeIndex| {
            let name = &pipeline.graph[node].name;
            rehearsal.leaves_out.contains_key(name)
        };
        let nodes: Vec<NodeIndex> =
            pipeline.graph.node_indices().filter(|node| !is_left_out(*node)).collect();
        let targets = nodes.iter().map(|node| pipeline.graph[*node].name.clone()).collect();
        let request = MakeRequest { targets, ..MakeRequest::default() };
        let options = MakeOptions {
            limits: self.resource_args.limits(),
            keep_going: true,
            on_start: Some(&|handle| stop_on_signals(handle, false)),
            ..MakeOptions::default()
        };
        let text = &Global { json: false, ..global.clone() };
        let code = match make(&project, &request, &options, &mut Console::new(false)) {
            Ok(summary) => make_summary::print(text, &project, &request, &summary, since)?,
            Err(error) => make_summary::print_error(text, &request, error)?,
        };

        let workspace = &project.workspace()?;
        let plan = project.plan(workspace, nodes, BTreeSet::new())?;
        let record = |node: NodeIndex| workspace.record(&plan.of(node).key_text.as_ref()?.key());
        let steps = rehearsed(pipeline, &plan, record);
        let resources = self.resource_args.limits().resources(pipeline, None)?;
        let sums = declared(pipeline).into_iter().map(|(target, nodes)| {
            let above = with_all_above(pipeline, nodes);
            (target, sum(pipeline, &plan, &resources, &steps, |node| above.contains(&node)))
        });
        let sums = sums.collect();
        let is_measured = steps.iter().any(|step| step.real.is_some_and(|real| real.gpu_rate.is_some()));
        // A measurement is worth more than an assumption: then others are estimated on request alone.
        let gpus = match self.gpu.is_empty() {
            true if is_measured => Vec::new(),
            true => ["T4", "A100", "H100"].iter().filter_map(|name| gpu(name).ok()).collect(),
            false => self.gpu.clone(),
        };
        let seconds = since.elapsed().as_secs_f64();
        let found = Found { rehearsal, steps, sums, gpus, is_measured, resources, seconds };
        if global.json {
            print_json(&found.json())?
        } else {
            print(&found.text())?
        }
        Ok(code)
    }
}

/// The profile that rehearses the requested one, and the folder of the project. Without a request, the only profile that
/// can be rehearsed.
fn rehearsal_of(global: &Global, registry: &Registry) -> Result<(String, PathBuf), CliError> {
    let project = global.project(registry)?;
    let pipeline = project.pipeline()?;
    let pairs = &pipeline.rehearsals;
    let requested = global.profile.as_deref().filter(|profile| !profile.is_empty());
    let found = pairs.iter().find(|(base, own)| match requested {
        Some(name) => name == base || name == own,
        None => pairs.len() == 1,
    });
    if let Some((_, own)) = found {
        return Ok((own.clone(), pipeline.root.clone()));
    }
    let known: Vec<&str> = pairs.iter().map(|(base, _)| base.as_str()).collect();
    Err(CliError::Usage {
        message: format!("{}: no profile rehearses `{}`", pipeline.file.display(), pipeline.profile),
        hint: Some(match known.as_slice() {
            [] => {
                "a profile with `rehearses: (profile: …)` does; docs/pipeline-ron.md has its form".to_owned()
            }
            known => format!("with --profile, name one of: {}", known.join(", ")),
        }),
    })
}

/// The targets that the file declares, with their steps; `all` first.
fn declared(pipeline: &Pipeline) -> Vec<(String, Vec<NodeIndex>)> {
    let is_step = |target: &str| pipeline.graph.node_weights().any(|step| step.name == target);
    let targets = pipeline.targets.iter().filter(|(target, _)| !is_step(target));
    let mut targets: Vec<_> = targets.map(|(name, nodes)| (name.clone(), nodes.clone())).collect();
    targets.sort_by_key(|(name, _)| (name != "all", name.clone()));
    targets
}

fn with_all_above(pipeline: &Pipeline, mut open: Vec<NodeIndex>) -> BTreeSet<NodeIndex> {
    let mut found = BTreeSet::new();
    while let Some(node) = open.pop() {
        if found.insert(node) {
            open.extend(pipeline.graph.neighbors_directed(node, Incoming));
        }
    }
    found
}

impl Found<'_> {
    fn json(&self) -> serde_json::Value {
        let gpus = |sum: &Sum| -> BTreeMap<&str, f64> {
            self.gpus.iter().map(|gpu| (gpu.name.as_str(), sum.with_gpu(gpu.rate))).collect()
        };
        let sums = self.sums.iter().map(|(target, sum)| {
            json!({
                "target": target,
                "here": sum,
                "seconds_with_measured_gpu": sum.with_measured_gpu(),
                "seconds_with_gpu": gpus(sum),
            })
        });
        json!({
            "profile": self.rehearsal.profile,
            "steps": self.steps,
            "real": sums.collect::<Vec<_>>(),
            "left_out": self.rehearsal.leaves_out.iter().map(|(step, why)| json!({"step": step, "because": why}))
                .collect::<Vec<_>>(),
            "cannot": self.rehearsal.cannot,
        })
    }

    /// A page of Markdown.
    fn text(&self) -> String {
        let count = |outcome| self.steps.iter().filter(|step| step.outcome == outcome).count();
        let most = self.steps.iter().filter_map(|step| step.peak_memory).max().unwrap_or(0);
        let disk: u64 = self.steps.iter().filter_map(|step| step.bytes).sum();
        let mut text = format!(
            "# Rehearsal of the profile `{}`\n\n{}, {} not reached, {} failed; this call took {}. The largest process held {}, \
             the results take {}.\nMachine: {}, {} of memory, GPUs: {}.\n\n",
            self.rehearsal.profile,
            format::count(count(Outcome::Works), "step") + " done",
            count(Outcome::NotReached),
            count(Outcome::Failed),
            format::duration(self.seconds),
            bytes(most),
            bytes(disk),
            format::count(self.resources.cpus, "thread"),
            bytes(machine::memory()),
            match self.resources.gpus.len() {
                0 => "none".to_owned(),
                number => number.to_string(),
            },
        );
        text.push_str(&table(&self.rows()));
        text.push_str("\n## The real run, by this\n\nHere: steps side by side as `make` runs them.");
        if self.is_measured {
            text.push_str(
                " With this machine's GPU: one step after the other, what a GPU can do at the rate that the rehearsal measured, \
                 the rest as here.",
            );
        }
        if !self.gpus.is_empty() {
            text.push_str(&format!(
                " With a named GPU: one step after the other, what a GPU can do at {:.0}% of its greatest float32 rate, which \
                 is an assumption, the rest as here.",
                REACHED * 100.0
            ));
        }
        text.push_str(" Disk is what the results take.\n\n");
        text.push_str(&table(&self.sum_rows()));
        text.push_str("\n## Not rehearsed\n\n");
        for (step, why) in &self.rehearsal.leaves_out {
            text.push_str(&format!("- the step `{step}`: {why}\n"));
        }
        for what in &self.rehearsal.cannot {
            text.push_str(&format!("- {what}\n"));
        }
        text
    }

    fn rows(&self) -> Vec<Vec<String>> {
        let none = || "–".to_owned();
        let head = [
            "step",
            "works",
            "units",
            "time",
            "memory",
            "disk",
            "GPU, 10¹²/s",
            "real units",
            "real time here",
            "real disk",
        ];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        rows.extend(self.steps.iter().map(|step| {
            let outcome = match step.outcome {
                Outcome::Works => "yes",
                Outcome::Failed => "**no**",
                Outcome::NotReached => "not reached",
            };
            let real = step.real.as_ref();
            vec![
                step.step.clone(),
                outcome.to_owned(),
                step.units.map_or_else(none, |units| units.to_string()),
                step.seconds.map_or_else(none, format::duration),
                step.peak_memory.map_or_else(none, bytes),
                step.bytes.map_or_else(none, bytes),
                real.and_then(|real| real.gpu_rate).map_or_else(none, |rate| format!("{rate:.1}")),
                real.and_then(|real| real.units).map_or_else(none, |units| units.to_string()),
                real.map_or_else(none, |real| format::duration(real.seconds)),
                real.map_or_else(none, |real| bytes(real.bytes)),
            ]
        }));
        rows
    }

    fn sum_rows(&self) -> Vec<Vec<String>> {
        let mut head = vec!["target".to_owned(), "steps".to_owned(), "here".to_owned()];
        if self.is_measured {
            head.push("this GPU, measured".to_owned());
        }
        head.extend(self.gpus.iter().map(|gpu| format!("{} ({} · 10¹²/s)", gpu.name, gpu.rate)));
        head.push("disk".to_owned());
        let mut rows = vec![head];
        rows.extend(self.sums.iter().map(|(target, sum)| {
            let mut row = vec![target.clone(), sum.steps.to_string(), format::duration(sum.seconds)];
            if self.is_measured {
                row.push(sum.with_measured_gpu().map_or_else(|| "–".to_owned(), format::duration));
            }
            row.extend(self.gpus.iter().map(|gpu| format::duration(sum.with_gpu(gpu.rate))));
            row.push(bytes(sum.bytes));
            row
        }));
        rows
    }
}

/// A table of Markdown whose columns are aligned in a terminal too.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &[String]| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        format!("| {} |\n", cells.collect::<Vec<_>>().join(" | "))
    };
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        text.push_str(&line(row));
        if number == 0 {
            text.push_str(&line(&widths.iter().map(|width| "-".repeat(*width)).collect::<Vec<_>>()));
        }
    }
    text
}
