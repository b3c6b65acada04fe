//! Turns the names of inputs into edges of the DAG: resolves references and aliases, connects ports, rejects cycles.

use std::path::{Path, PathBuf};

use petgraph::graph::{DiGraph, NodeIndex};
use stage_api::{Port, ProjectFile};

use super::{Checker, Meaning, Unwired, normal};
use crate::pipeline::error::PipelineError;
use crate::pipeline::expand::{Vars, string, strings};
use crate::pipeline::file::{EntryForm, Raw};
use crate::pipeline::{Source, Step, StepInput};

impl<'a> Checker<'_, 'a> {
    pub(super) fn add_alias(&mut self, entry: &EntryForm<'a>, vars: &Vars) -> Result<(), PipelineError> {
        let Some(from) = entry.from else { return Ok(()) };
        let extra = [entry.about, entry.stage, entry.params, entry.needs, entry.publish, entry.tolerance];
        let extra = extra.into_iter().flatten().next();
        if let Some(extra) = extra.or_else(|| entry.inputs.0.first().map(|(port, _)| *port)) {
            return Err(self.error(extra, "an alias has only a name and `from:`"));
        }
        let source = self.source(from, &string(from, vars, self.text)?)?;
        self.name(entry.name, vars, Meaning::Alias(source))?;
        Ok(())
    }

    /// Parses a reference: `step`, `step/output`, `alias`, `alias/output` or `./file`.
    fn source(&self, at: Raw, reference: &str) -> Result<Source, PipelineError> {
        if let Some(path) = reference.strip_prefix("./") {
            return match normal(path) {
                None => Err(self.error(at, format!("`{reference}` leads out of the project"))),
                Some(path) if path.is_empty() => Err(self
                    .error(
                        at,
                        format!(
                            "`{reference}` is the project folder itself, which contains results and reports"
                        ),
                    )
                    .hint("name a file or a folder inside it")),
                Some(path) => Ok(Source::File(PathBuf::from(path))),
            };
        }
        let (name, output) = match reference.split_once('/') {
            Some((name, output)) => (name, Some(output)),
            None => (reference, None),
        };
        let Some(named) = self.names.get(name) else {
            let error = self.error(at, format!("there is no step `{name}`"));
            // A file of the project is named by its path from the pipeline's folder.
            return Err(match normal(reference).filter(|path| self.folder.has(Path::new(path))) {
                Some(path) => {
                    error.hint(format!("there is a file or folder `{path}`: read it as `./{path}`"))
                }
                None => error.nearest(name, self.names.keys().map(String::as_str)),
            });
        };
        let output = output.map(|output| {
            let outside = || self.error(at, format!("`{reference}` leads out of the step's tree"));
            normal(output).ok_or_else(outside)
        });
        let output = output.transpose()?.filter(|output| !output.is_empty());
        Ok(match (&named.meaning, output) {
            (Meaning::Step(step), output) => Source::Step { step: *step, output },
            (Meaning::Alias(source), None) => source.clone(),
            (Meaning::Alias(Source::File(path)), Some(output)) => Source::File(path.join(output)),
            (Meaning::Alias(Source::Step { step, output: Some(outer) }), Some(output)) => {
                Source::Step { step: *step, output: Some(format!("{outer}/{output}")) }
            }
            (Meaning::Alias(Source::Step { step, output: None }), Some(output)) => {
                Source::Step { step: *step, output: Some(output) }
            }
        })
    }

    pub(super) fn wire(&mut self, step: &Unwired<'_, 'a, '_>) -> Result<(), PipelineError> {
        let Unwired { node, stage, loaded, entry, vars } = step;
        let (stage_name, ports, is_open) = (stage.name(), stage.inputs(), stage.open_inputs());
        let mut connected: Vec<String> = Vec::new();
        for (port_at, value) in &entry.inputs.0 {
            let port_name = port_at.string(self.text)?;
            let named = ports.iter().find(|port| port.name == port_name).copied();
            let own = || is_open.then_some(Port::many(""));
            let Some(port) = named.or_else(own) else {
                return Err(self
                    .error(*port_at, format!("stage `{stage_name}` has no input `{port_name}`"))
                    .nearest(&port_name, ports.iter().map(|port| port.name)));
            };
            if connected.contains(&port_name) {
                return Err(self.error(*port_at, format!("input `{port_name}` is connected twice")));
            }
            let list = value.0.starts_with('[');
            if list && !port.many {
                return Err(self.error(*value, format!("input `{port_name}` accepts one source, not a list")));
            }
            let raws: Vec<Raw> = if list { value.list(self.text)? } else { vec![*value] };
            let mut references = Vec::new();
            for raw in raws {
                let found = if port.many {
                    strings(raw, vars, self.text)?
                } else {
                    vec![string(raw, vars, self.text)?]
                };
                references.extend(found.into_iter().map(|reference| (raw, reference)));
            }
            if references.is_empty() {
                return Err(self.error(*value, format!("input `{port_name}` needs at least one source")));
            }
            for (raw, reference) in references {
                let source = self.source(raw, &reference)?;
                let position = self.text.position(raw.0);
                match &source {
                    // A file that a person may add by hand is connected only if it exists.
                    Source::File(path) if port.by_hand => {
                        let is_there = self.folder.has(path);
                        self.looked_for.push((path.clone(), is_there));
                        if !is_there {
                            continue;
                        }
                    }
                    Source::File(_) => {}
                    Source::Step { step, .. } => {
                        self.graph.update_edge(*step, *node, ());
                    }
                }
                self.graph[*node].inputs.push(StepInput { port: port_name.clone(), source, position });
            }
            connected.push(port_name);
        }
        if let Some(port) = ports.iter().find(|p| !p.optional && connected.iter().all(|c| c != p.name)) {
            let all: Vec<&str> = ports.iter().map(|port| port.name).collect();
            let name = &self.graph[*node].name;
            return Err(self
                .error(entry.name, format!("step `{name}` lacks the input `{}`", port.name))
                .hint(format!("stage `{stage_name}` reads {}", all.join(", "))));
        }
        self.read_project_files(step, &connected)?;
        let connected: Vec<&str> = connected.iter().map(String::as_str).collect();
        loaded.check_wiring(&connected).map_err(|problem| {
            self.error(
                entry.params.unwrap_or(entry.name),
                format!("params of stage `{stage_name}`: {problem}"),
            )
        })
    }

    /// Adds the files of the project that the params name.
    fn read_project_files(
        &mut self,
        step: &Unwired<'_, 'a, '_>,
        connected: &[String],
    ) -> Result<(), PipelineError> {
        let at = step.entry.params.unwrap_or(step.entry.name);
        for ProjectFile { port, path, optional } in step.loaded.project_files() {
            if connected.iter().any(|other| other == port) {
                return Err(
                    self.error(at, format!("the input `{port}` is the file that the param `{port}` names"))
                );
            }
            let Some(path) = normal(&path).filter(|path| !path.is_empty()).map(PathBuf::from) else {
                return Err(self.error(at, format!("{port}: `{path}` is not a file of the project")));
            };
            let is_there = !optional || self.folder.has(&path);
            if optional {
                self.looked_for.push((path.clone(), is_there));
            }
            if is_there {
                let (port, position) = (port.to_owned(), self.text.position(at.0));
                let input = StepInput { port, source: Source::File(path), position };
                self.graph[step.node].inputs.push(input);
            }
        }
        Ok(())
    }

    pub(super) fn refuse_cycles(&self, steps: &[Unwired<'_, 'a, '_>]) -> Result<(), PipelineError> {
        let Some(cycle) = find_cycle(&self.graph) else { return Ok(()) };
        let names: Vec<&str> = cycle.iter().map(|node| self.graph[*node].name.as_str()).collect();
        let at = steps.iter().find(|step| step.node == cycle[0]).map(|step| step.entry.name);
        let message = format!("the steps form a cycle: {} -> {}", names.join(" -> "), names[0]);
        Err(match at {
            Some(at) => self.error(at, message),
            None => PipelineError::of_file(self.text.path(), message),
        }
        .hint("each arrow points to the step that reads the one before it; change one of these inputs"))
    }
}

/// The nodes of a cycle in the order of its edges, if there is one.
fn find_cycle(graph: &DiGraph<Step, ()>) -> Option<Vec<NodeIndex>> {
    let component = petgraph::algo::tarjan_scc(graph)
        .into_iter()
        .find(|nodes| nodes.len() > 1 || graph.find_edge(nodes[0], nodes[0]).is_some())?;
    // In a strongly connected component, every node has a successor in it: walk until one repeats.
    let mut walk = vec![*component.iter().min()?];
    loop {
        let last = *walk.last()?;
        let next = graph.neighbors(last).filter(|node| component.contains(node)).min()?;
        if let Some(start) = walk.iter().position(|node| *node == next) {
            return Some(walk.split_off(start));
        }
        walk.push(next);
    }
}
