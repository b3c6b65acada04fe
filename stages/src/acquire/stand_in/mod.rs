//! `stand-in`: a file of the outside world as a rehearsal needs it: its format, its names and shapes at full size, its
//! values from a seed. It trains nothing, and results computed from it mean nothing.
//!
//! ```text
//! <tree>/checkpoint.pth      of a detector: a file of `torch.save`, names beginning with `module.`, with what only its
//!                            training used and its anchors
//! <tree>/settings.yaml       of a detector of full size: maskrcnn-benchmark's
//! <tree>/checkpoint.tar.gz   of a model: an archive of a file of `torch.save` and a configuration, as MMF publishes it,
//!                            with the head of its pretraining; of a run, with the classifier and without that head
//! <tree>/model.safetensors   of a BERT, as Hugging Face saves it, with its `config.json` and `vocab.txt`
//! <tree>/vocab.txt           a vocabulary of as many lines as BERT's, special tokens at the same places
//! <tree>/features.tar.gz     region features of `samples`: an archive of MMF's LMDB
//! ```

mod features;

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Write};
use std::path::Path;

use candle_core::{Device, Tensor};
use flate2::Compression;
use flate2::write::GzEncoder;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use stage_api::{Job, ParamEnum, Port, Stage, StageError};

use crate::formats::torch_writer;
use crate::models::faster_rcnn::anchors::cell_anchors;
use crate::models::faster_rcnn::{self, FasterRcnn};
use crate::models::{
    Config, Mode, Origin, SmallConfig, Start, init_from_pretrained, init_mlm_head, init_random, vilbert,
    visual_bert,
};
use crate::nn::init::{normal, ones, zeros};

/// The stage.
pub struct StandIn;

/// Its params.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StandInParams {
    /// What it replaces: `"detector"`, `"visualbert"`, `"vilbert"`, `"run"` (a finished VisualBERT), `"bert"`,
    /// `"vocabulary"`, or `"features"` (of the pictures that the input `samples` names).
    of: Of,
    /// Decides the values.
    #[serde(default)]
    seed: u64,
    /// Whether a small one will do, for tests.
    #[serde(default)]
    small: bool,
}

#[derive(Debug, Clone, Copy, JsonSchema, ParamEnum)]
#[serde(rename_all = "lowercase")]
enum Of {
    Detector,
    VisualBert,
    Vilbert,
    Run,
    Bert,
    Vocabulary,
    Features,
}

impl Stage for StandIn {
    type Params = StandInParams;
    const NAME: &'static str = "stand-in";
    const ABOUT: &'static str =
        "A checkpoint, vocabulary or feature archive of the right format and size with made-up values";
    const VERSION: u32 = 4;
    const INPUTS: &'static [Port] = &[Port::optional("samples")];

    fn run(&self, params: &StandInParams, job: &Job) -> Result<(), StageError> {
        let StandInParams { of, seed, small } = *params;
        if job.inputs.optional("samples").is_some() != matches!(of, Of::Features) {
            let problem = "a stand-in of features reads the input `samples`, and no other one does";
            return Err(StageError::Params(problem.to_owned()));
        }
        match of {
            Of::Detector => {
                let config = match small {
                    true => faster_rcnn::Config::mini(5),
                    false => faster_rcnn::Config::x152(),
                };
                if !small {
                    fs::write(job.out.join("settings.yaml"), settings(&config))?;
                }
                let tensors = detector(&config, seed).map_err(StageError::failed)?;
                torch_writer::write(&job.out.join("checkpoint.pth"), &tensors).map_err(StageError::failed)
            }
            Of::VisualBert => pretrained(&visual_bert_of(small), seed, job),
            Of::Vilbert => pretrained(&vilbert_of(small), seed, job),
            Of::Run => run(&visual_bert_of(small), seed, job),
            Of::Bert => {
                let tensors = bert(&visual_bert_of(small), seed).map_err(StageError::failed)?;
                let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
                let path = job.out.join("model.safetensors");
                safetensors::serialize_to_file(tensors, Some(metadata), &path).map_err(StageError::failed)?;
                fs::write(
                    job.out.join("config.json"),
                    format!("{:#}\n", bert_config(&visual_bert_of(small))?),
                )?;
                Ok(fs::write(job.out.join("vocab.txt"), vocabulary(words(small)))?)
            }
            Of::Vocabulary => Ok(fs::write(job.out.join("vocab.txt"), vocabulary(words(small)))?),
            Of::Features => features::write(job.inputs.one("samples")?, seed, small, job),
        }
    }
}

