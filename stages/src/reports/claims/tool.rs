//! `repro claims`: shows the claims, and under `--check` whether one that held no longer does. It does not know how a claim
//! is judged.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use clap::Args;
use stage_api::{Answer, StageError, Tool, ToolContext};

use super::judge::Verdict;
use super::{CLAIM, NAME, VERDICT};
use crate::reports::table::{Cell, Table};

/// The step that makes the table.
const STEP: &str = "claims";

/// The tool.
pub struct CheckClaims;

/// Show which of the paper's claims hold
///
/// With `--check` each claim is held against the committed reports: the program ends with code 4 when one that held there
/// no longer does. The baseline is reports/PROFILE/tables/claims.json of the git revision HEAD, or the file that
/// `--against` names.
#[derive(Args)]
pub struct ClaimsArgs {
    /// End with code 4 when a claim that held no longer does.
    #[arg(long)]
    check: bool,
    /// What `--check` compares with, instead of the committed one.
    #[arg(long, value_name = "FILE", requires = "check")]
    against: Option<String>,
}

impl Tool for CheckClaims {
    type Args = ClaimsArgs;
    const NAME: &'static str = "claims";

    fn run(&self, args: &ClaimsArgs, context: &ToolContext) -> Result<Answer, StageError> {
        let table = Table::read(&context.results.output(STEP)?.join(format!("{NAME}.json")))?;
        let mut json = serde_json::to_value(&table).map_err(StageError::failed)?;
        let mut text = table.drawn(context.columns);
        let mut stale = false;
        if args.check {
            let (whence, bytes) = match &args.against {
                Some(path) => (path.clone(), read(Path::new(path))?),
                None => committed(context.results.root(), context.results.profile())?,
            };
            let before: Table = serde_json::from_slice(&bytes)
                .map_err(|error| StageError::failed(format!("{whence} is not a table of claims: {error}")))?;
            let lost = lost(&verdicts(&before, &whence)?, &verdicts(&table, STEP)?);
            text += "\n";
            for (claim, now) in &lost {
                text += &format!("held in {whence} and does not now: {claim}: {now}\n");
            }
            if lost.is_empty() {
                text += &format!("every claim that held in {whence} still holds\n");
            }
            stale = !lost.is_empty();
            json["lost"] = lost.into_keys().collect();
        }
        let json = serde_json::to_string_pretty(&json).map_err(StageError::failed)?;
        Ok(Answer { text, json, stale })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, StageError> {
    fs::read(path).map_err(|error| StageError::Params(format!("--against {}: {error}", path.display())))
}

/// The committed table of claims and what to call it.
fn committed(root: &Path, profile: &str) -> Result<(String, Vec<u8>), StageError> {
    let name = format!("HEAD:./reports/{profile}/tables/{NAME}.json");
    let found = Command::new("git").arg("-C").arg(root).args(["show", &name]).output();
    let found = found.map_err(|error| StageError::failed(format!("`git` cannot be run: {error}")))?;
    if found.status.success() {
        return Ok((name, found.stdout));
    }
    let stderr = String::from_utf8_lossy(&found.stderr);
    Err(StageError::Params(format!(
        "there is nothing to check against: `git show {name}`: {}; commit the reports, or name a file with `--against`",
        stderr.trim()
    )))
}

/// Each claim with its verdict.
fn verdicts(table: &Table, whence: &str) -> Result<BTreeMap<String, String>, StageError> {
    let place = |key: &str| {
        table.columns.iter().position(|column| column.key == key).ok_or_else(|| {
            StageError::failed(format!("{whence} is not a table of claims: it has no column `{key}`"))
        })
    };
    let (names, verdict) = ([place(CLAIM[0])?, place(CLAIM[1])?], place(VERDICT)?);
    let words = |row: &[Cell], place: usize| row.get(place).map(Cell::shown).unwrap_or_default();
    Ok(table
        .rows
        .iter()
        .map(|row| {
            let name: Vec<String> = names.iter().map(|place| words(row, *place)).collect();
            (name.join(", "), words(row, verdict))
        })
        .collect())
}

/// The claims that held before and do not now, each with its verdict now.
fn lost(before: &BTreeMap<String, String>, now: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let holds = |verdict: &str| verdict == Verdict::Holds.words();
    let held = before.iter().filter(|(_, verdict)| holds(verdict));
    held.filter_map(|(claim, _)| match now.get(claim) {
        Some(verdict) if holds(verdict) => None,
        Some(verdict) => Some((claim.clone(), verdict.clone())),
        None => Some((claim.clone(), "it is gone".to_owned())),
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_held_and_does_not_is_lost_and_nothing_else() {
        let of = |verdicts: [(&str, Verdict); 4]| {
            verdicts.map(|(claim, verdict)| (claim.to_owned(), verdict.words().to_owned())).into()
        };
        use Verdict::{Fails, Holds, Open};
        let before = of([("a", Holds), ("b", Holds), ("c", Open), ("d", Holds)]);
        let now = of([("a", Holds), ("b", Open), ("c", Fails), ("e", Holds)]);
        let lost = lost(&before, &now);
        assert_eq!(lost.keys().collect::<Vec<_>>(), ["b", "d"]);
        assert_eq!(lost["b"], "undecided at this sample size");
    }
}
