//! `count-words`: the number of words in a text file.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stage_api::{Job, Port, Stage, StageError};

/// The stage.
pub struct CountWords;

/// Its params.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Shorter words do not count.
    #[serde(default)]
    shortest: usize,
}

impl Stage for CountWords {
    type Params = Params;
    const NAME: &'static str = "count-words";
    const ABOUT: &'static str = "How many words a text has";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Port] = &[Port::one("text")];

    fn run(&self, params: &Params, job: &Job) -> Result<(), StageError> {
        let path = job.inputs.one("text")?;
        let text = std::fs::read_to_string(path).map_err(|error| StageError::input("text", path, error))?;
        let counts = text.split_whitespace().filter(|word| word.chars().count() >= params.shortest);
        Ok(std::fs::write(job.out.join("count.txt"), format!("{}\n", counts.count()))?)
    }
}
