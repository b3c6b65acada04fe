//! `pipeline.ron`: any text is either a pipeline or an error that can be shown with its place.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use repro::pipeline::Pipeline;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stage_api::{Job, Port, Registry, Stage, StageError};

/// A stage with params of every kind.
struct Any;

#[derive(Serialize, Deserialize, Default, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Params {
    text: String,
    number: f64,
    count: u64,
    flag: bool,
    list: Vec<String>,
    maybe: Option<i32>,
    pair: (f64, f64),
    inner: Inner,
}

#[derive(Serialize, Deserialize, Default, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Inner {
    mode: Mode,
}

#[derive(Serialize, Deserialize, Default, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Mode {
    #[default]
    One,
    Two,
}

impl Stage for Any {
    type Params = Params;
    const NAME: &'static str = "any";
    const ABOUT: &'static str = "is never run";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Port] = &[Port::optional("a"), Port { name: "in", many: true, optional: true }];

    fn check(&self, params: &Params) -> Result<(), String> {
        if params.count > 9 { Err(format!("count is {}", params.count)) } else { Ok(()) }
    }

    fn run(&self, _: &Params, _: &Job) -> Result<(), StageError> {
        Ok(())
    }
}

fuzz_target!(|text: &str| {
    let registry = Registry::new().with(Any);
    for profile in [None, Some("b")] {
        match Pipeline::parse(Path::new("pipeline.ron"), text, profile, &registry) {
            Ok(pipeline) => {
                // What was accepted can be ordered and named.
                assert_eq!(repro::plan::in_order(&pipeline).len(), pipeline.graph.node_count());
            }
            Err(error) => {
                assert!(!error.to_string().is_empty());
                let _ = format!("{:?}", miette::Report::new(error));
            }
        }
    }
});
