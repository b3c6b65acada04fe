//! Targets: names for lists of steps.

use std::collections::BTreeMap;

use petgraph::graph::NodeIndex;

use super::{Checker, Meaning};
use crate::pipeline::error::PipelineError;
use crate::pipeline::expand::{Vars, strings, substitute};
use crate::pipeline::file::{self, FileForm, TargetForm};

type Targets = BTreeMap<String, Vec<NodeIndex>>;
type Abouts = BTreeMap<String, String>;

impl<'a> Checker<'_, 'a> {
    /// The steps of every target, and what the file says about the declared ones.
    pub(super) fn targets(&self, form: &FileForm, vars: &Vars) -> Result<(Targets, Abouts), PipelineError> {
        let (mut targets, mut abouts) = (Targets::new(), Abouts::new());
        for (name, named) in &self.names {
            if let Meaning::Step(node) = named.meaning {
                targets.insert(name.clone(), vec![node]);
            }
        }
        for (name_at, target) in &form.targets.0 {
            let name = name_at.string(self.text)?;
            let mut members = *target;
            if target.0.starts_with('(') {
                let form: TargetForm = file::parse(target.0, self.text)?;
                abouts.insert(name.clone(), substitute(&form.about.string(self.text)?, vars));
                members = form.steps;
            }
            let mut nodes = Vec::new();
            for member_at in members.list(self.text)? {
                for member in strings(member_at, vars, self.text)? {
                    let Some(found) = targets.get(&member) else {
                        let message = format!(
                            "target `{name}`: there is no step, and no target above, called `{member}`"
                        );
                        return Err(self
                            .error(member_at, message)
                            .nearest(&member, targets.keys().map(String::as_str)));
                    };
                    nodes.extend(
                        found.iter().filter(|node| !nodes.contains(*node)).copied().collect::<Vec<_>>(),
                    );
                }
            }
            if targets.insert(name.clone(), nodes).is_some() {
                return Err(
                    self.error(*name_at, format!("`{name}` is already the name of a step or a target"))
                );
            }
        }
        Ok((targets, abouts))
    }
}
