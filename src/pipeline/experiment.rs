//! Experiments: `--set STEP.PARAM=VALUE` changes a param of steps, `--sweep STEP.PARAM=VALUES` repeats steps, with all that
//! reads them, for each value. What comes out are ordinary steps with keys of their own. It works on a checked pipeline,
//! so the file and what is stored of it stay as they are.

use std::collections::{BTreeMap, BTreeSet};

use petgraph::graph::NodeIndex;
use petgraph::visit::Dfs;
use stage_api::Registry;

use super::{Pipeline, Source, Step, fits, nearest};
use crate::params::{fields, split};

/// Limit for the steps that sweeps create.
const MAX_STEPS: usize = 100_000;

/// What the command line changes of the pipeline file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Experiment {
    /// `STEP.PARAM=VALUE` each.
    pub set: Vec<String>,
    /// `STEP.PARAM=VALUE,VALUE` or `STEP.PARAM=1..3` each. Several make a grid.
    pub sweep: Vec<String>,
}

impl Experiment {
    /// Whether nothing is changed.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.sweep.is_empty()
    }
}

/// What is wrong with an option.
#[derive(Debug, PartialEq, Eq)]
pub struct ExperimentError {
    /// What is wrong.
    pub message: String,
    /// What to write instead, if that is known.
    pub hint: Option<String>,
}

/// A param of some steps.
struct Param<'a> {
    /// The option with its value, for messages.
    option: String,
    /// The steps, and where the param is in their params.
    steps: Vec<(NodeIndex, String)>,
    value: &'a str,
}

impl Pipeline {
    /// Applies an experiment. Its steps publish nothing: the reports are those of the file.
    ///
    /// # Errors
    /// An option that is not `STEP.PARAM=VALUE`, names no step or param, or has a value that the stage refuses.
    pub fn vary(&mut self, experiment: &Experiment, registry: &Registry) -> Result<(), ExperimentError> {
        for text in &experiment.set {
            let param = self.param("--set", text)?;
            for (node, path) in &param.steps {
                self.set(*node, path, param.value, &param.option, registry)?;
            }
        }
        if !experiment.sweep.is_empty() {
            self.sweep(&experiment.sweep, registry)?;
        }
        self.graph.node_weights_mut().for_each(|step| step.publish = None);
        Ok(())
    }

    fn sweep(&mut self, sweeps: &[String], registry: &Registry) -> Result<(), ExperimentError> {
        let params = sweeps.iter().map(|text| self.param("--sweep", text)).collect::<Result<Vec<_>, _>>()?;
        let mut grid: Vec<Vec<String>> = vec![Vec::new()];
        for param in &params {
            let values = values(param)?;
            grid = grid
                .iter()
                .flat_map(|point| {
                    values.iter().map(|value| [&point[..], std::slice::from_ref(value)].concat())
                })
                .collect();
            if grid.len() > MAX_STEPS {
                return Err(refused(format!("{}: the sweep has more than {MAX_STEPS} points", param.option)));
            }
        }
        let affected =
            self.readers(params.iter().flat_map(|param| param.steps.iter().map(|(node, _)| *node)));
        if grid.len().saturating_mul(affected.len()) > MAX_STEPS {
            return Err(refused(format!("--sweep: it creates more than {MAX_STEPS} steps")));
        }
        // By step: its copy at each point. The step itself is the first one.
        let mut copies: BTreeMap<NodeIndex, Vec<NodeIndex>> =
            affected.iter().map(|node| (*node, vec![*node])).collect();
        for _ in 1..grid.len() {
            for (node, copies) in &mut copies {
                let step = self.graph[*node].clone();
                copies.push(self.graph.add_node(step));
            }
        }
        // A target builds the copies of its steps, at all points.
        for nodes in self.targets.values_mut() {
            *nodes = nodes
                .iter()
                .flat_map(|node| copies.get(node).cloned().unwrap_or_else(|| vec![*node]))
                .collect();
        }
        for (at, point) in grid.iter().enumerate() {
            for (node, copies_of) in &copies {
                let copy = copies_of[at];
                self.read_copies(copy, &copies, at);
                let mut name = self.graph[copy].name.clone();
                for (param, value) in params.iter().zip(point) {
                    let Some((_, path)) = param.steps.iter().find(|(step, _)| step == node) else {
                        name.push_str(&label(&param.steps[0].1, value));
                        continue;
                    };
                    self.set(copy, path, value, &param.option, registry)?;
                    name.push_str(&label(path, value));
                }
                self.graph[copy].name.clone_from(&name);
                if self.targets.insert(name.clone(), vec![copy]).is_some() {
                    return Err(refused(format!("--sweep: the name `{name}` is given twice")));
                }
            }
        }
        Ok(())
    }

