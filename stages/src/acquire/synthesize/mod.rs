//! `synthesize`: makes the data of the `mini` profile from a seed: two small meme data sets in the layouts of the
//! official ones, pictures with descriptions to pretrain on, and texts to learn a vocabulary from.
//!
//! ```text
//! <tree>/hateful_memes.zip      data/{train,dev_seen,dev_unseen,test_seen,test_unseen}.jsonl, data/img/*.png
//! <tree>/mmhs150k.zip           MMHS150K_GT.json, splits/, img_resized/, img_txt/
//! <tree>/corpus.txt             one text a line: descriptions and the captions of both training splits
//! <tree>/scenes/samples/        descriptions as samples (several a picture, no labels)
//! <tree>/scenes/images/         the pictures
//! <tree>/scenes/objects.jsonl   what is where on each picture, to judge a detector by
//! <tree>/questions.csv          where questions are asked for: a table of them with columns id, image, text and label
//! <tree>/questions/             their pictures
//! ```
//!
//! A meme is hateful when its caption speaks about something its picture shows. How captions and pictures are
//! paired so that neither alone tells the label is said in `memes`.

mod archives;
mod captions;
mod draw;
mod memes;
mod questions;
mod scene;

use std::path::Path;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stage_api::{Job, Port, Stage, StageError};

use self::archives::{Counter, TweetSplit, write_hateful_memes, write_mmhs150k};
use self::captions::Manner;
use self::draw::Picture;
use self::memes::{Memes, block_size};
use self::scene::{Attribute, Colour, Kind, MAX_OBJECTS, Scene, World};
use crate::artifacts::samples::{Sample, SampleSet, Split};
use crate::artifacts::write_json_lines;

/// Captions, and scenes, about each of the two things of a block: Hateful Memes and MMHS150K.
const HMD_SIDE: usize = 1;
const MMH_SIDE: usize = 2;

/// The stage.
pub struct Synthesize;

/// Sizes are numbers of memes; those of Hateful Memes are multiples of 4 and those of MMHS150K of 16 (of 4 where
/// `mmh_side` is 1), so that labels balance exactly.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SynthesizeParams {
    /// Everything follows from it.
    pub seed: u64,
    /// Hateful Memes: training.
    pub hmd_train: usize,
    /// Hateful Memes: `dev_seen`.
    pub hmd_dev_seen: usize,
    /// Hateful Memes: `dev_unseen`.
    pub hmd_dev_unseen: usize,
    /// Hateful Memes: `test_seen`.
    pub hmd_test_seen: usize,
    /// Hateful Memes: `test_unseen`, published without labels.
    pub hmd_test_unseen: usize,
    /// MMHS150K: training.
    pub mmh_train: usize,
    /// MMHS150K: validation.
    pub mmh_val: usize,
    /// MMHS150K: test.
    pub mmh_test: usize,
    /// Pictures to pretrain on.
    pub scenes: usize,
    /// Pictures to watch pretraining by.
    pub scenes_val: usize,
    /// Descriptions a picture.
    pub descriptions: usize,
    /// Share of descriptions that are jokes about something the picture shows.
    pub joke_share: f64,
    /// Share of descriptions that ask for something and answer yes or no.
    pub question_share: f64,
    /// What a meme's caption names.
    pub attribute: Attribute,
    /// Colours in the world, 3 to 6.
    pub colours: usize,
    /// Shapes in the world, 3 to 8.
    pub kinds: usize,
    /// Fewest things in a picture.
    pub min_objects: usize,
    /// Most things in a picture, at most 6.
    pub max_objects: usize,
    /// MMHS150K: captions, and scenes, about each of the two things of a block, 1 or 2; Hateful Memes has 1.
    #[serde(skip_serializing_if = "is_the_usual_side")]
    pub mmh_side: usize,
    /// Rows of `questions.csv`, a table as somebody's own data may be.
    #[serde(skip_serializing_if = "is_zero")]
    pub questions: usize,
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// Steps of before there was a choice keep their keys.
fn is_the_usual_side(side: &usize) -> bool {
    *side == MMH_SIDE
}

