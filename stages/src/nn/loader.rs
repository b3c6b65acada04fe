//! Where a model's `load` gets its parameters: by path, from a store or, to list what it asks for, from nowhere.
//!
//! A model is described once, by its `load`. Run over a [`ParamStore`] it yields the model; run by [`list`] it yields the
//! names and shapes of all parameters, in the order of the data's path, and allocates no parameter.

use std::cell::RefCell;
use std::fmt::Display;

use candle_core::{DType, Device, Result, Tensor};

use super::{Compute, LayerNorm, Linear, Param, ParamStore, Precision, Site};

/// Parameters under a path.
#[derive(Clone)]
pub struct Loader<'a> {
    source: Source<'a>,
    path: String,
}

#[derive(Clone, Copy)]
enum Source<'a> {
    Params(&'a ParamStore),
    Nowhere(&'a Lister),
}

/// What is asked for while listing.
struct Lister {
    listing: RefCell<Listing>,
    /// One element, which all parameters show in their own shapes.
    element: Tensor,
    compute: Compute,
}

/// What a model's `load` asks for, in the order of the data's path.
#[derive(Debug, Default)]
pub struct Listing {
    /// Names and shapes of the parameters.
    pub parameters: Vec<(String, Vec<usize>)>,
    /// Paths of the places of dropout.
    pub sites: Vec<String>,
}

/// What `load` asks for.
///
/// # Errors
/// Those of `load`.
pub fn list<T>(load: impl FnOnce(&Loader<'_>) -> Result<T>) -> Result<Listing> {
    let element = Tensor::zeros((), DType::F32, &Device::Cpu)?;
    let compute = Compute::for_device(&Device::Cpu, Precision::F32)?;
    let lister = Lister { listing: RefCell::default(), element, compute };
    load(&Loader { source: Source::Nowhere(&lister), path: String::new() })?;
    Ok(lister.listing.into_inner())
}

impl<'a> Loader<'a> {
    /// All of `params`.
    pub fn new(params: &'a ParamStore) -> Self {
        Self { source: Source::Params(params), path: String::new() }
    }

    /// What is under `part` of this path.
    pub fn pp(&self, part: impl Display) -> Self {
        Self { source: self.source, path: self.full(part) }
    }

    /// The parameter `name` of the shape `shape`. While listing it has that shape, and no values.
    ///
    /// # Errors
    /// It is missing or has another shape.
    pub fn get(&self, name: &str, shape: &[usize]) -> Result<Param> {
        let name = self.full(name);
        match self.source {
            Source::Params(params) => params.get_shaped(&name, shape).cloned(),
            Source::Nowhere(lister) => {
                lister.listing.borrow_mut().parameters.push((name, shape.to_vec()));
                lister.element.broadcast_as(shape).map(Param::frozen)
            }
        }
    }

    /// The value of the parameter `name`, for a model that is not trained.
    ///
    /// # Errors
    /// As [`Loader::get`].
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        self.get(name, shape).map(|param| param.value().clone())
    }

    /// A parameter that belongs to another part of the model, which lists it: `name` is its full name.
    ///
    /// # Errors
    /// It is missing or has another shape.
    pub fn tied(&self, name: &str, shape: &[usize]) -> Result<Param> {
        match self.source {
            Source::Params(params) => params.get_shaped(name, shape).cloned(),
            Source::Nowhere(lister) => lister.element.broadcast_as(shape).map(Param::frozen),
        }
    }

    /// A linear layer that is stored and counted, and that nothing reads.
    ///
    /// # Errors
    /// A parameter is missing or has another shape.
    pub fn skip_linear(&self, name: &str, inputs: usize, outputs: usize) -> Result<()> {
        self.linear(name, inputs, outputs).map(drop)
    }

    /// The linear layer of the parameters `<name>.weight` `[outputs, inputs]` and `<name>.bias` `[outputs]`.
    ///
    /// # Errors
    /// One is missing or has another shape.
    pub fn linear(&self, name: &str, inputs: usize, outputs: usize) -> Result<Linear> {
        let at = self.pp(name);
        let (weight, bias) = (at.get("weight", &[outputs, inputs])?, at.get("bias", &[outputs])?);
        Ok(Linear { weight, bias, inputs, outputs })
    }

    /// The LayerNorm of the parameters `<name>.weight` and `<name>.bias`, both `[size]`.
    ///
    /// # Errors
    /// One is missing or has another shape.
    pub fn layer_norm(&self, name: &str, size: usize, eps: f64) -> Result<LayerNorm> {
        let at = self.pp(name);
        Ok(LayerNorm { weight: at.get("weight", &[size])?, bias: at.get("bias", &[size])?, size, eps })
    }

    /// The table of embeddings `<name>.weight`, `[rows, width]`.
    ///
    /// # Errors
    /// It is missing or has another shape.
    pub fn table(&self, name: &str, rows: usize, width: usize) -> Result<Param> {
        self.pp(name).get("weight", &[rows, width])
    }

    /// The place of dropout `name`.
    pub fn site(&self, name: &str) -> Site {
        let path = self.full(name);
        let site = Site::new(&path);
        if let Source::Nowhere(lister) = self.source {
            lister.listing.borrow_mut().sites.push(path);
        }
        site
    }

    /// What computes operations on the parameters that are loaded from here.
    pub fn compute(&self) -> Compute {
        match self.source {
            Source::Params(params) => params.compute().clone(),
            Source::Nowhere(lister) => lister.compute.clone(),
        }
    }

    /// Where the parameters are.
    pub fn device(&self) -> Device {
        match self.source {
            Source::Params(params) => params.device(),
            Source::Nowhere(_) => Device::Cpu,
        }
    }

    /// Whether this loader lists: what it gives has shapes and no values, so nothing is to be computed from it.
    pub fn lists(&self) -> bool {
        matches!(self.source, Source::Nowhere(_))
    }

    fn full(&self, part: impl Display) -> String {
        if self.path.is_empty() { part.to_string() } else { format!("{}.{part}", self.path) }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::nn::Dense;

    struct Block {
        first: Linear,
        norm: LayerNorm,
        site: Site,
    }

    fn load(loader: &Loader) -> Result<Block> {
        let at = loader.pp("block").pp(0);
        at.skip_linear("unused", 2, 1)?;
        Ok(Block {
            first: at.linear("first", 3, 4)?,
            norm: at.layer_norm("norm", 4, 1e-6)?,
            site: at.site("dropout"),
        })
    }

    fn zeros(listing: &Listing) -> HashMap<String, Tensor> {
        let zeros = |(name, shape): &(String, Vec<usize>)| {
            (name.clone(), Tensor::zeros(shape.as_slice(), DType::F32, &Device::Cpu).unwrap())
        };
        listing.parameters.iter().map(zeros).collect()
    }

    #[test]
    fn what_is_listed_is_what_is_loaded() {
        let listing = list(load).unwrap();
        let names: Vec<&str> = listing.parameters.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            names,
            [
                "block.0.unused.weight",
                "block.0.unused.bias",
                "block.0.first.weight",
                "block.0.first.bias",
                "block.0.norm.weight",
                "block.0.norm.bias",
            ]
        );
        assert_eq!(listing.parameters[2].1, [4, 3]);
        assert_eq!(listing.sites, ["block.0.dropout"]);
        let params = ParamStore::new(zeros(&listing), |_| false).unwrap();
        let block = load(&Loader::new(&params)).unwrap();
        assert_eq!(block.site, Site::new("block.0.dropout"));
        let x = Tensor::zeros((2, 3), DType::F32, &Device::Cpu).unwrap();
        let dense = Dense::new(params.compute(), block.first).with_norm(block.norm);
        let y = dense.forward(&x, None).unwrap();
        assert_eq!(y.dims(), [2, 4]);
    }

    #[test]
    fn a_tied_parameter_is_listed_where_it_belongs() {
        // Of more values than there is memory for.
        let shape = [1 << 20; 2];
        let listing = list(|loader| {
            assert_eq!(loader.table("words", shape[0], shape[1])?.value().dims(), shape);
            loader.pp("decoder").tied("words.weight", &shape)
        });
        assert_eq!(listing.unwrap().parameters, [("words.weight".to_owned(), shape.to_vec())]);
    }

    #[test]
    fn each_parameter_that_is_missing_or_has_another_shape_is_named() {
        let listing = list(load).unwrap();
        for (name, shape) in &listing.parameters {
            let mut tensors = zeros(&listing);
            let error = |tensors: HashMap<String, Tensor>| {
                let params = ParamStore::new(tensors, |_| false).unwrap();
                load(&Loader::new(&params)).err().unwrap().to_string()
            };
            tensors.insert(name.clone(), Tensor::zeros(7, DType::F32, &Device::Cpu).unwrap());
            let other = error(tensors.clone());
            assert!(other.contains(name) && other.contains("[7]") && other.contains(&format!("{shape:?}")));
            tensors.remove(name);
            let missing = error(tensors);
            assert!(missing.contains(&format!("`{name}`")), "{missing}");
        }
    }
}
