//! A few made-up memes with a pretrained base, and the stages run on them.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::Tensor;
use stage_api::StageError;
use stage_api::testing::{Recorder, run_stage};
use stages::artifacts::labels::{Classes, Label};
use stages::artifacts::region_features::{Layout, PictureRegions, RegionWriter};
use stages::artifacts::samples::Split;
use stages::artifacts::token_set::{TokenRow, TokenSetInfo, TokenWriter};
use stages::artifacts::weights;
use tempfile::TempDir;

pub const WIDTH: usize = 6;
pub const WORDS: usize = 16;
/// The word that makes a meme of class 1; its counterpart is the next one.
pub const LOUD: u32 = 5;

/// A data set on disk, to be spoilt at will before it is written.
pub struct Fixture {
    pub info: TokenSetInfo,
    pub rows: Vec<(TokenRow, Vec<u32>)>,
    pub regions: Vec<(String, PictureRegions)>,
    pub width: usize,
}

impl Fixture {
    /// 40 rows to train on, 12 to validate on; the class is written in the text, the regions are noise.
    pub fn new() -> Self {
        let info = TokenSetInfo {
            dataset: "toy".to_owned(),
            classes: Classes::default(),
            vocab_size: WORDS,
            max_length: 12,
            pad: 0,
            unknown: 1,
            cls: 2,
            sep: 3,
            mask: Some(4),
        };
        let (mut rows, mut regions) = (Vec::new(), Vec::new());
        for at in 0..52u32 {
            let label = at % 2;
            let image = format!("{at}.png");
            let filler = 7 + at % 9;
            let mut ids = vec![2, filler, LOUD + 1 - label, 7 + (at / 3) % 9, 3];
            // Texts and pictures of different lengths, so that batches are padded.
            ids.drain(1..1 + (at % 3 == 0) as usize);
            let split = if at < 40 { Split::Train } else { Split::Val };
            let row = TokenRow {
                id: format!("m{at}"),
                image: image.clone(),
                split,
                label: Some(Label::One(label as u8)),
                soft: None,
            };
            rows.push((row, ids));
            let count = 1 + at as usize % 3;
            let noise = |i: usize| ((at as usize * 31 + i * 17) % 13) as f32 / 6.0 - 1.0;
            regions.push((
                image,
                PictureRegions {
                    features: (0..count * WIDTH).map(noise).collect(),
                    boxes: vec![[0.0, 0.0, 9.0, 9.0]; count],
                    scores: vec![0.5; count],
                    objects: vec![0; count],
                    size: (32, 32),
                },
            ));
        }
        Self { info, rows, regions, width: WIDTH }
    }

    pub fn write(self, dir: &Path) -> (PathBuf, PathBuf) {
        let (tokens_dir, regions_dir) = (dir.join("tokens"), dir.join("regions"));
        fs::create_dir_all(&tokens_dir).unwrap();
        fs::create_dir_all(&regions_dir).unwrap();
        let mut tokens = TokenWriter::new(self.info);
        for (row, ids) in self.rows {
            tokens.push(row, &ids);
        }
        tokens.write(&tokens_dir).unwrap();
        let layout = Layout { width: self.width, max_regions: 3, shard: 20, half: false };
        let mut writer = RegionWriter::new(&regions_dir, layout);
        for pictures in self.regions.chunks(layout.shard) {
            writer.write(pictures).unwrap();
        }
        writer.finish().unwrap();
        (tokens_dir, regions_dir)
    }
}

/// [`PRETRAIN`] with more in it.
fn pretraining(more: &str) -> String {
    PRETRAIN.replacen('(', &format!("({more}"), 1)
}

/// A folder with the fixture and a pretrained base.
pub struct Space {
    pub dir: TempDir,
    pub tokens: PathBuf,
    pub regions: PathBuf,
    pub base: PathBuf,
}

pub const PRETRAIN: &str =
    "(hidden: 16, layers: 2, heads: 2, intermediate: 32, positions: 16, initializer_range: 0.1,
    seed: 3, batch: 16, updates: 4, warm_up: 1, lr: 1e-3, evaluate_every: 3, mask_probability: 0.3)";

impl Space {
    pub fn new() -> Self {
        Self::of(Fixture::new(), "")
    }

    /// The folder of a fixture, with `more` params for its pretraining.
    pub fn of(fixture: Fixture, more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (tokens, regions) = fixture.write(dir.path());
        let base = dir.path().join("base");
        let space = Self { dir, tokens, regions, base };
        space.pretrain_with(more, &space.base).unwrap();
        space
    }

    pub fn pretrain(&self, out: &Path) -> Result<Recorder, StageError> {
        self.pretrain_with("", out)
    }

    fn pretrain_with(&self, more: &str, out: &Path) -> Result<Recorder, StageError> {
        let inputs = [("tokens", self.tokens.as_path()), ("regions", &self.regions)];
        run_stage(stages::registry().get("pretrain").unwrap(), &pretraining(more), &inputs, out)
    }

    /// Trains with `params` on top of settings that fit the fixture.
    pub fn train(&self, params: &str, out: &str) -> Result<PathBuf, StageError> {
        let out = self.dir.path().join(out);
        let inputs = [("tokens", self.tokens.as_path()), ("regions", &self.regions), ("weights", &self.base)];
        run_stage(stages::registry().get("train").unwrap(), params, &inputs, &out)?;
        Ok(out)
    }

    pub fn evaluate(&self, run: &Path, params: &str, out: &str) -> Result<PathBuf, StageError> {
        let out = self.dir.path().join(out);
        let inputs = [("run", run), ("tokens", self.tokens.as_path()), ("regions", &self.regions)];
        run_stage(stages::registry().get("evaluate").unwrap(), params, &inputs, &out)?;
        Ok(out)
    }
}

pub fn params(mode: &str, more: &str) -> String {
    format!(
        "(mode: \"{mode}\", seed: 1, batch: 16, updates: 6, warm_up: 2, lr: 5e-3, evaluate_every: 2, \
         log_every: 2, evaluation_batch: 5, {more})"
    )
}

pub fn values(tensor: &Tensor) -> Vec<u32> {
    tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
}

pub fn tensors(dir: &Path) -> HashMap<String, Tensor> {
    weights::read_tensors(dir).unwrap()
}

/// Name and content of every file below `dir`.
pub fn bytes(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    files
        .map(|path| {
            (path.display().to_string().replace(&dir.display().to_string(), ""), fs::read(path).unwrap())
        })
        .collect()
}
