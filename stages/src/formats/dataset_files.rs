//! Reads the text files of the two data sets out of bytes: JSON lines, lists of ids, the truth file. It knows their
//! forms and the slips they may have, nothing of archives, pictures and rules. Whatever the bytes are, there is an
//! answer.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer as _, MapAccess, Visitor};
use serde_json::Value;

use super::file_kind;

/// What a table may call the column with the paths of its pictures: as most do, as Hateful Memes, as Hugging Face's image folders.
pub const PICTURE_COLUMNS: [&str; 3] = ["image", "img", "file_name"];

/// A text file, and what was odd about its form.
pub struct Text<'a> {
    /// The text without byte-order mark; bytes that are not UTF-8 have become U+FFFD.
    pub text: Cow<'a, str>,
    /// Whether it began with a byte-order mark.
    pub marked: bool,
    /// How many lines end in CR LF.
    pub carriage_returns: usize,
}

/// Decodes a text file.
pub fn text(bytes: &[u8]) -> Text<'_> {
    let (marked, bytes) = match bytes.strip_prefix(b"\xef\xbb\xbf") {
        Some(rest) => (true, rest),
        None => (false, bytes),
    };
    let carriage_returns = bytes.windows(2).filter(|pair| pair == b"\r\n").count();
    Text { text: String::from_utf8_lossy(bytes), marked, carriage_returns }
}

impl Text<'_> {
    /// The lines that are not blank, with their numbers from 1.
    pub fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        (1..).zip(self.text.lines().map(str::trim)).filter(|(_, line)| !line.is_empty())
    }
}

/// A line of Hateful Memes.
#[derive(Debug, PartialEq, Eq)]
pub struct Meme {
    /// Its id; a number in the official files.
    pub id: String,
    /// Path of its picture: `img/01234.png`.
    pub img: String,
    /// 0 or 1, where it is published.
    pub label: Option<u8>,
    /// The caption.
    pub text: String,
}

/// Why a line is no meme.
#[derive(Debug, PartialEq, Eq)]
pub enum Bad {
    /// Not JSON, or not of the form.
    Json(String),
    /// Another label than 0 and 1.
    Label(String),
}

#[derive(Deserialize)]
struct MemeLine {
    id: Value,
    img: String,
    label: Option<Value>,
    text: String,
}

/// Reads a line of Hateful Memes.
pub fn meme(line: &str) -> Result<Meme, Bad> {
    let line: MemeLine =
        serde_json::from_str(&mended(line)).map_err(|error| Bad::Json(file_kind::json_in_line(&error)))?;
    let id = match line.id {
        Value::Number(id) if id.is_u64() => id.to_string(),
        Value::String(id) if !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit()) => id,
        other => return Err(Bad::Json(format!("id is {other}; it must be a whole number"))),
    };
    let label = match line.label.as_ref().map(|label| (label, label.as_u64())) {
        None => None,
        Some((_, Some(label @ (0 | 1)))) => Some(label as u8),
        Some((label, _)) => return Err(Bad::Label(format!("label is {label}; it may be 0 or 1"))),
    };
    Ok(Meme { id, img: line.img, label, text: line.text })
}

/// A tweet of the truth file.
#[derive(Debug, PartialEq, Eq)]
pub struct Tweet {
    /// What it says.
    pub text: String,
    /// What the annotators say: 0 is not hate, 1 to 5 are kinds of it.
    pub labels: [u8; 3],
}

/// The truth file of MMHS150K.
#[derive(Debug, Default)]
pub struct Truth {
    /// By tweet id: the tweet, or what is wrong with its labels or text.
    pub tweets: HashMap<String, Result<Tweet, String>>,
    /// Ids that are there more than once; the last one counts.
    pub twice: Vec<String>,
}

/// Reads the truth file.
///
/// # Errors
/// A text that is not a JSON object; an entry that is wrong in itself is reported in its place.
pub fn truth(json: &str) -> Result<Truth, String> {
    let json = mended(json);
    let mut reader = serde_json::Deserializer::from_str(&json);
    let truth = reader.deserialize_map(TruthVisitor).map_err(|error| error.to_string())?;
    reader.end().map_err(|error| error.to_string())?;
    Ok(truth)
}

struct TruthVisitor;

impl<'de> Visitor<'de> for TruthVisitor {
    type Value = Truth;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object of tweets by id")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Truth, M::Error> {
        let mut truth = Truth::default();
        while let Some((id, entry)) = map.next_entry::<String, Value>()? {
            if truth.tweets.insert(id.clone(), tweet(entry)).is_some() {
                truth.twice.push(id);
            }
        }
        Ok(truth)
    }
}

fn tweet(mut entry: Value) -> Result<Tweet, String> {
    let Some(Value::String(text)) = entry.get_mut("tweet_text").map(Value::take) else {
        return Err("has no tweet_text".to_owned());
    };
    let labels = entry.get("labels").ok_or("has no labels")?;
    let three = labels.as_array().filter(|labels| labels.len() == 3);
    let three = three.ok_or_else(|| format!("labels are {labels}; there must be three"))?;
    let mut read = [0; 3];
    for (read, label) in read.iter_mut().zip(three) {
        *read = match label.as_u64() {
            Some(label @ 0..=5) => label as u8,
            _ => return Err(format!("label {label} is none of 0 to 5")),
        };
    }
    Ok(Tweet { text, labels: read })
}

/// The text read off a picture: `{"img_text": "…"}`.
///
/// # Errors
/// Another form.
pub fn picture_text(json: &str) -> Result<String, String> {
    #[derive(Deserialize)]
    struct Line {
        img_text: String,
    }
    serde_json::from_str(&mended(json)).map(|line: Line| line.img_text).map_err(|error| error.to_string())
}

