//! The model, its gradients and its optimiser against an independent reference in double precision.
//!
//! `reference/visual_bert.py` states them once more, with JAX's gradients, and wrote the numbers in `fixtures/`.

use std::collections::HashMap;
use std::path::PathBuf;

use candle_core::{Device, Tensor};
use serde::Deserialize;
use stages::models::visual_bert::{Batch, Config, Mode, VisualBert, cross_entropy};
use stages::nn::{AdamW, AdamWConfig, Dropout, Kernels, Params, decays};

/// The reference's dimensions.
fn config() -> Config {
    Config {
        vocab_size: 30,
        hidden_size: 20,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        intermediate_size: 36,
        max_position_embeddings: 12,
        visual_embedding_dim: 14,
        adapter_divisor: 3,
        ..Config::base()
    }
}

struct Reference {
    tensors: HashMap<String, Tensor>,
}

impl Reference {
    fn read() -> Self {
        let tensors =
            candle_core::safetensors::load(fixture("visual_bert.safetensors"), &Device::Cpu).unwrap();
        Self { tensors }
    }

    fn get(&self, name: &str) -> Tensor {
        self.tensors.get(name).unwrap_or_else(|| panic!("the fixture has no `{name}`")).clone()
    }

    fn params(&self, mode: Mode, kernels: Kernels) -> Params {
        let weights = self.tensors.iter().filter_map(|(name, tensor)| {
            let name = name.strip_prefix("weight ")?;
            (mode.has_adapters() || !name.contains("Adapt")).then(|| (name.to_owned(), tensor.clone()))
        });
        Params::new(weights.collect(), |name| mode.trains(name)).unwrap().with_kernels(kernels)
    }

    fn batch(&self) -> Batch {
        Batch { ids: self.get("ids"), regions: self.get("regions"), mask: self.get("mask") }
    }
}

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn norm(values: impl Iterator<Item = f32>) -> f64 {
    values.map(|value| f64::from(value).powi(2)).sum::<f64>().sqrt()
}

#[test]
fn logits_and_gradients_are_the_references() {
    let reference = Reference::read();
    let dropout = Dropout::new(0.3, 5).unwrap().at(3);
    for kernels in [Kernels::Plain, Kernels::Fused] {
        for mode in Mode::ALL {
            for (case, dropout) in [(mode.to_string(), None), (format!("{mode} dropout"), Some(&dropout))] {
                let params = reference.params(mode, kernels);
                let model = VisualBert::new(&config(), &params).unwrap();
                let logits = model.logits(&reference.batch(), dropout).unwrap();
                for (found, expected) in
                    values(&logits).iter().zip(values(&reference.get(&format!("{case} logits"))))
                {
                    assert!(
                        (found - expected).abs() < 1e-5,
                        "{case} {kernels:?}: logit {found}, not {expected}"
                    );
                }
                let loss = cross_entropy(&logits, &reference.get("labels")).unwrap();
                let grads = loss.backward().unwrap();
                let mut trained = 0;
                for (name, var) in params.trained() {
                    let found = values(grads.get(var).unwrap());
                    let expected = values(&reference.get(&format!("{case} grad {name}")));
                    assert_eq!(found.len(), expected.len(), "{name}");
                    let difference =
                        norm(found.iter().zip(&expected).map(|(found, expected)| found - expected));
                    let size = norm(expected.into_iter());
                    // A key's bias shifts all scores of a query alike: its gradient is 0 but for rounding.
                    let close =
                        if name.ends_with("key.bias") { difference < 1e-6 } else { difference < 1e-4 * size };
                    assert!(close, "{case} {kernels:?}: gradient of {name} off by {difference} of {size}");
                    trained += 1;
                }
                let prefix = format!("{case} grad ");
                assert_eq!(
                    trained,
                    reference.tensors.keys().filter(|name| name.starts_with(&prefix)).count()
                );
            }
        }
    }
}

/// A sequence of updates: learning rates, and the losses before each and after the last.
#[derive(Deserialize)]
struct Updates {
    mode: Mode,
    rates: Vec<f64>,
    eps: f64,
    decay: f64,
    losses: Vec<f64>,
}

#[test]
fn losses_of_several_updates_are_the_references() {
    let reference = Reference::read();
    let text = std::fs::read(fixture("visual_bert_updates.json")).unwrap();
    let sequences: Vec<Updates> = serde_json::from_slice(&text).unwrap();
    assert_eq!(sequences.len(), 9);
    for (sequence, kernels) in sequences.iter().flat_map(|s| [(s, Kernels::Plain), (s, Kernels::Fused)]) {
        let params = reference.params(sequence.mode, kernels);
        let model = VisualBert::new(&config(), &params).unwrap();
        let config =
            AdamWConfig { eps: sequence.eps, weight_decay: sequence.decay, ..AdamWConfig::default() };
        let mut adamw = AdamW::new(&params, config, decays).unwrap();
        let frozen = frozen(&params);
        for (update, expected) in sequence.losses.iter().enumerate() {
            let logits = model.logits(&reference.batch(), None).unwrap();
            let loss = cross_entropy(&logits, &reference.get("labels")).unwrap();
            let found = f64::from(loss.to_scalar::<f32>().unwrap());
            let case = format!("{} eps {} decay {} {kernels:?}", sequence.mode, sequence.eps, sequence.decay);
            assert!(
                (found / expected - 1.0).abs() < 1e-4,
                "{case}, update {update}: {found}, not {expected}"
            );
            if let Some(&lr) = sequence.rates.get(update) {
                adamw.step(&loss.backward().unwrap(), lr).unwrap();
            }
        }
        assert!(frozen == self::frozen(&params), "frozen parameters changed");
    }
}

fn frozen(params: &Params) -> Vec<Vec<f32>> {
    let trained: Vec<&str> = params.trained().map(|(name, _)| name).collect();
    params
        .iter()
        .filter(|(name, _)| !trained.contains(name))
        .map(|(_, param)| values(param.tensor()))
        .collect()
}
