//! A model's parameters by checkpoint name, each either frozen or trained. It does not know what the names mean.
//!
//! A frozen parameter is a plain tensor: nothing computed from frozen parameters alone leaves a graph behind.
//! The order is that of the names, so that nothing depends on the order of a hash map.

use std::collections::{BTreeMap, HashMap};

use candle_core::{Device, Error, Result, Tensor, Var};

use super::Kernels;

/// One parameter.
#[derive(Debug, Clone)]
pub enum Param {
    /// Stays as it is.
    Frozen(Tensor),
    /// Receives gradients and is changed in place by the optimiser.
    Trained(Var),
}

impl Param {
    /// The parameter's present value; it shares storage with the parameter.
    pub fn tensor(&self) -> &Tensor {
        match self {
            Self::Frozen(tensor) => tensor,
            Self::Trained(var) => var.as_tensor(),
        }
    }
}

/// Parameters, ordered by name.
#[derive(Debug, Clone)]
pub struct ParamStore {
    by_name: BTreeMap<String, Param>,
    kernels: Kernels,
}

impl ParamStore {
    /// Takes `tensors` by name; those for which `trained` holds become variables (with a copy of their own).
    ///
    /// # Errors
    /// Only if a copy fails.
    pub fn new(tensors: HashMap<String, Tensor>, trained: impl Fn(&str) -> bool) -> Result<Self> {
        let mut by_name = BTreeMap::new();
        for (name, tensor) in tensors {
            let tensor = tensor.detach().contiguous()?;
            let param = if trained(&name) {
                Param::Trained(Var::from_tensor(&tensor)?)
            } else {
                Param::Frozen(tensor)
            };
            by_name.insert(name, param);
        }
        let params = Self { by_name, kernels: Kernels::Fused };
        let kernels = Kernels::for_device(&params.device());
        Ok(params.with_kernels(kernels))
    }

    /// Where the parameters are; the CPU, if there are none.
    pub fn device(&self) -> Device {
        self.by_name.values().next().map_or(Device::Cpu, |param| param.tensor().device().clone())
    }

    /// The same parameters for layers computed by `kernels` instead of the device's fastest.
    pub fn with_kernels(self, kernels: Kernels) -> Self {
        Self { kernels, ..self }
    }

    /// The same parameters, none of them trained: what is computed from them leaves no graph behind. They share
    /// storage with these, so they follow the optimiser.
    pub fn frozen(&self) -> Self {
        let frozen =
            self.iter().map(|(name, param)| (name.to_owned(), Param::Frozen(param.tensor().detach())));
        Self { by_name: frozen.collect(), kernels: self.kernels }
    }

    /// What computes the layers that take their parameters from here.
    pub fn kernels(&self) -> Kernels {
        self.kernels
    }

    /// The parameter `name`.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn get(&self, name: &str) -> Result<Tensor> {
        let missing = || Error::Msg(format!("no parameter `{name}` among the weights"));
        Ok(self.by_name.get(name).ok_or_else(missing)?.tensor().clone())
    }

    /// The parameter `name`, which must have the shape `shape`.
    ///
    /// # Errors
    /// There is none of that name, or its shape is another.
    pub fn get_shaped(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let tensor = self.get(name)?;
        if tensor.dims() != shape {
            let found = tensor.dims();
            return Err(Error::Msg(format!(
                "parameter `{name}` has shape {found:?}, the model needs {shape:?}"
            )));
        }
        Ok(tensor)
    }

    /// Whether there are parameters whose names begin with `path` and a dot.
    pub fn has_under(&self, path: &str) -> bool {
        let prefix = format!("{path}.");
        self.by_name.range(prefix.clone()..).next().is_some_and(|(name, _)| name.starts_with(&prefix))
    }

    /// All parameters, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Param)> {
        self.by_name.iter().map(|(name, param)| (name.as_str(), param))
    }

    /// The trained parameters, by name.
    pub fn trained(&self) -> impl Iterator<Item = (&str, &Var)> {
        self.iter().filter_map(|(name, param)| match param {
            Param::Trained(var) => Some((name, var)),
            Param::Frozen(_) => None,
        })
    }

    /// All parameters as tensors, for saving. They share storage with the parameters: save (or copy) them before
    /// the next update.
    pub fn tensors(&self) -> HashMap<String, Tensor> {
        self.iter().map(|(name, param)| (name.to_owned(), param.tensor().detach())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn params() -> ParamStore {
        let tensor = |value: f32| Tensor::new(&[value, 2.0], &Device::Cpu).unwrap();
        let tensors = [("b.weight", 1.0), ("a.weight", 2.0), ("c.bias", 3.0)];
        let tensors = tensors.map(|(name, value)| (name.to_owned(), tensor(value)));
        ParamStore::new(HashMap::from(tensors), |name| name.ends_with("weight")).unwrap()
    }

    #[test]
    fn trained_parameters_come_in_the_order_of_their_names() {
        let params = params();
        assert_eq!(params.trained().map(|(name, _)| name).collect::<Vec<_>>(), ["a.weight", "b.weight"]);
        assert_eq!(params.tensors().len(), 3);
        assert!(!params.get("c.bias").unwrap().is_variable());
    }

    #[test]
    fn errors_name_the_parameter_and_both_shapes() {
        let missing = params().get("d").unwrap_err().to_string();
        assert!(missing.contains("`d`"), "{missing}");
        let shape = params().get_shaped("c.bias", &[3]).unwrap_err().to_string();
        assert!(shape.contains("`c.bias`") && shape.contains("[2]") && shape.contains("[3]"), "{shape}");
    }
}
