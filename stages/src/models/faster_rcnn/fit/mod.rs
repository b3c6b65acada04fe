//! Weights for a detector without gradient descent: random kernels, normalisation measured on pictures, and the
//! few layers that decide something solved for in closed form.
//!
//! Random convolutions keep colour, edges and texture apart well enough that linear readouts of them find the
//! objects of simple scenes. What is fitted: objectness and box deltas of the proposal network, part of the
//! first head layer (so that features speak of what is in the box), and the class scores. It takes seconds.

mod gram;
mod moments;
mod ridge;
mod seeded;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use candle_core::{DType, Device, Result, Tensor};
use rayon::prelude::*;

use super::backbone::{Body, Bottleneck, STEM, windows};
use super::boxes::{Corners, encode, iou};
use super::config::Config;
use super::fpn::Pyramid;
use super::head::Pooler;
use super::preprocess::prepare;
use super::rpn::{Rpn, cells};
use crate::formats::image_decode::Picture;
use crate::nn::conv::{Conv2d, Window};
use crate::nn::cpu_tensor::cpu_vec;
use crate::nn::maps::Affine;
use crate::nn::{Compute, Loader, ParamStore, Precision};
use moments::Moments;
use ridge::ridge;

/// A picture with what is on it.
#[derive(Debug, Clone)]
pub struct Example {
    /// The picture.
    pub picture: Picture,
    /// Box in pixels of the picture, and class (0-based, background left out).
    pub objects: Vec<(Corners, u32)>,
}

/// Overlap from which on an anchor or a proposal matches an object.
const MATCH: f32 = 0.5;
/// Overlap from which on an anchor helps to fit the box deltas.
const NEAR: f32 = 0.35;
/// Spread of the features before their ReLU; behind it their root mean square is `1/√2` of this.
const FEATURE_SPREAD: f32 = 2.0;
/// Logits a class score of 1 (as against 0) is worth.
const SHARPNESS: f64 = 10.0;
/// Ridge penalty, relative to the mean variance of the inputs.
const PENALTY: f64 = 1e-2;

type Tensors = HashMap<String, Tensor>;
type Maps = Vec<Tensor>;

/// Makes the tensors of a detector from `seed` and examples, all on the host.
///
/// # Errors
/// A config that makes no sense, no examples, or examples without any object.
pub fn fit(config: &Config, examples: &[Example], seed: u64) -> Result<Tensors> {
    config.check().map_err(candle_core::Error::Msg)?;
    if examples.iter().all(|example| example.objects.is_empty()) {
        return Err(candle_core::Error::Msg(
            "there are no examples with objects to fit a detector to".to_owned(),
        ));
    }
    let mut tensors = seeded::tensors(config, seed)?;
    let (canvases, truths): (Maps, Vec<Truth>) = examples
        .iter()
        .map(|example| {
            let canvas = prepare(&example.picture, config, &cpu()?)?;
            Ok((canvas.pixels, Truth::new(&example.objects, canvas.scale)))
        })
        .collect::<Result<Vec<_>>>()?
        .into_iter()
        .unzip();
    normalise_body(config, &mut tensors, canvases.clone())?;
    normalise_pyramid(config, &mut tensors, &canvases)?;
    let params = store(&tensors)?;
    let backbone = Loader::new(&params).pp("backbone");
    let body = Body::load(config, &backbone.pp("body"))?;
    let pyramid = Pyramid::load(config, &backbone.pp("fpn"))?;
    let levels = each(&canvases, |canvas| pyramid.forward(body.forward(canvas.clone())?))?;
    fit_proposals(config, &mut tensors, &levels, &truths)?;
    fit_head(config, &mut tensors, &canvases, &levels, &truths)?;
    Ok(tensors)
}

/// The objects of one example on its canvas.
struct Truth(Vec<(Corners, u32)>);

impl Truth {
    fn new(objects: &[(Corners, u32)], scale: f32) -> Self {
        Self(objects.iter().map(|(corners, class)| (corners.map(|value| value * scale), *class)).collect())
    }

    /// The object a box overlaps most, and by how much.
    fn best(&self, corners: Corners) -> Option<(f32, Corners, u32)> {
        let overlaps = self.0.iter().map(|&(object, class)| (iou(object, corners), object, class));
        overlaps.max_by(|a, b| a.0.total_cmp(&b.0))
    }
}

