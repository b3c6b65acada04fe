//! The key of a step: the digest of *what would run on what*. Its text consists of plain lines. The text is hashed,
//! stored in the record and compared by `repro why`, so the hashed and the explained bytes are the same.
//!
//! ```text
//! stage train 3
//! params (lr:5e-5,mode:"pe",seed:1)
//! input tokens 9f3c…
//! also version "tokenizer 2.1"
//! also env.TOKEN "blake3-71d0…"
//! ```
//!
//! Others can read records, so the text contains digests of secrets: of values of environment variables, and of
//! logins and queries of URLs in params.
//!
//! The step's name, the device and threads are not part of it. An input is in it by digest, not by origin: if a step
//! reruns and writes the same bytes, everything downstream stays fresh.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};
use stage_api::secrets;

use crate::digest::Digest;
use crate::params::{ParamChange, changed_params};

const KIND: &str = "repro key v1";

/// The digest of a [`KeyText`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StageKey(pub Digest);

impl fmt::Display for StageKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The text that a key is the digest of.
///
/// # Examples
///
/// ```
/// use repro::digest::Digest;
/// use repro::key::{Difference, KeyText};
///
/// let tokens = Digest::of_bytes(b"the content of the input");
/// let key_text = |lr: &str| KeyText::new("train", 3, &format!("(lr:{lr},seed:1)"), [("tokens", tokens)]);
/// let (old, new) = (key_text("5e-5"), key_text("1e-4"));
/// assert_eq!(old.as_str(), format!("stage train 3\nparams (lr:5e-5,seed:1)\ninput tokens {tokens}\n"));
///
/// // Another text is another key, and the texts say what changed: `repro why` prints this.
/// assert_ne!(old.key(), new.key());
/// let [Difference::Param(change)] = &old.differences(&new)[..] else { panic!("one param changed") };
/// assert_eq!(change.name, "lr");
/// assert_eq!((change.old.as_deref(), change.new.as_deref()), (Some("5e-5"), Some("1e-4")));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyText(String);

/// One difference between two key texts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "changed")]
pub enum Difference {
    /// Another stage.
    Stage {
        /// The old stage.
        old: String,
        /// The new stage.
        new: String,
    },
    /// Another version of the stage.
    Version {
        /// The old version.
        old: String,
        /// The new version.
        new: String,
    },
    /// A param that was added, removed or changed.
    Param(ParamChange),
    /// A change of the environment: a variable, or the version of a tool.
    Also(ParamChange),
    /// An input that was added, removed or has other content.
    Input {
        /// The port.
        port: String,
        /// The index among the port's inputs, from 0.
        index: usize,
        /// The old digest, if it existed.
        old: Option<Digest>,
        /// The new digest, if it exists.
        new: Option<Digest>,
    },
}

impl KeyText {
    /// The text for a stage, its version, its canonical params (one line) and its inputs by port and digest, in
    /// the order of the pipeline.
    pub fn new<'a>(
        stage: &str,
        version: u32,
        params: &str,
        inputs: impl IntoIterator<Item = (&'a str, Digest)>,
    ) -> Self {
        // The canonical form escapes line breaks within strings; a break between tokens has no meaning.
        let params = recorded_params(params).replace('\n', " ");
        let mut text = format!("stage {stage} {version}\nparams {params}\n");
        for (port, digest) in inputs {
            text.push_str(&format!("input {port} {digest}\n"));
        }
        Self(text)
    }

    /// The same text with one more line for the environment.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        // Written as a string literal, which holds no line break.
        self.0.push_str(&format!("also {name} {value:?}\n"));
        self
    }

    /// The key.
    pub fn key(&self) -> StageKey {
        StageKey(Digest::of_kind(KIND, self.0.as_bytes()))
    }

    /// The lines.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The digests of the inputs, in the order of the pipeline.
    pub fn input_digests(&self) -> impl Iterator<Item = Digest> + '_ {
        self.0.lines().filter_map(|line| line.strip_prefix("input ")?.rsplit_once(' ')?.1.parse().ok())
    }

    /// What changed from `self` to `new`, in the order of the text.
    pub fn differences(&self, new: &Self) -> Vec<Difference> {
        let mut found = Vec::new();
        let ((old_stage, old_version), (new_stage, new_version)) = (self.stage(), new.stage());
        if old_stage != new_stage {
            found.push(Difference::Stage { old: old_stage.to_owned(), new: new_stage.to_owned() });
        } else if old_version != new_version {
            found.push(Difference::Version { old: old_version.to_owned(), new: new_version.to_owned() });
        }
        found.extend(changed_params(self.params(), new.params()).into_iter().map(Difference::Param));
        found.extend(self.changed_also(new).map(Difference::Also));
        let (before, after) = (self.inputs(), new.inputs());
        let mut places: Vec<(&str, usize)> = after.iter().map(|(place, _)| *place).collect();
        places.extend(
            before.iter().map(|(place, _)| *place).filter(|place| !after.iter().any(|(p, _)| p == place)),
        );
        for place in places {
            let digest = |inputs: &[((&str, usize), Digest)]| {
                inputs.iter().find(|(other, _)| *other == place).map(|(_, digest)| *digest)
            };
            let (old, new) = (digest(&before), digest(&after));
            if old != new {
                found.push(Difference::Input { port: place.0.to_owned(), index: place.1, old, new });
            }
        }
        found
    }

    fn changed_also(&self, new: &Self) -> impl Iterator<Item = ParamChange> {
        let (before, after) = (self.also(), new.also());
        let names: BTreeSet<&str> = before.keys().chain(after.keys()).copied().collect();
        let value = |of: &BTreeMap<&str, &str>, name| of.get(name).map(|value| (*value).to_owned());
        let changes = names.into_iter().map(|name| ParamChange {
            name: name.to_owned(),
            old: value(&before, name),
            new: value(&after, name),
        });
        changes.filter(|change| change.old != change.new).collect::<Vec<_>>().into_iter()
    }

    fn also(&self) -> BTreeMap<&str, &str> {
        self.0.lines().filter_map(|line| line.strip_prefix("also ")?.split_once(' ')).collect()
    }

    fn line(&self, word: &str) -> &str {
        self.0.lines().find_map(|line| line.strip_prefix(word)).unwrap_or_default()
    }

    /// The stage and its version.
    pub fn stage(&self) -> (&str, &str) {
        self.line("stage ").rsplit_once(' ').unwrap_or_default()
    }

    /// The params, with digests of secrets in place of these.
    pub fn params(&self) -> &str {
        self.line("params ")
    }

    /// Every input as (port, its index in that port) and digest.
    fn inputs(&self) -> Vec<((&str, usize), Digest)> {
        let mut found: Vec<((&str, usize), Digest)> = Vec::new();
        for line in self.0.lines().filter_map(|line| line.strip_prefix("input ")) {
            if let Some((port, digest)) = line.rsplit_once(' ')
                && let Ok(digest) = digest.parse()
            {
                let index = found.iter().filter(|((other, _), _)| *other == port).count();
                found.push(((port, index), digest));
            }
        }
        found
    }
}

