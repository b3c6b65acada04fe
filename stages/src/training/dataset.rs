//! Memes as a model sees them: tokens and region features of the same rows, checked once, collated into
//! batches. It does not know the order of batches or what they are used for.

use std::path::Path;

use candle_core::{Device, Error, Tensor};
use stage_api::{Inputs, StageError};

use crate::artifacts::labels::{Label, numbers, truth};
use crate::artifacts::region_features::{RegionFeatures, RegionRow};
use crate::artifacts::samples::Split;
use crate::artifacts::token_set::TokenSet;
use crate::artifacts::view::{Ablation, View};
use crate::models::{Architecture, Batch, Head, ProblemType};
use crate::nn::gpu::{Staged, Upload};

/// The port token sets come in by.
pub(crate) const TOKENS: &str = "tokens";
/// The port region features come in by.
pub(crate) const REGIONS: &str = "regions";

/// A data set, texts and regions joined row by row.
pub(crate) struct MemeDataset<'a> {
    /// The texts with their rows.
    pub tokens: TokenSet,
    tokens_path: &'a Path,
    regions: RegionFeatures,
    regions_path: &'a Path,
    /// Where the regions of each row are, for the rows whose picture has any.
    places: Vec<Option<RegionRow>>,
    view: View,
}

/// A batch of an update, in micro-batches that are computed one after another.
pub(crate) struct TrainBatch {
    /// The micro-batches, each padded as the whole batch is.
    pub micro_batches: Vec<MicroBatch>,
    /// Rows of all of them.
    pub rows: usize,
}

/// Rows of a batch that are computed together.
#[derive(Debug, Clone)]
pub(crate) struct MicroBatch {
    /// What the model reads.
    pub batch: Batch,
    /// Labels of its rows: u32 `[rows]`, or f32 `[rows, C]` of 0 and 1 where a row may have several of C classes.
    pub labels: Tensor,
    /// Rows of the whole batch before them.
    pub before: usize,
}

impl MicroBatch {
    /// How many rows it has.
    pub(crate) fn rows(&self) -> usize {
        self.labels.dims()[0]
    }

    /// Its rows in micro-batches of at most `max_rows`, in order, padded as they are.
    fn split(&self, max_rows: usize) -> candle_core::Result<Vec<Self>> {
        let batches = self.batch.split(max_rows)?.into_iter().zip((0..self.rows()).step_by(max_rows));
        let part = |(batch, first): (Batch, usize)| {
            let labels = self.labels.narrow(0, first, max_rows.min(self.rows() - first))?;
            Ok(Self { batch, labels, before: self.before + first })
        };
        batches.map(part).collect()
    }
}

/// A [`TrainBatch`] on its way to the device.
pub(crate) struct StagedBatch {
    micro_batches: Vec<StagedMicroBatch>,
    rows: usize,
}

/// A [`MicroBatch`] on its way.
struct StagedMicroBatch {
    /// The tensors of the batch, then the labels.
    tensors: Staged,
    /// The batch's mask, which stays in host memory.
    mask: Tensor,
    /// Rows of the whole batch before them.
    before: usize,
}

impl StagedBatch {
    /// The batch, on the device.
    ///
    /// # Errors
    /// Only if the device fails.
    pub(crate) fn arrive(self) -> candle_core::Result<TrainBatch> {
        let micro_batch = |StagedMicroBatch { tensors, mask, before }| {
            let mut tensors = tensors.tensors()?;
            let labels = tensors.pop().ok_or_else(|| Error::msg("a micro-batch lost its labels"))?;
            Ok(MicroBatch { batch: batch_of(tensors, mask)?, labels, before })
        };
        let micro_batches =
            self.micro_batches.into_iter().map(micro_batch).collect::<candle_core::Result<_>>()?;
        Ok(TrainBatch { micro_batches, rows: self.rows })
    }
}

/// The batch of staged tensors with this mask.
///
/// # Errors
/// They are more or fewer than a batch has.
pub(crate) fn batch_of(tensors: Vec<Tensor>, mask: Tensor) -> candle_core::Result<Batch> {
    let tensors = tensors.try_into().map_err(|_| Error::msg("a batch lost a tensor"))?;
    Ok(Batch::from_tensors(tensors, mask))
}

