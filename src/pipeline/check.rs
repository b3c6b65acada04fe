//! From a file's form to a checked [`Pipeline`]: names, ports, params and the absence of cycles. Everything
//! that can be wrong with a pipeline is found here, before anything runs.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use petgraph::graph::{DiGraph, NodeIndex};
use stage_api::{AnyStage, Port, Registry};

use super::error::{PipelineError, Text};
use super::expand::{Vars, combinations, string, strings};
use super::file::{EntryForm, FileForm, NeedsForm, ProfileForm, Raw};
use super::params;
use super::{Needs, Pipeline, Source, Step, StepInput};

/// What a name of the file stands for.
enum Meaning {
    Step(NodeIndex),
    Alias(Source),
}

struct Named<'a> {
    meaning: Meaning,
    at: Raw<'a>,
}

/// A step whose inputs are still names.
struct Unwired<'f, 'a> {
    node: NodeIndex,
    entry: &'f EntryForm<'a>,
    vars: Vars,
}

struct Checker<'t, 'a> {
    text: &'t Text<'a>,
    root: PathBuf,
    graph: DiGraph<Step, ()>,
    names: HashMap<String, Named<'a>>,
}

/// Checks `form` for the profile called `profile`, or for its default one.
pub(super) fn check(
    form: &FileForm,
    profile: Option<&str>,
    text: &Text,
    registry: &Registry,
) -> Result<Pipeline, PipelineError> {
    let chosen = choose_profile(form, profile, text)?;
    let said = |name: &str, value: Raw| (name.to_owned(), value.0.to_owned());
    let vars: Vars = vec![said("profile", chosen.name), said("about", chosen.about)];
    let root = text.path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let mut checker = Checker {
        text,
        root: root.unwrap_or(Path::new(".")).to_owned(),
        graph: DiGraph::new(),
        names: HashMap::new(),
    };
    let mut unwired = Vec::new();
    let mut aliases = Vec::new();
    for entry in chosen.sources.iter().chain(&form.steps) {
        for vars in combinations(&entry.for_each, text, &vars)? {
            if entry.from.is_some() {
                aliases.push((entry, vars));
            } else {
                let node = checker.add_step(entry, &vars, chosen, registry)?;
                unwired.push(Unwired { node, entry, vars });
            }
        }
    }
    // In the order of the file, so an alias may name a step anywhere and an alias above it.
    for (entry, vars) in aliases {
        checker.add_alias(entry, &vars)?;
    }
    for step in &unwired {
        checker.wire(step, registry)?;
    }
    checker.refuse_idle_defaults(chosen)?;
    checker.refuse_cycles(&unwired)?;
    let targets = checker.targets(form, &vars)?;
    Ok(Pipeline {
        file: text.path.to_owned(),
        root: checker.root,
        profile: chosen.name.string(text)?,
        about: chosen.about.string(text)?,
        graph: checker.graph,
        targets,
    })
}

fn choose_profile<'f, 'a>(
    form: &'f FileForm<'a>,
    wanted: Option<&str>,
    text: &Text,
) -> Result<&'f ProfileForm<'a>, PipelineError> {
    let mut by_name: Vec<(String, &ProfileForm)> = Vec::new();
    for profile in &form.profiles {
        let name = profile.name.string(text)?;
        plain_name(profile.name, &name, text)?;
        if by_name.iter().any(|(other, _)| *other == name) {
            return Err(text.error(text.span(profile.name.0), format!("profile `{name}` is declared twice")));
        }
        by_name.push((name, profile));
    }
    let (name, at) = match wanted {
        Some(name) => (name.to_owned(), None),
        None => (form.default_profile.string(text)?, Some(form.default_profile)),
    };
    by_name.iter().find(|(known, _)| *known == name).map(|(_, profile)| *profile).ok_or_else(|| {
        let message = format!("there is no profile `{name}`");
        let error = match at {
            Some(raw) => text.error(text.span(raw.0), message),
            None => PipelineError::of_file(text.path, message),
        };
        error.nearest(&name, by_name.iter().map(|(known, _)| known.as_str()))
    })
}

