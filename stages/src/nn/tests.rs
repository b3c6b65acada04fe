//! Every operation, whichever of its parts are trained: the CPU's passes equal the composition of candle's operations, gradients
//! reach what is trained, and what is frozen gets none and leaves no graph.

use candle_core::{DType, Device, Result, Tensor, Var};

use super::*;

const DEVICE: Device = Device::Cpu;

/// Parameters of the operations below, at widths that are no multiples of any vector's; the named ones are trained.
fn params(trained: &[&str], compute: &Compute) -> ParamStore {
    let linear = |name: &str, outputs: usize, inputs: usize| {
        [(format!("{name}.weight"), vec![outputs, inputs]), (format!("{name}.bias"), vec![outputs])]
    };
    let layers = [
        linear("up", 23, 18),
        linear("down", 18, 23),
        linear("query", 18, 18),
        linear("key", 18, 18),
        linear("value", 18, 18),
        linear("output", 18, 18),
        linear("other.query", 24, 18),
        linear("other.key", 24, 13),
        linear("other.value", 24, 13),
        linear("other.output", 18, 24),
        linear("adapter.down", 5, 18),
        linear("adapter.up", 18, 5),
        linear("one", 1, 18),
        linear("three", 3, 18),
        linear("six", 6, 18),
    ];
    let others = [
        ("norm.weight", vec![18]),
        ("norm.bias", vec![18]),
        ("words", vec![9, 18]),
        ("positions", vec![6, 18]),
        ("types", vec![2, 18]),
        ("x", vec![2, 5, 18]),
        ("y", vec![2, 5, 18]),
        ("z", vec![2, 4, 13]),
    ];
    let others = others.map(|(name, shape)| (name.to_owned(), shape));
    let tensors = layers.into_iter().flatten().chain(others).map(|(name, shape)| {
        let values = init::normal(1, &name, &shape, 0.7, &DEVICE).unwrap();
        (name, values)
    });
    ParamStore::new(tensors.collect(), |name| trained.contains(&name)).unwrap().with_compute(compute.clone())
}

fn linear(params: &ParamStore, name: &str) -> Result<Linear> {
    let (weight, bias) = (params.get(&format!("{name}.weight"))?, params.get(&format!("{name}.bias"))?);
    let (outputs, inputs) = weight.value().dims2()?;
    Ok(Linear { weight: weight.clone(), bias: bias.clone(), inputs, outputs })
}

fn norm(params: &ParamStore) -> Result<LayerNorm> {
    let (weight, bias) = (params.get("norm.weight")?.clone(), params.get("norm.bias")?.clone());
    Ok(LayerNorm { weight, bias, size: 18, eps: 1e-12 })
}

fn end(params: &ParamStore, has_adapter: bool) -> Result<ResidualNorm> {
    let adapter = || -> Result<Adapter> {
        Ok(Adapter { down: linear(params, "adapter.down")?, up: linear(params, "adapter.up")? })
    };
    let adapter = if has_adapter { Some(adapter()?) } else { None };
    Ok(ResidualNorm { norm: norm(params)?, adapter })
}

/// The names of what an end reads.
fn end_reads(has_adapter: bool) -> Vec<&'static str> {
    let adapter = ["adapter.down.weight", "adapter.down.bias", "adapter.up.weight", "adapter.up.bias"];
    let adapter = if has_adapter { &adapter[..] } else { &[] };
    [&["norm.weight", "norm.bias"][..], adapter].concat()
}

fn input(params: &ParamStore, name: &str) -> Result<Tensor> {
    params.get(name).map(|param| param.value().clone())
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn assert_close(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(1.0, |largest: f32, value| largest.max(value.abs()));
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() < 1e-5 * largest, "{what}: {found}, not {expected}");
    }
}

/// Holds `layer`, which reads the inputs `inputs` and the parameters `reads`, to the properties above: with everything trained,
/// with each part trained alone, and with nothing trained.
fn check(layer: impl Fn(&ParamStore) -> Result<Tensor>, inputs: &[&str], reads: &[&str]) {
    let all = [inputs, reads].concat();
    let mut cases: Vec<Vec<&str>> = all.iter().map(|&name| vec![name]).collect();
    cases.extend([all, reads.to_vec(), Vec::new()]);
    let [expected_by, computes @ ..] = &computes()[..] else { panic!("there is a reference") };
    for trained in cases {
        let expected = run(&layer, &trained, inputs, expected_by);
        for compute in computes {
            let found = run(&layer, &trained, inputs, compute);
            assert_eq!(found.0.dims(), expected.0.dims());
            assert_close(&values(&found.0), &values(&expected.0), "output");
            for ((name, found), (_, expected)) in found.1.iter().zip(&expected.1) {
                let (Some(found), Some(expected)) = (found, expected) else {
                    panic!("{name} gets no gradient")
                };
                assert_close(found, expected, &format!("{compute:?}: gradient of {name} with {trained:?}"));
            }
        }
    }
}

