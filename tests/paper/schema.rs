//! The JSON Schema that `repro schema` prints: what is right passes, a mistake does not, and what it offers the stages take.

use std::fs;
use std::path::Path;
use std::process::Command;

use boon::{Compiler, SchemaIndex, Schemas};
use serde_json::Value;

use super::process::finished;

fn schema() -> Value {
    let run = finished(Command::new(env!("CARGO_BIN_EXE_repro")).arg("schema").output().unwrap()).expect(0);
    serde_json::from_str(&run.out).unwrap()
}

/// A RON text as JSON would say it.
fn json(ron: &str) -> Value {
    serde_json::to_value(ron::from_str::<ron::Value>(ron).unwrap()).unwrap()
}

fn text(file: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap()
}

/// The schema, ready to hold files against it.
struct Form {
    schemas: Schemas,
    pipeline: SchemaIndex,
    profile: SchemaIndex,
}

impl Form {
    fn new() -> Self {
        let (mut schemas, mut compiler) = (Schemas::new(), Compiler::new());
        compiler.add_resource("pipeline.json", schema()).unwrap();
        let pipeline = compiler.compile("pipeline.json", &mut schemas).unwrap();
        let profile = compiler.compile("pipeline.json#/$defs/profile", &mut schemas).unwrap();
        Self { schemas, pipeline, profile }
    }

    fn check(&self, ron: &str) -> Result<(), String> {
        self.schemas.validate(&json(ron), self.pipeline).map_err(|error| format!("{error:#}"))
    }

    fn check_profile(&self, ron: &str) -> Result<(), String> {
        self.schemas.validate(&json(ron), self.profile).map_err(|error| format!("{error:#}"))
    }
}

#[test]
fn the_projects_own_files_are_right_and_mistakes_in_them_are_not() {
    let form = Form::new();
    for file in [
        "pipeline.ron",
        "examples/own-data.ron",
        "examples/command.ron",
        "examples/article.ron",
        "examples/tutorial.ron",
    ] {
        form.check(&text(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
    }
    for file in ["profiles/paper.ron", "profiles/rehearsal.ron"] {
        form.check_profile(&text(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
    }
    let refused = |pipeline: &str, right: &str, wrong: &str, check: &dyn Fn(&str) -> Result<(), String>| {
        assert!(pipeline.contains(right), "there is no `{right}` any more");
        assert!(check(&pipeline.replacen(right, wrong, 1)).is_err(), "`{wrong}` passes");
    };
    let profile = |text: &str| form.check_profile(text);
    let paper = text("profiles/paper.ron");
    refused(&paper, "\"train\": (updates: 22000,", "\"train\": (updated: 22000,", &profile);
    refused(&paper, "unlisted: \"note\"", "unlisted: \"notes\"", &profile);
    refused(&text("profiles/rehearsal.ron"), "teraflop: 2.1", "terraflop: 2.1", &profile);
    let pipeline = text("pipeline.ron");
    for (right, wrong) in [
        ("default_profile:", "default_profil:"),
        ("(name: \"hmd-samples\", stage: \"index-hmd\"", "(name: \"hmd-samples\", stage: \"index-hdm\""),
        ("params: (mode:", "params: (mood:"),
        ("params: (mode: \"{mode}\")", "params: (mode: \"halb\")"),
        ("\"train\": (seed: 1)", "\"train\": (seed: \"one\")"),
        ("\"./profiles/paper.ron\"", "\"profiles/paper.ron\""),
        (
            "inputs: {\"tokens\": \"{data}-tokens\", \"regions\"",
            "inputs: {\"token\": \"{data}-tokens\", \"regions\"",
        ),
        ("\"runs\": [\"{hmd,mmh}-{fc,pe,full}\"]", "\"runs\": [7]"),
        ("publish: \"tables\"", "publishes: \"tables\""),
        ("needs: {\"train\": (gpu: 1)}", "needs: {\"train\": (gpu: \"one\")}"),
        ("seeds: 3", "seeds: \"three\""),
        ("about: \"synthetic memes, small models\"", "abuot: \"synthetic memes, small models\""),
        ("(name: \"hmd-archive\",   from: \"memes/hateful_memes.zip\")", "(name: \"hmd-archive\")"),
    ] {
        refused(&pipeline, right, wrong, &|text| form.check(text));
    }
}

#[test]
fn every_value_that_it_offers_is_one_that_the_stage_takes_and_every_param_is_explained() {
    let schema = schema();
    let registry = stages::registry();
    let mut offered = 0;
    for (stage, params) in schema["$defs"]["params"].as_object().unwrap() {
        let empty = serde_json::Map::new();
        for (name, param) in params["properties"].as_object().unwrap_or(&empty) {
            assert!(param["description"].is_string(), "{stage}: `{name}` is not explained");
            let Some(known) = registry.get(stage) else { continue };
            for value in values(param) {
                offered += 1;
                let refused = known.load(&format!("({name}: \"{value}\")")).err().map(|error| error.message);
                let is_of_another_field =
                    |message: &String| message.contains("missing") && !message.contains(&format!("`{name}`"));
                assert!(
                    refused.as_ref().is_none_or(is_of_another_field),
                    "{stage}: `{name}` takes no `{value}`: {refused:?}"
                );
            }
        }
    }
    assert!(offered > 20, "only {offered} values");
}

/// The texts that a param may be, where they are listed.
fn values(param: &Value) -> Vec<String> {
    let mut found = Vec::new();
    match param {
        Value::Object(object) => {
            for (key, value) in object {
                match (key.as_str(), value) {
                    ("const", Value::String(text)) => found.push(text.clone()),
                    ("enum", Value::Array(texts)) => {
                        found.extend(texts.iter().filter_map(Value::as_str).map(str::to_owned));
                    }
                    ("properties" | "default", _) => {}
                    _ => found.extend(values(value)),
                }
            }
        }
        Value::Array(parts) => found.extend(parts.iter().flat_map(values)),
        _ => {}
    }
    found
}
