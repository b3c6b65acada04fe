//! Checks the form of a file and builds the [`Pipeline`]: names, ports, params and cycles. All errors of a pipeline
//! file are found here, before a step runs.

mod defaults;
mod needs;
mod publish;
mod rehearse;
mod resolve_inputs;
mod targets;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use petgraph::graph::{DiGraph, NodeIndex};
use stage_api::{AnyStage, LoadedStage, Registry};

use super::error::{PipelineError, Text};
use super::expand::{Vars, combinations, string, substitute};
use super::file::{EntryForm, FileForm, ProfileForm, Raw};
use super::params;
use super::{Folder, Pipeline, Source, Step};
use crate::digest::Digest;
use defaults::{Rule, layers, rules};
use rehearse::Chosen;

/// What a name in the file refers to.
enum Meaning {
    Step(NodeIndex),
    Alias(Source),
}

struct Named<'a> {
    meaning: Meaning,
    at: Raw<'a>,
}

/// A step whose inputs are not resolved yet.
struct Unwired<'f, 'a, 'r> {
    node: NodeIndex,
    stage: &'r dyn AnyStage,
    loaded: Box<dyn LoadedStage + 'r>,
    entry: &'f EntryForm<'a>,
    vars: Vars,
}

struct Checker<'t, 'a> {
    text: &'t Text<'a>,
    folder: &'t dyn Folder,
    looked_for: Vec<(PathBuf, bool)>,
    graph: DiGraph<Step, ()>,
    names: HashMap<String, Named<'a>>,
    /// The declared pools.
    pools: BTreeMap<String, usize>,
    /// Defaults of params.
    defaults: Vec<Rule<'a>>,
    /// Defaults of needs.
    needs: Vec<Rule<'a>>,
}

/// Checks `form` with its `profiles` for the one `profile`, or for the default profile.
pub(super) fn check<'a>(
    form: &FileForm<'a>,
    profiles: &[ProfileForm<'a>],
    profile: Option<&str>,
    text: &Text<'a>,
    registry: &Registry,
    folder: &dyn Folder,
) -> Result<Pipeline, PipelineError> {
    let own = choose_profile(form, profiles, profile, text)?;
    let Chosen { profile: chosen, defaults, rehearsal } = &rehearse::laid_over(own, profiles, text)?;
    let field = |name: &str, value: Raw| (name.to_owned(), value.0.to_owned());
    let seeds = seeds(chosen.seeds.or(form.seeds), text)?;
    let vars: Vars =
        vec![field("profile", chosen.name), field("about", chosen.about), ("seeds".to_owned(), seeds)];
    let mut checker = Checker {
        text,
        folder,
        looked_for: Vec::new(),
        graph: DiGraph::new(),
        names: HashMap::new(),
        pools: BTreeMap::new(),
        defaults: rules(std::iter::once(&form.defaults).chain(defaults), &vars, text)?,
        needs: rules([&form.needs], &vars, text)?,
    };
    checker.pools = checker.pools(form)?;
    let mut unwired = Vec::new();
    let mut aliases = Vec::new();
    for entry in chosen.sources.iter().chain(&form.steps) {
        for vars in combinations(&entry.for_each, text, &vars)? {
            if entry.from.is_some() {
                aliases.push((entry, vars));
            } else {
                unwired.push(checker.add_step(entry, vars, registry)?);
            }
        }
    }
    // In the order of the file: an alias may name any step, and an alias above it.
    for (entry, vars) in aliases {
        checker.add_alias(entry, &vars)?;
    }
    for step in &unwired {
        checker.wire(step)?;
    }
    checker.refuse_idle(&checker.defaults, "defaults")?;
    checker.refuse_idle(&checker.needs, "needs")?;
    if let Some(rehearsal) = rehearsal {
        checker.refuse_idle_rehearsal(own, rehearsal)?;
    }
    checker.refuse_cycles(&unwired)?;
    checker.refuse_clashing_reports(&unwired)?;
    let (targets, target_abouts) = checker.targets(form, &vars)?;
    Ok(Pipeline {
        file: text.path().to_owned(),
        root: super::root_of(text.path()),
        // Set by the caller, who has read the texts.
        text: Digest::of_bytes(b""),
        other_files: Vec::new(),
        looked_for: checker.looked_for,
        profile: chosen.name.string(text)?,
        about: chosen.about.string(text)?,
        profiles: profiles.iter().map(|profile| profile.name.string(text)).collect::<Result<_, _>>()?,
        rehearsal: rehearsal.clone(),
        rehearsals: rehearse::pairs(profiles, text)?,
        pools: checker.pools,
        graph: checker.graph,
        targets,
        target_abouts,
    })
}

fn choose_profile<'f, 'a>(
    form: &FileForm<'a>,
    profiles: &'f [ProfileForm<'a>],
    requested: Option<&str>,
    text: &Text,
) -> Result<&'f ProfileForm<'a>, PipelineError> {
    let mut by_name: Vec<(String, &ProfileForm)> = Vec::new();
    for profile in profiles {
        let name = profile.name.string(text)?;
        plain_name(profile.name, &name, text)?;
        if by_name.iter().any(|(other, _)| *other == name) {
            return Err(text.error(text.span(profile.name.0), format!("profile `{name}` is declared twice")));
        }
        by_name.push((name, profile));
    }
    let (name, at) = match (requested, form.default_profile, profiles) {
        (Some(name), _, _) => (name.to_owned(), None),
        (None, Some(raw), _) => (raw.string(text)?, Some(raw)),
        (None, None, [first, ..]) => return Ok(first),
        (None, None, []) => (String::new(), None),
    };
    by_name.iter().find(|(known, _)| *known == name).map(|(_, profile)| *profile).ok_or_else(|| {
        let message = format!("there is no profile `{name}`");
        let error = match at {
            Some(raw) => text.error(text.span(raw.0), message),
            None => PipelineError::of_file(text.path(), message),
        };
        error.nearest(&name, by_name.iter().map(|(known, _)| known.as_str()))
    })
}