/// The reference, then what is held to it.
fn computes() -> Vec<Compute> {
    let composed = Compute::composed(&DEVICE, Precision::F32).unwrap();
    vec![composed, Compute::for_device(&DEVICE, Precision::F32).unwrap()]
}

type Gradients = Vec<(String, Option<Vec<f32>>)>;

/// The operation's output, and the gradients of what is trained.
fn run(
    layer: impl Fn(&ParamStore) -> Result<Tensor>,
    trained: &[&str],
    inputs: &[&str],
    compute: &Compute,
) -> (Tensor, Gradients) {
    let params = params(trained, compute);
    let output = layer(&params).unwrap();
    assert_eq!(output.track_op(), !trained.is_empty(), "{trained:?}");
    // A loss whose gradient differs from element to element. Computed twice, so that gradients are seen to add up.
    let weights = init::normal(2, "loss", output.dims(), 0.5, &DEVICE).unwrap();
    let loss = |output: &Tensor| (output * &weights).unwrap().sum_all().unwrap().backward().unwrap();
    let mut grads = loss(&output);
    if !trained.is_empty() {
        grads = loss(&layer(&params).unwrap());
    }
    let gradients = params.trained().map(|(name, param)| {
        let grad = if inputs.contains(&name) {
            grads.get(param.value()).map(|grad| values(&(grad * 2.0).unwrap()))
        } else {
            compute.gradient(param).unwrap().map(|grad| values(&grad))
        };
        (name.to_owned(), grad)
    });
    let gradients = gradients.collect();
    (output, gradients)
}

fn dropout() -> DropoutAt {
    Dropout::new(0.4, 9).unwrap().at(2)
}

fn mask() -> Mask {
    dropout().site(Site::new("a"))
}

#[test]
fn dense() {
    let reads = ["up.weight", "up.bias"];
    for activation in [None, Some(Activation::Gelu), Some(Activation::Relu), Some(Activation::Tanh)] {
        for mask in [None, Some(mask())] {
            let layer = |params: &ParamStore| {
                let dense = Dense::new(params.compute(), linear(params, "up")?);
                let dense = activation.into_iter().fold(dense, Dense::with_activation);
                dense.forward(&input(params, "x")?, mask)
            };
            check(layer, &["x"], &reads);
        }
    }
    let layer = |params: &ParamStore| {
        let dense = Dense::new(params.compute(), linear(params, "query")?).with_activation(Activation::Gelu);
        dense.with_norm(norm(params)?).forward(&input(params, "x")?, Some(mask()))
    };
    check(layer, &["x"], &["query.weight", "query.bias", "norm.weight", "norm.bias"]);
}

#[test]
fn layer_norm() {
    for mask in [None, Some(mask())] {
        let alone =
            |params: &ParamStore| norm(params)?.forward(params.compute(), &input(params, "x")?, None, mask);
        check(alone, &["x"], &end_reads(false));
        let sum = |params: &ParamStore| {
            norm(params)?.forward(params.compute(), &input(params, "x")?, Some(&input(params, "y")?), mask)
        };
        check(sum, &["x", "y"], &end_reads(false));
    }
}

/// A layer with the attention of the parameters under `prefix`.
fn layer(
    params: &ParamStore,
    prefix: &str,
    [of_attention, of_feed_forward]: [bool; 2],
) -> Result<TransformerLayer> {
    let part = |name: &str| linear(params, &format!("{prefix}{name}"));
    let attention = Attention {
        query: part("query")?,
        key: part("key")?,
        value: part("value")?,
        output: part("output")?,
        end: end(params, of_attention)?,
        heads: 3,
        probabilities: Site::new("p"),
        site: Site::new("o"),
    };
    let feed_forward = FeedForward {
        up: linear(params, "up")?,
        down: linear(params, "down")?,
        end: end(params, of_feed_forward)?,
        site: Site::new("f"),
    };
    Ok(TransformerLayer { compute: params.compute().clone(), attention, feed_forward })
}

/// What a layer reads of the parameters, those of attention under `prefix`.
fn layer_reads(prefix: &str, has_adapter: bool) -> Vec<String> {
    let parts = ["query", "key", "value", "output"].map(|part| format!("{prefix}{part}"));
    let parts = parts.into_iter().chain(["up".to_owned(), "down".to_owned()]);
    let reads = parts.flat_map(|part| ["weight", "bias"].map(|kind| format!("{part}.{kind}")));
    reads.chain(end_reads(has_adapter).into_iter().map(str::to_owned)).collect()
}

