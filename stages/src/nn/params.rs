//! A model's parameters by checkpoint name, each either frozen or trained. It does not know what the names mean.
//!
//! The order is that of the names, so that nothing depends on the order of a hash map.

use std::collections::{BTreeMap, HashMap};

use candle_core::{Device, Error, Result, Tensor};

use super::compute::Compute;
use super::{Param, Precision};

/// Parameters, ordered by name, and what computes with them.
#[derive(Debug, Clone)]
pub struct ParamStore {
    by_name: BTreeMap<String, Param>,
    compute: Compute,
}

impl ParamStore {
    /// Takes `tensors` by name; those for which `trained` holds are trained (and get memory of their own). The fastest that their
    /// device offers computes with them, in full precision.
    ///
    /// # Errors
    /// A device that cannot compute, or a copy that fails.
    pub fn new(tensors: HashMap<String, Tensor>, trained: impl Fn(&str) -> bool) -> Result<Self> {
        let device = tensors.values().next().map_or(Device::Cpu, |tensor| tensor.device().clone());
        let mut by_name = BTreeMap::new();
        for (name, tensor) in tensors {
            let tensor = tensor.detach().contiguous()?;
            let param = if trained(&name) { Param::trained(&tensor)? } else { Param::frozen(tensor) };
            by_name.insert(name, param);
        }
        let compute = Compute::for_device(&device, Precision::F32)?;
        Ok(Self { by_name, compute })
    }

    /// Where the parameters are; the CPU, if there are none.
    pub fn device(&self) -> Device {
        self.by_name.values().next().map_or(Device::Cpu, |param| param.value().device().clone())
    }

    /// The same parameters, with products of factors in `precision`.
    ///
    /// # Errors
    /// A device that cannot compute.
    pub fn with_precision(self, precision: Precision) -> Result<Self> {
        let compute = Compute::for_device(&self.device(), precision)?;
        Ok(Self { compute, ..self })
    }

    /// The same parameters, for operations computed by `compute`.
    pub fn with_compute(self, compute: Compute) -> Self {
        Self { compute, ..self }
    }

    /// The same parameters, none of them trained: what is computed from them leaves no graph behind. They share
    /// storage with these, so they follow the optimizer.
    pub fn frozen(&self) -> Self {
        let frozen =
            self.iter().map(|(name, param)| (name.to_owned(), Param::frozen(param.value().detach())));
        Self { by_name: frozen.collect(), compute: self.compute.clone() }
    }

    /// What computes operations on these parameters.
    pub fn compute(&self) -> &Compute {
        &self.compute
    }

    /// The parameter `name`.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn get(&self, name: &str) -> Result<&Param> {
        self.by_name.get(name).ok_or_else(|| Error::Msg(format!("no parameter `{name}` among the weights")))
    }

    /// The parameter `name`, which must have the shape `shape`.
    ///
    /// # Errors
    /// There is none of that name, or its shape is another.
    pub fn get_shaped(&self, name: &str, shape: &[usize]) -> Result<&Param> {
        let param = self.get(name)?;
        if param.value().dims() != shape {
            let found = param.value().dims();
            return Err(Error::Msg(format!(
                "parameter `{name}` has shape {found:?}, the model needs {shape:?}"
            )));
        }
        Ok(param)
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
    pub fn trained(&self) -> impl Iterator<Item = (&str, &Param)> {
        self.iter().filter(|(_, param)| param.is_trained())
    }

    /// The gradients that were added up, in host memory, by name; they are forgotten then. Waits for the device.
    ///
    /// # Errors
    /// Only if the device fails.
    pub fn take_gradients(&self) -> Result<BTreeMap<String, Tensor>> {
        let mut gradients = BTreeMap::new();
        for (name, param) in self.trained() {
            if let Some(gradient) = self.compute.gradient(param)? {
                gradients.insert(name.to_owned(), gradient);
            }
            if let Some(gradient) = param.gradient() {
                gradient.reset();
            }
        }
        Ok(gradients)
    }

    /// All parameters as tensors, for saving. They share storage with the parameters: save (or copy) them before
    /// the next update.
    pub fn tensors(&self) -> HashMap<String, Tensor> {
        self.iter().map(|(name, param)| (name.to_owned(), param.value().detach())).collect()
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
        assert!(!params.get("c.bias").unwrap().is_trained());
    }

    #[test]
    fn errors_name_the_parameter_and_both_shapes() {
        let missing = params().get("d").unwrap_err().to_string();
        assert!(missing.contains("`d`"), "{missing}");
        let shape = params().get_shaped("c.bias", &[3]).unwrap_err().to_string();
        assert!(shape.contains("`c.bias`") && shape.contains("[2]") && shape.contains("[3]"), "{shape}");
    }
}
