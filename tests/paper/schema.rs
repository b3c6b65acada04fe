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

/// A RON text as JSON would say it. The parser of values knows no names of enums, so they are put into quotes first.
fn json(ron: &str) -> Value {
    let quoted = ron.replace("unlisted: note", "unlisted: \"note\"");
    serde_json::to_value(ron::from_str::<ron::Value>(&quoted).unwrap()).unwrap()
}

fn text(file: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap()
}

/// The schema, ready to hold files against it.
struct Form {
    schemas: Schemas,
    schema: SchemaIndex,
}

impl Form {
    fn new() -> Self {
        let (mut schemas, mut compiler) = (Schemas::new(), Compiler::new());
        compiler.add_resource("pipeline.json", schema()).unwrap();
        let schema = compiler.compile("pipeline.json", &mut schemas).unwrap();
        Self { schemas, schema }
    }

    fn check(&self, ron: &str) -> Result<(), String> {
        self.schemas.validate(&json(ron), self.schema).map_err(|error| format!("{error:#}"))
    }
}

#[test]
fn the_projects_own_files_are_right_and_mistakes_in_them_are_not() {
    let form = Form::new();
    for file in ["pipeline.ron", "examples/own-data.ron", "examples/command.ron"] {
        form.check(&text(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
    }
    let pipeline = text("pipeline.ron");
    for (right, wrong) in [
        ("default_profile:", "default_profil:"),
        ("(name: \"hmd-samples\", stage: \"index-hmd\"", "(name: \"hmd-samples\", stage: \"index-hdm\""),
        ("stage: \"train\", params: (mode:", "stage: \"train\", params: (mood:"),
        ("params: (mode: \"{mode}\", seed: 1)", "params: (mode: \"halb\", seed: 1)"),
        ("params: (mode: \"{mode}\", seed: 1)", "params: (mode: \"{mode}\", seed: \"one\")"),
        (
            "inputs: {\"tokens\": \"{data}-tokens\", \"regions\"",
            "inputs: {\"token\": \"{data}-tokens\", \"regions\"",
        ),
        ("\"runs\": [\"{hmd,mmh}-{fc,pe,full}\"]", "\"runs\": [7]"),
        ("publish: \"tables\"", "publishes: \"tables\""),
        ("needs: (gpu: 1)", "needs: (gpu: \"one\")"),
        ("seeds: 3", "seeds: \"three\""),
        ("(\"train\", (updates: 22000,", "(\"train\", (updated: 22000,"),
        ("about: \"synthetic memes, small models\"", "abuot: \"synthetic memes, small models\""),
        ("(name: \"hmd-archive\",   from: \"memes/hateful_memes.zip\")", "(name: \"hmd-archive\")"),
    ] {
        assert!(pipeline.contains(right), "the pipeline has no `{right}` any more");
        assert!(form.check(&pipeline.replacen(right, wrong, 1)).is_err(), "`{wrong}` passes");
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
                // Written as a string, and, where the type is an enum of RON, as a name.
                let refused: Vec<String> = [format!("({name}: \"{value}\")"), format!("({name}: {value})")]
                    .iter()
                    .filter_map(|text| known.load(text).err())
                    .map(|error| error.message)
                    .collect();
                let is_of_another_field =
                    |message: &String| message.contains("missing") && !message.contains(&format!("`{name}`"));
                assert!(
                    refused.len() < 2 || refused.iter().any(is_of_another_field),
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
