//! `repro accept STEP --because TEXT`.

use std::collections::BTreeSet;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;
use stage_api::Registry;

use super::context::Context;
use super::error::CliError;
use super::{Global, print, print_json};
use crate::accept::{Accepted, Refusal, Statement, accept};
use crate::plan::in_order;

/// Records that a change of code does not change a step's result: its last result stands for the new key too.
///
/// A raised VERSION of the stage is accepted as it is; changed params and inputs only where they are named. The
/// record keeps who accepted it and why, and `why`, `show` and `status` say so.
#[derive(Args)]
pub struct Accept {
    /// The steps.
    #[arg(required = true)]
    steps: Vec<String>,
    /// Why the result is the same.
    #[arg(long, value_name = "TEXT")]
    because: String,
    /// A changed param that is accepted too.
    #[arg(long, value_name = "NAME")]
    param: Vec<String>,
    /// An input, by its port, whose change is accepted too.
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
        let context = Context::load(global, registry)?;
        let word = Statement {
            because: self.because.trim().to_owned(),
            who: person(),
            params: self.param.iter().cloned().collect(),
            inputs: self.input.iter().cloned().collect(),
        };
        let mut nodes = Vec::new();
        for name in &self.steps {
            nodes.push(context.step(name)?);
        }
        let mut tell = |owner: &str| print_err!("waiting for {owner}, which writes the same cache");
        let writer = context.workspace()?.store().lock(&mut tell)?;
        let mut said = Vec::new();
        // Each after what it reads: an accepted step gives the next one its inputs.
        let order = in_order(&context.pipeline);
        nodes.sort_by_key(|node| order.iter().position(|other| other == node));
        let mut refused = None;
        let named = word.params.iter().map(|name| format!("param {name}"));
        // What was named and has not been met in any step yet.
        let mut unmet: BTreeSet<String> =
            named.chain(word.inputs.iter().map(|port| format!("input {port}"))).collect();
        let alone = nodes.len() == 1;
        for node in nodes {
            let workspace = context.workspace()?;
            let plan = context.plan(&workspace, vec![node], BTreeSet::new())?;
            let step = &context.pipeline.graph[node].name;
            let record = match accept(&context.pipeline, &workspace, &plan, node, &word) {
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
                    "`{step}`: the result of key {} stands for key {} too\n",
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

/// Who runs this program: the login name, and the machine.
fn person() -> String {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
    let name = set("USER").or_else(|| set("LOGNAME"));
    let name = name.unwrap_or_else(|| format!("user {}", rustix::process::getuid().as_raw()));
    format!("{name}@{}", rustix::system::uname().nodename().to_string_lossy())
}
