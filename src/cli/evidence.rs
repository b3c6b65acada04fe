//! `repro evidence`.

use std::collections::BTreeSet;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;
use stage_api::Registry;

use super::error::CliError;
use super::{Global, print, print_json, words};
use crate::attest::{Attested, Refusal, attest};
use crate::digest::Digest;
use crate::evidence;
use crate::key::StageKey;
use crate::pipeline::needs::{bytes, size};
use crate::store::Claimed;

/// Write the evidence from which a fresh clone makes the reports without data and without training
///
/// It goes to `reports/evidence/PROFILE/`, to be committed beside the reports: the record of every step, and the bytes
/// that published steps read. `make` uses it as it uses what the cache knows. A published step that reads more than
/// `--largest` is attested by its own result. Look at what it holds before it is committed.
#[derive(Args)]
pub struct Evidence {
    /// Targets or steps; `all` when none is given. Evidence of others is replaced.
    targets: Vec<String>,
    /// Largest result that is kept, file by file in the repository.
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "1 MiB")]
    largest: u64,
}

impl Evidence {
    pub fn run(&self, global: &Global, registry: &Registry) -> Result<ExitCode, CliError> {
        let project = global.project(registry)?;
        let pipeline = project.pipeline()?;
        let targets = project.targets(&self.targets)?;
        let workspace = project.workspace()?;
        let plan = project.plan(&workspace, targets, BTreeSet::new())?;
        let Attested { proofs, by_result } = match attest(pipeline, &workspace, &plan, self.largest) {
            Ok(attested) => attested,
            Err(refusal) => return refused(&refusal, self.largest),
        };
        let folder = evidence::Evidence::folder(pipeline);
        let writer = workspace
            .store()
            .lock(&mut |holder| tell!("waiting for {holder}, which has this cache to itself"))?;
        // Whoever writes evidence of this profile is the one: two at once would take each other's folder away.
        let key = StageKey(Digest::of_kind("repro evidence v1", folder.as_os_str().as_encoded_bytes()));
        let Claimed::Mine(claim) = writer.claim(key)? else {
            let message = format!("{}: another process writes this evidence", folder.display());
            return Err(CliError::Usage {
                message,
                hint: Some("run it again when that one has ended".to_owned()),
            });
        };
        let work = writer.begin_aside(key, claim)?;
        let written = evidence::write(&folder, &proofs, &work.out);
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
        tell!("{}, {} with bytes", words::count(proofs.len(), "record"), words::count(parts, "result"));
        for step in by_result {
            tell!(
                "`{step}` is attested by its own result: what it reads is larger than {} or not here",
                bytes(self.largest)
            );
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Why nothing is written. What is not up to date is stale, as under `--check`.
fn refused(refusal: &Refusal, largest: u64) -> Result<ExitCode, CliError> {
    let (problem, hint) = match refusal {
        Refusal::NotFresh(step) => {
            (format!("step `{step}` is not up to date"), "`repro make` first".to_owned())
        }
        Refusal::Unusable(step, problem) => {
            tell!("error: no evidence is written: the result of step `{step}` cannot be used: {problem}");
            tell!("hint: `repro make {step} --force {step}` builds it again");
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
    tell!("error: no evidence is written: {problem}");
    tell!("hint: {hint}");
    Ok(ExitCode::from(4))
}
