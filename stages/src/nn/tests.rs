//! Every layer, whichever of its parts are trained: the fused kernels equal the plain composition, gradients reach
//! what is trained, and what is frozen gets none and leaves no graph.

use candle_core::{DType, Device, Result, Tensor};

use super::dropout::Dropout;
use super::*;

const DEVICE: Device = Device::Cpu;

/// Parameters of the layers below, at widths that are no multiples of any vector's; the named ones are trained.
fn params(trained: &[&str], kernels: Kernels) -> ParamStore {
    let shapes: [(&str, &[usize]); 21] = [
        ("first.weight", &[23, 18]),
        ("first.bias", &[23]),
        ("second.weight", &[18, 23]),
        ("second.bias", &[18]),
        ("norm.weight", &[18]),
        ("norm.bias", &[18]),
        ("self.query.weight", &[18, 18]),
        ("self.query.bias", &[18]),
        ("self.key.weight", &[18, 18]),
        ("self.key.bias", &[18]),
        ("self.value.weight", &[18, 18]),
        ("self.value.bias", &[18]),
        ("cross.query.weight", &[24, 18]),
        ("cross.query.bias", &[24]),
        ("cross.key.weight", &[24, 13]),
        ("cross.key.bias", &[24]),
        ("cross.value.weight", &[24, 13]),
        ("cross.value.bias", &[24]),
        ("x", &[2, 5, 18]),
        ("y", &[2, 5, 18]),
        ("z", &[2, 5, 13]),
    ];
    let tensor = |(name, shape): (&str, &[usize])| {
        (name.to_owned(), init::normal(1, name, shape, 0.7, &DEVICE).unwrap())
    };
    let tensors = shapes.into_iter().map(tensor).collect();
    ParamStore::new(tensors, |name| trained.contains(&name)).unwrap().with_kernels(kernels)
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn assert_close(fused: &Tensor, plain: &Tensor, what: &str) {
    assert_eq!(fused.dims(), plain.dims(), "{what}");
    let largest = values(plain).into_iter().fold(1.0, |largest: f32, value| largest.max(value.abs()));
    for (fused, plain) in values(fused).into_iter().zip(values(plain)) {
        assert!((fused - plain).abs() < 1e-5 * largest, "{what}: {fused} and {plain}");
    }
}

/// Holds `layer`, which reads the parameters `reads`, to the properties above: with everything trained, with each
/// part trained alone, and with nothing trained.
fn check(layer: impl Fn(&ParamStore) -> Result<Tensor>, reads: &[&str]) {
    let mut cases: Vec<Vec<&str>> = reads.iter().map(|&name| vec![name]).collect();
    cases.extend([reads.to_vec(), Vec::new()]);
    for trained in cases {
        let fused = run(&layer, &trained, Kernels::Fused);
        let plain = run(&layer, &trained, Kernels::Composed);
        assert_close(&fused.0, &plain.0, "output");
        for ((name, fused), (_, plain)) in fused.1.iter().zip(&plain.1) {
            let (Some(fused), Some(plain)) = (fused, plain) else { panic!("{name} gets no gradient") };
            assert_close(fused, plain, &format!("gradient of {name} with {trained:?}"));
        }
    }
}

/// The layer's output, and the gradients of what is trained.
fn run(
    layer: impl Fn(&ParamStore) -> Result<Tensor>,
    trained: &[&str],
    kernels: Kernels,
) -> (Tensor, Vec<(String, Option<Tensor>)>) {
    let params = params(trained, kernels);
    let output = layer(&params).unwrap();
    assert_eq!(output.track_op(), !trained.is_empty(), "{trained:?}");
    // A loss whose gradient differs from element to element.
    let weights = init::normal(2, "loss", output.dims(), 1.0, &DEVICE).unwrap();
    let grads = (&output * weights).unwrap().sum_all().unwrap().backward().unwrap();
    for (name, param) in params.iter().filter(|(name, _)| !trained.contains(name)) {
        // Candle's own products leave gradients of frozen factors behind; the fused kernels compute none.
        let computed = grads.get(param.tensor()).is_some();
        assert!(kernels == Kernels::Composed || !computed, "{name} is frozen but has a gradient");
    }
    let gradients = params.trained().map(|(name, var)| (name.to_owned(), grads.get(var).cloned()));
    let gradients = gradients.collect();
    (output, gradients)
}

fn mask() -> Mask {
    Dropout::new(0.4, 9).unwrap().at(2).site(Site::new("a"))
}

#[test]
fn linear() {
    let layer = |params: &ParamStore| Loader::new(params).linear("first", 18, 23)?.forward(&params.get("x")?);
    check(layer, &["x", "first.weight", "first.bias"]);
}

#[test]
fn mlp() {
    for activation in [Activation::Gelu, Activation::Relu] {
        let layer = |params: &ParamStore| {
            let loader = Loader::new(params);
            let (first, second) = (loader.linear("first", 18, 23)?, loader.linear("second", 23, 18)?);
            Mlp::new(first, activation, second).forward(&params.get("x")?)
        };
        check(layer, &["x", "first.weight", "first.bias", "second.weight", "second.bias"]);
    }
}

#[test]
fn layer_norm() {
    let norm = |params: &ParamStore| Loader::new(params).layer_norm("norm", 18, 1e-12);
    check(|params| norm(params)?.forward(&params.get("x")?), &["x", "norm.weight", "norm.bias"]);
    for mask in [None, Some(mask())] {
        let layer =
            |params: &ParamStore| norm(params)?.forward_sum(&params.get("x")?, mask, &params.get("y")?);
        check(layer, &["x", "y", "norm.weight", "norm.bias"]);
    }
}

/// An attention layer of the parameters `name`: the widths of the queries' and the keys' sequence and of the heads.
fn attention(params: &ParamStore, name: &str, [query, key, heads]: [usize; 3]) -> Result<Attention> {
    let at = Loader::new(params).pp(name);
    let (key, value) = (at.linear("key", key, heads)?, at.linear("value", key, heads)?);
    Ok(Attention::new(at.linear("query", query, heads)?, key, value, 3))
}

/// What an attention layer `name` reads of the parameters.
fn reads_of(name: &str) -> Vec<String> {
    let names = ["query", "key", "value"]
        .map(|part| [format!("{name}.{part}.weight"), format!("{name}.{part}.bias")]);
    names.into_iter().flatten().collect()
}

/// Of the second picture the last two keys are padding.
fn padding() -> Tensor {
    Tensor::new(&[[0f32; 5], [0.0, 0.0, 0.0, -10_000.0, -10_000.0]], &DEVICE).unwrap()
}

#[test]
fn attention_of_a_sequence_to_itself() {
    let (names, bias) = (reads_of("self"), padding());
    let mut reads: Vec<&str> = names.iter().map(String::as_str).collect();
    reads.push("x");
    for mask in [None, Some(mask())] {
        let attention = |params: &ParamStore| attention(params, "self", [18; 3]);
        let all = |params: &ParamStore| {
            let x = params.get("x")?;
            attention(params)?.forward(&x, &x, &bias, mask)
        };
        check(all, &reads);
        let first = |params: &ParamStore| {
            let queries = params.get("y")?.narrow(1, 0, 1)?.contiguous()?;
            attention(params)?.forward(&queries, &params.get("x")?, &bias, mask)
        };
        check(first, &[&reads[..], &["y"]].concat());
    }
}

#[test]
fn attention_of_one_sequence_to_another_of_another_width() {
    let (names, bias) = (reads_of("cross"), padding());
    let mut reads: Vec<&str> = names.iter().map(String::as_str).collect();
    reads.extend(["x", "z"]);
    for mask in [None, Some(mask())] {
        let layer = |params: &ParamStore| {
            let found = attention(params, "cross", [18, 13, 24])?.forward(
                &params.get("x")?,
                &params.get("z")?,
                &bias,
                mask,
            )?;
            assert_eq!(found.dims(), [2, 5, 24]);
            Ok(found)
        };
        check(layer, &reads);
    }
}

#[test]
fn activations_rows_added_to_each_and_dropout() {
    for activation in [Activation::Gelu, Activation::Relu, Activation::Tanh] {
        check(|params| params.kernels().activate(&params.get("x")?, activation), &["x"]);
    }
    let row = |params: &ParamStore| {
        params.kernels().add_rows(&params.get("x")?, &params.get("norm.weight")?.unsqueeze(0)?)
    };
    check(row, &["x", "norm.weight"]);
    let table = |params: &ParamStore| params.kernels().add_rows(&params.get("x")?, &params.get("x")?.get(0)?);
    check(table, &["x"]);
    check(|params| params.kernels().dropout(&params.get("x")?, Some(mask())), &["x"]);
}

#[test]
fn tensors_that_do_not_fit_are_refused() {
    for kernels in [Kernels::Composed, Kernels::Fused] {
        let params = params(&[], kernels);
        let (x, wide) = (params.get("x").unwrap(), Tensor::zeros((2, 5, 19), DType::F32, &DEVICE).unwrap());
        let loader = Loader::new(&params);
        let (first, second) = (loader.linear("first", 18, 23), loader.linear("second", 23, 18));
        assert!(first.as_ref().unwrap().forward(&wide).is_err());
        let mlp = Mlp::new(first.unwrap(), Activation::Gelu, second.unwrap());
        assert!(mlp.forward(&wide).is_err());
        let norm = loader.layer_norm("norm", 18, 1e-12).unwrap();
        assert!(norm.forward(&wide).is_err());
        assert!(norm.forward_sum(&x, None, &wide).is_err());
        let attention = attention(&params, "self", [18; 3]).unwrap();
        let bias = Tensor::zeros((2, 4), DType::F32, &DEVICE).unwrap();
        assert!(attention.forward(&x, &x, &bias, None).is_err());
        assert!(attention.forward(&wide, &x, &padding(), None).is_err());
        assert!(attention.forward(&x, &wide, &padding(), None).is_err());
        assert!(loader.linear("first", 18, 24).is_err());
    }
}
