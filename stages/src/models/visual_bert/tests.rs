//! The model as a whole: gradients reach what is trained and nothing else, padding changes nothing, and the first
//! row of the pruned last layer is that of the full one.

use std::collections::BTreeSet;

use candle_core::{Device, Tensor};

use super::super::{AdapterPlace, Architecture, MlmHead, Mode, init_mlm_head, init_random};
use super::*;
use crate::nn::{AdamW, AdamWConfig, Compute, Dropout, ParamStore, Precision, cross_entropy, init};

/// A model small enough for tests, with no two dimensions alike.
pub fn tiny() -> Config {
    Config {
        vocab_size: 30,
        hidden_size: 20,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        intermediate_size: 36,
        max_position_embeddings: 12,
        type_vocab_size: 2,
        visual_embedding_dim: 14,
        adapter_divisor: 3,
        ..Config::base()
    }
}

/// Parameters of `tiny` with large enough weights that every part of the model matters.
pub fn params(mode: Mode) -> ParamStore {
    params_of(&tiny(), mode)
}

fn model(config: &Config, params: &ParamStore) -> VisualBert {
    VisualBert::load(config, &Loader::new(params), Parts::of(params)).unwrap()
}

fn params_of(config: &Config, mode: Mode) -> ParamStore {
    let tensors = config.parameters(mode.parts()).unwrap().into_iter().map(|(name, shape)| {
        let mut tensor = init::normal(1, &name, &shape, 0.3, &Device::Cpu).unwrap();
        if name.ends_with("LayerNorm.weight") {
            tensor = (tensor + 1.0).unwrap();
        }
        (name, tensor)
    });
    ParamStore::new(tensors.collect(), |name| mode.trains(name)).unwrap()
}

/// Three memes of 5, 3 and 1 tokens and 4, 2 and 0 regions, texts padded to `length`.
pub fn batch(length: usize) -> Batch {
    let rows: [(&[u32], usize); 3] = [(&[2, 9, 17, 4, 3], 4), (&[2, 11, 3], 2), (&[2], 0)];
    let regions = 4;
    let (mut ids, mut mask) = (Vec::new(), Vec::new());
    for (text, present) in rows {
        ids.extend((0..length).map(|t| text.get(t).copied().unwrap_or(0)));
        mask.extend((0..length).map(|t| f32::from(u8::from(t < text.len()))));
        mask.extend((0..regions).map(|r| f32::from(u8::from(r < present))));
    }
    let features = init::normal(2, "features", &[3, regions, 14], 1.0, &Device::Cpu).unwrap();
    Batch {
        ids: Tensor::from_vec(ids, (3, length), &Device::Cpu).unwrap(),
        regions: features.relu().unwrap(),
        locations: init::normal(2, "locations", &[3, regions, 5], 1.0, &Device::Cpu).unwrap(),
        mask: Tensor::from_vec(mask, (3, length + regions), &Device::Cpu).unwrap(),
    }
}

pub fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// The Euclidean norm of the difference, relative to that of `b`.
pub fn distance(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.dims(), b.dims());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
    let (a, b) = (values(a), values(b));
    let difference = norm(&mut a.iter().zip(&b).map(|(a, b)| f64::from(a - b)));
    difference / norm(&mut b.iter().map(|&b| f64::from(b))).max(f64::MIN_POSITIVE)
}

fn labels() -> Tensor {
    Tensor::new(&[1u32, 0, 1], &Device::Cpu).unwrap()
}

#[test]
fn every_trained_parameter_gets_a_gradient_and_no_other() {
    for mode in Mode::ALL {
        let params = params(mode);
        let model = model(&tiny(), &params);
        let dropout = Dropout::new(0.1, 1).unwrap().at(1);
        loss(&params, &model.logits(&batch(6), Some(&dropout)).unwrap(), &labels()).backward().unwrap();
        let grads = params.take_gradients().unwrap();
        for (name, _) in params.iter() {
            let grad = grads.get(name);
            assert_eq!(grad.is_some(), mode.trains(name), "{mode}: {name}");
            // The key's bias shifts all scores of a query alike, so its true gradient is 0.
            if let Some(grad) = grad.filter(|_| !name.ends_with("key.bias")) {
                assert!(values(grad).iter().any(|&value| value != 0.0), "{mode}: {name} gets only zeros");
            }
        }
    }
}

