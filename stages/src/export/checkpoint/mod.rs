//! A finished run as a checkpoint that other programs load: MMF's file, or a folder for Hugging Face transformers.

mod card;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

use candle_core::{Device, Tensor};
use serde_json::json;
use stage_api::{InputView, StageError, ToolContext};

use crate::artifacts::weights;
use crate::formats::tokenizer_files::{self, TokenizerFiles};
use crate::formats::torch_writer;
use crate::models::Config;
use crate::training::inference::{self, TOKENS};
use card::Card;

/// The model's code for transformers, which has neither the head nor the adapters.
const MODELING: &str = include_str!("modeling_memes.py");

fn sorted(tensors: HashMap<String, Tensor>) -> Vec<(String, Tensor)> {
    let mut tensors: Vec<_> = tensors.into_iter().collect();
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    tensors
}

/// The file MMF loads with `checkpoint.resume_file`.
pub(super) fn mmf(run: &Path, out: &Path) -> Result<(), StageError> {
    let config: Config = weights::read_config(run)?;
    let mut tensors = sorted(weights::read_tensors(run)?);
    // The transformers that MMF pins keep this constant among the weights.
    let positions = Tensor::arange(0i64, config.dimensions().positions as i64, &Device::Cpu);
    let positions = positions.and_then(|positions| positions.unsqueeze(0)).map_err(StageError::failed)?;
    tensors.push(("model.bert.embeddings.position_ids".to_owned(), positions));
    torch_writer::write(out, &tensors)
        .map_err(|problem| StageError::failed(format!("{}: {problem}", out.display())))
}

/// The folder transformers loads with `trust_remote_code`, of the run that the step `name` left: with its tokenizer and a model card.
pub(super) fn huggingface(context: &ToolContext, name: &str, out: &Path) -> Result<(), StageError> {
    let mut card = Card::read(context, name)?;
    weights_and_code(&context.results.output(name)?, &card.classes, out)?;
    let write = |name: &str, text: &str| super::write(&out.join(name), text.as_bytes());
    if let Some(files) = tokenizer_files(context, name)? {
        let read = |path: &Path| {
            fs::read_to_string(path).map_err(|error| StageError::input("vocabulary", path, error))
        };
        let called = if files.is_whole() { tokenizer_files::TOKENIZER } else { tokenizer_files::VOCABULARY };
        write(called, &read(&files.vocabulary)?)?;
        let settings = files.settings.as_deref().map(read).transpose()?;
        let settings = settings.unwrap_or_else(|| format!("{:#}\n", card.tokenizer()));
        write(tokenizer_files::SETTINGS, &settings)?;
        card.has_vocabulary = true;
    }
    write("README.md", &card.markdown()?)
}

/// The tokenizer of the texts that the run read, or that the first step evaluates it on; `None` where no step of the pipeline
/// tokenizes them.
fn tokenizer_files(context: &ToolContext, name: &str) -> Result<Option<TokenizerFiles>, StageError> {
    let run = inference::step(context, name)?;
    let tokens = inference::own_input(&run, TOKENS, context);
    let steps = context.results.steps();
    let step =
        steps.iter().find(|step| Some(step.name.as_str()) == tokens.as_ref().and_then(InputView::step));
    let input = step.and_then(|step| step.inputs.iter().find(|input| input.port == "vocabulary"));
    let Some(input) = input else { return Ok(None) };
    let path = inference::located(&input.source, context)?;
    TokenizerFiles::find(&path).map(Some).map_err(|problem| StageError::input("vocabulary", path, problem))
}

fn weights_and_code(run: &Path, classes: &[String], out: &Path) -> Result<(), StageError> {
    let config = match weights::read_config(run)? {
        Config::VisualBert(config) => config,
        other => {
            let problem = format!(
                "the run's model is a {}, which transformers does not have; export it with `--to mmf`",
                other.family().title()
            );
            return Err(StageError::Params(problem));
        }
    };
    let tensors = weights::read_tensors(run)?;
    let adapters = tensors.keys().any(|name| name.contains("AdaptComb"));
    let id2label: BTreeMap<String, &String> =
        classes.iter().enumerate().map(|(id, name)| (id.to_string(), name)).collect();
    let label2id: BTreeMap<&String, usize> =
        classes.iter().enumerate().map(|(id, name)| (name, id)).collect();
    let about = json!({
        "architectures": ["MemeClassifier"],
        "auto_map": {"AutoModelForSequenceClassification": "modeling_memes.MemeClassifier"},
        "model_type": "visual_bert",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "intermediate_size": config.intermediate_size,
        "max_position_embeddings": config.max_position_embeddings,
        "type_vocab_size": config.type_vocab_size,
        "visual_embedding_dim": config.visual_embedding_dim,
        "layer_norm_eps": config.layer_norm_eps,
        "hidden_dropout_prob": config.hidden_dropout_prob,
        "attention_probs_dropout_prob": config.attention_probs_dropout_prob,
        "initializer_range": config.initializer_range,
        "pad_token_id": config.pad_token_id,
        "hidden_act": "gelu",
        "num_labels": config.num_labels,
        "id2label": id2label,
        "label2id": label2id,
        "problem_type": config.problem_type,
        "dtype": "float32",
        "adapter_width": config.bottleneck(),
        "adapter_parts": if adapters { config.adapter_place.parts() } else { &[] },
    });
    let write = |name: &str, text: &str| -> Result<(), StageError> {
        let path = out.join(name);
        fs::write(&path, text).map_err(|error| StageError::failed(format!("{}: {error}", path.display())))
    };
    fs::create_dir_all(out).map_err(|error| StageError::failed(format!("{}: {error}", out.display())))?;
    write("config.json", &format!("{about:#}\n"))?;
    write("modeling_memes.py", MODELING)?;
    let tensors: HashMap<String, Tensor> =
        tensors.into_iter().map(|(name, tensor)| (huggingface_name(&name), tensor)).collect();
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let path = out.join("model.safetensors");
    let failed = |error: &dyn std::fmt::Display| StageError::failed(format!("{}: {error}", path.display()));
    // The library makes a file that only its owner may read; this one gets the mode of any new file.
    let empty = fs::File::create(&path).and_then(|file| file.metadata()).map_err(|error| failed(&error))?;
    safetensors::serialize_to_file(sorted(tensors), Some(metadata), &path).map_err(|error| failed(&error))?;
    fs::set_permissions(&path, empty.permissions()).map_err(|error| failed(&error))
}

/// What transformers calls the model's tensor `name`.
fn huggingface_name(name: &str) -> String {
    let name = match name.strip_prefix("model.bert.") {
        Some(part) => format!("visual_bert.{part}"),
        None => name.strip_prefix("model.").unwrap_or(name).to_owned(),
    };
    name.replace(".position_embeddings_visual.", ".visual_position_embeddings.")
        .replace(".token_type_embeddings_visual.", ".visual_token_type_embeddings.")
        .replace("embeddings.projection.", "embeddings.visual_projection.")
}

#[cfg(test)]
mod tests;