/// Whether a line of a split file is a tweet's id.
pub fn is_tweet_id(id: &str) -> bool {
    !id.is_empty() && id.len() <= 20 && id.bytes().all(|byte| byte.is_ascii_digit())
}

/// JSON in which half a surrogate pair (`\ud83d` without its other half), which no UTF-8 text can hold, has become
/// U+FFFD.
pub(super) fn mended(json: &str) -> Cow<'_, str> {
    if !json.contains("\\ud") && !json.contains("\\uD") {
        return Cow::Borrowed(json);
    }
    let unit = |at: usize| {
        let digits = json.get(at..at + 6)?.strip_prefix("\\u")?;
        digits.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| u16::from_str_radix(digits, 16).ok())?
    };
    let bytes = json.as_bytes();
    let (mut whole, mut copied, mut at) = (String::new(), 0, 0);
    while at < bytes.len() {
        if bytes[at] != b'\\' {
            at += 1;
            continue;
        }
        match (unit(at), unit(at + 6)) {
            (Some(0xd800..0xdc00), Some(0xdc00..0xe000)) => at += 12,
            (Some(0xd800..0xe000), _) => {
                whole.push_str(&json[copied..at]);
                whole.push_str("\\ufffd");
                at += 6;
                copied = at;
            }
            // Whatever is escaped is no beginning of another escape.
            _ => at += 2,
        }
    }
    if copied == 0 {
        return Cow::Borrowed(json);
    }
    whole.push_str(&json[copied..]);
    Cow::Owned(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_of_text_files() {
        let odd = text(b"\xef\xbb\xbfone\r\n\n  two \r\nthr\xffee");
        assert_eq!((odd.marked, odd.carriage_returns), (true, 2));
        assert_eq!(odd.lines().collect::<Vec<_>>(), [(1, "one"), (3, "two"), (4, "thr\u{fffd}ee")]);
        assert!(!text(b"plain").marked);
    }

    #[test]
    fn half_surrogates_become_the_replacement_character() {
        for (json, read) in [
            (r#""\ud83d\ude02""#, "😂"),
            (r#""a\ud83db""#, "a\u{fffd}b"),
            (r#""\ude02\ud83d""#, "\u{fffd}\u{fffd}"),
            (r#""\ud83d\ud83d\ude02""#, "\u{fffd}😂"),
            (r#""\\ud83d \uD83D""#, "\\ud83d \u{fffd}"),
            (r#""é\ud83d\u0041""#, "é\u{fffd}A"),
        ] {
            assert_eq!(serde_json::from_str::<String>(&mended(json)).unwrap(), read, "{json}");
        }
        for odd in ["\\ud", "\"\\ud83", "\\", "\\ud83é", "\\ud83d\\", "\\\\\\ud83d"] {
            let _ = mended(odd);
        }
    }

    #[test]
    fn a_meme_has_its_fields() {
        let good = meme(r#"{"id":42,"img":"img/00042.png","label":1,"text":"hi","more":[]}"#).unwrap();
        let meme_42 =
            Meme { id: "42".into(), img: "img/00042.png".into(), label: Some(1), text: "hi".into() };
        assert_eq!(good, meme_42);
        assert_eq!(meme(r#"{"id":1,"img":"","label":null,"text":""}"#).unwrap().label, None);
        for label in ["2", "-1", "0.5", "\"1\"", "true"] {
            let bad = meme(&format!(r#"{{"id":1,"img":"i","label":{label},"text":""}}"#));
            assert_eq!(bad, Err(Bad::Label(format!("label is {label}; it may be 0 or 1"))));
        }
        for bad in ["", "{", "[]", r#"{"id":-1,"img":"i","text":""}"#, r#"{"id":1,"img":"i","text":null}"#] {
            assert!(matches!(meme(bad), Err(Bad::Json(_))), "{bad}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_line_has_its_column() {
        let bad = meme(r#"{"id":1,"img":x}"#);
        assert_eq!(bad, Err(Bad::Json("column 15: expected value".to_owned())));
        // However deep it is.
        assert!(matches!(meme(&"[".repeat(300_000)), Err(Bad::Json(_))));
        assert!(matches!(meme(&"{\"id\":".repeat(300_000)), Err(Bad::Json(_))));
        assert!(truth(&"{\"1\":".repeat(300_000)).is_err());
    }

    #[test]
    fn a_bad_entry_does_not_spoil_the_truth() {
        let truth = truth(
            r#"{"1":{"tweet_text":"a","labels":[0,1,5],"labels_str":["x"]}, "2":{"tweet_text":"b","labels":[0]},
            "3":7, "4":{"labels":[0,0,0]}, "5":{"tweet_text":"c","labels":[0,0,6]},
            "1":{"tweet_text":"again","labels":[0,0,0]}}"#,
        )
        .unwrap();
        assert_eq!(truth.twice, ["1"]);
        assert_eq!(truth.tweets["1"], Ok(Tweet { text: "again".into(), labels: [0, 0, 0] }));
        for (id, problem) in [
            ("2", "labels are [0]; there must be three"),
            ("3", "has no tweet_text"),
            ("4", "has no tweet_text"),
            ("5", "label 6 is none of 0 to 5"),
        ] {
            assert_eq!(truth.tweets[id], Err(problem.to_owned()));
        }
        for bad in ["", "{", "[]", "{}x"] {
            assert!(super::truth(bad).is_err(), "{bad}");
        }
    }
}
