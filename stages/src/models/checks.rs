//! What configs have in common: BERT's constants, and whether dimensions make a model. The bounds keep a damaged or invented
//! config from overflowing a count or asking for all memory there is; each problem has the name of what breaks it.

use candle_core::{Error, Result};

use super::{Architecture, Mode};

/// No dimension is greater than this: the counting of parameters cannot overflow.
const MAX: usize = 1 << 20;
/// No model has more layers than this.
const MAX_LAYERS: usize = 1 << 10;
/// No model has more parameters than this, 16 GiB.
const MAX_PARAMETERS: u64 = 1 << 32;

/// BERT's constants, which small models share.
pub mod defaults {
    /// Of every LayerNorm.
    pub fn layer_norm_eps() -> f64 {
        1e-12
    }
    /// Everywhere.
    pub fn dropout() -> f64 {
        0.1
    }
    /// Of fresh weights.
    pub fn initializer_range() -> f64 {
        0.02
    }
    /// The paper's.
    pub fn adapter_divisor() -> usize {
        10
    }
    /// The paper's: hateful or not.
    pub fn num_labels() -> usize {
        2
    }
    /// Whether it is the paper's number of classes.
    pub fn is_num_labels(labels: &usize) -> bool {
        *labels == num_labels()
    }
}

fn fail(problem: String) -> Result<()> {
    // `Error::msg` would add a backtrace, and this is a message for users.
    Err(Error::Msg(format!("model config: {problem}")))
}

/// Dimensions by name, each from 1 to [`MAX`].
pub fn dimensions(named: &[(&str, usize)]) -> Result<()> {
    if let Some((name, _)) = named.iter().find(|(_, count)| *count == 0) {
        return fail(format!("`{name}` must not be 0"));
    }
    match named.iter().find(|(_, count)| *count > MAX) {
        Some((name, count)) => fail(format!("`{name}` is {count}, more than {MAX}")),
        None => Ok(()),
    }
}

/// A number of layers.
pub fn layers((name, count): (&str, usize)) -> Result<()> {
    if count > MAX_LAYERS {
        return fail(format!("`{name}` is {count}, more than {MAX_LAYERS}"));
    }
    Ok(())
}

/// Heads share a width.
pub fn heads((width, hidden): (&str, usize), (name, heads): (&str, usize)) -> Result<()> {
    if !hidden.is_multiple_of(heads) {
        return fail(format!("`{width}` {hidden} is not a multiple of `{name}` {heads}"));
    }
    Ok(())
}

/// Adapters in layers of `width` have a width of their own.
pub fn adapters(width: usize, divisor: usize) -> Result<()> {
    if width / divisor == 0 {
        return fail(format!("`adapter_divisor` {divisor} leaves adapters no width"));
    }
    Ok(())
}

/// All parameters together, adapters included.
pub fn parameters(model: &dyn Architecture) -> Result<()> {
    let parameters = model.counts(Mode::Pe)?.total;
    if parameters > MAX_PARAMETERS {
        return fail(format!("makes {parameters} parameters, more than {MAX_PARAMETERS}"));
    }
    Ok(())
}

/// Probabilities of dropout.
pub fn dropout(hidden: f64, attention: f64) -> Result<()> {
    if hidden != attention {
        return fail(format!(
            "`hidden_dropout_prob` {hidden} and `attention_probs_dropout_prob` {attention} differ: a run has one \
             probability of dropout, for all places"
        ));
    }
    Ok(())
}

/// A rule of one model alone: `problem` is what breaks it.
pub fn other(holds: bool, problem: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { fail(problem()) }
}