const SMALL: SmallConfig = SmallConfig {
    words: 400,
    positions: 64,
    features: 128,
    hidden: 32,
    layers: 2,
    heads: 2,
    intermediate: 64,
    dropout: 0.1,
    initializer_range: 0.02,
};

fn visual_bert_of(small: bool) -> Config {
    if small { visual_bert::Config::small(&SMALL) } else { visual_bert::Config::base() }.into()
}

fn vilbert_of(small: bool) -> Config {
    if small { vilbert::Config::small(&SMALL) } else { vilbert::Config::base() }.into()
}

/// The settings of X-152 as maskrcnn-benchmark keeps them, which together with the tensors' shapes say how proposals are chosen.
pub(crate) fn settings(config: &faster_rcnn::Config) -> String {
    let tuple = |numbers: &[f64]| numbers.iter().map(|number| format!("{number}, ")).collect::<String>();
    let strides: Vec<f64> = (0..config.anchor_sizes.len()).map(|level| config.stride(level) as f64).collect();
    let proposals = config.proposals;
    format!(
        "MODEL:\n  BACKBONE:\n    CONV_BODY: \"R-152-FPN\"\n    OUT_CHANNELS: {}\n  RESNETS:\n    NUM_GROUPS: {}\n    \
         WIDTH_PER_GROUP: {}\n    STEM_OUT_CHANNELS: {}\n    RES2_OUT_CHANNELS: {}\n    STRIDE_IN_1X1: {}\n  RPN:\n    \
         ANCHOR_SIZES: ({})\n    ASPECT_RATIOS: ({})\n    ANCHOR_STRIDE: ({})\n    PRE_NMS_TOP_N_TEST: {}\n    \
         POST_NMS_TOP_N_TEST: {}\n    FPN_POST_NMS_TOP_N_TEST: {}\n    NMS_THRESH: {}\n  ROI_BOX_HEAD:\n    \
         NUM_CLASSES: {}\n    MLP_HEAD_DIM: {}\n    POOLER_RESOLUTION: {}\n    POOLER_SAMPLING_RATIO: {}\n",
        config.pyramid_width,
        config.groups,
        config.width_per_group,
        config.stem_width,
        config.stage_widths[0],
        if config.stride_in_1x1 { "True" } else { "False" },
        tuple(&config.anchor_sizes),
        tuple(&config.anchor_ratios),
        tuple(&strides),
        proposals.before_nms,
        proposals.after_nms,
        proposals.over_levels,
        proposals.nms,
        config.classes,
        config.head_width,
        config.pooled_size,
        config.sampling_ratio,
    )
}

/// A detector's tensors. The last normalisation of a block counts little, so that many blocks after each other keep
/// numbers in range, as trained ones do.
fn detector(config: &faster_rcnn::Config, seed: u64) -> candle_core::Result<Vec<(String, Tensor)>> {
    let cpu = &Device::Cpu;
    let mut list = Vec::new();
    let mut add = |name: &str, tensor: Tensor| list.push((format!("module.{name}"), tensor));
    for (name, shape) in FasterRcnn::parameters(config)? {
        let tensor = match shape.len() {
            2 | 4 => {
                let inputs: usize = shape[1..].iter().product();
                normal(seed, &name, &shape, (2.0 / inputs as f64).sqrt(), cpu)?
            }
            _ if name.ends_with("bn3.weight") => (ones(&shape, cpu)? * 0.2)?,
            _ if name.ends_with("weight") || name.ends_with("running_var") => ones(&shape, cpu)?,
            _ => zeros(&shape, cpu)?,
        };
        add(&name, tensor);
    }
    for (level, &size) in config.anchor_sizes.iter().enumerate() {
        let anchors = cell_anchors(config.stride(level), size, &config.anchor_ratios);
        let rows = anchors.len();
        let values: Vec<f32> = anchors.into_iter().flatten().collect();
        let anchors = Tensor::from_vec(values, (rows, 4), cpu)?;
        add(&format!("rpn.anchor_generator.cell_anchors.{level}"), anchors);
    }
    // Attributes were learnt together with the classes; nothing reads them.
    for (name, shape) in [("cls_embed.weight", [config.classes, 8]), ("attr_linear1.weight", [8, 8])] {
        add(&format!("roi_heads.box.predictor.{name}"), normal(seed, name, &shape, 0.01, cpu)?);
    }
    Ok(list)
}

/// Lines of a vocabulary.
fn words(small: bool) -> usize {
    if small { SMALL.words } else { visual_bert::Config::base().vocab_size }
}

