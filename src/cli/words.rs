//! Durations, times and reasons in words.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::compare::Difference;
use crate::explain::{Cause, FileChange};
use crate::store::{Outcome, Verdict};

/// `0.4 s`, `3 min 20 s`, `2 h 5 min`.
pub fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 0.01 => "under 0.01 s".to_owned(),
        s if s < 10.0 => format!("{s:.2} s"),
        s if s < 60.0 => format!("{s:.1} s"),
        s if s < 3600.0 => format!("{} min {} s", s as u64 / 60, s as u64 % 60),
        s => format!("{} h {} min", s as u64 / 3600, s as u64 % 3600 / 60),
    }
}

/// How long ago a time in milliseconds since 1970 was.
pub fn ago(ms: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64);
    let seconds = now.saturating_sub(ms) / 1000;
    let (count, unit) = match seconds {
        0..60 => return "just now".to_owned(),
        60..3600 => (seconds / 60, "minute"),
        3600..86400 => (seconds / 3600, "hour"),
        _ => (seconds / 86400, "day"),
    };
    format!("{count} {unit}{} ago", if count == 1 { "" } else { "s" })
}

/// `812 B`, `1.5 MB`, `20.3 GB`.
pub fn bytes(number: u64) -> String {
    let (mut size, mut units) = (number as f64, ["kB", "MB", "GB", "TB"].into_iter());
    let mut unit = "B";
    while size >= 999.95
        && let Some(larger) = units.next()
    {
        (size, unit) = (size / 1000.0, larger);
    }
    if unit == "B" { format!("{number} B") } else { format!("{size:.1} {unit}") }
}

/// What is said of a step whose earlier result is damaged.
pub fn damaged(step: &str) -> String {
    format!("what `{step}` wrote in an earlier run is damaged; it runs again")
}

/// What running a step again has shown.
pub fn verdict(verdict: &Verdict) -> String {
    let when = ago(verdict.when_ms);
    match &verdict.outcome {
        Outcome::Same => format!("the same bytes when run again ({when})"),
        Outcome::Within { tolerance } => format!("the same to within {tolerance:e} when run again ({when})"),
        Outcome::Differs { tolerance, files } => {
            let beyond = tolerance.map_or(String::new(), |tolerance| format!(" by more than {tolerance:e}"));
            let mut text = format!("something else{beyond} when run again ({when})");
            for Difference { path, how } in files.iter().take(5) {
                text.push_str(&format!("\n    {path} {how}"));
            }
            if files.len() > 5 {
                text.push_str(&format!("\n    and {} more", files.len() - 5));
            }
            text
        }
    }
}

/// `1 step`, `3 steps`.
pub fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// A reason in one line.
pub fn cause(cause: &Cause) -> String {
    match cause {
        Cause::NeverRun => "no earlier run of it is known".to_owned(),
        Cause::Forced => "it was asked for with --force".to_owned(),
        Cause::BytesMissing { wanted_by } => {
            format!("its result is known but no longer in the cache, and `{wanted_by}` wants it")
        }
        Cause::Stage { old, new } => format!("its stage changed: {old} -> {new}"),
        Cause::Param(change) => {
            let name = if change.name.is_empty() { "its params" } else { &change.name };
            match (&change.old, &change.new) {
                (Some(old), Some(new)) => format!("param {name}: {old} -> {new}"),
                (None, Some(new)) => format!("param {name}: new, {new}"),
                (Some(old), None) => format!("param {name}: removed, was {old}"),
                (None, None) => format!("param {name}"),
            }
        }
        Cause::Input { port, source, old, new, files, .. } => {
            let what = match (old, new) {
                (None, _) => "is new".to_owned(),
                (_, None) => "is gone".to_owned(),
                (Some(_), Some(_)) if files.is_empty() => "changed".to_owned(),
                (Some(_), Some(_)) => format!("changed: {}", file_list(files)),
            };
            format!("input {port} ({source}) {what}")
        }
        Cause::Unsteady => "it ran again on the same inputs and wrote something else".to_owned(),
        Cause::Broken { problem } => problem.clone(),
    }
}

fn file_list(files: &[FileChange]) -> String {
    const SHOWN: usize = 3;
    let shown: Vec<String> =
        files.iter().take(SHOWN).map(|file| format!("{} {}", file.path, file.change)).collect();
    match files.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {} more", shown.join(", "), more),
    }
}

/// Reasons with what is behind them, indented, a line each.
pub fn causes(list: &[Cause], indent: usize, text: &mut String) {
    for one in list {
        text.push_str(&format!("{:indent$}{}\n", "", cause(one)));
        if let Cause::Input { because: Some(upstream), .. } = one {
            let inner = indent + 2;
            if upstream.causes.is_empty() {
                text.push_str(&format!("{:inner$}because `{}` ran again\n", "", upstream.step));
            } else {
                text.push_str(&format!("{:inner$}because `{}` ran again:\n", "", upstream.step));
                causes(&upstream.causes, inner + 2, text);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well() {
        let told: Vec<String> = [0.001, 0.42, 12.34, 200.0, 7500.0].map(duration).to_vec();
        assert_eq!(told, ["under 0.01 s", "0.42 s", "12.3 s", "3 min 20 s", "2 h 5 min"]);
    }
}