impl TrainBatch {
    /// Begins to move it to the device.
    ///
    /// # Errors
    /// Only if the device fails.
    pub(crate) fn stage(&self, upload: &Upload) -> candle_core::Result<StagedBatch> {
        let stage = |MicroBatch { batch, labels, before }: &MicroBatch| {
            let tensors: Vec<&Tensor> = batch.tensors().into_iter().chain([labels]).collect();
            let (tensors, mask) = (upload.stage(&tensors)?, batch.mask.clone());
            Ok(StagedMicroBatch { tensors, mask, before: *before })
        };
        let micro_batches = self.micro_batches.iter().map(stage).collect::<candle_core::Result<_>>()?;
        Ok(StagedBatch { micro_batches, rows: self.rows })
    }

    /// Rows of the largest micro-batch.
    pub(crate) fn largest_micro_batch(&self) -> usize {
        self.micro_batches.iter().map(MicroBatch::rows).max().unwrap_or(0)
    }

    /// Its micro-batches, cut further to at most `max_rows` rows.
    ///
    /// # Errors
    /// Only if the device fails.
    pub(crate) fn split(&self, max_rows: usize) -> candle_core::Result<Vec<MicroBatch>> {
        let parts = self.micro_batches.iter().map(|micro_batch| micro_batch.split(max_rows));
        Ok(parts.collect::<candle_core::Result<Vec<_>>>()?.concat())
    }
}

impl<'a> MemeDataset<'a> {
    /// Joins what came in by the ports [`TOKENS`] and [`REGIONS`].
    ///
    /// # Errors
    /// Inputs that cannot be read.
    pub(crate) fn open(inputs: &'a Inputs, view: View) -> Result<Self, StageError> {
        let (tokens_path, regions_path) = (inputs.one(TOKENS)?, inputs.one(REGIONS)?);
        let tokens = TokenSet::read(tokens_path)
            .map_err(|error| StageError::input(TOKENS, error.path, error.problem))?;
        let regions = RegionFeatures::open(regions_path)
            .map_err(|error| StageError::input(REGIONS, error.path, error.problem))?;
        let places = tokens.rows.iter().map(|row| regions.find(&row.image)).collect();
        Ok(Self { tokens, tokens_path, regions, regions_path, places, view })
    }

    /// Width of a region feature.
    pub(crate) fn feature_width(&self) -> usize {
        self.regions.width
    }

    /// Whether a model can read this data set.
    ///
    /// # Errors
    /// Another vocabulary or feature width than the model's, a text longer than its positions.
    pub(crate) fn check_fits(&self, model: &dyn Architecture) -> Result<(), StageError> {
        let model = model.dimensions();
        let words = self.tokens.info.vocab_size;
        if words != model.words {
            let problem = format!(
                "the vocabulary has {words} entries, the model has {}; tokenize with the model's own",
                model.words
            );
            return Err(StageError::input(TOKENS, self.tokens_path, problem));
        }
        let (width, expected) = (self.regions.width, model.features);
        if width != expected {
            let problem = format!(
                "features are {width} wide, the model reads {expected}; extract them with the detector the model was pretrained with"
            );
            return Err(StageError::input(REGIONS, self.regions_path, problem));
        }
        let positions = model.positions;
        let too_long = |&row: &usize| self.tokens.length(row).min(self.view.max_text) > positions;
        if let Some(row) = (0..self.tokens.rows.len()).find(too_long) {
            let problem = format!(
                "row `{}` is {} tokens long, the model has {positions} positions; lower max_text",
                self.tokens.rows[row].id,
                self.tokens.length(row)
            );
            return Err(StageError::input(TOKENS, self.tokens_path, problem));
        }
        Ok(())
    }