/// Two sequences, of the second of which the last two of `length` positions are padding.
fn sequences(compute: &Compute, length: usize) -> Sequences {
    let row = |masked: usize| (0..length).map(move |at| if at + masked < length { 1f32 } else { 0.0 });
    let mask = Tensor::from_iter(row(0).chain(row(2)), &DEVICE).unwrap().reshape((2, length)).unwrap();
    Sequences::new(compute, &mask).unwrap()
}

/// The rows of `x`, as layers return it, that are not padding of [`sequences`].
fn without_padding(compute: &Compute, sequences: &Sequences, x: &Tensor) -> Result<Tensor> {
    let x = sequences.unpack(compute, x)?;
    let rows = x.dim(1)? as u32;
    let places: Vec<u32> = (0..2 * rows - 2).collect();
    select_rows(compute, &x.flatten(0, 1)?, &Tensor::new(places, &DEVICE)?)
}

#[test]
fn a_layer_that_attends_to_itself() {
    let cases = [
        ([false; 2], None),
        ([false; 2], Some(dropout())),
        ([false, true], Some(dropout())),
        ([true, false], Some(dropout())),
        ([true; 2], None),
    ];
    for (adapters, dropout) in cases {
        for rows in [Rows::All, Rows::First] {
            let layer = |params: &ParamStore| {
                let (layer, compute) = (layer(params, "", adapters)?, params.compute());
                let sequences = sequences(compute, 5);
                let x = sequences.pack(compute, &input(params, "x")?)?;
                let found = TransformerLayer::stack(&[layer], x, &sequences, rows, dropout.as_ref())?;
                if rows == Rows::All {
                    return without_padding(compute, &sequences, &found);
                }
                assert_eq!(found.dims(), [2, 1, 18]);
                Ok(found)
            };
            let reads = layer_reads("", adapters.contains(&true));
            check(layer, &["x"], &reads.iter().map(String::as_str).collect::<Vec<_>>());
        }
    }
}

#[test]
fn layers_in_one_node_have_the_bits_of_layers_in_nodes_of_their_own() {
    let compute = Compute::for_device(&DEVICE, Precision::F32).unwrap();
    // The first two have no adapter, so that with only that trained nothing goes back to them.
    for trained in [&["adapter.up.weight"][..], &["query.weight", "norm.bias"], &["x"], &[]] {
        let run = |at_once: usize| {
            let stacked = |params: &ParamStore| {
                let layers = [[false; 2], [false; 2], [false, true]].map(|of| layer(params, "", of).unwrap());
                let (sequences, dropout) = (sequences(&compute, 5), dropout());
                let x = sequences.pack(&compute, &input(params, "x")?)?;
                layers.chunks(at_once).try_fold(x, |x, layers| {
                    TransformerLayer::stack(layers, x, &sequences, Rows::All, Some(&dropout))
                })
            };
            run(stacked, trained, &["x"], &compute)
        };
        let (together, apart) = (run(3), run(1));
        assert_eq!(values(&together.0), values(&apart.0), "{trained:?}");
        assert_eq!(together.1, apart.1, "{trained:?}");
        assert!(together.1.iter().all(|(_, gradient)| gradient.is_some()), "{trained:?}");
    }
}

#[test]
fn a_layer_that_attends_to_another_sequence_of_another_width() {
    for dropout in [None, Some(dropout())] {
        let layer = |params: &ParamStore| {
            let (layer, compute) = (layer(params, "other.", [false; 2])?, params.compute());
            let (own, other) = (sequences(compute, 5), sequences(compute, 4));
            let x = own.pack(compute, &input(params, "x")?)?;
            let z = other.pack(compute, &input(params, "z")?)?;
            let found = layer.forward_to((&x, &own), (&z, &other), dropout.as_ref())?;
            without_padding(compute, &own, &found)
        };
        let reads = layer_reads("other.", false);
        check(layer, &["x", "z"], &reads.iter().map(String::as_str).collect::<Vec<_>>());
    }
}

