//! `repro accept STEP --because TEXT`.

use std::collections::BTreeSet;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;
use stage_api::Registry;

use super::error::CliError;
use super::{Global, print, print_json};
use crate::accept::{Accepted, Refusal, Statement, accept};
use crate::plan::in_order;

/// Keep a step's last result after a change that does not affect it.
///
/// The last result becomes the result of the new key. A raised VERSION of the stage is accepted; changed params and inputs
/// only where they are named. The record stores who accepted it and why, and `why`, `show` and `status` print that.
#[derive(Args)]
pub struct Accept {
    /// Steps whose last result is accepted.
    #[arg(required = true)]
    steps: Vec<String>,
    /// The reason why the result is the same; it is recorded.
    #[arg(long, value_name = "TEXT")]
    because: String,
    /// Also accept the change of this param.
    #[arg(long, value_name = "NAME")]
    param: Vec<String>,
    /// Also accept the change of this input, named by its port.
    #[arg(long, value_name = "PORT")]
    input: Vec<String>,
}

impl Accept {
    pub fn run(&self, global: &Global, registry: &Registry) -> Result<ExitCode, CliError> {
        if self.because.trim().is_empty() {
            return Err(CliError::Usage {
                message: "--because is empty".to_owned(),
                hint: Some("say in a sentence why the result is the same; it is kept and shown".to_owned()),
            });
        }
        let project = global.project(registry)?;
        let pipeline = project.pipeline()?;
        let word = Statement {
            because: self.because.trim().to_owned(),
            who: person(),
            params: self.param.iter().cloned().collect(),
            inputs: self.input.iter().cloned().collect(),
        };
        let mut nodes = Vec::new();
        for name in &self.steps {
            nodes.push(project.step(name)?);
        }
        let mut on_wait = |owner: &str| print_err!("waiting for {owner}, which writes the same cache");
        let writer = project.workspace()?.store().lock(&mut on_wait)?;
        let mut said = Vec::new();
        // Each after what it reads: an accepted step gives the next one its inputs.
        let order = in_order(pipeline);
        nodes.sort_by_key(|node| order.iter().position(|other| other == node));
        let mut refused = None;
        let named = word.params.iter().map(|name| format!("param {name}"));
        // What was named and has not been met in any step yet.
        let mut unmet: BTreeSet<String> =
            named.chain(word.inputs.iter().map(|port| format!("input {port}"))).collect();
        let alone = nodes.len() == 1;
        for node in nodes {
            let workspace = project.workspace()?;
            let plan = project.plan(&workspace, vec![node], BTreeSet::new())?;
            let step = &pipeline.graph[node].name;
            let record = match accept(pipeline, &workspace, &plan, node, &word) {
                Ok(Accepted { idle, .. }) if alone && !idle.is_empty() => {
                    let idle = idle.into_iter().collect::<Vec<_>>().join(", ");
                    refused = Some(CliError::Usage {
                        message: format!(
                            "step `{step}` is not accepted: {idle} did not change; leave it out"
                        ),
                        hint: Some(format!("`repro why {step}` shows what changed")),
                    });
                    break;
                }
                // Of several steps each need not have all that is named.
                Ok(Accepted { record, idle }) => {
                    for idle in &idle {
                        print_err!("`{step}`: {idle} did not change; the rest is accepted");
                    }
                    unmet.retain(|name| idle.contains(name));
                    record
                }
                Err(Refusal::Fresh) => {
                    print_err!("`{step}` is fresh: there is nothing to accept");
                    continue;
                }
                Err(refusal) => {
                    refused = Some(CliError::Usage {
                        message: format!("step `{step}` is not accepted: {refusal}"),
                        hint: Some(format!("`repro why {step}` shows what changed")),
                    });
                    break;
                }
            };
            writer.keep_record(&record)?;
            said.push((step, record));
        }
        if global.json {
            let said: Vec<_> =
                said.iter().map(|(step, record)| json!({"step": step, "record": record})).collect();
            print_json(&said)?;
        } else {
            for (step, record) in &said {
                let from = record.accepted.as_ref().map(|a| a.from.to_string()).unwrap_or_default();
                let key = record.key_text.key().to_string();
                print(&format!(
                    "`{step}`: the result of key {} is now also that of key {}\n",
                    &from[..12.min(from.len())],
                    &key[..12]
                ))?;
            }
        }
        if refused.is_none() && !alone && !said.is_empty() && !unmet.is_empty() {
            let unmet = unmet.into_iter().collect::<Vec<_>>().join(", ");
            print_err!("warning: {unmet} changed in none of these steps");
        }
        // What was accepted before stays and was said.
        refused.map_or(Ok(ExitCode::SUCCESS), Err)
    }
}

/// The user who runs this program: login name and machine.
fn person() -> String {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
    let name = set("USER").or_else(|| set("LOGNAME"));
    let name = name.unwrap_or_else(|| format!("user {}", rustix::process::getuid().as_raw()));
    format!("{name}@{}", rustix::system::uname().nodename().to_string_lossy())
}
