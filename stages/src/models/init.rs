//! Initial parameters: fresh ones from a seed, and the completion of a pretrained base with a new head.

use std::collections::{HashMap, HashSet};

use candle_core::{Device, Error, Result, Tensor};
use schemars::JsonSchema;
use stage_api::ParamEnum;

use super::{Architecture, MlmHead, Mode, Parts};
use crate::nn::init::{normal, ones, zeros};
use crate::nn::list;

/// A fresh base, `model.bert.*`, for pretraining: weights N(0, initializer_range²), biases 0, LayerNorms 1 and 0; some
/// tables are copies of others, as the original begins ([`Architecture::init_from`]).
///
/// # Errors
/// Dimensions that make no model.
pub fn init_random(model: &dyn Architecture, seed: u64, device: &Device) -> Result<HashMap<String, Tensor>> {
    model.check()?;
    let mut tensors = HashMap::new();
    for (name, shape) in model.parameters(Parts::BASE)? {
        // Values follow from a name, so that those of one name and shape are the same.
        let values = initial(model, seed, &model.init_from(&name), &shape, device)?;
        tensors.insert(name, values);
    }
    Ok(tensors)
}

/// A fresh head of masked-language-model pretraining, `model.cls.predictions.*`.
///
/// # Errors
/// Only if an allocation fails.
pub fn init_mlm_head(
    model: &dyn Architecture,
    seed: u64,
    device: &Device,
) -> Result<HashMap<String, Tensor>> {
    let fresh = |(name, shape): (String, Vec<usize>)| {
        let tensor = initial(model, seed, &name, &shape, device)?;
        Ok((name, tensor))
    };
    let listing = list(|loader| MlmHead::load(loader, &model.dimensions()))?;
    listing.parameters.into_iter().map(fresh).collect()
}

/// Where the head and the adapters of a run come from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, JsonSchema, ParamEnum)]
#[serde(rename_all = "lowercase")]
pub enum Start {
    /// Fresh ones: the weights are a pretrained base, and a head among them is left out, as the original does.
    #[default]
    Base,
    /// The weights' own: they are those of a finished run, which is trained further.
    Run,
}

/// All parameters of a run in `mode`: the base from `weights`; the head and the adapters from there too, or fresh
/// from `seed`, as `start` says.
///
/// Of `weights`, the names under `model.bert.` count and, at [`Start::Run`], those of the classifier; a pretraining
/// head is left out.
///
/// # Errors
/// A tensor that is missing, has another shape, or is none of this model's: by name.
pub fn init_from_pretrained(
    weights: &HashMap<String, Tensor>,
    model: &dyn Architecture,
    mode: Mode,
    start: Start,
    seed: u64,
    device: &Device,
) -> Result<HashMap<String, Tensor>> {
    model.check()?;
    if mode.parts().adapters {
        model.check_adapters()?;
    }
    let from_weights = match start {
        Start::Base => model.parameters(Parts::BASE)?,
        Start::Run => model.parameters(mode.parts())?,
    };
    let from_weights: HashSet<&str> = from_weights.iter().map(|(name, _)| name.as_str()).collect();
    let mut surplus: Vec<&str> = weights.keys().map(String::as_str).filter(|name| is_base(name)).collect();
    surplus.retain(|name| !from_weights.contains(name));
    surplus.sort_unstable();
    if let Some(name) = surplus.first() {
        let count = surplus.len();
        return Err(Error::Msg(format!(
            "the weights have `{name}`, which this model does not ({count} such): does config.json belong to them? \
             A finished run is trained further with its own mode and `start: \"run\"`"
        )));
    }
    let mut tensors = HashMap::new();
    for (name, shape) in model.parameters(mode.parts())? {
        let tensor = if from_weights.contains(name.as_str()) {
            let found = weights.get(&name);
            let found = found.ok_or_else(|| Error::Msg(format!("the weights lack `{name}`")))?;
            if found.dims() != shape {
                let dims = found.dims();
                return Err(Error::Msg(format!("`{name}` has shape {dims:?}, the config says {shape:?}")));
            }
            found.to_dtype(candle_core::DType::F32)?.to_device(device)?
        } else {
            initial(model, seed, &name, &shape, device)?
        };
        tensors.insert(name, tensor);
    }
    Ok(tensors)
}

fn is_base(name: &str) -> bool {
    name.starts_with("model.bert.")
}