/// What computes.
fn cpu() -> Result<Compute> {
    Compute::for_device(&Device::Cpu, Precision::F32)
}

/// The tensors as parameters; they share storage.
fn store(tensors: &Tensors) -> Result<ParamStore> {
    ParamStore::new(tensors.clone(), |_| false)
}

/// `f` of every item, spread over the threads, in order.
fn each<T: Sync, U: Send>(items: &[T], f: impl Fn(&T) -> Result<U> + Send + Sync) -> Result<Vec<U>> {
    items.par_iter().map(f).collect()
}

/// Sets the running statistics of every normalisation to what the pictures show, layer by layer.
fn normalise_body(config: &Config, tensors: &mut Tensors, canvases: Maps) -> Result<()> {
    let stem = "backbone.body.stem";
    let maps = measure_norm(tensors, &format!("{stem}.conv1"), &format!("{stem}.bn1"), STEM, &canvases)?;
    let compute = cpu()?;
    let mut maps = each(&maps, |map| compute.max_pool(map, 3))?;
    for (stage, &blocks) in config.blocks.iter().enumerate() {
        for block in 0..blocks {
            let at = format!("backbone.body.layer{}.{block}", stage + 1);
            let (projection, first, second) = windows(config, stage, block);
            if block == 0 {
                let (conv, norm) = (format!("{at}.downsample.0"), format!("{at}.downsample.1"));
                measure_norm(tensors, &conv, &norm, projection, &maps)?;
            }
            let mut inner = maps.clone();
            for (number, window) in [(1, first), (2, second), (3, Window::POINT)] {
                let (conv, norm) = (format!("{at}.conv{number}"), format!("{at}.bn{number}"));
                inner = measure_norm(tensors, &conv, &norm, window, &inner)?;
            }
            let params = store(tensors)?;
            let bottleneck = Bottleneck::load(config, stage, block, &Loader::new(&params).pp(&at))?;
            maps = each(&maps, |map| bottleneck.forward(map))?;
        }
    }
    Ok(())
}

/// Sets the statistics of `norm` to those of `conv`'s outputs and returns the normalised outputs, rectified.
fn measure_norm(
    tensors: &mut Tensors,
    conv: &str,
    norm: &str,
    window: Window,
    maps: &[Tensor],
) -> Result<Maps> {
    let weight = tensors[&format!("{conv}.weight")].clone();
    let channels = weight.dim(0)?;
    let zero = Tensor::zeros(channels, DType::F32, &Device::Cpu)?;
    let layer = Conv2d::new(&cpu()?, &weight, zero, window)?;
    let outputs = each(maps, |map| layer.forward(map, None))?;
    let moments = Moments::from_maps(&outputs)?;
    let set = |values: Vec<f32>| Tensor::from_vec(values, channels, &Device::Cpu);
    let (mean, std) = (moments.mean(), moments.std());
    tensors.insert(format!("{norm}.running_mean"), set(mean.clone())?);
    tensors.insert(format!("{norm}.running_var"), set(std.iter().map(|std| std * std).collect())?);
    let shape = (1, channels, 1, 1);
    let (mean, std) = (set(mean)?.reshape(shape)?, set(std)?.reshape(shape)?);
    each(&outputs, |map| map.broadcast_sub(&mean)?.broadcast_div(&std)?.relu())
}

/// Rescales the pyramid's output convolutions and the proposal network's hidden one so that each channel has
/// mean 0 and spread 1 on the pictures.
fn normalise_pyramid(config: &Config, tensors: &mut Tensors, canvases: &[Tensor]) -> Result<()> {
    let params = store(tensors)?;
    let backbone = Loader::new(&params).pp("backbone");
    let body = Body::load(config, &backbone.pp("body"))?;
    let pyramid = Pyramid::load(config, &backbone.pp("fpn"))?;
    let merged = each(canvases, |canvas| pyramid.top_down(body.forward(canvas.clone())?))?;
    let mut finest = Vec::new();
    for stage in 0..config.blocks.len() {
        let maps: Maps = merged.iter().map(|levels| levels[stage].clone()).collect();
        let outputs = rescale_conv(tensors, &format!("backbone.fpn.fpn_layer{}", stage + 1), &maps)?;
        if stage == 0 {
            finest = outputs;
        }
    }
    rescale_conv(tensors, "rpn.head.conv", &finest).map(|_| ())
}