/// The number of seeds; 1 by default.
fn seeds(field: Option<Raw>, text: &Text) -> Result<String, PipelineError> {
    let Some(raw) = field else { return Ok("1".to_owned()) };
    match raw.parse::<usize>(text)? {
        0 => Err(text.error(text.span(raw.0), "seeds: at least 1 is required")),
        seeds => Ok(seeds.to_string()),
    }
}

/// In bytes. Some file systems do not allow longer names.
const MAX_NAME_BYTES: usize = 200;

/// Names become parts of paths and references, so they contain no characters with a meaning there.
fn plain_name(at: Raw, name: &str, text: &Text) -> Result<(), PipelineError> {
    if name.len() > MAX_NAME_BYTES {
        let message = format!("this name has {} bytes; the limit is {MAX_NAME_BYTES}", name.len());
        return Err(text.error(text.span(at.0), message));
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(plain) {
        return Ok(());
    }
    let message = format!(
        "`{name}` is not a valid name: use letters, digits, `-`, `_` and `.`, and begin with a letter or digit"
    );
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
            let line = self.text.line(first.at.0);
            return Err(self
                .error(at, format!("the name `{name}` is given twice"))
                .hint(format!("it was first given on line {line}")));
        }
        self.names.insert(name.clone(), Named { meaning, at });
        Ok(name)
    }

    fn add_step<'f, 'r>(
        &mut self,
        entry: &'f EntryForm<'a>,
        vars: Vars,
        registry: &'r Registry,
    ) -> Result<Unwired<'f, 'a, 'r>, PipelineError> {
        let text = self.text;
        let Some(stage_at) = entry.stage else {
            return Err(
                self.error(entry.name, "this entry has neither `stage:` (a step) nor `from:` (an alias)")
            );
        };
        let stage_name = string(stage_at, &vars, text)?;
        let stage = known_stage(registry, stage_at, &stage_name, text)?;
        let name = string(entry.name, &vars, text)?;
        let defaults = layers(&self.defaults, &stage_name, &name);
        let loaded = params::load(stage, &defaults, entry.params, &vars, entry.name, text)?;
        let needs = layers(&self.needs, &stage_name, &name).into_iter().chain(entry.needs);
        let needs = self.needs(params::merged(needs, text)?, entry.needs.unwrap_or(entry.name))?;
        let publish = entry.publish.map(|raw| self.publish_folder(raw, &vars)).transpose()?;
        let tolerance: Option<f64> = entry.tolerance.map(|raw| raw.parse(text)).transpose()?;
        if let (Some(raw), Some(share)) = (entry.tolerance, tolerance)
            && !(share > 0.0 && share < 1.0)
        {
            return Err(self.error(raw, "tolerance: a number between 0 and 1 is required, for example 1e-3"));
        }
        let node = self.graph.add_node(Step {
            name: String::new(),
            about: entry.about.map(|raw| Ok(substitute(&raw.string(text)?, &vars))).transpose()?,
            stage: stage_name,
            version: stage.version(),
            unproven: loaded.is_unproven(),
            params: loaded.canonical_params().to_owned(),
            environment: loaded.environment(),
            inputs: Vec::new(),
            needs,
            publish,
            tolerance,
            file: text.other_file(entry.name.0),
            line: text.line(entry.name.0),
        });
        self.graph[node].name = self.name(entry.name, &vars, Meaning::Step(node))?;
        Ok(Unwired { node, stage, loaded, entry, vars })
    }
}

/// Whether `name` matches `pattern`, in which `*` matches any characters.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((head, rest)) => name.strip_prefix(head).is_some_and(|tail| {
            tail.char_indices().map(|(at, _)| at).chain([tail.len()]).any(|at| matches(rest, &tail[at..]))
        }),
    }
}

/// The file of the project that `./path` names.
pub(super) fn project_file(raw: Raw, text: &Text) -> Result<PathBuf, PipelineError> {
    let reference = raw.string(text)?;
    let path = reference.strip_prefix("./").map(|path| normal(path).filter(|path| !path.is_empty()));
    match path {
        Some(Some(path)) => Ok(PathBuf::from(path)),
        _ => Err(text.error(text.span(raw.0), format!("`{reference}` is no `./file` of the project"))),
    }
}

/// A relative path without `.` and `..`, with `/` between its parts; `None` if it leaves its starting folder.
fn normal(path: &str) -> Option<String> {
    use std::path::Component;
    let mut parts: Vec<&str> = Vec::new();
    for part in Path::new(path).components() {
        match part {
            Component::Normal(name) => parts.push(name.to_str()?),
            Component::CurDir => {}
            Component::ParentDir => drop(parts.pop()?),
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(parts.join("/"))
}
