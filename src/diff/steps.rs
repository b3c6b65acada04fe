//! The steps in which two pipelines differ, with their params and inputs.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::key::recorded_params;
use crate::params::{ParamChange, changed_params};
use crate::pipeline::{Pipeline, Step};
use crate::record::source_name;

/// A step that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StepChange {
    /// The step.
    pub step: String,
    /// The change.
    #[serde(flatten)]
    pub change: Change,
}

/// The change of a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "change")]
pub enum Change {
    /// It was added.
    Added,
    /// It was removed.
    Removed,
    /// It was changed.
    Changed {
        /// The stage before and now, if it is a different one.
        stage: Option<(String, String)>,
        /// Params that differ.
        params: Vec<ParamChange>,
        /// Inputs that only the old one has (`port <- source`).
        inputs_removed: Vec<String>,
        /// Inputs that only the new one has.
        inputs_added: Vec<String>,
    },
}

/// The steps in which two pipelines differ, by name.
pub fn steps(old: &Pipeline, new: &Pipeline) -> Vec<StepChange> {
    let by_name = |pipeline: &Pipeline| -> BTreeMap<String, _> {
        pipeline.graph.node_indices().map(|node| (pipeline.graph[node].name.clone(), node)).collect()
    };
    let (before, after) = (by_name(old), by_name(new));
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let change = |name: &String| match (before.get(name), after.get(name)) {
        (None, _) => Some(Change::Added),
        (_, None) => Some(Change::Removed),
        (Some(was), Some(is)) => {
            let (was, is) = (&old.graph[*was], &new.graph[*is]);
            let sources = |pipeline: &Pipeline, step: &Step| -> Vec<String> {
                let inputs = step.inputs.iter();
                inputs.map(|i| format!("{} <- {}", i.port, source_name(pipeline, &i.source))).collect()
            };
            let (had, has) = (sources(old, was), sources(new, is));
            let only = |some: &[String], other: &[String]| -> Vec<String> {
                some.iter().filter(|input| !other.contains(input)).cloned().collect()
            };
            let stage = (was.stage != is.stage).then(|| (was.stage.clone(), is.stage.clone()));
            let params = changed_params(&recorded_params(&was.params), &recorded_params(&is.params));
            let (inputs_removed, inputs_added) = (only(&had, &has), only(&has, &had));
            let same =
                stage.is_none() && params.is_empty() && inputs_removed.is_empty() && inputs_added.is_empty();
            (!same).then_some(Change::Changed { stage, params, inputs_removed, inputs_added })
        }
    };
    names
        .into_iter()
        .filter_map(|name| Some(StepChange { step: name.clone(), change: change(name)? }))
        .collect()
}