    /// The rows of a split, all of them usable.
    ///
    /// # Errors
    /// An empty split, a row without regions entry, a feature that is not a finite number.
    pub(crate) fn rows_of(&self, split: Split) -> Result<Vec<usize>, StageError> {
        let rows = self.tokens.rows_of(split);
        if rows.is_empty() {
            let problem = format!("the split `{}` has no rows", split.as_str());
            return Err(StageError::input(TOKENS, self.tokens_path, problem));
        }
        let mut features = Vec::new();
        for &row in &rows {
            let image = &self.tokens.rows[row].image;
            let Some(place) = self.places[row] else {
                let problem = format!("no regions of `{image}` (row `{}`)", self.tokens.rows[row].id);
                return Err(StageError::input(REGIONS, self.regions_path, problem));
            };
            features.resize(self.shown(row) * self.regions.width, 0f32);
            self.regions.copy_features(place, &mut features);
            if features.iter().any(|value| !value.is_finite()) {
                let problem = format!("a feature of `{image}` is not a finite number; extract it again");
                return Err(StageError::input(REGIONS, self.regions_path, problem));
            }
            if self.locations(place).flatten().any(|value| !value.is_finite()) {
                let problem =
                    format!("the place of a region of `{image}` is not a finite number; extract it again");
                return Err(StageError::input(REGIONS, self.regions_path, problem));
            }
        }
        Ok(rows)
    }

    /// What a model tells apart that learns from this data set.
    pub(crate) fn head(&self) -> Head {
        let classes = &self.tokens.info.classes;
        let problem = match classes.multi_label {
            true => ProblemType::MultiLabelClassification,
            false => ProblemType::SingleLabelClassification,
        };
        Head { labels: classes.count(), problem }
    }

    /// Whether a model tells apart what this data set labels.
    ///
    /// # Errors
    /// It has other classes.
    pub(crate) fn check_head(&self, model: Head) -> Result<(), StageError> {
        let own = self.head();
        if model == own {
            return Ok(());
        }
        let said = |head: Head| {
            format!(
                "{}{} classes",
                if head.is_multi_label() { "any number of " } else { "one of " },
                head.labels
            )
        };
        let problem = format!("its rows have {}, the model gives them {}", said(own), said(model));
        Err(StageError::input(TOKENS, self.tokens_path, problem))
    }

    /// The labels of `rows`.
    ///
    /// # Errors
    /// A row without label, or with one that is no class.
    pub(crate) fn labels(&self, rows: &[usize]) -> Result<Vec<Label>, StageError> {
        let label = |&row: &usize| {
            self.tokens.label(row).map_err(|problem| StageError::input(TOKENS, self.tokens_path, problem))
        };
        rows.iter().map(label).collect()
    }

    /// The ids of a row as the model is shown them.
    pub(crate) fn text(&self, row: usize) -> Vec<u32> {
        let info = &self.tokens.info;
        let ids = self.tokens.ids(row);
        match self.view.ablation {
            Ablation::Text => vec![info.cls, info.sep],
            _ if ids.len() <= self.view.max_text => ids,
            _ => [&ids[..self.view.max_text - 1], &[info.sep]].concat(),
        }
    }

    /// How long the text of a row is that the model is shown.
    pub(crate) fn length(&self, row: usize) -> usize {
        match self.view.ablation {
            Ablation::Text => 2,
            _ => self.tokens.length(row).min(self.view.max_text),
        }
    }

    /// Collates rows, in host memory, with the texts given for them, padded to the longest text and the most regions among them.
    /// Padding is masked, so its extent does not change what the model computes.
    pub(crate) fn batch(&self, rows: &[usize], texts: &[Vec<u32>]) -> candle_core::Result<Batch> {
        self.padded(rows, texts, self.extent(rows, texts))
    }

    /// The longest text and the most regions among rows.
    fn extent(&self, rows: &[usize], texts: &[Vec<u32>]) -> (usize, usize) {
        let longest = texts.iter().map(Vec::len).max().unwrap_or(0);
        // One masked region is added where no picture of the batch has any: no tensor may be empty.
        let max_regions = rows.iter().map(|&row| self.shown(row)).max().unwrap_or(0).max(1);
        (longest, max_regions)
    }