impl Default for SynthesizeParams {
    fn default() -> Self {
        Self {
            seed: 1,
            hmd_train: 2400,
            hmd_dev_seen: 400,
            hmd_dev_unseen: 80,
            hmd_test_seen: 80,
            hmd_test_unseen: 80,
            mmh_train: 3200,
            mmh_val: 400,
            mmh_test: 80,
            scenes: 1600,
            scenes_val: 160,
            descriptions: 4,
            joke_share: 0.25,
            question_share: 0.1,
            attribute: Attribute::Colour,
            colours: 4,
            kinds: 8,
            min_objects: 2,
            max_objects: 3,
            mmh_side: MMH_SIDE,
            questions: 0,
        }
    }
}

impl Stage for Synthesize {
    type Params = SynthesizeParams;
    const NAME: &'static str = "synthesize";
    const ABOUT: &'static str = "makes two small meme data sets, and pictures with descriptions, from a seed";
    const VERSION: u32 = 2;
    const INPUTS: &'static [Port] = &[];

    fn check(&self, params: &SynthesizeParams) -> Result<(), String> {
        let p = params;
        let hmd = [
            ("hmd_train", p.hmd_train),
            ("hmd_dev_seen", p.hmd_dev_seen),
            ("hmd_dev_unseen", p.hmd_dev_unseen),
            ("hmd_test_seen", p.hmd_test_seen),
            ("hmd_test_unseen", p.hmd_test_unseen),
        ];
        let mmh = [("mmh_train", p.mmh_train), ("mmh_val", p.mmh_val), ("mmh_test", p.mmh_test)];
        if !(1..=MMH_SIDE).contains(&p.mmh_side) {
            return Err(format!("`mmh_side` is {}; it may be 1 or {MMH_SIDE}", p.mmh_side));
        }
        for (sizes, unit) in [(&hmd[..], block_size(HMD_SIDE)), (&mmh[..], block_size(p.mmh_side))] {
            if let Some((name, size)) = sizes.iter().find(|(_, size)| size % unit != 0) {
                return Err(format!("`{name}` is {size}; labels balance only in multiples of {unit}"));
            }
            if sizes.iter().map(|(_, size)| size).sum::<usize>() > 90_000 {
                return Err(format!("{} and the splits after it exceed 90000 memes in all", sizes[0].0));
            }
        }
        let within = |name: &str, value: usize, least: usize, max: usize| {
            let problem = || format!("`{name}` is {value}; it may be {least} to {max}");
            if (least..=max).contains(&value) { Ok(()) } else { Err(problem()) }
        };
        within("colours", p.colours, 3, Colour::ALL.len())?;
        within("kinds", p.kinds, 3, Kind::ALL.len())?;
        within("max_objects", p.max_objects, 1, MAX_OBJECTS)?;
        within("min_objects", p.min_objects, 1, p.max_objects)?;
        within("scenes", p.scenes + p.scenes_val, 0, 90_000)?;
        within("descriptions", p.descriptions, 1, 100)?;
        within("questions", p.questions, 0, 90_000)?;
        let shares = [p.joke_share, p.question_share, p.joke_share + p.question_share];
        if !shares.iter().all(|share| (0.0..=1.0).contains(share)) {
            return Err(
                "`joke_share` and `question_share` are shares of 1 and may not exceed it together".into()
            );
        }
        Ok(())
    }

