//! A difference as text for a terminal, and the parts that Markdown has too: changes of steps, rounded values.

use serde_json::Value;

use super::{SHOWN, Shown};
use crate::cli::format;
use crate::diff::{Certainty, Change, StepChange, ValueChange};

/// Decimal places of a number, unless two that differ need more to look different.
const PLACES: usize = 4;

pub fn render(shown: &Shown) -> String {
    let mut text = format!("{}\n{}\n", shown.verdict, shown.summary);
    for StepChange { step, change } in &shown.steps {
        match change {
            Change::Added => text.push_str(&format!("{step}: new\n")),
            Change::Removed => text.push_str(&format!("{step}: gone\n")),
            Change::Changed { .. } => text.push_str(&format!("{step}\n")),
        }
        lines(change).iter().for_each(|line| text.push_str(&format!("  {line}\n")));
    }
    for values in shown.values.chunk_by(|one, other| one.file == other.file) {
        text.push_str(&format!("{}\n", values[0].file));
        for change in values.iter().take(SHOWN) {
            text.push_str(&format!("  {}: {}\n", change.at, difference(change)));
        }
        if values.len() > SHOWN {
            text.push_str(&format!("  … and {} more; --json has them all\n", values.len() - SHOWN));
        }
    }
    text
}

/// What changed of a step, one line each; nothing of a step that is new or gone.
pub fn lines(change: &Change) -> Vec<String> {
    let Change::Changed { stage, params, inputs_removed, inputs_added } = change else { return Vec::new() };
    let stage = stage.iter().map(|(old, new)| format!("stage: {old} -> {new}"));
    let params = params.iter().map(format::param);
    let removed = inputs_removed.iter().map(|input| format!("input gone: {input}"));
    let added = inputs_added.iter().map(|input| format!("input new: {input}"));
    stage.chain(params).chain(removed).chain(added).collect()
}

fn difference(change: &ValueChange) -> String {
    match values(change) {
        (Some(old), Some(new)) => {
            let by = match (change.by, change.certainty) {
                (None, _) => String::new(),
                (Some(by), None) => format!(" ({})", signed(by)),
                (Some(by), Some(Certainty { low, high, significant })) => {
                    let verdict = if significant { "significant" } else { "not significant" };
                    let (by, low, high) = (signed(by), signed(low), signed(high));
                    format!(" ({by}, 95% interval {low} to {high}: {verdict})")
                }
            };
            format!("{old} -> {new}{by}")
        }
        (None, Some(new)) => format!("new, {new}"),
        (Some(old), None) => format!("gone, was {old}"),
        (None, None) => String::new(),
    }
}

/// Both values as they are shown: rounded to the same number of places, so many that they differ.
pub fn values(change: &ValueChange) -> (Option<String>, Option<String>) {
    let (old, new) = (change.old.as_ref(), change.new.as_ref());
    let both = |places| (old.map(|value| shown(value, places)), new.map(|value| shown(value, places)));
    // 17 places tell any two numbers below 1 apart; smaller ones are written with an exponent.
    let found = (PLACES..17).map(both).find(|(old, new)| old != new);
    found.unwrap_or_else(|| both(17))
}

fn shown(value: &Value, places: usize) -> String {
    let text = match value {
        Value::Array(items) => format!("[{}]", format::count(items.len(), "value")),
        Value::Number(number) if number.is_f64() => rounded(number.as_f64().unwrap_or(f64::NAN), places),
        other => other.to_string(),
    };
    console::truncate_str(&text, 60, "…").into_owned()
}

/// A number with at most so many decimal places; one too small for them with an exponent.
fn rounded(number: f64, places: usize) -> String {
    let plain = format!("{number:.places$}");
    let plain = plain.trim_end_matches('0').trim_end_matches('.');
    match plain.trim_start_matches('-') {
        "0" if number != 0.0 => {
            let digits = places - 2;
            format!("{number:.digits$e}")
        }
        _ => plain.to_owned(),
    }
}

/// A difference with its sign.
pub fn signed(number: f64) -> String {
    let text = rounded(number, PLACES);
    if text.starts_with('-') || number == 0.0 { text } else { format!("+{text}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn numbers_are_rounded_but_differences_stay_visible() {
        let pair = |old: Value, new: Value| {
            let (old, new) = values(&ValueChange {
                file: String::new(),
                at: String::new(),
                old: Some(old),
                new: Some(new),
                by: None,
                certainty: None,
                derived: false,
            });
            (old.unwrap(), new.unwrap())
        };
        let texts = |old: &str, new: &str| (old.to_owned(), new.to_owned());
        assert_eq!(pair(json!(0.966_666_666_6), json!(0.96)), texts("0.9667", "0.96"));
        assert_eq!(pair(json!(0.553_558_07), json!(0.553_561_48)), texts("0.553558", "0.553561"));
        assert_eq!(pair(json!(10), json!(12)), texts("10", "12"));
        assert_eq!(pair(json!(1.3e-58), json!(6.357e-57)), texts("1.30e-58", "6.36e-57"));
        assert_eq!(pair(json!("a"), json!([1, 2])), texts("\"a\"", "[2 values]"));
        assert_eq!(
            (signed(-0.006_66), signed(0.25), signed(1.0)),
            ("-0.0067".into(), "+0.25".into(), "+1".into())
        );
        assert_eq!((signed(-8.59e-6), signed(0.0)), ("-8.59e-6".into(), "0".into()));
    }
}
