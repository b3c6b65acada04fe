//! The model as a whole: the golden numbers that MMF's own code gives, the paper's counts, and which parameters get
//! gradients. That a training step is right is what `tests/parity` shows.

use std::collections::{BTreeSet, HashMap};

use candle_core::{Device, Tensor};

use super::super::{AdapterPlace, Architecture, Counts, Mode, Start, init_from_pretrained, init_random};
use super::*;
use crate::nn::{Compute, ParamStore, Precision, cross_entropy};

/// The model of the golden numbers: T0 T1 C0 T2 V0 C1 V1 T3.
fn tiny() -> Config {
    Config {
        vocab_size: 16,
        hidden_size: 8,
        num_hidden_layers: 4,
        num_attention_heads: 2,
        intermediate_size: 16,
        max_position_embeddings: 8,
        v_feature_size: 6,
        v_hidden_size: 12,
        v_num_hidden_layers: 2,
        v_num_attention_heads: 3,
        v_intermediate_size: 12,
        bi_hidden_size: 12,
        bi_num_attention_heads: 3,
        t_biattention_id: vec![2, 3],
        v_biattention_id: vec![0, 1],
        adapter_divisor: 2,
        ..Config::base()
    }
}

/// Names and shapes with adapters 3 and 4 wide, as for the golden numbers: no divisor gives both.
fn shapes(adapters: bool) -> Vec<(String, Vec<usize>)> {
    let mut shapes = tiny().parameters(Parts { adapters, head: true }).unwrap();
    for (name, shape) in &mut shapes {
        let narrow = match name {
            name if name.contains("AdaptText") => (4, 3),
            name if name.contains("AdaptImg") => (6, 4),
            _ => continue,
        };
        for dim in shape.iter_mut().filter(|dim| **dim == narrow.0) {
            *dim = narrow.1;
        }
    }
    shapes
}

/// Element i of the tensor that is j-th by name is 0.3 sin(0.7 i + 1.3 j), and 1 more in weights of LayerNorms.
fn golden_weights(adapters: bool) -> HashMap<String, Tensor> {
    let mut shapes = shapes(adapters);
    // The original sorts names without the first part, which all of them share.
    shapes.sort();
    let tensor = |(at, (name, shape)): (usize, (String, Vec<usize>))| {
        let one = if name.contains("LayerNorm") && name.ends_with("weight") { 1.0 } else { 0.0 };
        let value = |i: usize| (0.3 * libm::sin(0.7 * i as f64 + 1.3 * at as f64) + one) as f32;
        let values: Vec<f32> = (0..shape.iter().product()).map(value).collect();
        (name, Tensor::from_vec(values, shape, &Device::Cpu).unwrap())
    };
    shapes.into_iter().enumerate().map(tensor).collect()
}

/// The weights with adapters as wide as the config's: more units, whose weights are 0, change neither logits nor gradients.
fn padded(mut weights: HashMap<String, Tensor>) -> HashMap<String, Tensor> {
    for (name, shape) in tiny().parameters(Mode::Pe.parts()).unwrap() {
        let Some(tensor) = weights.get_mut(&name) else { continue };
        for (dim, size) in shape.into_iter().enumerate() {
            *tensor = tensor.pad_with_zeros(dim, 0, size - tensor.dim(dim).unwrap()).unwrap();
        }
    }
    weights
}

fn golden_batch() -> Batch {
    let device = &Device::Cpu;
    let features: Vec<f32> = (0..48).map(|n| libm::sin(0.5 * f64::from(n)) as f32).collect();
    let boxes: [[f32; 4]; 8] = [
        [10.0, 20.0, 110.0, 220.0],
        [0.0, 0.0, 640.0, 480.0],
        [320.0, 240.0, 640.0, 480.0],
        [5.0, 5.0, 50.0, 60.0],
        [0.0, 0.0, 100.0, 100.0],
        [10.0, 10.0, 90.0, 90.0],
        [20.0, 40.0, 60.0, 80.0],
        [0.0; 4],
    ];
    let locations = boxes.iter().enumerate().flat_map(|(at, [x1, y1, x2, y2])| {
        let (w, h) = if at < 4 { (640.0, 480.0) } else { (100.0, 100.0) };
        [x1 / w, y1 / h, x2 / w, y2 / h, (y2 - y1) * (x2 - x1) / (w * h)]
    });
    let mask = [[1f32, 1., 1., 1., 0., 1., 1., 1., 1.], [1., 1., 1., 0., 0., 1., 1., 1., 0.]];
    Batch {
        ids: Tensor::new(&[[1u32, 5, 9, 2, 0], [1, 7, 2, 0, 0]], device).unwrap(),
        regions: Tensor::from_vec(features, (2, 4, 6), device).unwrap(),
        locations: Tensor::from_vec(locations.collect(), (2, 4, 5), device).unwrap(),
        mask: Tensor::new(&mask, device).unwrap(),
    }
}