#[test]
fn adapters_are_where_the_config_says() {
    for (place, parts) in [
        (AdapterPlace::Output, &["output.AdaptComb"][..]),
        (AdapterPlace::Attention, &["attention.output.AdaptComb"]),
        (AdapterPlace::Both, &["attention.output.AdaptComb", "layer.0.output.AdaptComb"]),
    ] {
        let config = Config { adapter_place: place, ..tiny() };
        let params = params_of(&config, Mode::Pe);
        let (_, gradients) = loss_and_gradients(&config, &params, &batch(6), None);
        let adapters: Vec<_> = gradients.iter().filter(|(name, _)| name.contains("Adapt")).collect();
        assert_eq!(adapters.len(), 4 * place.parts().len() * config.num_hidden_layers);
        for part in parts {
            assert!(adapters.iter().any(|(name, _)| name.contains(part)), "{place:?}: {part}");
        }
        for (name, gradient) in adapters {
            assert!(values(gradient).iter().any(|&value| value != 0.0), "{place:?}: {name}");
        }
    }
}

#[test]
fn products_of_rounded_factors_differ_by_rounding_and_no_more() {
    for (precision, most) in [(Precision::Bf16, (0.02, 0.05)), (Precision::Tf32, (0.0025, 0.006))] {
        rounds_and_no_more(precision, most);
    }
}

/// Loss and gradients in `precision` are off by no more than `most` of their lengths, and by something.
fn rounds_and_no_more(precision: Precision, most: (f64, f64)) {
    let (mode, dropout) = (Mode::Pe, Dropout::new(0.1, 5).unwrap().at(3));
    let full = params(mode);
    let half = full.clone().with_precision(precision).unwrap();
    let (loss, gradients) = loss_and_gradients(&tiny(), &full, &batch(6), Some(&dropout));
    let (rounded, rounded_gradients) = loss_and_gradients(&tiny(), &half, &batch(6), Some(&dropout));
    let apart = distance(&rounded, &loss);
    assert!(apart > 1e-7 && apart < most.0, "{precision:?}: {apart}");
    // All together: a ReLU next to zero may open where it was shut, which a single small gradient feels.
    let whole = |gradients: &[(String, Tensor)]| {
        let parts: Vec<Tensor> = gradients.iter().map(|(_, part)| part.flatten_all().unwrap()).collect();
        Tensor::cat(&parts, 0).unwrap()
    };
    let apart = distance(&whole(&rounded_gradients), &whole(&gradients));
    assert!(apart > 1e-6 && apart < most.1, "{precision:?}: {apart}");
}

#[test]
fn what_is_frozen_follows_the_optimizer_and_leaves_no_graph() {
    let params = params(Mode::Full);
    let frozen = params.frozen();
    assert_eq!(frozen.trained().count(), 0);
    let before = model(&tiny(), &frozen).logits(&batch(6), None).unwrap();
    assert!(!before.track_op());
    let mut adamw = AdamW::new(&params, AdamWConfig::default(), |_| true).unwrap();
    let loss = model(&tiny(), &params).logits(&batch(6), None).unwrap().sqr().unwrap();
    loss.mean_all().unwrap().backward().unwrap();
    adamw.step(0.1).unwrap();
    let after = |params: &ParamStore| model(&tiny(), params).logits(&batch(6), None).unwrap();
    assert!(values(&after(&frozen)) == values(&after(&params)));
    assert!(values(&after(&frozen)) != values(&before));
}

#[test]
fn the_row_of_padding_gets_no_gradient() {
    let params = params(Mode::Full);
    let model = model(&tiny(), &params);
    // All rows attended, so that padding would matter.
    let mut batch = batch(6);
    batch.mask = batch.mask.ones_like().unwrap();
    loss(&params, &model.logits(&batch, None).unwrap(), &labels()).backward().unwrap();
    let grad = &params.take_gradients().unwrap()["model.bert.embeddings.word_embeddings.weight"];
    assert!(values(&grad.get(0).unwrap()).iter().all(|&value| value == 0.0));
    assert!(values(&grad.get(3).unwrap()).iter().any(|&value| value != 0.0));
}

