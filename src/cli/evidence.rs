//! `repro evidence`.

use std::collections::BTreeSet;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;
use stage_api::Registry;

use super::error::CliError;
use super::{Global, format, print, print_json};
use crate::digest::Digest;
use crate::evidence;
use crate::evidence::{Collected, Refusal, collect};
use crate::key::StageKey;
use crate::pipeline::needs::{bytes, size};
use crate::store::TryClaim;

/// Store records and small results in the repository, so that a clone can build the reports.
///
/// Writes `reports/evidence/PROFILE/`: the record of every step and the bytes that published steps read. `make` in a fresh
/// clone uses it without data and without training. Of a published step that reads more than `--largest`, its own result is
/// stored. Check the content before you commit it.
#[derive(Args)]
pub struct Evidence {
    /// Targets or steps. Default: `all`. Replaces evidence of other steps.
    targets: Vec<String>,
    /// Store results up to this size in the repository.
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "1 MiB")]
    largest: u64,
}

impl Evidence {
    pub fn run(&self, global: &Global, registry: &Registry) -> Result<ExitCode, CliError> {
        global.refuse_experiment("evidence")?;
        let project = global.project(registry)?;
        let pipeline = project.pipeline()?;
        let targets = project.targets(&self.targets)?;
        let workspace = project.workspace()?;
        let plan = project.plan(&workspace, targets, BTreeSet::new())?;
        let Collected { proofs, by_result } = match collect(pipeline, &workspace, &plan, self.largest) {
            Ok(attested) => attested,
            Err(refusal) => return refused(&refusal, self.largest),
        };
        let folder = evidence::Evidence::folder(pipeline);
        let writer = workspace
            .store()
            .lock(&mut |owner| print_err!("waiting for {owner}, which has this cache to itself"))?;
        // One process at a time writes the evidence of a profile: two would remove each other's folder.
        let key = StageKey(Digest::of_kind("repro evidence v1", folder.as_os_str().as_encoded_bytes()));
        let TryClaim::Acquired(claim) = writer.claim(key)? else {
            let message = format!("{}: another process writes this evidence", folder.display());
            return Err(CliError::Usage {
                message,
                hint: Some("run it again when that one has ended".to_owned()),
            });
        };
        let work = writer.begin_aside(key, claim)?;
        let written = evidence::replace(&folder, &proofs, &work.out);
        // The next run clears what cannot be cleared now.
        let _ = writer.discard(work);
        written?;
        let parts = proofs.iter().map(|proof| proof.parts.len()).sum::<usize>();
        if global.json {
            print_json(
                &json!({"folder": folder, "records": proofs.len(), "results": parts, "by_result": by_result}),
            )?;
        } else {
            print(&format!("{}\n", folder.display()))?;
        }
        print_err!(
            "{}, {} with bytes",
            format::count(proofs.len(), "record"),
            format::count(parts, "result")
        );
        for step in by_result {
            print_err!(
                "`{step}` is attested by its own result: what it reads is larger than {} or not here",
                bytes(self.largest)
            );
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The reason why nothing is written. A step that is not up to date is stale, as under `--check`.
fn refused(refusal: &Refusal, largest: u64) -> Result<ExitCode, CliError> {
    let (problem, hint) = match refusal {
        Refusal::NotFresh(step) => {
            (format!("step `{step}` is not up to date"), "`repro make` first".to_owned())
        }
        Refusal::Unusable(step, problem) => {
            print_err!(
                "error: no evidence is written: the result of step `{step}` cannot be used: {problem}"
            );
            print_err!("hint: `repro make {step} --force {step}` builds it again");
            return Ok(ExitCode::FAILURE);
        }
        Refusal::TooLarge(step, size) => {
            let message = format!(
                "step `{step}` reads more than {}, and what it wrote takes {}",
                bytes(largest),
                bytes(*size)
            );
            return Err(CliError::Usage { message, hint: Some(format!("`--largest {}`", bytes(*size))) });
        }
    };
    print_err!("error: no evidence is written: {problem}");
    print_err!("hint: {hint}");
    Ok(ExitCode::from(4))
}
