//! Checks resources: the pools that the file declares, and what each step needs.

use std::collections::BTreeMap;

use super::Checker;
use crate::pipeline::Needs;
use crate::pipeline::error::PipelineError;
use crate::pipeline::file::{Fields, FileForm, Raw};
use crate::pipeline::needs::{BUILT_IN_POOLS, Gpus, size};

impl<'a> Checker<'_, 'a> {
    /// The declared pools with their sizes.
    pub(super) fn pools(&self, form: &FileForm<'a>) -> Result<BTreeMap<String, usize>, PipelineError> {
        let mut pools = BTreeMap::new();
        for (at, value) in &form.pools.0 {
            let name = at.string(self.text)?;
            let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic())
                && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            if !is_name {
                return Err(self.error(
                    *at,
                    format!(
                        "`{name}` is not a valid name of a pool: use letters, digits and `_`, and begin with a letter"
                    ),
                ));
            }
            if BUILT_IN_POOLS.contains(&name.as_str()) || name == "gpu_memory" {
                return Err(self
                    .error(
                        *at,
                        format!("`{name}` is a resource of the machine and cannot be declared as a pool"),
                    )
                    .hint(format!("set its amount with `--{}` of `repro make`", option(&name))));
            }
            let places: usize = value.parse(self.text)?;
            if places == 0 {
                return Err(self.error(*value, format!("pool `{name}`: a size of at least 1 is required")));
            }
            if pools.insert(name.clone(), places).is_some() {
                return Err(self.error(*at, format!("pool `{name}` is declared twice")));
            }
        }
        Ok(pools)
    }

    /// The needs of a step: `(cpu: 2, memory: "8 GiB", gpu: 1, net: 1)`; an error of needs that do not fit together points
    /// at `at`.
    pub(super) fn needs(&self, fields: Fields<'a>, at: Raw<'a>) -> Result<Needs, PipelineError> {
        let mut needs = Needs::default();
        for (name, value) in fields.0 {
            match name.as_str() {
                "cpu" => {
                    needs.cpu = value.parse(self.text)?;
                    if needs.cpu == 0 {
                        return Err(self.error(value, "cpu: at least 1 is required"));
                    }
                }
                "memory" => needs.memory = self.size(&name, value)?,
                "gpu_memory" => needs.gpu_memory = self.size(&name, value)?,
                "gpu" => {
                    needs.gpu =
                        Gpus::new(value.parse(self.text)?).map_err(|problem| self.error(value, problem))?;
                }
                _ => {
                    let Some(places) = self.pools.get(&name) else {
                        let known = BUILT_IN_POOLS.into_iter().chain(["gpu_memory"]);
                        let known = known.chain(self.pools.keys().map(String::as_str));
                        return Err(self
                            .error(value, format!("there is no pool `{name}`"))
                            .nearest(&name, known));
                    };
                    let amount: usize = value.parse(self.text)?;
                    if amount == 0 || amount > *places {
                        let message =
                            format!("pool `{name}` has size {places}: a step can use 1 to {places} of it");
                        return Err(self.error(value, message));
                    }
                    needs.pools.insert(name, amount);
                }
            }
        }
        if needs.gpu.is_some() && needs.gpu_memory > 0 {
            return Err(
                self.error(at, "a step takes either `gpu` or `gpu_memory` (a part of one GPU), not both")
            );
        }
        Ok(needs)
    }

    fn size(&self, name: &str, value: Raw<'a>) -> Result<u64, PipelineError> {
        if !value.0.starts_with(['"', 'r']) {
            let message = format!("`{name}: {}`: a size with a unit is required", value.0);
            return Err(self.error(value, message).hint(format!("for example {name}: \"8 GiB\"")));
        }
        size(&value.string(self.text)?).map_err(|problem| self.error(value, problem))
    }
}

/// The option of `make` that sets the amount of a resource.
fn option(pool: &str) -> &str {
    match pool {
        "cpu" => "jobs",
        "gpu" | "gpu_memory" => "gpus",
        other => other,
    }
}
