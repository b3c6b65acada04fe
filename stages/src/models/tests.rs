//! Leaving out the padding changes no bit of logits, encodings, gradients and trained parameters.

use std::collections::HashMap;

use candle_core::{Device, Tensor};

use super::{Architecture, Batch, Mode, Model, Pretrained, vilbert, visual_bert};
use crate::nn::{
    AdamW, AdamWConfig, Compute, Dropout, DropoutAt, ParamStore, Precision, cross_entropy, init,
};

const FEATURES: usize = 6;

fn visual_bert() -> visual_bert::Config {
    visual_bert::Config {
        vocab_size: 30,
        hidden_size: 20,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        intermediate_size: 28,
        max_position_embeddings: 420,
        visual_embedding_dim: FEATURES,
        adapter_divisor: 3,
        ..visual_bert::Config::base()
    }
}

/// T0 T1 C0 T2 V0 C1 V1 T3.
fn vilbert() -> vilbert::Config {
    vilbert::Config {
        vocab_size: 30,
        hidden_size: 20,
        num_hidden_layers: 4,
        num_attention_heads: 2,
        intermediate_size: 28,
        max_position_embeddings: 420,
        v_feature_size: FEATURES,
        v_hidden_size: 12,
        v_num_hidden_layers: 2,
        v_num_attention_heads: 3,
        v_intermediate_size: 16,
        bi_hidden_size: 24,
        bi_num_attention_heads: 3,
        t_biattention_id: vec![2, 3],
        v_biattention_id: vec![0, 1],
        adapter_divisor: 2,
        ..vilbert::Config::base()
    }
}

/// Texts and pictures of so many tokens and regions, padded to `tokens` and `regions`.
fn batch(sizes: &[(usize, usize)], tokens: usize, regions: usize) -> Batch {
    let (device, rows) = (&Device::Cpu, sizes.len());
    let id = |at: usize| 3 + (at * 7 % 27) as u32;
    let ids = sizes.iter().flat_map(|size| (0..tokens).map(move |at| if at < size.0 { id(at) } else { 0 }));
    let mask = sizes.iter().flat_map(|size| {
        let text = (0..tokens).map(move |at| f32::from(u8::from(at < size.0)));
        text.chain((0..regions).map(move |at| f32::from(u8::from(at < size.1))))
    });
    let values =
        |name: &str, width: usize| init::normal(2, name, &[rows, regions, width], 1.0, device).unwrap();
    Batch {
        ids: Tensor::from_iter(ids, device).unwrap().reshape((rows, tokens)).unwrap(),
        regions: values("features", FEATURES),
        locations: values("locations", 5),
        mask: Tensor::from_iter(mask, device).unwrap().reshape((rows, tokens + regions)).unwrap(),
    }
}

/// A full row; a row of two tokens and one region; odd lengths; no region in one picture, as only VisualBERT can read it.
fn batches(has_empty_pictures: bool) -> [Batch; 2] {
    let few = if has_empty_pictures { 0 } else { 1 };
    let sizes = [(9, 5), (2, 1), (7, 4), (1, few), (3, 5)];
    // More keys than a block of a product's inner dimension, more rows than a group of a sum.
    let long = [(401, 37), (2, 1), (384, 36), (57, few), (399, 37)];
    [batch(&sizes, 9, 5), batch(&long, 401, 37)]
}

fn params(config: &impl Architecture, mode: Mode, is_padded: bool) -> ParamStore {
    let tensors = config.parameters(mode.parts()).unwrap().into_iter().map(|(name, shape)| {
        let tensor = init::normal(1, &name, &shape, 0.3, &Device::Cpu).unwrap();
        (name, tensor)
    });
    let params = ParamStore::new(tensors.collect(), |name| mode.trains(name)).unwrap();
    if is_padded { params.with_compute(Compute::padded(Precision::F32).unwrap()) } else { params }
}

/// The bits of values, of which −0 counts as 0: a sum that a product of 0 is added to has no −0, one that it is left out of may.
fn bits(tensor: &Tensor) -> Vec<u32> {
    tensor
        .flatten_all()
        .unwrap()
        .to_vec1::<f32>()
        .unwrap()
        .iter()
        .map(|value| (value + 0.0).to_bits())
        .collect()
}

