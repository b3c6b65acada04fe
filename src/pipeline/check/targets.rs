//! Targets: names for lists of steps.

use std::collections::BTreeMap;

use petgraph::graph::NodeIndex;

use super::{Checker, Meaning};
use crate::pipeline::error::PipelineError;
use crate::pipeline::expand::{Vars, strings};
use crate::pipeline::file::FileForm;

impl<'a> Checker<'_, 'a> {
    pub(super) fn targets(
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
        for (name_at, members) in &form.targets.0 {
            let name = name_at.string(self.text)?;
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
        Ok(targets)
    }
}