fn model(params: &ParamStore) -> Vilbert {
    Vilbert::load(&tiny(), &Loader::new(params), Parts::of(params)).unwrap()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn logits_loss_and_gradients_are_the_originals() {
    let composed = Compute::composed(&Device::Cpu, Precision::F32).unwrap();
    for compute in [Compute::for_device(&Device::Cpu, Precision::F32).unwrap(), composed] {
        for (adapters, sizes, logits, loss) in [
            (false, (189, 9_210), [-1.572_226_89, 1.678_412_82, -1.588_930_79, 1.569_766_36], 1.665_130_35),
            (true, (213, 9_670), [-1.554_810_18, 1.558_889_06, -1.608_906_85, 1.767_536_76], 1.595_387_25),
        ] {
            let weights = golden_weights(adapters);
            let count = weights.values().map(Tensor::elem_count).sum::<usize>();
            assert_eq!((weights.len(), count), sizes);
            let params = ParamStore::new(padded(weights), |_| true).unwrap().with_compute(compute.clone());
            let model = model(&params);
            let found = model.logits(&golden_batch(), None).unwrap();
            for (found, expected) in values(&found).into_iter().zip(logits) {
                assert!((f64::from(found) - expected).abs() < 2e-6, "{compute:?}: {found}, not {expected}");
            }
            let labels = Tensor::new(&[0u32, 1], &Device::Cpu).unwrap();
            let found = cross_entropy(&compute, &found, &labels, 2).unwrap();
            let value = f64::from(found.to_scalar::<f32>().unwrap());
            assert!((value - loss).abs() < 2e-6, "{compute:?}: {value}, not {loss}");
            if !adapters {
                continue;
            }
            found.backward().unwrap();
            let grads = params.take_gradients().unwrap();
            let mut norms = [("classifier", 0.0), ("AdaptText", 0.0), ("AdaptImg", 0.0)];
            for (name, _) in params.trained() {
                let Some(grad) = grads.get(name) else {
                    assert!(name.contains("q_dense"), "{compute:?}: `{name}` gets no gradient");
                    continue;
                };
                assert!(!name.contains("q_dense"), "{compute:?}: `{name}` is used");
                let square: f64 = values(grad).iter().map(|&value| f64::from(value) * f64::from(value)).sum();
                norms.iter_mut().filter(|(part, _)| name.contains(part)).for_each(|norm| norm.1 += square);
            }
            for ((part, square), expected) in
                norms.into_iter().zip([2.626_097_04, 0.877_545_46, 0.694_674_56])
            {
                let norm = f64::sqrt(square);
                assert!((norm - expected).abs() < 1e-5, "{compute:?}: {part}: {norm}, not {expected}");
            }
        }
    }
}

#[test]
fn the_papers_model_has_exactly_the_papers_parameters() {
    let expected = [
        (Mode::Fc, 247_780_354, 1_053_698, 0),
        (Mode::Pe, 250_451_446, 3_724_790, 2_671_092),
        (Mode::Full, 247_780_354, 247_780_354, 0),
    ];
    for (mode, total, trained, adapters) in expected {
        assert_eq!(Config::base().counts(mode).unwrap(), Counts { total, trained, adapters }, "{mode}");
    }
    let base = Config::base();
    let tensors = |parts| base.parameters(parts).unwrap().len();
    assert_eq!(tensors(Parts::BASE), 519);
    assert_eq!(tensors(Mode::Full.parts()), 525);
    assert_eq!(tensors(Mode::Pe.parts()), 597);
}

#[test]
fn no_name_and_no_place_of_dropout_occurs_twice() {
    let listing = Config::base().listing(Mode::Pe.parts()).unwrap();
    let names: BTreeSet<&String> = listing.parameters.iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), 597);
    let sites: BTreeSet<Site> = listing.sites.iter().map(|path| Site::new(path)).collect();
    let expected = 3 + 3 * 12 + 3 * 6 + 6 * 6;
    assert_eq!((listing.sites.len(), sites.len()), (expected, expected));
}