#[test]
fn embeddings() {
    // A word twice, and the padding, whose row receives no gradient.
    let ids = Tensor::new(&[[1u32, 7, 0, 4, 0], [7, 8, 1, 1, 5]], &DEVICE).unwrap();
    let tables = |params: &ParamStore| -> Result<TextTables> {
        let [words, positions, types] = ["words", "positions", "types"].map(|name| params.get(name).cloned());
        Ok(TextTables { words: words?, positions: positions?, types: types?, pad: 0 })
    };
    check(|params| tables(params)?.embed(params.compute(), &ids), &[], &["words", "positions", "types"]);
    let rows = |params: &ParamStore| {
        let tables = [params.get("positions")?, params.get("types")?];
        add_first_rows(params.compute(), &input(params, "x")?, &tables)
    };
    check(rows, &["x"], &["positions", "types"]);
    let joined = |params: &ParamStore| concat(params.compute(), &input(params, "x")?, &input(params, "y")?);
    check(joined, &["x", "y"], &[]);
    let places = Tensor::new(&[7u32, 0, 4], &DEVICE).unwrap();
    let six = Tensor::new(&[8u32, 0, 4, 1, 7, 3], &DEVICE).unwrap();
    let selected =
        |params: &ParamStore| select_rows(params.compute(), &input(params, "x")?.flatten(0, 1)?, &places);
    check(selected, &["x"], &[]);
    let scattered = |params: &ParamStore| {
        embeddings::scatter_rows(
            params.compute(),
            &input(params, "x")?.narrow(1, 0, 3)?.flatten(0, 1)?,
            &six,
            9,
        )
    };
    check(scattered, &["x"], &[]);
    for mask in [None, Some(mask())] {
        let product = |params: &ParamStore| {
            multiply(params.compute(), &input(params, "x")?, &input(params, "y")?, mask)
        };
        check(product, &["x", "y"], &[]);
    }
}

#[test]
fn losses_of_heads_of_few_outputs() {
    for (name, outputs) in [("one", 1), ("three", 3), ("six", 6)] {
        let logits = |params: &ParamStore| {
            let head = Dense::new(params.compute(), linear(params, name)?);
            head.forward(&input(params, "x")?.flatten(0, 1)?, None)
        };
        let reads = [format!("{name}.weight"), format!("{name}.bias")];
        let reads = reads.each_ref().map(String::as_str);
        let labels = Tensor::from_iter((0..10).map(|row| row * 7 % outputs), &DEVICE).unwrap();
        check(|params| cross_entropy(params.compute(), &logits(params)?, &labels, 16), &["x"], &reads);
        let targets = (0..10 * outputs).map(|at| (at * at % 5 % 2) as f32);
        let targets = Tensor::from_iter(targets, &DEVICE).unwrap().reshape((10, outputs as usize)).unwrap();
        check(
            |params| binary_cross_entropy(params.compute(), &logits(params)?, &targets, 16),
            &["x"],
            &reads,
        );
    }
    // max(x, 0) and |x| have no derivative at 0; the loss has one.
    for compute in computes() {
        let logits = Var::zeros((2, 1), DType::F32, &DEVICE).unwrap();
        let targets = Tensor::new(&[[1f32], [0.0]], &DEVICE).unwrap();
        let loss = binary_cross_entropy(&compute, &logits, &targets, 2).unwrap();
        let grads = loss.backward().unwrap();
        assert_close(&values(grads.get(&logits).unwrap()), &[-0.25, 0.25], "gradient at 0");
    }
}

#[test]
fn tensors_that_do_not_fit_are_refused() {
    for compute in computes() {
        let params = params(&[], &compute);
        let (x, wide) =
            (input(&params, "x").unwrap(), Tensor::zeros((2, 5, 19), DType::F32, &DEVICE).unwrap());
        assert!(Dense::new(&compute, linear(&params, "up").unwrap()).forward(&wide, None).is_err());
        let norm = norm(&params).unwrap();
        assert!(norm.forward(&compute, &wide, None, None).is_err());
        assert!(norm.forward(&compute, &x, Some(&wide), None).is_err());
        assert!(concat(&compute, &x, &wide).is_err());
        assert!(multiply(&compute, &x, &wide, None).is_err());
        assert!(add_first_rows(&compute, &wide, &[params.get("types").unwrap()]).is_err());
        let layer = layer(&params, "", [false; 2]).unwrap();
        let (four, five) = (sequences(&compute, 4), sequences(&compute, 5));
        assert!(four.pack(&compute, &x).is_err());
        let (x, wide) = (five.pack(&compute, &x).unwrap(), five.pack(&compute, &wide).unwrap());
        let stack = |x: &Tensor, sequences| {
            TransformerLayer::stack(std::slice::from_ref(&layer), x.clone(), sequences, Rows::All, None)
        };
        assert!(stack(&x, &four).is_err());
        assert!(stack(&wide, &five).is_err());
        assert!(layer.forward_to((&x, &five), (&wide, &five), None).is_err());
        assert!(layer.forward_to((&x, &four), (&x, &five), None).is_err());
    }
}
