//! What a crate says of the pipeline and its steps: the workflow, the stages as its tools, an action for every execution.
//! It writes no files.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use stage_api::InputView;

use super::super::tracked::{moment, settings};
use super::{Crate, LICENSE, NO_LICENSE, Ran, refs};

const PROFILES: [(&str, &str, &str); 4] = [
    ("https://w3id.org/ro/wfrun/process/0.5", "Process Run Crate", "0.5"),
    ("https://w3id.org/ro/wfrun/workflow/0.5", "Workflow Run Crate", "0.5"),
    ("https://w3id.org/ro/wfrun/provenance/0.5", "Provenance Run Crate", "0.5"),
    ("https://w3id.org/workflowhub/workflow-ro-crate/1.0", "Workflow RO-Crate", "1.0"),
];

/// The engine, and the execution of the whole.
const ENGINE: &str = "#repro";
const WHOLE: &str = "#run";
const COMPLETED: &str = "http://schema.org/CompletedActionStatus";

impl Crate<'_> {
    /// Adds every entity that is no file. `places` has the ids of what is in the crate, by source.
    pub(super) fn describe(&mut self, steps: &[Ran], name: &str, places: &BTreeMap<String, String>) {
        let workflow = self.workflow();
        self.parts.insert(workflow.clone());
        self.describe_workflow(steps, &workflow);
        let (mut inputs, mut actions) = (BTreeSet::new(), vec![WHOLE.to_owned()]);
        for ran in steps {
            let read: Vec<String> =
                ran.step.inputs.iter().map(|input| self.input(input, steps, places)).collect();
            let outside = ran.step.inputs.iter().zip(&read).filter(|(input, _)| input.step().is_none());
            inputs.extend(outside.map(|(_, id)| id.clone()));
            self.describe_step(ran, &read, places);
            actions.push(action(ran));
        }
        let begin = steps.iter().map(|ran| ran.run.started_ms).min().unwrap_or_default();
        let end = steps.iter().map(end).max().unwrap_or_default();
        let profile = self.results.profile();
        let results = steps.iter().filter_map(|ran| places.get(&ran.step.name));
        let whole = json!({
            "@id": WHOLE,
            "@type": "CreateAction",
            "name": format!("{name}, profile {profile}"),
            "description": "From the begin of the first step to the end of the last; steps may have run on different days.",
            "instrument": {"@id": workflow},
            "object": refs(inputs),
            "result": refs(results),
            "startTime": when(begin),
            "endTime": when(end),
            "actionStatus": COMPLETED,
        });
        let organized = json!({
            "@id": "#organized",
            "@type": "OrganizeAction",
            "name": "The engine's work on it",
            "instrument": {"@id": ENGINE},
            "object": refs(steps.iter().map(control)),
            "result": {"@id": WHOLE},
            "startTime": when(begin),
            "endTime": when(end),
        });
        self.entities.extend([whole, organized]);
        self.describe_root(steps, name, &workflow, &actions);
    }

    fn describe_root(&mut self, steps: &[Ran], name: &str, workflow: &str, actions: &[String]) {
        let about = json!({
            "@id": "ro-crate-metadata.json",
            "@type": "CreativeWork",
            "about": {"@id": "./"},
            "conformsTo": refs(["https://w3id.org/ro/crate/1.1", PROFILES[3].0]),
        });
        let license = match self.parts.contains(LICENSE) {
            true => json!({"@id": LICENSE}),
            false => json!(NO_LICENSE),
        };
        let profile = self.results.profile();
        let published = steps.iter().find(|ran| ran.step.name == name).map(end).unwrap_or_default();
        let root = json!({
            "@id": "./",
            "@type": "Dataset",
            "name": format!("{name}, profile {profile}"),
            "description": format!(
                "What the step `{name}` of {workflow} wrote in the profile `{profile}`, with all that led to it: {} steps, \
                 their settings, inputs, digests, times and hosts.",
                steps.len()
            ),
            "datePublished": when(published),
            "license": license,
            "conformsTo": refs(PROFILES.map(|(id, ..)| id)),
            "hasPart": refs(&self.parts),
            "mainEntity": {"@id": workflow},
            "mentions": refs(actions),
        });
        let profiles = PROFILES.map(|(id, name, version)| {
            json!({"@id": id, "@type": "CreativeWork", "name": name, "version": version})
        });
        self.entities.splice(0..0, [about, root]);
        self.entities.extend(profiles);
    }

    fn describe_workflow(&mut self, steps: &[Ran], workflow: &str) {
        let tools: BTreeMap<String, (&str, u32)> =
            steps.iter().map(|ran| (tool(ran), (ran.step.stage.as_str(), ran.step.version))).collect();
        self.entities.push(json!({
            "@id": workflow,
            "@type": ["File", "SoftwareSourceCode", "ComputationalWorkflow", "HowTo"],
            "name": workflow,
            "description": "The pipeline: steps, what each reads, and its settings.",
            "encodingFormat": "text/plain",
            "programmingLanguage": {"@id": "#pipeline-language"},
            "hasPart": refs(tools.keys()),
            "step": refs(steps.iter().map(step)),
        }));
        self.entities.extend([
            json!({"@id": "#pipeline-language", "@type": "ComputerLanguage", "name": "repro's pipelines, in RON"}),
            json!({
                "@id": ENGINE,
                "@type": "SoftwareApplication",
                "name": "repro",
                "softwareVersion": env!("CARGO_PKG_VERSION"),
            }),
        ]);
        self.entities.extend(tools.iter().map(|(id, (stage, version))| {
            json!({
                "@id": id,
                "@type": "SoftwareApplication",
                "name": format!("stage {stage}"),
                "softwareVersion": version.to_string(),
            })
        }));
    }

    /// A step: as the pipeline has it, its execution, and what it wrote if that is not in the crate.
    fn describe_step(&mut self, ran: &Ran, read: &[String], places: &BTreeMap<String, String>) {
        let Ran { step: view, run, tree } = ran;
        let name = &view.name;
        let position = self.entities.iter().filter(|entity| entity["@type"] == "HowToStep").count() + 1;
        let set = settings(&view.params).unwrap_or_default();
        let set = set.into_iter().map(|(key, value)| {
            json!({
                "@id": format!("#set-{name}-{key}"),
                "@type": "PropertyValue",
                "name": key,
                "value": match value {
                    Value::Array(_) | Value::Object(_) => json!(value.to_string()),
                    plain => plain,
                },
            })
        });
        let set: Vec<Value> = set.collect();
        let objects =
            read.iter().map(String::as_str).chain(set.iter().filter_map(|entity| entity["@id"].as_str()));
        let result = places.get(name).cloned().unwrap_or_else(|| self.result(name, tree));
        let accepted = run.accepted.as_ref().map(|why| format!(" Accepted from an earlier run by {why}."));
        let action = json!({
            "@id": action(ran),
            "@type": "CreateAction",
            "name": format!("step {name}"),
            "description": format!(
                "Took {:.1} s on {} ({}, threads: {}).{}",
                run.seconds, run.host, run.device, run.threads, accepted.unwrap_or_default()
            ),
            "identifier": format!("repro key {}", view.key.as_deref().unwrap_or_default()),
            "instrument": {"@id": tool(ran)},
            "object": refs(objects),
            "result": refs([&result]),
            "startTime": when(run.started_ms),
            "endTime": when(end(ran)),
            "actionStatus": COMPLETED,
        });
        let step = json!({
            "@id": step(ran),
            "@type": "HowToStep",
            "name": name,
            "position": position.to_string(),
            "workExample": {"@id": tool(ran)},
        });
        let control = json!({
            "@id": control(ran),
            "@type": "ControlAction",
            "name": format!("start of step {name}"),
            "instrument": {"@id": step["@id"]},
            "object": {"@id": action["@id"]},
        });
        self.entities.extend(set);
        self.entities.extend([step, control, action]);
    }

    /// The id of what a step reads.
    fn input(&mut self, input: &InputView, steps: &[Ran], places: &BTreeMap<String, String>) -> String {
        if let Some(id) = places.get(&input.source) {
            return id.clone();
        }
        let digest = input.digest.as_deref().unwrap_or_default();
        let Some(step) = input.step() else {
            let id = format!("#file-{digest}");
            self.tell(json!({
                "@id": id,
                "@type": "CreativeWork",
                "name": input.source,
                "description": "A file of the project that is not in this crate.",
                "identifier": format!("repro digest {digest}"),
            }));
            return id;
        };
        let tree = steps.iter().find(|ran| ran.step.name == step).map_or(digest, |ran| &ran.tree);
        let whole = places.get(step).cloned().unwrap_or_else(|| self.result(step, tree));
        if input.source == step {
            return whole;
        }
        let id = format!("#part-{digest}");
        self.tell(json!({
            "@id": id,
            "@type": "CreativeWork",
            "name": input.source,
            "isPartOf": {"@id": whole},
            "identifier": format!("repro digest {digest}"),
        }));
        id
    }

    /// The id of a result that is not in the crate.
    fn result(&mut self, step: &str, tree: &str) -> String {
        let id = format!("#tree-{step}");
        self.tell(json!({
            "@id": id,
            "@type": "CreativeWork",
            "name": format!("result of step {step}"),
            "description": "Not in this crate; the pipeline makes it again.",
            "identifier": format!("repro tree {tree}"),
        }));
        id
    }

    /// Adds an entity once.
    fn tell(&mut self, entity: Value) {
        if !self.entities.iter().any(|known| known["@id"] == entity["@id"]) {
            self.entities.push(entity);
        }
    }
}

fn end(ran: &Ran) -> u64 {
    ran.run.started_ms + (ran.run.seconds * 1e3).round() as u64
}

/// A moment as the profiles write it: with an offset, not with a letter.
fn when(ms: u64) -> String {
    moment(ms).replace('Z', "+00:00")
}

fn tool(ran: &Ran) -> String {
    format!("#stage-{}-{}", ran.step.stage, ran.step.version)
}

fn step(ran: &Ran) -> String {
    format!("#step-{}", ran.step.name)
}

fn control(ran: &Ran) -> String {
    format!("#control-{}", ran.step.name)
}

fn action(ran: &Ran) -> String {
    format!("#run-{}", ran.step.name)
}