    /// Lets a copy read the copies at the same point.
    fn read_copies(&mut self, copy: NodeIndex, copies: &BTreeMap<NodeIndex, Vec<NodeIndex>>, at: usize) {
        let mut sources = BTreeSet::new();
        for input in &mut self.graph[copy].inputs {
            if let Source::Step { step, .. } = &mut input.source {
                if let Some(copies) = copies.get(step) {
                    *step = copies[at];
                }
                sources.insert(*step);
            }
        }
        for source in sources {
            self.graph.update_edge(source, copy, ());
        }
    }

    /// The steps and all that reads them.
    fn readers(&self, steps: impl Iterator<Item = NodeIndex>) -> BTreeSet<NodeIndex> {
        let mut found = BTreeSet::new();
        for step in steps {
            let mut search = Dfs::new(&self.graph, step);
            while let Some(node) = search.next(&self.graph) {
                found.insert(node);
            }
        }
        found
    }

    /// What `STEP.PARAM=VALUE` names. `STEP` may be a stage, and a name with `*`; names may contain dots.
    fn param<'a>(&self, option: &str, text: &'a str) -> Result<Param<'a>, ExperimentError> {
        let Some((left, value)) = text.split_once('=').filter(|(left, _)| left.contains('.')) else {
            return Err(ExperimentError {
                message: format!("{option} {text}: a step, a param and a value are required"),
                hint: Some(format!("write `{option} STEP.PARAM=VALUE`")),
            });
        };
        let param_of = |step: &Step| {
            left.match_indices('.').find_map(|(dot, _)| {
                let (of, param) = (&left[..dot], &left[dot + 1..]);
                (of == step.stage || fits(of, &step.name)).then(|| path(step, param))
            })
        };
        let nodes = self.graph.node_indices();
        let steps: Vec<(NodeIndex, String)> =
            nodes.filter_map(|node| Some((node, param_of(&self.graph[node])?))).collect();
        if steps.is_empty() {
            let of = left.split('.').next().unwrap_or_default();
            let known = self.graph.node_weights().flat_map(|step| [step.name.as_str(), step.stage.as_str()]);
            return Err(ExperimentError {
                message: format!("{option} {text}: there is no step or stage `{of}`"),
                hint: nearest(of, known),
            });
        }
        Ok(Param { option: format!("{option} {text}"), steps, value })
    }

    /// Sets a param of a step.
    fn set(
        &mut self,
        node: NodeIndex,
        path: &str,
        value: &str,
        option: &str,
        registry: &Registry,
    ) -> Result<(), ExperimentError> {
        let step = &mut self.graph[node];
        let Some(stage) = registry.get(&step.stage) else {
            return Err(refused(format!("{option}: there is no stage `{}`", step.stage)));
        };
        let Some(params) = with_value(&step.params, path, &written(value)) else {
            return Err(refused(format!("{option}: step `{}` has no param `{path}`", step.name)));
        };
        let loaded = stage.load(&params).map_err(|error| match &error.unknown {
            Some(unknown) => {
                let args = args(step).unwrap_or_default();
                let known = error.expected.iter().map(String::as_str).chain(args);
                ExperimentError {
                    message: format!("{option}: step `{}` has no param or value `{unknown}`", step.name),
                    hint: nearest(unknown, known),
                }
            }
            None => refused(format!("{option}: params of step `{}`: {}", step.name, error.message)),
        })?;
        let ports: Vec<&str> = step.inputs.iter().map(|input| input.port.as_str()).collect();
        loaded.check_wiring(&ports).map_err(|problem| refused(format!("{option}: {problem}")))?;
        let (params, environment) = (loaded.canonical_params().to_owned(), loaded.environment());
        let unproven = loaded.is_unproven();
        (step.params, step.environment, step.unproven) = (params, environment, unproven);
        Ok(())
    }
}

fn refused(message: String) -> ExperimentError {
    ExperimentError { message, hint: None }
}

/// The names of the args of a command.
fn args(step: &Step) -> Option<Vec<&str>> {
    let (_, args) = fields(&step.params)?.into_iter().find(|(name, _)| *name == "args")?;
    Some(fields(args)?.into_iter().map(|(name, _)| name).collect())
}

/// Where a param of a step is: `lr` of a command may be one of its args.
fn path(step: &Step, param: &str) -> String {
    let is_field = fields(&step.params).is_some_and(|fields| fields.iter().any(|(name, _)| *name == param));
    match args(step).is_some_and(|args| args.contains(&param)) && !is_field {
        true => format!("args.{param}"),
        false => param.to_owned(),
    }
}

