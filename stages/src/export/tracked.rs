//! What a tracker gets of a run: settings, curves, final metrics, and when it ran. It does not know in which form.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::time::{Duration, UNIX_EPOCH};

use ron::value::RawValue;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use stage_api::{RunView, StageError, StepView, ToolContext};

use crate::artifacts::history::History;
use crate::artifacts::metrics::Metrics;
use crate::training::inference::{self, RUN};

/// Values by update and name.
pub(super) type Curves = BTreeMap<u64, Vec<(String, f64)>>;

/// The stage of programs, which measure what they like.
const COMMAND: &str = "command";
/// The largest file of a command's result that is read for final metrics, in bytes.
const MAX_FINALS: u64 = 1 << 20;

/// A finished run.
#[derive(Debug, Clone)]
pub(super) struct Tracked {
    /// The step that trained it, or the command.
    pub name: String,
    /// The profile.
    pub profile: String,
    /// The step's key.
    pub key: String,
    /// The digest of what it wrote.
    pub tree: String,
    /// Settings and facts by name; those that are not set are left out.
    pub settings: Vec<(String, Value)>,
    /// Values by update and name.
    pub curves: Curves,
    /// The update whose weights were kept; of a command, the last one.
    pub best: u64,
    /// The validation of those weights, and what each evaluation found, by name.
    pub finals: Vec<(String, f64)>,
    /// The execution.
    pub run: RunView,
}

impl Tracked {
    /// The run that the step `name` trained, or what the command `name` measured.
    ///
    /// # Errors
    /// Another step, or one that is not up to date.
    pub(super) fn read(context: &ToolContext, name: &str) -> Result<Self, StageError> {
        let is_command = |step: &StepView| step.name == name && step.stage == COMMAND;
        if let Some(step) = context.results.steps().into_iter().find(is_command) {
            return Self::of_command(context, step);
        }
        let step = inference::step(context, name)?;
        let history = History::read(&context.results.part(name, History::FILE)?)?;
        let mut finals = Vec::new();
        for reader in context.results.steps() {
            let reads = reader.inputs.iter().any(|input| input.port == RUN && input.step() == Some(name));
            if reads && reader.stage == "evaluate" && reader.run.is_some() {
                let found = Metrics::read(&context.results.part(&reader.name, Metrics::FILE)?)?;
                finals.extend(evaluation(&reader.name, &found));
            }
        }
        let settings = [facts(&history), settings(&step.params)?].concat();
        // An imported run has no validation.
        let best_found = if history.val.is_empty() { vec![] } else { best(&history) };
        let run =
            Self { best: history.best.update, ..Self::of_step(context, step, settings, curves(&history))? };
        Ok(Self { finals: [best_found, finals].concat(), ..run })
    }

    /// What a command measured, and the numbers in the JSON files of its result.
    fn of_command(context: &ToolContext, step: StepView) -> Result<Self, StageError> {
        let name = step.name.clone();
        let mut curves = Curves::new();
        for scalars in context.results.values(&name) {
            for (at, value) in scalars.points {
                let value = (scalars.name.clone(), value.unwrap_or(f64::NAN));
                curves.entry(at).or_default().push(value);
            }
        }
        let mut finals = Vec::new();
        let outputs = step.run.iter().flat_map(|run| run.outputs.keys());
        for file in outputs.filter(|file| file.ends_with(".json")) {
            let path = context.results.part(&name, file)?;
            let is_small = fs::metadata(&path).is_ok_and(|metadata| metadata.len() <= MAX_FINALS);
            let found = if is_small { fs::read(&path).ok() } else { None };
            if let Some(value) = found.and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok()) {
                numbers(file.trim_end_matches(".json"), &value, &mut finals);
            }
        }
        if curves.is_empty() && finals.is_empty() {
            return Err(StageError::failed(format!(
                "the command of step `{name}` measured nothing; it may append JSON lines to the file $REPRO_METRICS, and \
                 write a JSON file to its output"
            )));
        }
        // Each of the args is a setting of its own.
        let (args, others): (Vec<_>, Vec<_>) =
            settings(&step.params)?.into_iter().partition(|(name, _)| name == "args");
        let args = args.into_iter().filter_map(|(_, args)| match args {
            Value::Object(args) => {
                Some(args.into_iter().map(|(name, value)| (format!("args.{name}"), value)))
            }
            _ => None,
        });
        let settings = others.into_iter().chain(args.flatten()).collect();
        let best = curves.keys().next_back().copied().unwrap_or(0);
        Ok(Self { best, finals, ..Self::of_step(context, step, settings, curves)? })
    }

    fn of_step(
        context: &ToolContext,
        step: StepView,
        settings: Vec<(String, Value)>,
        curves: Curves,
    ) -> Result<Self, StageError> {
        let name = step.name;
        let unknown =
            || StageError::failed(format!("no run of step `{name}` is recorded; run `repro make {name}`"));
        let run = with_times(step.run.ok_or_else(unknown)?, &name)?;
        let (key, tree) = (step.key.ok_or_else(unknown)?, step.tree.ok_or_else(unknown)?);
        let profile = context.results.profile().to_owned();
        Ok(Self { name, profile, key, tree, settings, curves, best: 0, finals: Vec::new(), run })
    }

    /// When the run was at `update`, in milliseconds since 1970. The record has its begin and its length; updates are taken
    /// to be equally long.
    pub(super) fn at_ms(&self, update: u64) -> u64 {
        self.run.started_ms + (self.after(update) * 1e3).round() as u64
    }

    /// Seconds from the begin of the run to `update`.
    pub(super) fn after(&self, update: u64) -> f64 {
        let last = self.curves.keys().next_back().copied().unwrap_or(0).max(1);
        self.run.seconds * update.min(last) as f64 / last as f64
    }
}

