//! `claims`: what the authors' README says in numbers, held against their own logs and against this run. Whether a claim
//! holds, does not, or cannot be decided at this sample size follows from intervals, by the rules in [`judge`]. It does not
//! know how a metric is computed.

mod judge;
mod rows;
mod tool;

use stage_api::{Job, Port, Stage, StageError};

use crate::reports::caption::Profile;
use crate::reports::evaluation;
use crate::reports::paper_results::{self, Paper};
use crate::reports::table::{Cell, Column, Table};

pub use tool::CheckClaims;

/// Makes the table of claims.
pub struct Claims;

impl Stage for Claims {
    type Params = Profile;
    const NAME: &'static str = "claims";
    const ABOUT: &'static str =
        "What the paper claims, what its own logs give, what this run gives, and whether it holds";
    const VERSION: u32 = 3;
    const INPUTS: &'static [Port] = &[
        Port::one("published"),
        Port::one("quoted"),
        Port::one("splits"),
        Port::one("vilbert"),
        Port::many("runs"),
    ];

    fn check(&self, profile: &Profile) -> Result<(), String> {
        profile.names.check()
    }

    fn run(&self, profile: &Profile, job: &Job) -> Result<(), StageError> {
        let inputs = job.inputs;
        let port = |name: &str| inputs.one(name).map(Some);
        let paper = Paper::read(port("published")?, port("quoted")?, port("splits")?)?;
        let second = paper_results::read_quantities(inputs.one("vilbert")?)?;
        let runs = evaluation::read("runs", &inputs.all("runs"), &paper)?;
        let profile = &evaluation::named(profile, &runs, &paper);
        let parameters = rows::of_parameters(&paper, &second).map_err(StageError::failed)?;
        Ok(table(&paper, parameters, &runs, profile).write(job.out)?)
    }
}

/// The table's name.
const NAME: &str = "claims";
/// The keys of the columns that name a claim, and of the one that says whether it holds in this run.
const CLAIM: [&str; 2] = ["claim", "dataset"];
const VERDICT: &str = "verdict";

/// The table that begins with the rows `all`.
fn table(paper: &Paper, mut all: Vec<Vec<Cell>>, runs: &evaluation::Runs, profile: &Profile) -> Table {
    let (logs, ours) = ("in its own logs", "in this run");
    let in_group =
        |key: &str, group: &str| Column { group: group.to_owned(), ..Column::words(key, "Verdict") };
    for (dataset, title) in &profile.names.data {
        all.extend(rows::Of { paper, runs, dataset, title }.all());
    }
    Table {
        name: NAME.to_owned(),
        place: 0,
        title: "Claims: what the paper says and what holds".to_owned(),
        caption: format!(
            "The numbers in the authors' README, held against their six training logs and against this run: {}.",
            profile.in_words()
        ),
        columns: vec![
            Column::words(CLAIM[0], "The paper says"),
            Column::words(CLAIM[1], "Data set"),
            Column::words("formula", "Measured as"),
            Column::numbers("logs", logs, "Value"),
            in_group("logs_verdict", logs),
            Column::numbers("value", ours, "Value"),
            in_group(VERDICT, ours),
        ],
        rows: all,
        notes: notes(&profile.names.class(1)),
    }
}

fn notes(positive: &str) -> Vec<String> {
    let close = judge::CLOSE;
    vec![
        "In brackets: 95% intervals. For this run they come from the bootstrap over paired rows, for PE − Full-FT from DeLong's \
         test. The logs have no scores: their intervals come from Hanley and McNeil's formula for independent runs."
            .to_owned(),
        "A count holds if it is the quoted number. A size holds if the interval contains the quoted value, to the quoted \
         digits, and does not hold otherwise. It is undecided if the interval also contains the value of no effect: a gain \
         of 0, or the published share of FC."
            .to_owned(),
        format!(
            "Close: the interval of PE − Full-FT is within ±{close}, the paper's largest gap to one digit; not close: it is \
             outside. Sizes are compared with the paper only on a validation split with as many rows and as many {positive} \
             ones as the paper's; closeness is tested on any split."
        ),
        "The quoted gains are the difference divided by the greater ROC-AUC; the usual formula divides by that of FC and is \
         in the next row. The state of the art is not named: its share in the logs is the quoted one by construction."
            .to_owned(),
    ]
}

#[cfg(test)]
mod tests;
