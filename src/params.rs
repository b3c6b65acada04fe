//! Parses canonical params (one line of RON, `(lr:5e-5,mode:"pe",schedule:(warm_up:60))`) as far as necessary to list
//! the fields that differ. It does not know the meaning of the fields.

use std::collections::BTreeMap;

use serde::Serialize;

/// A field of the params that was added, removed or changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ParamChange {
    /// The path of the field: `schedule.warm_up`. Empty if the params have no fields.
    pub name: String,
    /// The old value, if it existed.
    pub old: Option<String>,
    /// The new value, if it exists.
    pub new: Option<String>,
}

/// The fields in which two params differ, in the order of the new ones; removed fields come last.
pub fn changed_params(old: &str, new: &str) -> Vec<ParamChange> {
    let mut changes = Vec::new();
    compare("", old, new, &mut changes);
    changes
}

fn compare(name: &str, old: &str, new: &str, changes: &mut Vec<ParamChange>) {
    if old == new {
        return;
    }
    let (Some(before), Some(after)) = (fields(old), fields(new)) else {
        changes.push(ParamChange {
            name: name.to_owned(),
            old: Some(old.to_owned()),
            new: Some(new.to_owned()),
        });
        return;
    };
    let path = |field: &str| if name.is_empty() { field.to_owned() } else { format!("{name}.{field}") };
    for (field, value) in &after {
        match before.iter().find(|(other, _)| other == field) {
            Some((_, earlier)) => compare(&path(field), earlier, value, changes),
            None => {
                changes.push(ParamChange { name: path(field), old: None, new: Some((*value).to_owned()) })
            }
        }
    }
    for (field, value) in &before {
        if !after.iter().any(|(other, _)| other == field) {
            changes.push(ParamChange { name: path(field), old: Some((*value).to_owned()), new: None });
        }
    }
}

/// The values of params by their paths: `schedule.warm_up`.
pub fn leaves(params: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut open = vec![(String::new(), params)];
    while let Some((path, value)) = open.pop() {
        match fields(value).filter(|fields| path.is_empty() || !fields.is_empty()) {
            Some(fields) => {
                let inner =
                    |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
                open.extend(fields.into_iter().map(|(name, value)| (inner(name), value)));
            }
            None => drop(found.insert(path, value.to_owned())),
        }
    }
    found
}

/// The fields of `(name:value,…)` and of a map with such names, `{"name":value,…}`; `None` for anything else (a number, a
/// list, a tuple).
pub fn fields(text: &str) -> Option<Vec<(&str, &str)>> {
    let is_map = text.starts_with('{');
    let (open, close) = if is_map { ('{', '}') } else { ('(', ')') };
    let inside = text.strip_prefix(open)?.strip_suffix(close)?;
    let mut found = Vec::new();
    for part in split(inside) {
        let (name, value) = part.split_once(':')?;
        let name = if is_map { name.strip_prefix('"')?.strip_suffix('"')? } else { name };
        let is_name = |name: &str| name.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '#' | '-'));
        if !is_name(name) {
            return None;
        }
        found.push((name, value));
    }
    Some(found)
}

/// Splits at the commas outside of brackets and quotes.
pub fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut depth, mut quoted, mut escaped) = (Vec::new(), 0, 0usize, false, false);
    for (at, c) in text.char_indices() {
        if quoted {
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '"' => quoted = false,
                _ => {}
            }
            continue;
        }
        match c {
            '"' => quoted = true,
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    if start < text.len() {
        parts.push(&text[start..]);
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(old: &str, new: &str) -> Vec<String> {
        let show = |value: Option<String>| value.unwrap_or_else(|| "none".to_owned());
        changed_params(old, new)
            .into_iter()
            .map(|change| format!("{} {} {}", change.name, show(change.old), show(change.new)))
            .collect()
    }

    #[test]
    fn the_field_is_named() {
        assert_eq!(changes("(lr:5e-5,mode:\"pe\")", "(lr:1e-4,mode:\"pe\")"), ["lr 5e-5 1e-4"]);
        assert_eq!(changes("(a:1,b:2)", "(b:2,c:3)"), ["c none 3", "a 1 none"]);
        assert_eq!(changes("(s:(w:1,x:[1,2]))", "(s:(w:2,x:[1,3]))"), ["s.w 1 2", "s.x [1,2] [1,3]"]);
        assert_eq!(changes("()", "(a:1)"), ["a none 1"]);
        assert_eq!(changes("(a:1)", "(a:1)"), Vec::<String>::new());
    }

    #[test]
    fn commas_and_brackets_in_strings_are_not_structure() {
        assert_eq!(changes(r#"(t:"a,(\"b:",n:1)"#, r#"(t:"a,(\"b:",n:2)"#), ["n 1 2"]);
    }

    #[test]
    fn values_of_a_map_are_named_one_by_one() {
        assert_eq!(
            changes(
                r#"(run:["x"],args:{"epochs":"3","lr":"1,0"})"#,
                r#"(run:["x"],args:{"epochs":"3","lr":"0.2"})"#
            ),
            [r#"args.lr "1,0" "0.2""#]
        );
    }

    #[test]
    fn params_without_fields_are_compared_as_a_whole() {
        assert_eq!(changes("(1,2)", "(1,3)"), [" (1,2) (1,3)"]);
        assert_eq!(changes("7", "8"), [" 7 8"]);
    }
}