/// The params of a step by name; those that are `None` are left out.
///
/// # Errors
/// Text that is no RON.
pub(super) fn settings(params: &str) -> Result<Vec<(String, Value)>, StageError> {
    let fields: Fields = ron::from_str(params)
        .map_err(|error| StageError::failed(format!("params cannot be read: {error}: {params}")))?;
    let set = fields.0.into_iter().filter(|(_, text)| text.get_ron().trim() != "None");
    let value = |text: &RawValue| match text.into_rust::<Value>() {
        // A bare word (`colour`) says nothing to a reader that does not know its type.
        Ok(Value::Null) | Err(_) => text.get_ron().trim().into(),
        Ok(value) => value,
    };
    Ok(set.map(|(name, text)| (name, value(&text))).collect())
}

/// The fields of `(name: value, …)` in their order, with their values as they stand.
struct Fields(Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Named;

        impl<'de> Visitor<'de> for Named {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("fields with names")
            }

            fn visit_unit<E>(self) -> Result<Fields, E> {
                Ok(Fields(Vec::new()))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }

        from.deserialize_any(Named)
    }
}

/// The last millisecond of the year 9999: dates of later ones cannot be written.
const LAST_MS: u64 = 253_402_300_799_999;

/// A run whose times are dates; every export writes some.
///
/// # Errors
/// A record whose begin or end is beyond the year 9999, or whose length is not a length.
pub(super) fn with_times(run: RunView, step: &str) -> Result<RunView, StageError> {
    let took = run.seconds * 1e3;
    let is_date = took >= 0.0 && took <= LAST_MS as f64 && run.started_ms <= LAST_MS - took as u64;
    if is_date {
        return Ok(run);
    }
    Err(StageError::failed(format!(
        "the record of step `{step}` says that it began {} ms after 1970 and took {} s, which are no dates before the \
         year 10000; run it again with `repro make {step} --force {step}`",
        run.started_ms, run.seconds
    )))
}

/// A moment, given in milliseconds since 1970, as `2026-01-31T12:00:00Z`.
pub(super) fn moment(ms: u64) -> String {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(ms)).to_string()
}

fn facts(history: &History) -> Vec<(String, Value)> {
    let History { run, parameters, rows, .. } = history;
    let facts: [(&str, Value); 6] = [
        ("dataset", run.dataset.as_str().into()),
        ("parameters.total", parameters.total.into()),
        ("parameters.trained", parameters.trained.into()),
        ("parameters.adapters", parameters.adapters.into()),
        ("rows.train", rows.0.into()),
        ("rows.val", rows.1.into()),
    ];
    facts.map(|(name, value)| (name.to_owned(), value)).to_vec()
}

