//! Secrets in addresses: the login before a host (`https://user:word@host`) and the query, which may be a signature
//! (`?sig=…`). Addresses are shown and recorded without them. It knows no network.

use std::ops::Range;

/// Takes the place of a secret where it is not shown.
pub const HIDDEN: &str = "…";
/// A digest that takes the place of a secret begins so; it is no secret itself.
pub const DIGEST: &str = "blake3-";

/// `text` with each address in it as it may be shown: without login and query.
pub fn shown(text: &str) -> String {
    replaced(text, |_| HIDDEN.to_owned())
}

/// `text` with what `by` says in place of each login and query of an address in it.
pub fn replaced(text: &str, by: impl Fn(&str) -> String) -> String {
    let mut new = String::with_capacity(text.len());
    let mut at = 0;
    for range in ranges(text) {
        new.push_str(&text[at..range.start]);
        new.push_str(&by(&text[range.clone()]));
        at = range.end;
    }
    new.push_str(&text[at..]);
    new
}

/// The places of the logins and queries of all addresses in `text`, in order.
pub fn ranges(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(at) = text[from..].find("://") {
        let separator = from + at;
        let start = separator + "://".len();
        from = start;
        if !text[..separator].ends_with(|c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.')) {
            continue;
        }
        let end = start + length(&text[start..]);
        let address = &text[start..end];
        let authority = address.find(['/', '?', '#']).unwrap_or(address.len());
        let login = address[..authority].rfind('@').map(|at| start..start + at);
        let query = address.find('?').map(|at| {
            let rest = &address[at + 1..];
            start + at + 1..start + at + 1 + rest.find('#').unwrap_or(rest.len())
        });
        found.extend([login, query].into_iter().flatten().filter(|range| is_secret(&text[range.clone()])));
        from = end;
    }
    found
}

fn is_secret(text: &str) -> bool {
    !text.is_empty() && !text.starts_with(HIDDEN) && !text.starts_with(DIGEST)
}

/// How many bytes of `text` belong to the address that it begins with. In a quoted string a character behind a backslash
/// does not end it.
fn length(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c.is_whitespace() || c.is_control() || matches!(c, '"' | '`' | '<' | '>') => return at,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_shown_without_login_and_query_and_all_else_as_it_is() {
        for (text, expected) in [
            ("https://host/a/b.bin", "https://host/a/b.bin"),
            ("https://user:word@host:1/a?sig=x&y=z#part", "https://…@host:1/a?…#part"),
            ("at s3://key@bucket/a, http://b/?c", "at s3://…@bucket/a, http://b/?…"),
            ("https://a@b:c@host", "https://…@host"),
            ("https://host?x@y/z", "https://host?…"),
            (r#"(url:["https://h/a?sig=x","https://h/b"])"#, r#"(url:["https://h/a?…","https://h/b"])"#),
            (r#""https://h/a?s=\"x\"y""#, r#""https://h/a?…""#),
            ("what? a://b", "what? a://b"),
            ("no:// ://?x", "no:// ://?x"),
            ("https://h/?blake3-12 https://h/?…", "https://h/?blake3-12 https://h/?…"),
            ("é://ü?ß é", "é://ü?ß é"),
            ("xé://a x://ü?ß é", "xé://a x://ü?… é"),
        ] {
            assert_eq!(shown(text), expected);
            assert_eq!(shown(&shown(text)), expected);
        }
    }
}
