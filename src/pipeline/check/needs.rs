//! What the file says of resources: the pools it declares, and what each step asks for.

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
                        "`{name}` is no name of a pool: letters, digits and `_` make one, a letter first"
                    ),
                ));
            }
            if BUILT_IN_POOLS.contains(&name.as_str()) || name == "gpu_memory" {
                return Err(self
                    .error(*at, format!("`{name}` is a pool of the machine and cannot be declared"))
                    .hint(format!("`--{}` of `repro make` says how much of it there is", option(&name))));
            }
            let places: usize = value.parse(self.text)?;
            if places == 0 {
                return Err(self.error(*value, format!("pool `{name}` needs at least one place")));
            }
            if pools.insert(name.clone(), places).is_some() {
                return Err(self.error(*at, format!("pool `{name}` is declared twice")));
            }
        }
        Ok(pools)
    }

    /// What a step needs: `(cpu: 2, memory: "8 GiB", gpu: 1, net: 1)`; `at` is what to point at when they do not fit
    /// together.
    pub(super) fn needs(&self, fields: Fields<'a>, at: Raw<'a>) -> Result<Needs, PipelineError> {
        let mut needs = Needs::default();
        for (name, value) in fields.0 {
            match name.as_str() {
                "cpu" => {
                    needs.cpu = value.parse(self.text)?;
                    if needs.cpu == 0 {
                        return Err(self.error(value, "a step needs at least one cpu"));
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
                    let wanted: usize = value.parse(self.text)?;
                    if wanted == 0 || wanted > *places {
                        let message =
                            format!("pool `{name}` has {places}: a step may need 1 to {places} of it");
                        return Err(self.error(value, message));
                    }
                    needs.pools.insert(name, wanted);
                }
            }
        }
        if needs.gpu.is_some() && needs.gpu_memory > 0 {
            return Err(self.error(at, "a step needs either `gpu` or `gpu_memory`, a part of one GPU"));
        }
        Ok(needs)
    }

    fn size(&self, name: &str, value: Raw<'a>) -> Result<u64, PipelineError> {
        if !value.0.starts_with(['"', 'r']) {
            let message = format!("`{name}: {}`: a size is written with its unit", value.0);
            return Err(self.error(value, message).hint(format!("for example {name}: \"8 GiB\"")));
        }
        size(&value.string(self.text)?).map_err(|problem| self.error(value, problem))
    }
}

/// The option of `make` that states how much of a pool of the machine there is.
fn option(pool: &str) -> &str {
    match pool {
        "cpu" => "jobs",
        "gpu" | "gpu_memory" => "gpus",
        other => other,
    }
}
