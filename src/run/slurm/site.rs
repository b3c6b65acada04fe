//! The site file: settings of a cluster in addition to a step's needs (partitions, times, flags), and the steps that
//! stay on this machine. It is RON and not part of the pipeline, because it differs between sites.

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

use crate::pipeline::{fits, needs};

/// The content of a site file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Site {
    /// The settings of every job.
    job: Rule,
    /// Settings for the jobs of some steps, by the name of a stage or of steps, where `*` matches any characters.
    /// Later entries override earlier ones.
    steps: Vec<(String, Rule)>,
    /// The steps that run on this machine, by the same kind of names.
    here: Vec<String>,
    /// The time between two looks at the queue, in seconds.
    poll: u64,
}

/// The options for Slurm.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rule {
    /// `--partition`.
    pub partition: Option<String>,
    /// `--time`, as Slurm writes it: `2-00:00:00`.
    pub time: Option<String>,
    /// `--mem` in bytes for steps without a memory need.
    #[serde(deserialize_with = "size")]
    pub memory: Option<u64>,
    /// More options of `sbatch`, passed unchanged.
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
    /// A message with the position of the problem.
    pub fn load(file: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(file)
            .map_err(|error| format!("cannot read {}: {error}", file.display()))?;
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
            return Err(" poll: at least 1 second is required".to_owned());
        }
        Ok(site)
    }

    /// Whether a step runs on this machine.
    pub fn is_here(&self, stage: &str, step: &str) -> bool {
        self.here.iter().any(|pattern| pattern == stage || fits(pattern, step))
    }

    /// Whether any step may run on this machine.
    pub fn keeps_some(&self) -> bool {
        !self.here.is_empty()
    }

    /// The settings of the job of a step: all matching flags, and the last value of the others.
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

    /// The time between two looks at the queue.
    pub(super) fn poll(&self) -> Duration {
        Duration::from_secs(self.poll)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_settings_of_a_step_override_those_of_all() {
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
    fn an_error_names_its_position() {
        for (text, expected) in [
            ("(jobs: ())", "1:2: Unexpected field named `jobs`"),
            ("(job: (\n memory: \"4\"))", "2:"),
            ("(poll: 0)", "at least 1 second"),
        ] {
            let problem = Site::parse(text).unwrap_err();
            assert!(problem.contains(expected), "{text}: {problem}");
        }
    }
}
