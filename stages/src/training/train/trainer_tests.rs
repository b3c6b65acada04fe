//! What a device with too little memory changes: the size of the micro-batches, and nothing else.

use super::*;
use crate::models::{Batch, Family, Mode, SmallConfig, Start, init_from_pretrained, init_random};
use crate::nn::{AdamWConfig, DropoutAt, Param, decays, init};

/// A model on a device that holds so many rows.
struct Cramped {
    model: Box<dyn Model>,
    holds: usize,
    complaint: &'static str,
}

impl Model for Cramped {
    fn encode(&self, batch: &Batch, dropout: Option<&DropoutAt>) -> Result<Tensor> {
        self.model.encode(batch, dropout)
    }

    fn logits(&self, batch: &Batch, dropout: Option<&DropoutAt>) -> Result<Tensor> {
        if batch.ids.dim(0)? > self.holds {
            return Err(Error::Cuda(self.complaint.into()));
        }
        self.model.logits(batch, dropout)
    }
}

const OUT_OF_MEMORY: &str = "DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")";

fn trainer<'a>(settings: &'a TrainParams, holds: usize, complaint: &'static str) -> Trainer<'a> {
    let small = SmallConfig {
        words: 30,
        positions: 12,
        features: 8,
        hidden: 16,
        layers: 2,
        heads: 2,
        intermediate: 32,
        dropout: 0.3,
        initializer_range: 0.1,
    };
    let config = Family::VisualBert.small(&small);
    let base = init_random(&*config, 1, &Device::Cpu).unwrap();
    let tensors = init_from_pretrained(&base, &*config, Mode::Full, Start::Base, 1, &Device::Cpu).unwrap();
    let params = ParamStore::new(tensors, |_| true).unwrap();
    let model = Box::new(Cramped { model: config.build(&params).unwrap(), holds, complaint });
    let optimizer = AdamW::new(&params, AdamWConfig::default(), decays).unwrap();
    Trainer {
        settings,
        params,
        model,
        optimizer,
        dropout: Dropout::new(0.3, 5).unwrap(),
        schedule: LinearSchedule { peak: 1e-3, warm_up: 1, updates: 9 },
        state: State::default(),
        best: BestCheckpoint::default(),
        device: Device::Cpu,
    }
}

fn settings() -> TrainParams {
    ron::from_str("(mode: \"full\")").unwrap()
}

/// A batch of `rows`, in micro-batches of `micro_batch_size`.
fn batch(rows: usize, micro_batch_size: usize) -> TrainBatch {
    let (text, regions) = (7, 3);
    let random = |name: &str, shape: &[usize]| init::normal(3, name, shape, 1.0, &Device::Cpu).unwrap();
    let ids: Vec<u32> = (0..rows * text).map(|at| (at * 13 % 30) as u32).collect();
    let whole = Batch {
        ids: Tensor::from_vec(ids, (rows, text), &Device::Cpu).unwrap(),
        regions: random("regions", &[rows, regions, 8]),
        locations: random("locations", &[rows, regions, 5]),
        mask: Tensor::ones((rows, text + regions), candle_core::DType::F32, &Device::Cpu).unwrap(),
    };
    let labels = Tensor::from_iter((0..rows as u32).map(|row| row % 2), &Device::Cpu).unwrap();
    let whole = TrainBatch { micro_batches: vec![MicroBatch { batch: whole, labels, before: 0 }], rows };
    TrainBatch { micro_batches: whole.split(micro_batch_size).unwrap(), rows }
}

fn weights(trainer: &Trainer) -> Vec<Vec<f32>> {
    let values = |(_, param): (&str, &Param)| param.value().flatten_all().unwrap().to_vec1().unwrap();
    trainer.params.trained().map(values).collect()
}

/// Losses and the final weights of four updates, and the last size of a micro-batch.
fn trained(mut trainer: Trainer, batch: &TrainBatch) -> (Vec<f64>, Vec<Vec<f32>>, usize) {
    let losses = (1..=4).map(|update| trainer.update(update, batch).unwrap()).collect();
    (losses, weights(&trainer), trainer.state.micro_batch_size)
}

#[test]
fn what_does_not_fit_is_computed_in_halves_with_the_bytes_of_that_micro_batch() {
    let settings = settings();
    for (rows, holds, ends_with) in [(8, 3, 2), (7, 3, 2), (5, 1, 1), (8, 8, usize::MAX)] {
        let (losses, weights, micro_batch_size) =
            trained(trainer(&settings, holds, OUT_OF_MEMORY), &batch(rows, rows));
        assert_eq!(micro_batch_size, ends_with, "{rows} rows where {holds} have room");
        let asked = batch(rows, micro_batch_size.min(rows));
        let (expected, expected_weights, _) = trained(trainer(&settings, rows, OUT_OF_MEMORY), &asked);
        assert_eq!((losses, weights), (expected, expected_weights), "{rows} rows where {holds} have room");
    }
}

#[test]
fn what_no_halving_helps_is_an_error_and_changes_no_weight() {
    let settings = settings();
    for (holds, complaint, tried) in [(0, OUT_OF_MEMORY, 1), (3, "an illegal memory access", usize::MAX)] {
        let mut trainer = trainer(&settings, holds, complaint);
        let before = weights(&trainer);
        let error = trainer.update(2, &batch(8, 8)).unwrap_err().to_string();
        assert!(error.contains(complaint), "{error}");
        assert_eq!((trainer.state.micro_batch_size, weights(&trainer)), (tried, before));
    }
}