/// Params as recorded: digests replace logins and queries of URLs.
pub fn recorded_params(params: &str) -> String {
    let digest = |secret: &str| Digest::of_kind("repro secret in an address v1", secret.as_bytes());
    secrets::replaced(params, |secret| format!("{}{}", secrets::DIGEST, digest(secret)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(text: &str) -> Digest {
        Digest::of_bytes(text.as_bytes())
    }

    #[test]
    fn every_relevant_value_is_in_the_key() {
        let base = || KeyText::new("train", 1, "(lr:1)", [("a", digest("1")), ("b", digest("2"))]);
        let keys = [
            base().key(),
            KeyText::new("train", 2, "(lr:1)", [("a", digest("1")), ("b", digest("2"))]).key(),
            KeyText::new("strain", 1, "(lr:1)", [("a", digest("1")), ("b", digest("2"))]).key(),
            KeyText::new("train", 1, "(lr:2)", [("a", digest("1")), ("b", digest("2"))]).key(),
            KeyText::new("train", 1, "(lr:1)", [("a", digest("2")), ("b", digest("1"))]).key(),
            KeyText::new("train", 1, "(lr:1)", [("b", digest("1")), ("a", digest("2"))]).key(),
            KeyText::new("train", 1, "(lr:1)", [("a", digest("1"))]).key(),
        ];
        for (i, key) in keys.iter().enumerate() {
            assert_eq!(keys.iter().position(|other| other == key), Some(i));
        }
        assert_eq!(base().key(), keys[0]);
    }

    #[test]
    fn a_secret_in_a_url_changes_the_key_and_is_not_in_the_text() {
        let text = |url: &str| KeyText::new("fetch", 1, &format!("(url:[\"{url}\"],n:1)"), []);
        let urls = [
            "https://h/f",
            "https://h/f?sig=one",
            "https://h/f?sig=two",
            "https://one@h/f",
            "https://two@h/f",
        ];
        let texts = urls.map(text);
        for (i, one) in texts.iter().enumerate() {
            assert_eq!(texts.iter().position(|other| other.key() == one.key()), Some(i));
            assert!(!["one", "two", "sig="].iter().any(|secret| one.as_str().contains(secret)), "{one:?}");
            assert!(one.as_str().ends_with("\"],n:1)\n"), "{one:?}");
        }
        let [Difference::Param(change)] = &texts[1].differences(&texts[2])[..] else { panic!("one param") };
        assert!(change.name.starts_with("url") && change.old != change.new, "{change:?}");
    }

    #[test]
    fn the_environment_is_in_the_key_and_in_differences() {
        let text = || KeyText::new("command", 1, "()", [("a", digest("1"))]);
        let (old, new) =
            (text().with("version", "1.0\n"), text().with("version", "1.1\n").with("env.LANG", "de"));
        assert_ne!(old.key(), text().key());
        assert_eq!(old.as_str().lines().count(), 4);
        let change = |name: &str, old: Option<&str>, new: &str| {
            let owned = |text: &str| text.to_owned();
            Difference::Also(ParamChange { name: name.into(), old: old.map(owned), new: Some(new.into()) })
        };
        let expected =
            [change("env.LANG", None, "\"de\""), change("version", Some(r#""1.0\n""#), r#""1.1\n""#)];
        assert_eq!(old.differences(&new), expected);
    }

    #[test]
    fn a_difference_names_the_param_and_the_input() {
        let old =
            KeyText::new("train", 1, "(lr:5e-5,mode:\"pe\")", [("runs", digest("1")), ("runs", digest("2"))]);
        let new = KeyText::new(
            "train",
            2,
            "(lr:1e-4,mode:\"pe\")",
            [("runs", digest("1")), ("runs", digest("3")), ("x", digest("4"))],
        );
        assert_eq!(
            old.differences(&new),
            [
                Difference::Version { old: "1".into(), new: "2".into() },
                Difference::Param(ParamChange {
                    name: "lr".into(),
                    old: Some("5e-5".into()),
                    new: Some("1e-4".into())
                }),
                Difference::Input {
                    port: "runs".into(),
                    index: 1,
                    old: Some(digest("2")),
                    new: Some(digest("3"))
                },
                Difference::Input { port: "x".into(), index: 0, old: None, new: Some(digest("4")) },
            ]
        );
        assert_eq!(old.differences(&old), []);
    }
}
