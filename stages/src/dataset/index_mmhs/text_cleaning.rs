//! What is taken out of tweets, by named choice. Each choice does what the one before it does, and more.

use std::borrow::Cow;

use schemars::JsonSchema;
use stage_api::ParamEnum;

/// A choice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, JsonSchema, ParamEnum)]
#[serde(rename_all = "snake_case")]
#[param(unquoted)]
pub enum Clean {
    /// Nothing: the tweet byte for byte.
    None,
    /// Links, and all white space but single spaces: nearly every tweet ends in the address of its own picture, a
    /// dozen meaningless word pieces. Mentions and tags stay: people speak to and about somebody with them.
    #[default]
    Urls,
    /// HTML entities become what they stand for: `&amp;` is `&`.
    Entities,
    /// Mentions (`@name`) go, too.
    Mentions,
}

impl Clean {
    /// The choice in words.
    pub fn description(self) -> &'static str {
        match self {
            Self::None => "none: tweets as they are",
            Self::Urls => "urls: links out, white space single",
            Self::Entities => "entities: links out, white space single, HTML entities decoded",
            Self::Mentions => "mentions: links and mentions out, white space single, HTML entities decoded",
        }
    }

    /// A tweet after it.
    pub fn apply(self, text: &str) -> String {
        if self == Self::None {
            return text.to_owned();
        }
        let text = if self >= Self::Entities { decoded(text) } else { Cow::Borrowed(text) };
        let words = text.split_whitespace().map(|word| {
            // A link often sticks to the word before it.
            let start = ["http://", "https://"].iter().filter_map(|scheme| word.find(scheme)).min();
            &word[..start.unwrap_or(word.len())]
        });
        let mention = |word: &str| {
            self >= Self::Mentions
                && word.strip_prefix('@').is_some_and(|name| {
                    name.starts_with(|first: char| first.is_ascii_alphanumeric() || first == '_')
                })
        };
        let words = words.filter(|word| !word.is_empty() && !mention(word));
        words.collect::<Vec<_>>().join(" ")
    }
}

/// The entities that Twitter writes, and numbers: `&#39;`, `&#x27;`. Others stay as they are.
fn decoded(text: &str) -> Cow<'_, str> {
    if !text.contains('&') {
        return Cow::Borrowed(text);
    }
    let mut parts = text.split('&');
    let mut whole = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.split_once(';').and_then(|(name, rest)| Some((character(name)?, rest))) {
            Some((character, rest)) => {
                whole.push(character);
                whole.push_str(rest);
            }
            None => {
                whole.push('&');
                whole.push_str(part);
            }
        }
    }
    Cow::Owned(whole)
}

fn character(name: &str) -> Option<char> {
    let number = match name {
        "amp" => return Some('&'),
        "lt" => return Some('<'),
        "gt" => return Some('>'),
        "quot" => return Some('"'),
        "apos" => return Some('\''),
        "nbsp" => return Some('\u{a0}'),
        _ => name.strip_prefix('#')?,
    };
    let (digits, base) = match number.strip_prefix(['x', 'X']) {
        Some(digits) => (digits, 16),
        None => (number, 10),
    };
    let plain = !digits.is_empty() && digits.chars().all(|digit| digit.is_digit(base));
    plain.then(|| u32::from_str_radix(digits, base).ok().and_then(char::from_u32)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleaning_takes_links_and_leaves_words() {
        for (text, clean) in [
            ("the red one https://t.co/AbC", "the red one"),
            ("look!https://t.co/AbC  now\nhttp://a.b c", "look! now c"),
            ("@user_1 #tag httpfoo &amp; x", "@user_1 #tag httpfoo &amp; x"),
            ("https://t.co/AbC", ""),
        ] {
            assert_eq!(Clean::Urls.apply(text), clean);
        }
        assert_eq!(Clean::None.apply(" a  https://t.co/AbC "), " a  https://t.co/AbC ");
    }

    #[test]
    fn entities_become_characters_and_mentions_go() {
        for (text, clean) in [
            ("salt &amp; pepper", "salt & pepper"),
            ("&lt;3 &#39;so&#x27; &quot;&#128514;&quot;", "<3 'so' \"😂\""),
            (
                "&amp;lt; & &nothing; &#; &#x; &#+1; &#xd800; &#99999999999; a&b;",
                "&lt; & &nothing; &#; &#x; &#+1; &#xd800; &#99999999999; a&b;",
            ),
            ("@you @ home@you", "@you @ home@you"),
        ] {
            assert_eq!(Clean::Entities.apply(text), clean);
        }
        assert_eq!(Clean::Mentions.apply("@you: hi @_x @ home@you #tag @é"), "hi @ home@you #tag @é");
    }
}
