//! Which models there are: the one place that lists them all.

use schemars::JsonSchema;
use serde::Serialize;
use serde::de::{Deserialize, Deserializer, Error, IntoDeserializer};
use stage_api::ParamEnum;

use super::{Architecture, SmallConfig, vilbert, visual_bert};

/// A kind of model, the paper's first one first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, JsonSchema, ParamEnum)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// One encoder over the tokens followed by the regions.
    #[default]
    VisualBert,
    /// An encoder each for tokens and regions, which attend to each other.
    Vilbert,
}

impl Family {
    /// Its name in tables.
    pub const fn title(self) -> &'static str {
        match self {
            Self::VisualBert => "VisualBERT",
            Self::Vilbert => "ViLBERT",
        }
    }

    /// The one whose checkpoint has tensors of these names.
    pub fn from_tensors<'a>(mut names: impl Iterator<Item = &'a str>) -> Self {
        if names.any(|name| name.contains("bert.v_embeddings.")) { Self::Vilbert } else { Self::VisualBert }
    }

    /// The one that a `model_type` names: as here, or as Hugging Face does.
    fn from_model_type<E: Error>(name: String) -> Result<Self, E> {
        if name == "visual_bert" { Ok(Self::VisualBert) } else { Self::deserialize(name.into_deserializer()) }
    }

    /// The paper's dimensions.
    pub fn base(self) -> Config {
        match self {
            Self::VisualBert => visual_bert::Config::base().into(),
            Self::Vilbert => vilbert::Config::base().into(),
        }
    }

    /// The dimensions of a small one.
    pub fn small(self, small: &SmallConfig) -> Config {
        match self {
            Self::VisualBert => visual_bert::Config::small(small).into(),
            Self::Vilbert => vilbert::Config::small(small).into(),
        }
    }
}

/// A model's dimensions, as `config.json` holds them: its `model_type` says of which model. VisualBERT's has none here, and
/// `visual_bert` from Hugging Face.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "model_type", rename_all = "lowercase")]
pub enum Config {
    /// Those of a ViLBERT.
    Vilbert(vilbert::Config),
    /// Those of a VisualBERT.
    #[serde(untagged)]
    VisualBert(visual_bert::Config),
}

impl From<vilbert::Config> for Config {
    fn from(config: vilbert::Config) -> Self {
        Self::Vilbert(config)
    }
}

impl From<visual_bert::Config> for Config {
    fn from(config: visual_bert::Config) -> Self {
        Self::VisualBert(config)
    }
}

impl Config {
    /// Of which model.
    pub fn family(&self) -> Family {
        match self {
            Self::VisualBert(_) => Family::VisualBert,
            Self::Vilbert(_) => Family::Vilbert,
        }
    }
}

impl std::ops::Deref for Config {
    type Target = dyn Architecture;

    fn deref(&self) -> &Self::Target {
        match self {
            Self::VisualBert(config) => config,
            Self::Vilbert(config) => config,
        }
    }
}

impl std::ops::DerefMut for Config {
    fn deref_mut(&mut self) -> &mut Self::Target {
        match self {
            Self::VisualBert(config) => config,
            Self::Vilbert(config) => config,
        }
    }
}

impl<'de> Deserialize<'de> for Config {
    // By hand: of the dimensions of a model it is to be said which is missing.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut value = serde_json::Value::deserialize(deserializer)?;
        let named = value.as_object_mut().and_then(|fields| fields.remove("model_type"));
        let named = named.map(serde_json::from_value::<String>).transpose().map_err(D::Error::custom)?;
        let family = named.map_or(Ok(Family::default()), Family::from_model_type)?;
        match family {
            Family::VisualBert => serde_json::from_value(value).map(Self::VisualBert),
            Family::Vilbert => serde_json::from_value(value).map(Self::Vilbert),
        }
        .map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_says_of_which_model_it_is() {
        for family in Family::ALL {
            let config = family.base();
            assert_eq!(config.family(), family);
            let text = serde_json::to_string(&config).unwrap();
            assert_eq!(serde_json::from_str::<Config>(&text).unwrap(), config);
            let tag = "\"model_type\":\"vilbert\"";
            assert_eq!(text.contains(tag), family == Family::Vilbert, "{text}");
        }
        let mut text = serde_json::to_value(Family::VisualBert.base()).unwrap();
        text["model_type"] = "visual_bert".into();
        assert_eq!(serde_json::from_value::<Config>(text).unwrap(), Family::VisualBert.base());
        let error = |text: &str| serde_json::from_str::<Config>(text).unwrap_err().to_string();
        assert!(error("{\"model_type\": \"gpt\"}").contains("`gpt`, expected `visualbert` or `vilbert`"));
        assert!(error("{\"model_type\": \"vilbert\"}").contains("missing field"));
        assert!(error("{\"vocab_size\": 3}").contains("missing field"));
        assert!(error("[]").contains("expected struct Config"));
    }
}
