//! Names and shapes of all parameters, and their counts: the paper's Table I, without allocating a model.

use super::{Config, Mode};

/// How many parameters a model has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// All.
    pub total: u64,
    /// Those a mode trains.
    pub trained: u64,
    /// Those in adapters.
    pub adapters: u64,
}

/// Everything a run has: the base, the head and, with `adapters`, the adapters; in the order of the data's path.
pub fn parameters(config: &Config, adapters: bool) -> Vec<(String, Vec<usize>)> {
    let mut list = List::default();
    base(&mut list, config, adapters);
    let hidden = config.hidden_size;
    list.linear("model.classifier.0.dense", hidden, hidden);
    list.norm("model.classifier.0.LayerNorm", hidden);
    list.linear("model.classifier.1", hidden, 2);
    list.0
}

/// The base alone, `model.bert.*`: what pretraining makes and every run starts from.
pub fn base_parameters(config: &Config) -> Vec<(String, Vec<usize>)> {
    let mut list = List::default();
    base(&mut list, config, false);
    list.0
}

/// The head of masked-language-model pretraining, without its decoder, which is the word embeddings.
pub fn mlm_head_parameters(config: &Config) -> Vec<(String, Vec<usize>)> {
    let mut list = List::default();
    let hidden = config.hidden_size;
    list.linear("model.cls.predictions.transform.dense", hidden, hidden);
    list.norm("model.cls.predictions.transform.LayerNorm", hidden);
    list.push("model.cls.predictions.bias", &[config.vocab_size]);
    list.0
}

/// Parameter counts of a run in `mode`.
pub fn counts(config: &Config, mode: Mode) -> Counts {
    let mut counts = Counts { total: 0, trained: 0, adapters: 0 };
    for (name, shape) in parameters(config, mode.has_adapters()) {
        let size = shape.iter().map(|&dim| dim as u64).product::<u64>();
        counts.total += size;
        counts.trained += if mode.trains(&name) { size } else { 0 };
        counts.adapters += if name.contains("Adapt") { size } else { 0 };
    }
    counts
}

fn base(list: &mut List, config: &Config, adapters: bool) {
    let hidden = config.hidden_size;
    let embeddings = "model.bert.embeddings";
    list.push(&format!("{embeddings}.word_embeddings.weight"), &[config.vocab_size, hidden]);
    list.push(&format!("{embeddings}.position_embeddings.weight"), &[config.max_position_embeddings, hidden]);
    list.push(&format!("{embeddings}.token_type_embeddings.weight"), &[config.type_vocab_size, hidden]);
    list.norm(&format!("{embeddings}.LayerNorm"), hidden);
    list.push(
        &format!("{embeddings}.token_type_embeddings_visual.weight"),
        &[config.type_vocab_size, hidden],
    );
    list.push(
        &format!("{embeddings}.position_embeddings_visual.weight"),
        &[config.max_position_embeddings, hidden],
    );
    list.linear(&format!("{embeddings}.projection"), config.visual_embedding_dim, hidden);
    for layer in 0..config.num_hidden_layers {
        let layer = format!("model.bert.encoder.layer.{layer}");
        for part in ["query", "key", "value"] {
            list.linear(&format!("{layer}.attention.self.{part}"), hidden, hidden);
        }
        list.linear(&format!("{layer}.attention.output.dense"), hidden, hidden);
        list.norm(&format!("{layer}.attention.output.LayerNorm"), hidden);
        list.linear(&format!("{layer}.intermediate.dense"), hidden, config.intermediate_size);
        list.linear(&format!("{layer}.output.dense"), config.intermediate_size, hidden);
        list.norm(&format!("{layer}.output.LayerNorm"), hidden);
        for part in config.adapter_place.parts().iter().filter(|_| adapters) {
            list.linear(&format!("{layer}.{part}.AdaptComb1"), hidden, config.bottleneck());
            list.linear(&format!("{layer}.{part}.AdaptComb2"), config.bottleneck(), hidden);
        }
    }
    list.linear("model.bert.pooler.dense", hidden, hidden);
}

#[derive(Default)]
struct List(Vec<(String, Vec<usize>)>);

impl List {
    fn push(&mut self, name: &str, shape: &[usize]) {
        self.0.push((name.to_owned(), shape.to_vec()));
    }

    fn linear(&mut self, name: &str, inputs: usize, outputs: usize) {
        self.push(&format!("{name}.weight"), &[outputs, inputs]);
        self.push(&format!("{name}.bias"), &[outputs]);
    }

    fn norm(&mut self, name: &str, size: usize) {
        self.push(&format!("{name}.weight"), &[size]);
        self.push(&format!("{name}.bias"), &[size]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_papers_model_has_exactly_the_papers_parameters() {
        let base = Config::base();
        let expected = [
            (Mode::Fc, 112_044_290, 593_666, 0),
            (Mode::Full, 112_044_290, 112_044_290, 0),
            (Mode::Pe, 113_455_250, 2_004_626, 1_410_960),
        ];
        for (mode, total, trained, adapters) in expected {
            assert_eq!(counts(&base, mode), Counts { total, trained, adapters }, "{mode}");
        }
    }

    #[test]
    fn the_papers_model_has_as_many_tensors_as_its_checkpoint() {
        let base = Config::base();
        assert_eq!(base_parameters(&base).len(), 203);
        assert_eq!(parameters(&base, false).len(), 203 + 6);
        assert_eq!(parameters(&base, true).len(), 203 + 6 + 48);
    }

    #[test]
    fn no_name_occurs_twice() {
        let mut names: Vec<String> =
            parameters(&Config::base(), true).into_iter().map(|(name, _)| name).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
