//! What the file and a profile say of all steps of a stage, or of steps by name: defaults of params, and needs.

use super::{Checker, matches};
use crate::pipeline::Step;
use crate::pipeline::error::{PipelineError, Text};
use crate::pipeline::expand::{Vars, strings};
use crate::pipeline::file::{Pairs, Raw};

/// Defaults for the steps of a stage, or for steps by name, in which `*` matches any characters.
pub(super) struct Rule<'a> {
    of: String,
    at: Raw<'a>,
    value: Raw<'a>,
}

impl Rule<'_> {
    fn applies(&self, step: &Step) -> bool {
        step.stage == self.of || matches(&self.of, &step.name)
    }
}

/// The rules of some maps, in order. Alternatives in a name (`{a,b}`) are multiplied out.
pub(super) fn rules<'m, 'a: 'm>(
    maps: impl IntoIterator<Item = &'m Pairs<'a>>,
    vars: &Vars,
    text: &Text<'a>,
) -> Result<Vec<Rule<'a>>, PipelineError> {
    let mut rules: Vec<Rule> = Vec::new();
    for map in maps {
        let first = rules.len();
        for (at, value) in &map.0 {
            for of in strings(*at, vars, text)? {
                if rules[first..].iter().any(|rule| rule.of == of) {
                    return Err(text.error(text.span(at.0), format!("`{of}` is given twice")));
                }
                rules.push(Rule { of, at: *at, value: *value });
            }
        }
    }
    Ok(rules)
}

/// What the rules say of a step: first by its stage, then by its name, each in order.
pub(super) fn layers<'a>(rules: &[Rule<'a>], stage: &str, name: &str) -> Vec<Raw<'a>> {
    let by_stage = rules.iter().filter(|rule| rule.of == stage);
    let by_name = rules.iter().filter(|rule| rule.of != stage && matches(&rule.of, name));
    by_stage.chain(by_name).map(|rule| rule.value).collect()
}

impl Checker<'_, '_> {
    /// Refuses rules that match no step: a misspelt name would leave a setting without effect. `what` names them.
    pub(super) fn refuse_idle(&self, rules: &[Rule], what: &str) -> Result<(), PipelineError> {
        let steps = || self.graph.node_weights();
        let Some(idle) = rules.iter().find(|rule| !steps().any(|step| rule.applies(step))) else {
            return Ok(());
        };
        let known = steps().flat_map(|step| [step.stage.as_str(), step.name.as_str()]);
        let message = format!("these {what} match no step: `{}` is not the name of a stage or step", idle.of);
        Err(self.error(idle.at, message).nearest(&idle.of, known))
    }
}