#[test]
fn padding_changes_nothing() {
    for mode in Mode::ALL {
        let params = params(mode);
        let model = model(&tiny(), &params);
        let (trimmed, padded) = (batch(5), batch(11));
        let trimmed = model.logits(&trimmed, None).unwrap();
        let padded = model.logits(&padded, None).unwrap();
        assert!(distance(&padded, &trimmed) < 1e-5, "{mode}: {}", distance(&padded, &trimmed));
    }
}

#[test]
fn the_head_reads_the_first_row_of_the_encoding() {
    for mode in Mode::ALL {
        let params = params(mode);
        let model = model(&tiny(), &params);
        let first = model.encode(&batch(6), None).unwrap().narrow(1, 0, 1).unwrap().squeeze(1).unwrap();
        let full = model.classify(&first.contiguous().unwrap(), None).unwrap();
        let pruned = model.logits(&batch(6), None).unwrap();
        assert!(distance(&pruned, &full) < 1e-5, "{mode}: {}", distance(&pruned, &full));
    }
}

#[test]
fn a_batch_that_does_not_fit_is_refused() {
    let params = params(Mode::Fc);
    let model = model(&tiny(), &params);
    let long = model.logits(&batch(13), None).unwrap_err().to_string();
    assert!(long.contains("13") && long.contains("12"), "{long}");
    let mut wrong = batch(6);
    wrong.mask = wrong.mask.narrow(1, 0, 9).unwrap();
    assert!(model.logits(&wrong, None).unwrap_err().to_string().contains("mask"));
}

#[test]
fn the_word_head_reaches_the_word_embeddings() {
    let device = &Device::Cpu;
    let mut tensors = init_random(&tiny(), 1, device).unwrap();
    tensors.extend(init_mlm_head(&tiny(), 1, device).unwrap());
    let params = ParamStore::new(tensors, |_| true).unwrap();
    let model = model(&tiny(), &params);
    let head = MlmHead::load(&Loader::new(&params), &tiny().dimensions()).unwrap();
    let hidden = model.encode(&batch(6), None).unwrap().reshape((3 * 10, 20)).unwrap();
    let rows = hidden.index_select(&Tensor::new(&[1u32, 11], device).unwrap(), 0).unwrap();
    let logits = head.logits(&rows).unwrap();
    assert_eq!(logits.dims(), [2, 30]);
    loss(&params, &logits, &Tensor::new(&[9u32, 11], device).unwrap()).backward().unwrap();
    let grads = params.take_gradients().unwrap();
    for (name, _) in params.trained().filter(|(name, _)| !name.contains("pooler")) {
        assert!(grads.contains_key(name), "{name}");
    }
    // Every word is a candidate of the decoder, also one that no text has.
    let words = &grads["model.bert.embeddings.word_embeddings.weight"];
    assert!(values(&words.get(29).unwrap()).iter().any(|&value| value != 0.0));
    assert!(model.logits(&batch(6), None).unwrap_err().to_string().contains("no classification head"));
}

/// The mean loss of `logits`.
fn loss(params: &ParamStore, logits: &Tensor, labels: &Tensor) -> Tensor {
    cross_entropy(params.compute(), logits, labels, labels.elem_count()).unwrap()
}

/// The loss on [`batch`] and its gradients by name.
fn loss_and_gradients(
    config: &Config,
    params: &ParamStore,
    batch: &Batch,
    dropout: Option<&DropoutAt>,
) -> (Tensor, Vec<(String, Tensor)>) {
    let model = model(config, params);
    let labels: Vec<u32> = (0..batch.ids.dim(0).unwrap() as u32).map(|row| row % 2).collect();
    let labels = Tensor::new(labels, &Device::Cpu).unwrap();
    let loss = loss(params, &model.logits(batch, dropout).unwrap(), &labels);
    loss.backward().unwrap();
    let gradients = params.take_gradients().unwrap();
    assert_eq!(gradients.len(), params.trained().count());
    (loss, gradients.into_iter().collect())
}

