//! The form of a pipeline file as a JSON Schema, for editors and for programs that write such files. RON is read as JSON
//! would say it: a struct `(a: 1)` and a map `{"a": 1}` are objects, a tuple `("a", 1)` is an array. It knows the stages
//! and their params; which steps there are, and whether they fit together, only loading the file tells.

use serde_json::{Map, Value, json};
use stage_api::{AnyStage, Port, Registry, schema_of};

use super::rehearsal::Rehearsal;

/// The schema of files that name the stages of `registry`.
pub fn schema(registry: &Registry) -> Value {
    let mut rehearsal = schema_of::<Rehearsal>().to_value();
    bare(&mut rehearsal);
    let params: Map<String, Value> =
        registry.iter().map(|stage| (stage.name().to_owned(), params(stage))).collect();
    let stages: Vec<&str> = registry.iter().map(AnyStage::name).collect();
    let steps: Vec<Value> = registry.iter().map(of_stage).collect();
    let of_defaults = stages.iter().map(|name| (*name, json!({"$ref": format!("#/$defs/params/{name}")})));
    let of_defaults: Map<String, Value> =
        of_defaults.map(|(name, params)| (name.to_owned(), params)).collect();
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A pipeline file of repro",
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "default_profile": {"type": "string", "description": "The profile that is meant when none is named; the first one by default."},
            "profiles": {
                "description": "Each here, or the `./file` that holds it. A file without profiles has one, `default`.",
                "type": "array",
                "items": {"anyOf": [{"$ref": "#/$defs/profile"}, {"type": "string", "pattern": "^\\./"}]},
            },
            "defaults": {"$ref": "#/$defs/defaults"},
            "needs": {
                "description": "Needs of all steps of a stage, or of steps by name, where `*` means any characters.",
                "type": "object",
                "additionalProperties": {"$ref": "#/$defs/needs"},
            },
            "steps": {"type": "array", "items": {"$ref": "#/$defs/entry"}},
            "targets": {
                "description": "Names for lists of steps and of targets above them.",
                "type": "object",
                "additionalProperties": {"anyOf": [members(), {
                    "type": "object",
                    "required": ["about", "steps"],
                    "additionalProperties": false,
                    "properties": {"about": {"description": "A sentence for `repro list`.", "type": "string"}, "steps": members()},
                }]},
            },
            "pools": {
                "description": "Pools that steps share, each with its places.",
                "type": "object",
                "additionalProperties": {"type": "integer", "minimum": 1},
            },
            "seeds": {"$ref": "#/$defs/seeds"},
        },
        "$defs": {
            "variable": {
                "description": "A variable of `for`, which becomes its value.",
                "type": "string",
                "pattern": "\\{[^{}]+\\}",
            },
            "seeds": {"description": "How many seeds each run has.", "type": "integer", "minimum": 1},
            "profile": {
                "description": "Where the sources come from, and what the params of stages default to.",
                "type": "object",
                "required": ["name", "about"],
                "additionalProperties": false,
                "properties": {
                    "name": {"type": "string"},
                    "about": {"description": "A sentence that captions repeat.", "type": "string"},
                    "rehearses": rehearsal,
                    "sources": {"type": "array", "items": {"$ref": "#/$defs/entry"}},
                    "defaults": {"$ref": "#/$defs/defaults"},
                    "seeds": {"$ref": "#/$defs/seeds"},
                },
            },
            "entry": {
                "description": "A step, a family of steps (`for`), or another name for an input (`from`).",
                "type": "object",
                "required": ["name"],
                "oneOf": [{"required": ["stage"]}, {"required": ["from"]}],
                "additionalProperties": false,
                "properties": {
                    "for": {
                        "description": "Variables with their values; a step is written out for each combination.",
                        "type": "object",
                        "additionalProperties": {"type": ["array", "string"]},
                    },
                    "name": {"type": "string"},
                    "about": {"description": "A sentence for `repro list`.", "type": "string"},
                    "stage": {"description": "The kind of work.", "enum": stages},
                    "from": {"description": "The input that this is another name for.", "type": "string"},
                    "inputs": {
                        "description": "Port → `step`, `step/part of its output` or `./file of the project`.",
                        "type": "object",
                        "additionalProperties": sources(),
                    },
                    "params": {"description": "Settings of the stage.", "type": ["object", "null"]},
                    "needs": {"$ref": "#/$defs/needs"},
                    "publish": {"description": "The folder below `reports/PROFILE/`; `.` is that folder.", "type": "string"},
                    "tolerance": {
                        "description": "The share by which numbers of two runs may differ in `repro verify --rerun`.",
                        "type": "number",
                        "minimum": 0,
                    },
                },
                "allOf": steps,
            },
            "defaults": {
                "description": "Params of all steps of a stage, or of steps by name, where `*` means any characters.",
                "type": "object",
                "properties": of_defaults,
                "additionalProperties": {"type": "object"},
            },
            "needs": {
                "description": "What it takes of the machine while it runs.",
                "type": "object",
                "properties": {
                    "cpu": {"description": "Threads.", "type": "integer", "minimum": 1},
                    "memory": {"description": "With its unit: `8 GiB`.", "type": "string"},
                    "gpu": {"description": "Whole GPUs, or a share of one.", "type": "number", "minimum": 0},
                    "gpu_memory": {"description": "Memory of one GPU, with its unit.", "type": "string"},
                },
                "additionalProperties": {"description": "Places in a pool.", "type": "integer", "minimum": 1},
            },
            "params": params,
        },
    })
}