#[test]
fn the_published_count_of_adapters_fits_two_places_and_no_other_of_ours() {
    for (place, sites) in [
        (AdapterPlace::Output, 18),
        (AdapterPlace::CoAttention, 18),
        (AdapterPlace::Attention, 18),
        (AdapterPlace::Both, 36),
    ] {
        let config = Config { adapter_place: place, ..Config::base() };
        let all = config.parameters(Mode::Pe.parts()).unwrap();
        let adapters = all.iter().filter(|(name, _)| name.contains("Adapt")).count();
        assert_eq!(adapters, 4 * sites, "{place:?}");
        assert_eq!(config.counts(Mode::Pe).unwrap().adapters, 2_671_092 * sites as u64 / 18, "{place:?}");
    }
}

#[test]
fn adapters_are_read_wherever_the_config_puts_them() {
    for place in
        [AdapterPlace::Output, AdapterPlace::Attention, AdapterPlace::Both, AdapterPlace::CoAttention]
    {
        let config = Config { adapter_place: place, ..tiny() };
        let base =
            init_random(&Config { initializer_range: 0.3, ..config.clone() }, 1, &Device::Cpu).unwrap();
        let wide = Config { initializer_range: 0.3, ..config.clone() };
        let tensors = init_from_pretrained(&base, &wide, Mode::Pe, Start::Base, 1, &Device::Cpu).unwrap();
        let params = ParamStore::new(tensors, |name| Mode::Pe.trains(name)).unwrap();
        let model = config.build(&params).unwrap();
        let labels = Tensor::new(&[0u32, 1], &Device::Cpu).unwrap();
        let logits = model.logits(&golden_batch(), None).unwrap();
        cross_entropy(params.compute(), &logits, &labels, 2).unwrap().backward().unwrap();
        let grads = params.take_gradients().unwrap();
        for (name, _) in params.trained() {
            let Some(grad) = grads.get(name) else { panic!("{place:?}: `{name}` gets no gradient") };
            // Of what follows a ReLU all may be shut.
            let moves = values(grad).iter().any(|&value| value != 0.0);
            assert!(moves || !name.ends_with("2.bias"), "{place:?}: `{name}` gets only zeros");
        }
    }
}

#[test]
fn impossible_dimensions_are_refused_by_name() {
    assert!(Config::base().check().is_ok() && tiny().check().is_ok());
    for (name, config) in [
        ("`v_num_attention_heads` 7", Config { v_num_attention_heads: 7, ..Config::base() }),
        ("`bi_hidden_size`", Config { bi_hidden_size: 0, ..Config::base() }),
        ("`t_biattention_id`", Config { t_biattention_id: vec![6, 7, 8, 9, 10, 12], ..Config::base() }),
        ("`t_biattention_id`", Config { t_biattention_id: vec![7, 6, 8, 9, 10, 11], ..Config::base() }),
        ("of one length", Config { v_biattention_id: vec![0], ..Config::base() }),
        ("more than", Config { v_intermediate_size: usize::MAX, ..Config::base() }),
    ] {
        let error = config.check().unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    }
    // A width that leaves adapters none matters only where there are any.
    let narrow = Config { adapter_divisor: 800, ..Config::base() };
    assert!(narrow.check().is_ok());
    assert!(narrow.check_adapters().unwrap_err().to_string().contains("adapter_divisor"));
}

#[test]
fn a_batch_that_does_not_fit_is_refused() {
    let params = ParamStore::new(golden_weights(false), |_| false).unwrap();
    let model = model(&params);
    let mut batch = golden_batch();
    batch.mask = batch.mask.narrow(1, 0, 8).unwrap();
    assert!(model.logits(&batch, None).unwrap_err().to_string().contains("mask"));
    let mut batch = golden_batch();
    batch.locations = batch.locations.narrow(2, 0, 4).unwrap();
    assert!(model.logits(&batch, None).is_err());
}

#[test]
fn the_text_alone_is_encoded_as_with_the_regions() {
    let params = ParamStore::new(padded(golden_weights(true)), |_| false).unwrap();
    let model = model(&params);
    let (streams, biases) = model.embed(&golden_batch(), None).unwrap();
    let both = model.encoder(streams, &biases, Output::FirstRows, None).unwrap();
    let text = model.encode(&golden_batch(), None).unwrap();
    assert_eq!(text.dims(), [2, 5, 8]);
    let first = text.narrow(1, 0, 1).unwrap();
    for (alone, with_regions) in values(&first).into_iter().zip(values(&both.text)) {
        assert!((alone - with_regions).abs() < 1e-5, "{alone} and {with_regions}");
    }
}