/// The initial value that goes with a parameter's name.
fn initial(
    model: &dyn Architecture,
    seed: u64,
    name: &str,
    shape: &[usize],
    device: &Device,
) -> Result<Tensor> {
    if name.ends_with("bias") {
        zeros(shape, device)
    } else if name.contains("LayerNorm") {
        ones(shape, device)
    } else {
        normal(seed, name, shape, model.dimensions().initializer_range, device)
    }
}

#[cfg(test)]
mod tests {
    use super::super::visual_bert::{self, tests::tiny};
    use super::*;

    #[test]
    fn a_base_is_completed_with_a_head_that_does_not_depend_on_adapters() {
        let base = init_random(&tiny(), 1, &Device::Cpu).unwrap();
        let pe = init_from_pretrained(&base, &tiny(), Mode::Pe, Start::Base, 5, &Device::Cpu).unwrap();
        let fc = init_from_pretrained(&base, &tiny(), Mode::Fc, Start::Base, 5, &Device::Cpu).unwrap();
        assert_eq!(pe.len() - fc.len(), 4 * tiny().num_hidden_layers);
        let values = |tensors: &HashMap<String, Tensor>, name: &str| {
            tensors[name].flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        for name in fc.keys() {
            assert_eq!(values(&fc, name), values(&pe, name), "{name}");
        }
        let second = "model.bert.encoder.layer.0.output.AdaptComb2.weight";
        assert!(values(&pe, second).iter().all(|&value| value != 0.0), "adapters do not begin as identities");
        let (text, visual) = ("position_embeddings.weight", "position_embeddings_visual.weight");
        let prefix = "model.bert.embeddings";
        assert_eq!(values(&pe, &format!("{prefix}.{text}")), values(&pe, &format!("{prefix}.{visual}")));
    }

    #[test]
    fn only_adapters_need_a_width() {
        let narrow = visual_bert::Config { adapter_divisor: 1000, ..tiny() };
        let base = init_random(&narrow, 1, &Device::Cpu).unwrap();
        let run = |mode| init_from_pretrained(&base, &narrow, mode, Start::Base, 1, &Device::Cpu);
        assert!(run(Mode::Fc).is_ok() && run(Mode::Full).is_ok());
        let error = run(Mode::Pe).unwrap_err().to_string();
        assert!(error.contains("`adapter_divisor` 1000 leaves adapters no width"), "{error}");
    }

    #[test]
    fn a_base_that_does_not_fit_is_refused_by_name() {
        let base = init_random(&tiny(), 1, &Device::Cpu).unwrap();
        let refuse = |base: &HashMap<String, Tensor>| {
            init_from_pretrained(base, &tiny(), Mode::Fc, Start::Base, 1, &Device::Cpu)
                .unwrap_err()
                .to_string()
        };
        let name = "model.bert.pooler.dense.bias";
        let mut missing = base.clone();
        missing.remove(name);
        assert!(refuse(&missing).contains(name));
        let mut shape = base.clone();
        shape.insert(name.to_owned(), zeros(&[3], &Device::Cpu).unwrap());
        assert!(refuse(&shape).contains("[3]"));
        let mut surplus = base.clone();
        surplus.insert("model.bert.encoder.layer.99.x".to_owned(), zeros(&[3], &Device::Cpu).unwrap());
        assert!(refuse(&surplus).contains("layer.99"));
        let mut heads = base;
        heads.insert("model.cls.predictions.bias".to_owned(), zeros(&[3], &Device::Cpu).unwrap());
        assert!(init_from_pretrained(&heads, &tiny(), Mode::Fc, Start::Base, 1, &Device::Cpu).is_ok());
    }

    #[test]
    fn a_run_is_trained_further_with_its_own_head_and_adapters() {
        let base = init_random(&tiny(), 1, &Device::Cpu).unwrap();
        let again = |weights: &HashMap<String, Tensor>, mode| {
            init_from_pretrained(weights, &tiny(), mode, Start::Run, 9, &Device::Cpu)
        };
        let run = init_from_pretrained(&base, &tiny(), Mode::Pe, Start::Base, 5, &Device::Cpu).unwrap();
        let found = again(&run, Mode::Pe).unwrap();
        assert_eq!(found.len(), run.len());
        for (name, tensor) in &run {
            let values = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(values(tensor), values(&found[name]), "{name}");
        }
        let error = again(&base, Mode::Fc).unwrap_err().to_string();
        assert!(error.contains("lack `model.classifier."), "{error}");
        let error = again(&run, Mode::Full).unwrap_err().to_string();
        assert!(error.contains("AdaptComb"), "{error}");
    }
}
