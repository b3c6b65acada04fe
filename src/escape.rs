//! Escapes text from outside for a terminal: control characters (escape sequences, a carriage return, bidirectional
//! marks) are shown as escapes. It does not know where the text goes.

use std::borrow::Cow;

/// Whether a terminal may interpret `c` instead of showing it. Line breaks and tabs are harmless.
pub fn is_obeyed(c: char) -> bool {
    let orders_writing =
        matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let breaks_lines = matches!(c, '\u{2028}' | '\u{2029}');
    (c.is_control() && !matches!(c, '\n' | '\t')) || orders_writing || breaks_lines
}

/// `text` with escapes, safe for a terminal.
pub fn escaped(text: &str) -> Cow<'_, str> {
    replaced(text, |c| if c == '\r' { "\\r".to_owned() } else { c.escape_unicode().to_string() })
}

/// A line of bytes, safe for a terminal; invalid UTF-8 is escaped too.
pub fn escaped_bytes(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(&escaped(chunk.valid()));
        text.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
    }
    text
}

/// JSON text with escapes, safe for a terminal; its meaning stays the same.
pub fn escaped_json(text: &str) -> Cow<'_, str> {
    // JSON has these characters only in strings, and each is one unit of UTF-16.
    replaced(text, |c| format!("\\u{:04x}", u32::from(c)))
}

fn replaced(text: &str, by: impl Fn(char) -> String) -> Cow<'_, str> {
    if !text.contains(is_obeyed) {
        return Cow::Borrowed(text);
    }
    let mut new = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_obeyed(c) { new.push_str(&by(c)) } else { new.push(c) }
    }
    Cow::Owned(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped_and_all_others_stay() {
        let plain = "a\tb\nç 語 👩\u{200d}👧 ∑…";
        assert!(matches!(escaped(plain), Cow::Borrowed(text) if text == plain));
        assert_eq!(
            escaped("\u{1b}[31m\u{7}\u{9b}2J\r\u{7f}\u{202e}\0"),
            r"\u{1b}[31m\u{7}\u{9b}2J\r\u{7f}\u{202e}\u{0}"
        );
        assert_eq!(escaped_bytes(b"ok \xff\x1b[0m\xc3\xa9"), "ok \\xff\\u{1b}[0mé");
        let text = serde_json::json!({"a\u{9b}": "\u{202e}\u{1b}"}).to_string();
        let shown = escaped_json(&text);
        assert!(!shown.contains(is_obeyed));
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&shown).unwrap(),
            serde_json::from_str::<serde_json::Value>(&text).unwrap()
        );
    }
}