    fn padded(
        &self,
        rows: &[usize],
        texts: &[Vec<u32>],
        (longest, max_regions): (usize, usize),
    ) -> candle_core::Result<Batch> {
        let width = self.regions.width;
        let counts: Vec<usize> = rows.iter().map(|&row| self.shown(row)).collect();
        let mut ids = vec![self.tokens.info.pad; rows.len() * longest];
        let mut regions = vec![0f32; rows.len() * max_regions * width];
        let mut locations = vec![0f32; rows.len() * max_regions * 5];
        let mut mask = vec![0f32; rows.len() * (longest + max_regions)];
        for (at, (&row, text)) in rows.iter().zip(texts).enumerate() {
            ids[at * longest..][..text.len()].copy_from_slice(text);
            let mask = &mut mask[at * (longest + max_regions)..][..longest + max_regions];
            mask[..text.len()].fill(1.0);
            mask[longest..][..counts[at]].fill(1.0);
            if let Some(place) = self.places[row].filter(|_| self.view.ablation != Ablation::Regions) {
                let features = &mut regions[at * max_regions * width..][..counts[at] * width];
                self.regions.copy_features(place, features);
                let into = &mut locations[at * max_regions * 5..][..counts[at] * 5];
                for (into, location) in into.chunks_exact_mut(5).zip(self.locations(place)) {
                    into.copy_from_slice(&location);
                }
            }
        }
        Ok(Batch {
            ids: Tensor::from_vec(ids, (rows.len(), longest), &Device::Cpu)?,
            regions: Tensor::from_vec(regions, (rows.len(), max_regions, width), &Device::Cpu)?,
            locations: Tensor::from_vec(locations, (rows.len(), max_regions, 5), &Device::Cpu)?,
            mask: Tensor::from_vec(mask, (rows.len(), longest + max_regions), &Device::Cpu)?,
        })
    }

    /// [`MemeDataset::batch`] with each row's own text.
    pub(crate) fn plain_batch(&self, rows: &[usize]) -> candle_core::Result<Batch> {
        let texts: Vec<Vec<u32>> = rows.iter().map(|&row| self.text(row)).collect();
        self.batch(rows, &texts)
    }

    /// The batch of `rows` to learn from, in micro-batches of at most `size` rows.
    ///
    /// # Errors
    /// A row without label, or with one that is no class.
    pub(crate) fn train_batch(&self, rows: &[usize], size: usize) -> Result<TrainBatch, StageError> {
        let texts: Vec<Vec<u32>> = rows.iter().map(|&row| self.text(row)).collect();
        let (extent, labels) = (self.extent(rows, &texts), self.labels(rows)?);
        let classes = &self.tokens.info.classes;
        let micro_batch = |before: usize| {
            let part = before..rows.len().min(before + size);
            let (texts, labels) = (&texts[part.clone()], &labels[part.clone()]);
            let labels = match classes.multi_label {
                false => Tensor::from_iter(numbers(labels).into_iter().map(u32::from), &Device::Cpu)?,
                true => {
                    let truth =
                        truth(classes.count(), labels).into_iter().map(|has| f32::from(u8::from(has)));
                    Tensor::from_iter(truth, &Device::Cpu)?.reshape((labels.len(), classes.count()))?
                }
            };
            Ok(MicroBatch { batch: self.padded(&rows[part], texts, extent)?, labels, before })
        };
        let micro_batches =
            (0..rows.len()).step_by(size).map(micro_batch).collect::<candle_core::Result<_>>();
        Ok(TrainBatch { micro_batches: micro_batches.map_err(StageError::failed)?, rows: rows.len() })
    }

    /// Where the regions of a picture are.
    fn locations(&self, at: RegionRow) -> impl Iterator<Item = [f32; 5]> {
        let size = self.regions.size(at);
        self.regions.boxes(at).map(move |corners| location(corners, size))
    }

    fn shown(&self, row: usize) -> usize {
        self.places[row].map_or(0, |place| self.regions.count(place).min(self.view.max_regions))
    }
}

/// Where a box is in a picture of this size, as the original tells it: its edges and its area as shares of the picture's.
fn location([left, upper, right, lower]: [f32; 4], (width, height): (u32, u32)) -> [f32; 5] {
    let (width, height) = (width as f32, height as f32);
    let area = (lower - upper) * (right - left) / (width * height);
    [left / width, upper / height, right / width, lower / height, area]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_is_the_originals() {
        let found = location([10.0, 20.0, 110.0, 220.0], (640, 480));
        let expected = [0.015_625, 0.041_666_7, 0.171_875, 0.458_333_3, 0.065_104_2];
        for (found, expected) in found.into_iter().zip(expected) {
            assert!((found - expected).abs() < 1e-6, "{found}, not {expected}");
        }
    }
}