    fn run(&self, params: &SynthesizeParams, job: &Job) -> Result<(), StageError> {
        let world = World {
            colours: params.colours,
            kinds: params.kinds,
            objects: (params.min_objects, params.max_objects),
        };
        // One stream of random numbers a part: a larger training split leaves the others as they are.
        let hmd = [
            ("train", params.hmd_train, true),
            ("dev_seen", params.hmd_dev_seen, true),
            ("dev_unseen", params.hmd_dev_unseen, true),
            ("test_seen", params.hmd_test_seen, true),
            ("test_unseen", params.hmd_test_unseen, false),
        ];
        let hmd: Vec<(&str, Memes, bool)> = (10..)
            .zip(hmd)
            .map(|(number, (name, size, labelled))| {
                let blocks = size / block_size(HMD_SIDE);
                let rng = &mut stream(params.seed, number);
                (name, memes::make(blocks, HMD_SIDE, params.attribute, &world, rng), labelled)
            })
            .collect();
        let mmh = [("train", params.mmh_train), ("val", params.mmh_val), ("test", params.mmh_test)];
        let mmh: Vec<TweetSplit> = (20..)
            .zip(mmh)
            .map(|(number, (name, size))| {
                let blocks = size / block_size(params.mmh_side);
                let rng = &mut stream(params.seed, number);
                let memes = memes::make(blocks, params.mmh_side, params.attribute, &world, rng);
                let texts = memes.captions.iter().map(|text| captions::tweet(text, rng)).collect();
                TweetSplit { name, memes, texts }
            })
            .collect();
        let total = hmd.iter().map(|(_, split, _)| split.memes.len()).sum::<usize>()
            + mmh.iter().map(|split| split.memes.memes.len()).sum::<usize>()
            + params.scenes
            + params.scenes_val
            + params.questions;
        let counter = &mut Counter::new(job, total);
        let (hmd_zip, mmh_zip) = (job.out.join("hateful_memes.zip"), job.out.join("mmhs150k.zip"));
        write_hateful_memes(&hmd_zip, &hmd, counter, &mut stream(params.seed, 30))?;
        write_mmhs150k(&mmh_zip, &mmh, counter, &mut stream(params.seed, 31))?;
        let descriptions = write_scenes(&job.out.join("scenes"), params, &world, counter)?;
        if params.questions > 0 {
            questions::write(job.out, params.questions, &world, counter, &mut stream(params.seed, 40))?;
        }

        let train_texts = hmd[0].1.captions.iter().chain(&mmh[0].texts);
        let corpus: String = descriptions.iter().chain(train_texts).map(|text| format!("{text}\n")).collect();
        Ok(std::fs::write(job.out.join("corpus.txt"), corpus)?)
    }
}

/// The random numbers of one part of the work.
fn stream(seed: u64, number: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(number);
    rng
}

/// What is on a picture: kind, colour, and x1, y1, x2, y2 in pixels of each thing.
#[derive(Serialize)]
struct PictureObjects<'a> {
    image: &'a str,
    objects: Vec<(&'static str, &'static str, f32, f32, f32, f32)>,
}

/// Writes pictures with descriptions into `dir` and returns the descriptions of the training split.
fn write_scenes(
    dir: &Path,
    params: &SynthesizeParams,
    world: &World,
    counter: &mut Counter,
) -> Result<Vec<String>, StageError> {
    let mut rng = stream(params.seed, 1);
    let manner = Manner { jokes: params.joke_share, questions: params.question_share };
    let (mut scenes, mut samples): (Vec<(String, Scene)>, Vec<Sample>) = (Vec::new(), Vec::new());
    for number in 0..params.scenes + params.scenes_val {
        let scene = world.scene(&mut rng);
        let image = format!("{number:05}.png");
        for nth in 0..params.descriptions {
            samples.push(Sample {
                id: format!("{number:05}-{nth}"),
                image: image.clone(),
                text: captions::describe(&scene, world, params.attribute, manner, &mut rng),
                label: None,
                soft: None,
                split: if number < params.scenes { Split::Train } else { Split::Val },
            });
        }
        scenes.push((image, scene));
    }
    let images = dir.join("images");
    std::fs::create_dir_all(&images)?;
    counter.paint(
        &scenes,
        |(_, scene)| Picture::draw(scene, None).png(),
        |(image, _), file| Ok(std::fs::write(images.join(image), file)?),
    )?;
    let objects: Vec<PictureObjects> = scenes
        .iter()
        .map(|(image, scene)| PictureObjects {
            image,
            objects: scene
                .objects
                .iter()
                .map(|object| {
                    let [x1, y1, x2, y2] = object.bounds();
                    (object.thing.kind.name(), object.thing.colour.name(), x1, y1, x2, y2)
                })
                .collect(),
        })
        .collect();
    write_json_lines(&dir.join("objects.jsonl"), &objects)?;
    let set = SampleSet { dataset: "scenes".to_owned(), samples, ..SampleSet::default() };
    set.write(&dir.join("samples"))?;
    let train = set.samples.into_iter().filter(|sample| sample.split == Split::Train);
    Ok(train.map(|sample| sample.text).collect())
}

#[cfg(test)]
mod tests;