/// The parameters, each value moved up or down by 2⁻²³ of itself.
fn nudged(params: &ParamStore, number: u64) -> ParamStore {
    let nudge = |(name, tensor): (String, Tensor)| {
        let sign = init::normal(number, &name, tensor.dims(), 1.0, &Device::Cpu).unwrap().sign().unwrap();
        let factor = sign.affine(f64::from(f32::EPSILON), 1.0).unwrap();
        (name, tensor.mul(&factor).unwrap())
    };
    let trained: BTreeSet<String> = params.trained().map(|(name, _)| name.to_owned()).collect();
    let tensors = params.tensors().into_iter().map(nudge).collect();
    ParamStore::new(tensors, |name| trained.contains(name)).unwrap().with_compute(params.compute().clone())
}

fn length(tensor: &Tensor) -> f64 {
    values(tensor).iter().map(|&value| f64::from(value) * f64::from(value)).sum::<f64>().sqrt()
}

fn length_of_difference(a: &Tensor, b: &Tensor) -> f64 {
    length(&(a - b).unwrap())
}

#[test]
fn the_operations_of_the_cpu_equal_their_composition() {
    let dropout = Dropout::new(0.1, 5).unwrap().at(3);
    let both = Config { adapter_place: AdapterPlace::Both, ..tiny() };
    let configs = Mode::ALL.map(|mode| (mode, tiny())).into_iter().chain([(Mode::Pe, both)]);
    for ((mode, config), dropout) in configs.flat_map(|case| [(case.clone(), None), (case, Some(&dropout))]) {
        let fused = params_of(&config, mode);
        let composed = Compute::composed(&Device::Cpu, Precision::F32).unwrap();
        let plain = fused.clone().with_compute(composed);
        let (loss, gradients) = loss_and_gradients(&config, &fused, &batch(6), dropout);
        let (plain_loss, plain_gradients) = loss_and_gradients(&config, &plain, &batch(6), dropout);
        let case = format!("{mode}, adapters {:?}, dropout {}", config.adapter_place, dropout.is_some());
        assert!(distance(&loss, &plain_loss) < 1e-5, "{case}: loss {loss} and {plain_loss}");
        // How far the plain composition's own gradients move where its parameters move by their last bit.
        let moved: Vec<_> = (0..8)
            .map(|number| loss_and_gradients(&config, &nudged(&plain, number), &batch(6), dropout).1)
            .collect();
        for (at, ((name, gradient), (_, plain))) in gradients.iter().zip(&plain_gradients).enumerate() {
            // Its true gradient is 0: what there is, is rounding.
            if !name.ends_with("key.bias") {
                let moved = moved.iter().map(|moved| length_of_difference(&moved[at].1, plain));
                let squares: f64 = moved.map(|distance| distance * distance).sum();
                let rounding = (squares / 8.0).sqrt();
                let distance = length_of_difference(gradient, plain);
                assert!(
                    distance <= 4.0 * rounding + 1e-5 * length(plain),
                    "{case}: {name} differs by {distance}, where rounding is {rounding}"
                );
            }
        }
        // What is not padding.
        let mask = batch(6).mask.unsqueeze(2).unwrap();
        let encode = |params: &ParamStore| {
            model(&config, params).encode(&batch(6), dropout).unwrap().broadcast_mul(&mask).unwrap()
        };
        assert!(distance(&encode(&fused), &encode(&plain)) < 1e-5, "{case}: encoding");
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    // Large enough that every kernel shares its work.
    let rows = 160;
    let big = |tensor: Tensor| Tensor::cat(&vec![tensor; rows], 0).unwrap();
    let one = batch(12);
    let batch = Batch {
        ids: big(one.ids),
        regions: big(one.regions),
        locations: big(one.locations),
        mask: big(one.mask),
    };
    let dropout = Dropout::new(0.1, 5).unwrap().at(3);
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| loss_and_gradients(&tiny(), &params(Mode::Full), &batch, Some(&dropout)))
    };
    let (loss, gradients) = run(1);
    for threads in [2, 3] {
        let (other_loss, other) = run(threads);
        assert_eq!(values(&loss), values(&other_loss));
        for ((name, gradient), (_, other)) in gradients.iter().zip(&other) {
            assert!(values(gradient) == values(other), "{name} with {threads} threads");
        }
    }
}