/// Gives every output channel of a 3×3 convolution mean 0 and spread 1, and returns those outputs.
fn rescale_conv(tensors: &mut Tensors, name: &str, maps: &[Tensor]) -> Result<Maps> {
    let weight = tensors[&format!("{name}.weight")].clone();
    let channels = weight.dim(0)?;
    let zero = Tensor::zeros(channels, DType::F32, &Device::Cpu)?;
    let raw = Conv2d::new(&cpu()?, &weight, zero, Window::SAME_3)?;
    let moments = Moments::from_maps(&each(maps, |map| raw.forward(map, None))?)?;
    let (weight, bias) = moments.rescale(&weight, 1.0)?;
    let layer = Conv2d::new(&cpu()?, &weight, bias.clone(), Window::SAME_3)?;
    insert_layer(tensors, name, weight, bias);
    each(maps, |map| layer.forward(map, None))
}

fn insert_layer(tensors: &mut Tensors, name: &str, weight: Tensor, bias: Tensor) {
    tensors.insert(format!("{name}.weight"), weight);
    tensors.insert(format!("{name}.bias"), bias);
}

/// Solves for objectness (towards the overlap with the best object) and box deltas, anchor by anchor shape.
fn fit_proposals(config: &Config, tensors: &mut Tensors, levels: &[Maps], truths: &[Truth]) -> Result<()> {
    let (weight, bias) = (tensors["rpn.head.conv.weight"].clone(), tensors["rpn.head.conv.bias"].clone());
    let hidden = Conv2d::new(&cpu()?, &weight, bias, Window::SAME_3)?.with_relu();
    // Places of all levels and pictures as rows.
    let rows = each(levels, |maps| {
        let rows: Result<Vec<Tensor>> =
            maps.iter().map(|map| hidden.forward(map, None)?.flatten(2, 3)?.squeeze(0)?.t()).collect();
        Tensor::cat(&rows?, 0)
    })?;
    let inputs = Tensor::cat(&rows, 0)?;
    let (anchors, width) = (config.anchor_ratios.len(), config.pyramid_width);
    let (mut logits, mut deltas) = (Vec::new(), Vec::new());
    for shape in 0..anchors {
        let (mut overlaps, mut near, mut targets) = (Vec::new(), Vec::new(), Vec::new());
        for (maps, truth) in levels.iter().zip(truths) {
            for (map, (stride, cell)) in maps.iter().zip(cells(config)) {
                let (_, _, height, width) = map.dims4()?;
                for anchor in super::anchors::grid(&cell[shape..=shape], stride, height, width) {
                    let best = truth.best(anchor);
                    if let Some((overlap, object, _)) = best
                        && overlap >= NEAR
                    {
                        near.push(overlaps.len() as u32);
                        targets.extend(encode(anchor, object));
                    }
                    overlaps.push(best.map_or(0.0, |best| best.0));
                }
            }
        }
        let matched = overlaps.iter().filter(|overlap| **overlap >= MATCH).count().max(1);
        let balance = (overlaps.len() as f32 / matched as f32).sqrt();
        let weights: Vec<f32> =
            overlaps.iter().map(|overlap| if *overlap >= MATCH { balance } else { 1.0 }).collect();
        let count = overlaps.len();
        let targets_of = Tensor::from_vec(overlaps, (count, 1), &Device::Cpu)?;
        let (weight, bias) = ridge(&inputs, &targets_of, Some(&weights), PENALTY)?;
        logits.push(((weight * SHARPNESS)?, ((bias - 0.5)? * SHARPNESS)?));
        let delta = if near.is_empty() {
            let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu);
            (zeros(&[4, width])?, zeros(&[4])?)
        } else {
            let targets = Tensor::from_vec(targets, (near.len(), 4), &Device::Cpu)?;
            let near = Tensor::from_vec(near.clone(), near.len(), &Device::Cpu)?;
            ridge(&inputs.index_select(&near, 0)?, &targets, None, PENALTY)?
        };
        deltas.push(delta);
    }
    for (name, layers) in [("cls_logits", logits), ("bbox_pred", deltas)] {
        let (weights, biases): (Vec<_>, Vec<_>) = layers.into_iter().unzip();
        let weight = Tensor::cat(&weights, 0)?.reshape(((), width, 1, 1))?;
        insert_layer(tensors, &format!("rpn.head.{name}"), weight, Tensor::cat(&biases, 0)?);
    }
    Ok(())
}