/// Names become parts of paths and of references: they hold nothing that means something there.
fn plain_name(at: Raw, name: &str, text: &Text) -> Result<(), PipelineError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(plain) {
        return Ok(());
    }
    let message =
        format!("`{name}` is no name: letters, digits, `-`, `_` and `.` make one, a letter or digit first");
    Err(text.error(text.span(at.0), message))
}

fn known_stage<'r>(
    registry: &'r Registry,
    at: Raw,
    name: &str,
    text: &Text,
) -> Result<&'r dyn AnyStage, PipelineError> {
    registry.get(name).ok_or_else(|| {
        text.error(text.span(at.0), format!("there is no stage `{name}`"))
            .nearest(name, registry.iter().map(AnyStage::name))
    })
}

impl<'a> Checker<'_, 'a> {
    fn error(&self, at: Raw, message: impl Into<String>) -> PipelineError {
        self.text.error(self.text.span(at.0), message)
    }

    fn name(&mut self, at: Raw<'a>, vars: &Vars, meaning: Meaning) -> Result<String, PipelineError> {
        let name = string(at, vars, self.text)?;
        plain_name(at, &name, self.text)?;
        if let Some(first) = self.names.get(&name) {
            let line = self.text.line(self.text.span(first.at.0).start);
            return Err(self
                .error(at, format!("the name `{name}` is given twice"))
                .hint(format!("it was first given on line {line}")));
        }
        self.names.insert(name.clone(), Named { meaning, at });
        Ok(name)
    }

    fn add_step(
        &mut self,
        entry: &EntryForm<'a>,
        vars: &Vars,
        profile: &ProfileForm<'a>,
        registry: &Registry,
    ) -> Result<NodeIndex, PipelineError> {
        let text = self.text;
        let Some(stage_at) = entry.stage else {
            return Err(
                self.error(entry.name, "a step says `stage:`, an alias says `from:`; this is neither")
            );
        };
        let stage_name = string(stage_at, vars, text)?;
        let stage = known_stage(registry, stage_at, &stage_name, text)?;
        let name = string(entry.name, vars, text)?;
        let mut layers = Vec::new();
        // What is said for the stage, then what is said for steps by name.
        for by_name in [false, true] {
            for (of, params) in &profile.defaults {
                let of = of.string(text)?;
                let applies =
                    if by_name { of != stage_name && matches(&of, &name) } else { of == stage_name };
                if applies {
                    layers.push(*params);
                }
            }
        }
        let params = params::canonical(stage, &layers, entry.params, vars, entry.name, text)?;
        let needs: NeedsForm = entry.needs.map(|raw| raw.parse(text)).transpose()?.unwrap_or_default();
        if needs.cpu == Some(0) {
            return Err(self.error(entry.needs.unwrap_or(entry.name), "a step needs at least one cpu"));
        }
        let publish = entry.publish.map(|raw| self.publish_folder(raw, vars)).transpose()?;
        let tolerance: Option<f64> = entry.tolerance.map(|raw| raw.parse(text)).transpose()?;
        if let (Some(raw), Some(share)) = (entry.tolerance, tolerance)
            && !(share > 0.0 && share < 1.0)
        {
            return Err(self.error(raw, "a tolerance is a share between 0 and 1, like 1e-3"));
        }
        let surroundings = stage.surroundings(&params).map_err(|e| self.error(entry.name, e.message))?;
        let node = self.graph.add_node(Step {
            name: String::new(),
            stage: stage_name,
            version: stage.version(),
            params,
            surroundings,
            inputs: Vec::new(),
            needs: Needs { cpu: needs.cpu.unwrap_or(1), gpu: needs.gpu.unwrap_or(0) },
            publish,
            tolerance,
            line: text.line(text.span(entry.name.0).start),
        });
        self.graph[node].name = self.name(entry.name, vars, Meaning::Step(node))?;
        Ok(node)
    }

    fn publish_folder(&self, raw: Raw, vars: &Vars) -> Result<PathBuf, PipelineError> {
        let folder = string(raw, vars, self.text)?;
        if !inside(&folder) {
            return Err(self.error(raw, format!("`{folder}` does not stay inside the reports folder")));
        }
        Ok(PathBuf::from(folder))
    }

    fn add_alias(&mut self, entry: &EntryForm<'a>, vars: &Vars) -> Result<(), PipelineError> {
        let Some(from) = entry.from else { return Ok(()) };
        let extra = [entry.stage, entry.params, entry.needs, entry.publish, entry.tolerance];
        let extra = extra.into_iter().flatten().next();
        if let Some(extra) = extra.or_else(|| entry.inputs.0.first().map(|(port, _)| *port)) {
            return Err(self.error(extra, "an alias has a name and `from:`, nothing else"));
        }
        let source = self.source(from, &string(from, vars, self.text)?)?;
        self.name(entry.name, vars, Meaning::Alias(source))?;
        Ok(())
    }

    /// What a reference means: `step`, `step/output`, `alias`, `alias/output` or `./file`.
    fn source(&self, at: Raw, reference: &str) -> Result<Source, PipelineError> {
        if let Some(path) = reference.strip_prefix("./") {
            if !inside(path) {
                return Err(self.error(at, format!("`{reference}` does not stay inside the project")));
            }
            return Ok(Source::File(PathBuf::from(path)));
        }
        let (name, output) = match reference.split_once('/') {
            Some((name, output)) => (name, Some(output.to_owned())),
            None => (reference, None),
        };
        if output.as_deref().is_some_and(|output| !inside(output)) {
            return Err(self.error(at, format!("`{reference}` does not stay inside the step's tree")));
        }
        let Some(named) = self.names.get(name) else {
            return Err(self
                .error(at, format!("there is no step `{name}`"))
                .nearest(name, self.names.keys().map(String::as_str)));
        };
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

    fn wire(&mut self, step: &Unwired<'_, 'a>, registry: &Registry) -> Result<(), PipelineError> {
        let Unwired { node, entry, vars } = step;
        let stage_name = self.graph[*node].stage.clone();
        let stage = registry.get(&stage_name);
        let ports = stage.map(AnyStage::inputs).unwrap_or_default();
        let is_open = stage.is_some_and(AnyStage::open_inputs);
        let mut connected: Vec<String> = Vec::new();
        for (port_at, value) in &entry.inputs.0 {
            let port_name = port_at.string(self.text)?;
            let named = ports.iter().find(|port| port.name == port_name).copied();
            let own = || is_open.then_some(Port { name: "", many: true, optional: false });
            let Some(port) = named.or_else(own) else {
                return Err(self
                    .error(*port_at, format!("stage `{stage_name}` reads no `{port_name}`"))
                    .nearest(&port_name, ports.iter().map(|port| port.name)));
            };
            if connected.contains(&port_name) {
                return Err(self.error(*port_at, format!("input `{port_name}` is connected twice")));
            }
            let list = value.0.starts_with('[');
            if list && !port.many {
                return Err(self.error(*value, format!("input `{port_name}` takes one source, not a list")));
            }
            let raws: Vec<Raw> = if list { raw_list(*value, self.text)? } else { vec![*value] };
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
                let position = self.text.position(self.text.span(raw.0).start);
                match &source {
                    // What a person may place by hand is connected once it is there.
                    Source::File(path) if port.optional && !self.root.join(path).exists() => continue,
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
        let connected: Vec<&str> = connected.iter().map(String::as_str).collect();
        let wiring = stage.map_or(Ok(()), |stage| stage.check_wiring(&self.graph[*node].params, &connected));
        wiring.map_err(|problem| {
            self.error(
                entry.params.unwrap_or(entry.name),
                format!("params of stage `{stage_name}`: {problem}"),
            )
        })
    }

    /// Refuses defaults that no step takes: a misspelt name would leave a setting without effect.
    fn refuse_idle_defaults(&self, profile: &ProfileForm<'a>) -> Result<(), PipelineError> {
        for (at, _) in &profile.defaults {
            let of = at.string(self.text)?;
            if !self.graph.node_weights().any(|step| step.stage == of || matches(&of, &step.name)) {
                let stages = self.graph.node_weights().map(|step| step.stage.as_str());
                let steps = self.graph.node_weights().map(|step| step.name.as_str());
                return Err(self
                    .error(*at, format!("these defaults are for no step: no stage or step is called `{of}`"))
                    .nearest(&of, stages.chain(steps)));
            }
        }
        Ok(())
    }

    fn refuse_cycles(&self, steps: &[Unwired<'_, 'a>]) -> Result<(), PipelineError> {
        let Some(cycle) = find_cycle(&self.graph) else { return Ok(()) };
        let names: Vec<&str> = cycle.iter().map(|node| self.graph[*node].name.as_str()).collect();
        let at = steps.iter().find(|step| step.node == cycle[0]).map(|step| step.entry.name);
        let message = format!("the steps wait for each other: {} -> {}", names.join(" -> "), names[0]);
        Err(match at {
            Some(at) => self.error(at, message),
            None => PipelineError::of_file(self.text.path, message),
        }
        .hint("an arrow goes from a step to one that reads it; one of these inputs must come from elsewhere"))
    }

    fn targets(
        &self,
        form: &FileForm,
        vars: &Vars,
    ) -> Result<BTreeMap<String, Vec<NodeIndex>>, PipelineError> {
        let mut targets: BTreeMap<String, Vec<NodeIndex>> = BTreeMap::new();
        for (name, named) in &self.names {
            if let Meaning::Step(node) = named.meaning {
                targets.insert(name.clone(), vec![node]);
            }
        }
        for (name_at, members) in &form.targets {
            let name = name_at.string(self.text)?;
            let mut nodes = Vec::new();
            for member_at in members {
                for member in strings(*member_at, vars, self.text)? {
                    let Some(found) = targets.get(&member) else {
                        let message =
                            format!("target `{name}`: there is no step or target above called `{member}`");
                        return Err(self
                            .error(*member_at, message)
                            .nearest(&member, targets.keys().map(String::as_str)));
                    };
                    nodes.extend(
                        found.iter().filter(|node| !nodes.contains(*node)).copied().collect::<Vec<_>>(),
                    );
                }
            }
            if targets.insert(name.clone(), nodes).is_some() {
                return Err(self.error(*name_at, format!("`{name}` already names a step or a target")));
            }
        }
        Ok(targets)
    }
}

fn raw_list<'a>(raw: Raw<'a>, text: &Text<'a>) -> Result<Vec<Raw<'a>>, PipelineError> {
    let values: Vec<&'a ron::value::RawValue> =
        ron::from_str(raw.0).map_err(|error| text.error(text.span(raw.0), error.code.to_string()))?;
    Ok(values.into_iter().map(|value| Raw(value.trim().get_ron())).collect())
}

/// Whether `name` fits `pattern`, in which `*` stands for any characters.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((head, rest)) => name.strip_prefix(head).is_some_and(|tail| {
            tail.char_indices().map(|(at, _)| at).chain([tail.len()]).any(|at| matches(rest, &tail[at..]))
        }),
    }
}

/// Whether a relative path stays below where it starts.
fn inside(path: &str) -> bool {
    use std::path::Component::{CurDir, Normal};
    !path.is_empty() && Path::new(path).components().all(|part| matches!(part, Normal(_) | CurDir))
}

/// The nodes of a cycle in the order of its arrows, if there is one.
fn find_cycle(graph: &DiGraph<Step, ()>) -> Option<Vec<NodeIndex>> {
    let component = petgraph::algo::tarjan_scc(graph)
        .into_iter()
        .find(|nodes| nodes.len() > 1 || graph.find_edge(nodes[0], nodes[0]).is_some())?;
    // Inside a strongly connected component every node has a successor inside it: walk until one repeats.
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