/// Params with another value at `path`; `None` if there is nothing with fields on the way.
fn with_value(params: &str, path: &str, value: &str) -> Option<String> {
    let (first, rest) = path.split_once('.').map_or((path, None), |(first, rest)| (first, Some(rest)));
    let mut fields: Vec<(&str, String)> =
        fields(params)?.into_iter().map(|(name, value)| (name, value.to_owned())).collect();
    let place = fields.iter().position(|(name, _)| *name == first);
    let new = match (rest, place) {
        (None, _) => value.to_owned(),
        (Some(rest), Some(place)) => with_value(&fields[place].1, rest, value)?,
        (Some(_), None) => return None,
    };
    match place {
        Some(place) => fields[place].1 = new,
        None => fields.push((first, new)),
    }
    let is_map = params.starts_with('{');
    let field = |(name, value): &(&str, String)| match is_map {
        true => format!("{name:?}:{value}"),
        false => format!("{name}:{value}"),
    };
    let inside = fields.iter().map(field).collect::<Vec<_>>().join(",");
    Some(if is_map { format!("{{{inside}}}") } else { format!("({inside})") })
}

/// A value as RON: what is not RON is a string.
fn written(value: &str) -> String {
    match ron::from_str::<ron::Value>(value) {
        Ok(parsed) if parsed != ron::Value::Unit || value == "()" => value.to_owned(),
        _ => format!("{value:?}"),
    }
}

/// The values of a sweep: those of a list, or the numbers of a range, both ends included.
fn values(param: &Param) -> Result<Vec<String>, ExperimentError> {
    let mut values = Vec::new();
    for value in split(param.value).into_iter().map(str::trim) {
        let range = value.split_once("..").and_then(|(first, last)| {
            Some(first.trim().parse::<u32>().ok()?..=last.trim().parse::<u32>().ok()?)
        });
        match range {
            Some(range) if range.clone().count() <= MAX_STEPS => {
                values.extend(range.map(|value| value.to_string()))
            }
            Some(_) => return Err(refused(format!("{}: the range is too long", param.option))),
            None => values.push(value.to_owned()),
        }
    }
    if values.is_empty() || values.iter().any(String::is_empty) {
        return Err(ExperimentError {
            message: format!("{}: a value is empty", param.option),
            hint: Some("write values with commas between them, `0.1,0.2`, or a range, `1..5`".to_owned()),
        });
    }
    Ok(values)
}

/// The end of a step's name at a point of a sweep.
fn label(path: &str, value: &str) -> String {
    let param = path.rsplit('.').next().unwrap_or(path);
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' };
    format!("-{param}-{}", value.trim_matches('"').chars().map(plain).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_set_in_fields_and_maps() {
        let set = |params: &str, path: &str, value: &str| with_value(params, path, &written(value));
        assert_eq!(set("(lr:5e-5,mode:\"pe\")", "lr", "1e-4").unwrap(), "(lr:1e-4,mode:\"pe\")");
        assert_eq!(set("(mode:\"pe\")", "mode", "fc").unwrap(), "(mode:\"fc\")");
        assert_eq!(set("(mode:\"pe\")", "mode", "\"fc\"").unwrap(), "(mode:\"fc\")");
        assert_eq!(set("()", "deep", "true").unwrap(), "(deep:true)");
        assert_eq!(set("(s:(warm:1,end:2))", "s.warm", "3").unwrap(), "(s:(warm:3,end:2))");
        assert_eq!(
            set(r#"(run:["x"],args:{"lr":"1","learning-rate":"2"})"#, "args.lr", "0.5").unwrap(),
            r#"(run:["x"],args:{"lr":0.5,"learning-rate":"2"})"#
        );
        assert_eq!(set("(lr:1)", "lr.x", "2"), None);
        assert_eq!(set("(lr:1)", "s.x", "2"), None);
    }

    #[test]
    fn values_are_lists_and_ranges() {
        let found = |value: &str| {
            values(&Param { option: String::new(), steps: Vec::new(), value }).map_err(|error| error.message)
        };
        assert_eq!(found("0.1, 2,\"a,b\"").unwrap(), ["0.1", "2", "\"a,b\""]);
        assert_eq!(found("1..3,7").unwrap(), ["1", "2", "3", "7"]);
        assert!(found("").is_err() && found("1,,2").is_err() && found("0..4000000000").is_err());
        assert_eq!(label("args.lr", "1e-4"), "-lr-1e-4");
        assert_eq!(label("mode", "\"a b\""), "-mode-a-b");
    }
}