/// Makes the box head from what the pictures' own proposals show.
fn fit_head(
    config: &Config,
    tensors: &mut Tensors,
    canvases: &[Tensor],
    levels: &[Maps],
    truths: &[Truth],
) -> Result<()> {
    let params = store(tensors)?;
    let rpn = Rpn::load(config, &Loader::new(&params).pp("rpn.head"))?;
    let (pooler, compute) = (Pooler::new(config), cpu()?);
    let numbers: Vec<usize> = (0..levels.len()).collect();
    let pooled = each(&numbers, |&number| {
        let (_, _, height, width) = canvases[number].dims4()?;
        let mut boxes = rpn.proposals(&rpn.predict(&levels[number])?, height, width);
        boxes.extend(truths[number].0.iter().map(|(corners, _)| *corners));
        let classes: Vec<u32> = boxes
            .iter()
            .map(|&corners| match truths[number].best(corners) {
                Some((overlap, _, class)) if overlap >= MATCH => class + 1,
                _ => 0,
            })
            .collect();
        Ok((pooler.pool(&compute, &levels[number], &boxes)?, classes))
    })?;
    let (inputs, classes): (Vec<_>, Vec<_>) = pooled.into_iter().unzip();
    let (inputs, classes) = (Tensor::cat(&inputs, 0)?, classes.concat());
    let mut one_hot = vec![0f32; classes.len() * config.classes];
    for (row, &class) in one_hot.chunks_mut(config.classes).zip(&classes) {
        row[class as usize] = 1.0;
    }
    let one_hot = Tensor::from_vec(one_hot, (classes.len(), config.classes), &Device::Cpu)?;

    // Most features are random mixtures of linear class readouts, as training would make them; the others are
    // random projections, which keep what the classes do not speak of.
    let fc6 = "roi_heads.box.feature_extractor.fc6";
    let (readout, _) = ridge(&inputs, &one_hot, None, PENALTY)?;
    let random = tensors[&format!("{fc6}.weight")].clone();
    let telling = config.head_width * 3 / 4;
    let mixtures = random.narrow(0, 0, telling)?.narrow(1, 0, config.classes.min(random.dim(1)?))?;
    let readout = readout.narrow(0, 0, mixtures.dim(1)?)?;
    let rest = random.narrow(0, telling, config.head_width - telling)?;
    let no_bias = Tensor::zeros(readout.dim(1)?, DType::F32, &Device::Cpu)?;
    let mixed = affine(&mixtures, &readout.t()?.contiguous()?, &no_bias, false)?;
    let weight = Tensor::cat(&[mixed, rest], 0)?;
    let features = rescale_affine(tensors, fc6, &weight, &inputs, FEATURE_SPREAD)?;
    let fc7 = "roi_heads.box.feature_extractor.fc7";
    let weight = tensors[&format!("{fc7}.weight")].clone();
    let hidden = rescale_affine(tensors, fc7, &weight, &features, 1.0)?;
    let (weight, bias) = ridge(&hidden, &one_hot, None, PENALTY)?;
    let (weight, bias) = ((weight * SHARPNESS)?, (bias * SHARPNESS)?);
    insert_layer(tensors, "roi_heads.box.predictor.cls_score", weight, bias);
    Ok(())
}

/// Stores an affine layer whose outputs have mean 0 and the given spread, and returns them rectified.
fn rescale_affine(
    tensors: &mut Tensors,
    name: &str,
    weight: &Tensor,
    inputs: &Tensor,
    spread: f32,
) -> Result<Tensor> {
    let zero = Tensor::zeros(weight.dim(0)?, DType::F32, &Device::Cpu)?;
    let moments = Moments::from_rows(&cpu_vec(&affine(inputs, weight, &zero, false)?)?, weight.dim(0)?);
    let (weight, bias) = moments.rescale(weight, spread)?;
    insert_layer(tensors, name, weight.clone(), bias.clone());
    affine(inputs, &weight, &bias, true)
}

/// x · weightᵀ + bias, and the ReLU of that where `relu`.
fn affine(x: &Tensor, weight: &Tensor, bias: &Tensor, relu: bool) -> Result<Tensor> {
    cpu()?.affine(Affine { weight, bias, relu }, x)
}