/// The steps of a target.
fn members() -> Value {
    json!({"type": "array", "items": {"type": "string"}})
}

fn source() -> Value {
    json!({"type": "string"})
}

fn sources() -> Value {
    json!({"anyOf": [source(), {"type": "array", "items": source()}]})
}

/// What holds of a step of this stage.
fn of_stage(stage: &dyn AnyStage) -> Value {
    // A port of many takes a single one without brackets, too.
    let takes = |port: &Port| if port.many { sources() } else { source() };
    let ports = stage.inputs().iter().map(|port| (port.name.to_owned(), takes(port)));
    let required: Vec<&str> =
        stage.inputs().iter().filter(|port| !port.optional).map(|port| port.name).collect();
    let mut then = json!({"properties": {
        "params": {"anyOf": [{"$ref": format!("#/$defs/params/{}", stage.name())}, {"type": "null"}]},
        "inputs": {
            "properties": ports.collect::<Map<_, _>>(),
            "required": required,
            "additionalProperties": stage.open_inputs(),
        },
    }});
    if !required.is_empty() {
        then["required"] = json!(["inputs"]);
    }
    json!({"if": {"properties": {"stage": {"const": stage.name()}}, "required": ["stage"]}, "then": then})
}

/// The params of a stage, of which a file may leave any to the defaults of a profile, and may say any by a variable.
fn params(stage: &dyn AnyStage) -> Value {
    let mut schema = stage.params_schema().to_value();
    bare(&mut schema);
    if let Some(object) = schema.as_object_mut() {
        object.remove("required");
    }
    for property in schema["properties"].as_object_mut().into_iter().flat_map(Map::values_mut) {
        let annotations: Map<String, Value> = ["description", "default"]
            .into_iter()
            .filter_map(|key| Some((key.to_owned(), property.as_object_mut()?.remove(key)?)))
            .collect();
        *property = json!({"anyOf": [property.take(), {"$ref": "#/$defs/variable"}]});
        property.as_object_mut().into_iter().for_each(|object| object.extend(annotations.clone()));
    }
    schema
}

/// Takes off what only a top-level schema has.
fn bare(schema: &mut Value) {
    if let Some(object) = schema.as_object_mut() {
        object.remove("$schema");
        object.remove("title");
    }
}

#[cfg(test)]
mod tests {
    use super::super::file;
    use super::*;

    /// The names that the parser knows in the place of a field that it does not.
    fn known(text: &str) -> Vec<String> {
        let options = ron::Options::default();
        let code = match text.split_once(' ').unwrap() {
            ("file", text) => options.from_str::<file::FileForm>(text).map(drop),
            ("profile", text) => options.from_str::<file::ProfileForm>(text).map(drop),
            ("target", text) => options.from_str::<file::TargetForm>(text).map(drop),
            (_, text) => options.from_str::<file::EntryForm>(text).map(drop),
        };
        match code.unwrap_err().code {
            ron::Error::NoSuchStructField { expected, .. } => {
                let mut names: Vec<String> = expected.iter().map(ToString::to_string).collect();
                names.sort();
                names
            }
            other => unreachable!("{other}"),
        }
    }

    fn properties(of: &Value) -> Vec<String> {
        let mut names: Vec<String> = of["properties"].as_object().unwrap().keys().cloned().collect();
        names.sort();
        names
    }

    #[test]
    fn it_has_the_fields_that_the_parser_has() {
        let schema = schema(&Registry::default());
        assert_eq!(properties(&schema), known("file (no: 1)"));
        assert_eq!(properties(&schema["$defs"]["profile"]), known("profile (no: 1)"));
        assert_eq!(properties(&schema["$defs"]["entry"]), known("entry (no: 1)"));
        let target = &schema["properties"]["targets"]["additionalProperties"]["anyOf"][1];
        assert_eq!(properties(target), known("target (no: 1)"));
    }
}
