//! A difference as Markdown, for a comment on a pull request. Text from the reports is escaped: it may hold `|`, HTML or a
//! link.

use super::text::{lines, signed, values};
use super::{SHOWN, Shown};
use crate::diff::{Change, StepChange, ValueChange};

pub fn render(shown: &Shown) -> String {
    let mut text = format!("**{}**\n\n{}\n", escaped(&shown.verdict), escaped(&shown.summary));
    if !shown.steps.is_empty() {
        text.push_str("\n| Step | Change |\n| --- | --- |\n");
        for StepChange { step, change } in &shown.steps {
            let changes = match change {
                Change::Added => "new".to_owned(),
                Change::Removed => "gone".to_owned(),
                Change::Changed { .. } => {
                    lines(change).iter().map(|line| escaped(line)).collect::<Vec<_>>().join("<br>")
                }
            };
            text.push_str(&format!("| {} | {changes} |\n", escaped(step)));
        }
    }
    for values in shown.values.chunk_by(|one, other| one.file == other.file) {
        text.push_str(&format!("\n**{}**\n\n", escaped(&values[0].file)));
        text.push_str("| Value | Before | Now | Difference | 95% interval | |\n| --- | ---: | ---: | ---: | --- | --- |\n");
        values.iter().take(SHOWN).for_each(|change| text.push_str(&row(change)));
        if values.len() > SHOWN {
            text.push_str(&format!("\n… and {} more\n", values.len() - SHOWN));
        }
    }
    text
}

fn row(change: &ValueChange) -> String {
    let (old, new) = values(change);
    let cell = |value: Option<String>| value.map_or_else(|| "–".to_owned(), |value| escaped(&value));
    let by = change.by.map(signed).unwrap_or_default();
    let (interval, verdict) = match change.certainty {
        None => (String::new(), ""),
        Some(certainty) => {
            let interval = format!("{} to {}", signed(certainty.low), signed(certainty.high));
            (interval, if certainty.significant { "**significant**" } else { "not significant" })
        }
    };
    format!("| {} | {} | {} | {by} | {interval} | {verdict} |\n", escaped(&change.at), cell(old), cell(new))
}

/// Text that Markdown shows as it is, on one line.
fn escaped(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => shown.push_str("&amp;"),
            '<' => shown.push_str("&lt;"),
            '>' => shown.push_str("&gt;"),
            '\n' | '\r' => shown.push(' '),
            // `@name` would notify a person.
            '@' => shown.push_str("&#64;"),
            '\\' | '|' | '`' | '*' | '_' | '[' | ']' | '~' | '#' | '!' => shown.extend(['\\', letter]),
            _ => shown.push(letter),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_reports_cannot_leave_its_cell() {
        assert_eq!(escaped("a|b\nc<d>`e`[f](g)"), "a\\|b c&lt;d&gt;\\`e\\`\\[f\\](g)");
        assert_eq!(escaped("rows[mode=FC].roc_auc"), "rows\\[mode=FC\\].roc\\_auc");
    }
}