/// What a training of three updates gives, each in micro-batches of `micro_batch` rows.
struct Outcome {
    logits: Vec<Vec<u32>>,
    gradients: Vec<HashMap<String, Vec<u32>>>,
    parameters: HashMap<String, Vec<u32>>,
}

fn train(
    config: &impl Architecture,
    batch: &Batch,
    mode: Mode,
    dropout: f64,
    micro_batch: usize,
    is_padded: bool,
) -> Outcome {
    let params = params(config, mode, is_padded);
    let model = config.build(&params).unwrap();
    let mut adamw = AdamW::new(&params, AdamWConfig::default(), |_| true).unwrap();
    let dropout = Dropout::new(dropout, 5).unwrap();
    let (mut logits, mut gradients) = (Vec::new(), Vec::new());
    for update in 0..3 {
        let rows = batch.ids.dim(0).unwrap();
        let mut before = 0;
        for part in batch.split(micro_batch).unwrap() {
            let count = part.ids.dim(0).unwrap();
            let dropout = dropout.at(update).micro_batch(before, count);
            let found = model.logits(&part, Some(&dropout)).unwrap();
            let labels = Tensor::from_iter((0..count).map(|row| (row % 2) as u32), &Device::Cpu).unwrap();
            cross_entropy(params.compute(), &found, &labels, rows).unwrap().backward().unwrap();
            logits.push(bits(&found));
            before += count;
        }
        gradients.push(
            params
                .trained()
                .map(|(name, param)| {
                    let gradient = params.compute().gradient(param).unwrap().map(|gradient| bits(&gradient));
                    (name.to_owned(), gradient.unwrap_or_default())
                })
                .collect(),
        );
        adamw.step(0.01).unwrap();
    }
    let parameters = params.trained().map(|(name, param)| (name.to_owned(), bits(param.value())));
    Outcome { logits, gradients, parameters: parameters.collect() }
}

fn check<C: Pretrained>(config: &C, has_empty_pictures: bool) {
    for (mode, dropout) in [(Mode::Fc, 0.1), (Mode::Pe, 0.1), (Mode::Full, 0.1), (Mode::Full, 0.0)] {
        for (batch, micro_batches) in batches(has_empty_pictures).iter().zip([&[5, 2][..], &[5]]) {
            for &micro_batch in micro_batches {
                let case = format!("{mode}, dropout {dropout}, micro-batches of {micro_batch}");
                let packed = train(config, batch, mode, dropout, micro_batch, false);
                let padded = train(config, batch, mode, dropout, micro_batch, true);
                assert!(packed.logits == padded.logits, "{case}: logits");
                for (update, (packed, padded)) in packed.gradients.iter().zip(&padded.gradients).enumerate() {
                    for (name, gradient) in packed {
                        assert!(*gradient == padded[name], "{case}, update {update}: gradient of {name}");
                    }
                }
                for (name, values) in &packed.parameters {
                    assert!(*values == padded.parameters[name], "{case}: {name}");
                }
            }
        }
    }
}

#[test]
fn visual_bert_trains_to_the_same_bits_without_padding() {
    check(&visual_bert(), true);
}

#[test]
fn vilbert_trains_to_the_same_bits_without_padding() {
    check(&vilbert(), false);
}

/// The encoding at the positions that are there; `dropout` is of the whole batch.
fn encoding(model: &dyn Model, batch: &Batch, dropout: &DropoutAt) -> Vec<u32> {
    let encoded = model.encode(batch, Some(dropout)).unwrap();
    let mask = batch.mask.narrow(1, 0, encoded.dim(1).unwrap()).unwrap().unsqueeze(2).unwrap();
    bits(&encoded.broadcast_mul(&mask).unwrap())
}

#[test]
fn encodings_have_the_same_bits_and_places_without_padding() {
    fn check(config: &impl Architecture) {
        let dropout = Dropout::new(0.1, 5).unwrap().at(3);
        for batch in batches(false) {
            let [packed, padded] = [false, true].map(|is_padded| {
                let params = params(config, Mode::Full, is_padded);
                encoding(&*config.build(&params).unwrap(), &batch, &dropout)
            });
            assert!(packed == padded);
        }
    }
    check(&visual_bert());
    check(&vilbert());
}