fn curves(history: &History) -> Curves {
    let mut curves = Curves::new();
    for point in &history.train {
        let values =
            [("train/loss", point.loss), ("train/loss_average", point.loss_average), ("train/lr", point.lr)];
        let values = values.map(|(name, value)| (name.to_owned(), value));
        curves.entry(point.update).or_default().extend(values);
    }
    for point in &history.val {
        let values = [
            ("val/loss", point.loss),
            ("val/roc_auc", point.roc_auc),
            ("val/accuracy", point.accuracy),
            ("val/f1", point.f1),
        ];
        let values = values.map(|(name, value)| (name.to_owned(), value));
        curves.entry(point.update).or_default().extend(values);
    }
    curves
}

/// The numbers in a JSON value, with names such as `metrics/val/auc`.
fn numbers(name: &str, value: &Value, found: &mut Vec<(String, f64)>) {
    match value {
        Value::Object(fields) => {
            fields.iter().for_each(|(field, value)| numbers(&format!("{name}/{field}"), value, found));
        }
        value => found.extend(value.as_f64().map(|value| (name.to_owned(), value))),
    }
}

fn best(history: &History) -> Vec<(String, f64)> {
    let best = &history.best;
    let values = [
        ("update", best.update as f64),
        ("loss", best.loss),
        ("roc_auc", best.roc_auc),
        ("accuracy", best.accuracy),
        ("f1", best.f1),
    ];
    values.map(|(name, value)| (format!("best/{name}"), value)).to_vec()
}

fn evaluation(step: &str, found: &Metrics) -> Vec<(String, f64)> {
    let values = [
        ("loss", Some(found.loss)),
        ("roc_auc", Some(found.roc_auc)),
        ("accuracy", Some(found.accuracy)),
        ("f1", found.f1),
        ("f1_macro", found.f1_macro),
        ("f1_micro", found.f1_micro),
        ("average_precision", Some(found.average_precision)),
        ("balanced_accuracy", found.balanced_accuracy),
        ("calibration_error", found.calibration_error),
    ];
    values.into_iter().filter_map(|(name, value)| Some((format!("{step}/{name}"), value?))).collect()
}

/// A small run for the tests of the forms.
#[cfg(test)]
pub(super) fn sample() -> Tracked {
    Tracked {
        name: "hmd-pe-train".to_owned(),
        profile: "mini".to_owned(),
        key: "0123456789abcdef".to_owned(),
        tree: "fedcba".to_owned(),
        settings: vec![("mode".to_owned(), "pe".into()), ("lr".to_owned(), 0.005.into())],
        curves: [
            (0, vec![("val/loss".to_owned(), 0.7)]),
            (40, vec![("train/loss".to_owned(), 0.5), ("val/loss".to_owned(), f64::NAN)]),
        ]
        .into(),
        best: 40,
        finals: vec![("best/roc_auc".to_owned(), 0.75)],
        run: RunView { started_ms: 1_700_000_000_000, seconds: 8.0, ..RunView::default() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_the_params_that_are_set() {
        let found = settings(
            "(mode:\"pe\",adapter:None,patience:Some(3),betas:(0.9,0.999),lr:5e-5,start:false,by:colour)",
        )
        .unwrap();
        let found = Value::Object(found.into_iter().collect());
        let expected = serde_json::json!({"mode": "pe", "patience": 3, "betas": [0.9, 0.999], "lr": 5e-5, "start": false, "by": "colour"});
        assert_eq!(found, expected);
        assert!(settings("()").unwrap().is_empty());
        assert!(settings("(mode:").unwrap_err().to_string().contains("params cannot be read"));
    }

    #[test]
    fn numbers_of_a_file_are_named_by_their_place() {
        let mut found = Vec::new();
        numbers(
            "m",
            &serde_json::json!({"auc": 0.5, "val": {"f1": 1}, "text": "x", "list": [1]}),
            &mut found,
        );
        assert_eq!(found, [("m/auc".to_owned(), 0.5), ("m/val/f1".to_owned(), 1.0)]);
    }

    #[test]
    fn updates_lie_evenly_between_begin_and_end_of_the_run() {
        let run = sample();
        assert_eq!(
            [0, 20, 40, 99].map(|update| run.at_ms(update) - run.run.started_ms),
            [0, 4000, 8000, 8000]
        );
        assert_eq!(moment(run.run.started_ms), "2023-11-14T22:13:20Z");
    }
}
