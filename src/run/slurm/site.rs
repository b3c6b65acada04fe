//! What a cluster wants to be told beside a step's needs: partitions, times, flags; and which steps stay on this
//! machine. A file in RON says it, as it differs from site to site and is no part of the pipeline.

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

use crate::pipeline::{fits, needs};

/// What a site file says.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Site {
    /// What every job gets.
    job: Rule,
    /// What the jobs of some steps get beside that: by the name of a stage, or of steps, where `*` stands for any
    /// characters. The later goes over the earlier.
    steps: Vec<(String, Rule)>,
    /// The steps that run on this machine, named in the same way.
    here: Vec<String>,
    /// How many seconds apart the queue is looked at.
    poll: u64,
}

/// What to ask of Slurm.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rule {
    /// `--partition`.
    pub partition: Option<String>,
    /// `--time`, as Slurm writes it: `2-00:00:00`.
    pub time: Option<String>,
    /// `--mem` of steps that do not say how much they need, in bytes.
    #[serde(deserialize_with = "size")]
    pub memory: Option<u64>,
    /// Further options of `sbatch`, as they stand.
    pub flags: Vec<String>,
}

impl Default for Site {
    fn default() -> Self {
        Self { job: Rule::default(), steps: Vec::new(), here: Vec::new(), poll: 5 }
    }
}

fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    text.map(|text| needs::size(&text)).transpose().map_err(de::Error::custom)
}

impl Site {
    /// Reads a site file.
    ///
    /// # Errors
    /// A sentence with the place of what is wrong.
    pub fn load(file: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(file)
            .map_err(|error| format!("{}: cannot be read: {error}", file.display()))?;
        Self::parse(&text).map_err(|problem| format!("{}:{problem}", file.display()))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let options =
            ron::Options::default().with_default_extension(ron::extensions::Extensions::IMPLICIT_SOME);
        let site: Self = options.from_str(text).map_err(|error| {
            let at = error.span.start;
            format!("{}:{}: {}", at.line, at.col, error.code)
        })?;
        if site.poll == 0 {
            return Err(" poll: the queue is looked at every second at most; write 1 or more".to_owned());
        }
        Ok(site)
    }

    /// Whether a step runs on this machine.
    pub fn is_here(&self, stage: &str, step: &str) -> bool {
        self.here.iter().any(|pattern| pattern == stage || fits(pattern, step))
    }

    /// What the job of a step gets: flags of all that fits it, of the rest the last that is said.
    pub(super) fn rule(&self, stage: &str, step: &str) -> Rule {
        let fitting = self.steps.iter().filter(|(pattern, _)| pattern == stage || fits(pattern, step));
        fitting.fold(self.job.clone(), |mut whole, (_, rule)| {
            whole.partition = rule.partition.clone().or(whole.partition);
            whole.time = rule.time.clone().or(whole.time);
            whole.memory = rule.memory.or(whole.memory);
            whole.flags.extend(rule.flags.iter().cloned());
            whole
        })
    }

    /// How far apart the queue is looked at.
    pub(super) fn poll(&self) -> Duration {
        Duration::from_secs(self.poll)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_a_step_goes_over_what_is_said_of_all() {
        let site = Site::parse(
            r#"(job: (partition: "cpu", memory: "1 GiB", flags: ["--account=lab"]),
                steps: [("train", (partition: "gpu", time: "1-00:00:00")), ("hmd-*", (flags: ["--nice"]))],
                here: ["fetch", "table-*"])"#,
        )
        .unwrap();
        let rule = site.rule("train", "hmd-pe-train");
        assert_eq!((rule.partition.as_deref(), rule.time.as_deref()), (Some("gpu"), Some("1-00:00:00")));
        assert_eq!((rule.memory, rule.flags), (Some(1 << 30), vec!["--account=lab".into(), "--nice".into()]));
        assert_eq!(site.rule("evaluate", "mmh").partition.as_deref(), Some("cpu"));
        assert!(site.is_here("fetch", "coco") && site.is_here("results", "table-2"));
        assert!(!site.is_here("train", "fetch-train"));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        for (text, told) in [
            ("(jobs: ())", "1:6: Unexpected field named `jobs`"),
            ("(job: (\n memory: \"4\"))", "2:"),
            ("(poll: 0)", "write 1 or more"),
        ] {
            let problem = Site::parse(text).unwrap_err();
            assert!(problem.contains(told), "{text}: {problem}");
        }
    }
}