/// What a BERT's `config.json` says of these dimensions.
fn bert_config(config: &Config) -> Result<Value, StageError> {
    let mut value = serde_json::to_value(config).map_err(StageError::failed)?;
    if let Some(fields) = value.as_object_mut() {
        fields.retain(|name, _| !name.starts_with("adapter_") && name != "visual_embedding_dim");
        fields.insert("model_type".to_owned(), "bert".into());
        fields.insert("hidden_act".to_owned(), "gelu".into());
    }
    Ok(value)
}

/// What of VisualBERT's tensors a BERT has, under its own names.
fn bert(config: &Config, seed: u64) -> candle_core::Result<BTreeMap<String, Tensor>> {
    let tensors = init_random(&**config, seed, &Device::Cpu)?.into_iter();
    let own = tensors.filter(|(name, _)| !config.is_fresh(Origin::Bert, name));
    Ok(own.map(|(name, tensor)| (name.replace("model.bert.", "bert."), tensor)).collect())
}

/// Writes a model's checkpoint with its pretraining head, packed.
fn pretrained(config: &Config, seed: u64, job: &Job) -> Result<(), StageError> {
    let mut tensors = init_random(&**config, seed, &Device::Cpu).map_err(StageError::failed)?;
    tensors.extend(init_mlm_head(&**config, seed, &Device::Cpu).map_err(StageError::failed)?);
    write_packed(config, tensors, job)
}

/// Writes a finished model's checkpoint, packed: base and classifier, and the constant that MMF's transformers save.
fn run(config: &Config, seed: u64, job: &Job) -> Result<(), StageError> {
    let model = || {
        let base = init_random(&**config, seed, &Device::Cpu)?;
        let mut tensors =
            init_from_pretrained(&base, &**config, Mode::Full, Start::Base, seed, &Device::Cpu)?;
        let positions = Tensor::arange(0i64, config.dimensions().positions as i64, &Device::Cpu)?;
        tensors.insert("model.bert.embeddings.position_ids".to_owned(), positions.unsqueeze(0)?);
        Ok::<_, candle_core::Error>(tensors)
    };
    write_packed(config, model().map_err(StageError::failed)?, job)
}

fn write_packed(config: &Config, tensors: HashMap<String, Tensor>, job: &Job) -> Result<(), StageError> {
    let mut tensors: Vec<_> = tensors.into_iter().collect();
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    let file = job.scratch.join("model.pth");
    torch_writer::write(&file, &tensors).map_err(StageError::failed)?;
    job.check_cancelled()?;
    let name = config.family().as_str();
    let about = format!("model: {name}\n");
    let mut archive = Archive::create(&job.out.join("checkpoint.tar.gz"))?;
    archive.add(&format!("{name}/model.pth"), &file)?;
    archive.add_bytes(&format!("{name}/config.yaml"), about.as_bytes())?;
    archive.finish()?;
    Ok(fs::remove_file(file)?)
}

/// A compressed archive that has the same bytes each time.
struct Archive(tar::Builder<GzEncoder<BufWriter<File>>>);

impl Archive {
    fn create(path: &Path) -> std::io::Result<Self> {
        let packed = GzEncoder::new(BufWriter::new(File::create(path)?), Compression::fast());
        Ok(Self(tar::Builder::new(packed)))
    }

    fn add(&mut self, name: &str, file: &Path) -> std::io::Result<()> {
        let file = File::open(file)?;
        let size = file.metadata()?.len();
        self.0.append_data(&mut Self::head(size), name, BufReader::new(file))
    }

    fn add_bytes(&mut self, name: &str, bytes: &[u8]) -> std::io::Result<()> {
        self.0.append_data(&mut Self::head(bytes.len() as u64), name, bytes)
    }

    fn head(size: u64) -> tar::Header {
        let mut head = tar::Header::new_ustar();
        head.set_size(size);
        head.set_mode(0o644);
        head
    }

    fn finish(self) -> std::io::Result<()> {
        self.0.into_inner()?.finish()?.flush()
    }
}

/// A vocabulary of `lines` tokens. Words are spelt letter by letter, so texts have about as many tokens as characters.
fn vocabulary(lines: usize) -> String {
    let special = ["[UNK]", "[CLS]", "[SEP]", "[MASK]"].map(str::to_owned);
    let letters = || (' '..='~').filter(|c| !c.is_whitespace() && !c.is_ascii_uppercase());
    let tokens = std::iter::once("[PAD]".to_owned())
        .chain((0..99).map(|number| format!("[unused{number}]")))
        .chain(special)
        .chain(letters().map(String::from))
        .chain(letters().map(|letter| format!("##{letter}")))
        .chain((0..).map(|number| format!("word{number}")));
    tokens.take(lines).map(|token| token + "\n").collect()
}
