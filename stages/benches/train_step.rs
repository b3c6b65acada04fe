//! A training step of the small model the mini profile trains: forward, backward and update, by mode and by
//! implementation, on one thread. And what is read for a step of the full-size model, which another thread does meanwhile.

use std::collections::HashMap;
use std::hint::black_box;

use candle_core::{Device, Tensor};
use criterion::{Criterion, criterion_group, criterion_main};
use stages::artifacts::region_features::{Layout, PictureRegions, RegionFeatures, RegionRow, RegionWriter};
use stages::models::visual_bert::Config;
use stages::models::{Architecture, Batch, Mode, Start, init_from_pretrained, init_random};
use stages::nn::{
    AdamW, AdamWConfig, Compute, Dropout, ParamStore, Precision, cross_entropy, decays, init, tune_allocator,
};

fn config() -> Config {
    Config {
        vocab_size: 500,
        hidden_size: 128,
        num_hidden_layers: 4,
        num_attention_heads: 4,
        intermediate_size: 512,
        max_position_embeddings: 64,
        visual_embedding_dim: 256,
        ..Config::base()
    }
}

fn batch(rows: usize, tokens: usize, regions: usize, config: &Config) -> candle_core::Result<Batch> {
    let device = &Device::Cpu;
    let ids: Vec<u32> = (0..rows * tokens).map(|i| 5 + (i * 31 % 490) as u32).collect();
    let features = [rows, regions, config.visual_embedding_dim];
    Ok(Batch {
        ids: Tensor::from_vec(ids, (rows, tokens), device)?,
        regions: init::normal(3, "regions", &features, 1.0, device)?.relu()?,
        locations: init::zeros(&[rows, regions, 5], device)?,
        mask: init::ones(&[rows, tokens + regions], device)?,
    })
}

fn train_step(c: &mut Criterion) {
    // One thread, as a step of the mini profile has.
    let _ = rayon::ThreadPoolBuilder::new().num_threads(1).build_global();
    tune_allocator();
    let config = config();
    let base = init_random(&config, 1, &Device::Cpu).expect("fresh base");
    let fast = Compute::for_device(&Device::Cpu, Precision::F32).expect("a CPU");
    let composed = Compute::composed(&Device::Cpu, Precision::F32).expect("a CPU");
    for (rows, mode, compute) in [
        (16, Mode::Fc, &fast),
        (16, Mode::Pe, &fast),
        (16, Mode::Full, &fast),
        (32, Mode::Full, &fast),
        (16, Mode::Pe, &composed),
        (16, Mode::Full, &composed),
    ] {
        let tensors: HashMap<String, Tensor> =
            init_from_pretrained(&base, &config, mode, Start::Base, 1, &Device::Cpu)
                .expect("complete weights");
        let params = ParamStore::new(tensors, |name| mode.trains(name)).expect("parameters");
        let params = params.with_compute(compute.clone());
        let model = config.build(&params).expect("model");
        let mut adamw = AdamW::new(&params, AdamWConfig::default(), decays).expect("optimizer");
        let dropout = Dropout::new(0.1, 1).expect("dropout");
        let batch = batch(rows, 12, 16, &config).expect("batch");
        let labels =
            Tensor::from_vec((0..rows as u32).map(|i| i % 2).collect(), rows, &Device::Cpu).expect("labels");
        let mut update = 0;
        c.bench_function(&format!("train step {mode} batch {rows} {compute:?}"), |b| {
            b.iter(|| {
                update += 1;
                let logits = model.logits(&batch, Some(&dropout.at(update))).expect("logits");
                let loss = cross_entropy(compute, &logits, &labels, rows).expect("loss");
                loss.backward().expect("backward");
                adamw.step(5e-5).expect("step");
                black_box(&loss);
            });
        });
    }
}

/// The features of 16 pictures of 100 regions of 2,048 values, each time other ones, out of shards in the page cache.
fn read_batch(c: &mut Criterion) {
    const PICTURES: usize = 320;
    let layout = Layout { width: 2048, max_regions: 100, shard: 64, half: false };
    let dir = tempfile::tempdir().expect("a folder");
    let mut writer = RegionWriter::new(dir.path(), layout);
    let names: Vec<String> = (0..PICTURES).map(|number| number.to_string()).collect();
    for names in names.chunks(layout.shard) {
        let picture = |name: &String| {
            let regions = PictureRegions {
                features: (0..100 * 2048).map(|at| (at % 101) as f32).collect(),
                boxes: vec![[0.0, 0.0, 9.0, 9.0]; 100],
                scores: vec![0.5; 100],
                objects: vec![3; 100],
                size: (640, 480),
            };
            (name.clone(), regions)
        };
        writer.write(&names.iter().map(picture).collect::<Vec<_>>()).expect("a shard");
    }
    writer.finish().expect("features");
    let features = RegionFeatures::open(dir.path()).expect("features");
    let places: Vec<RegionRow> = names.iter().filter_map(|name| features.find(name)).collect();
    let mut next = 0;
    c.bench_function("features of 16 memes, 13 MB", |b| {
        b.iter(|| {
            let mut batch = vec![0f32; 16 * 100 * 2048];
            for into in batch.chunks_exact_mut(100 * 2048) {
                // A step that shares no factor with the number of pictures, as shuffled rows lie.
                next = (next + 97) % PICTURES;
                features.copy_features(places[next], into);
            }
            Tensor::from_vec(batch, (16, 100, 2048), &Device::Cpu).expect("a tensor")
        });
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).without_plots();
    targets = train_step, read_batch
}
criterion_main!(benches);
