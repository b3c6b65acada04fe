//! Durations, times and reasons in words.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use bytesize::ByteSize;
use stage_api::Unit;

use crate::compare::Difference;
use crate::digest::Digest;
use crate::explain::{Cause, Explanation, Failed, FileChange, State, VariableChange};
use crate::params::ParamChange;
use crate::record::RunRecord;
use crate::store::{RerunOutcome, RerunVerdict};
use crate::tree;

/// That another process runs a step.
pub fn held_by_others(step: &str, by: Option<&str>) -> String {
    format!("{step} is being run by {}", by.unwrap_or("another process"))
}

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
        0..10 => return "just now".to_owned(),
        10..60 => return format!("{seconds} s ago"),
        60..3600 => (seconds / 60, "minute"),
        3600..86400 => (seconds / 3600, "hour"),
        _ => (seconds / 86400, "day"),
    };
    format!("{count} {unit}{} ago", if count == 1 { "" } else { "s" })
}

/// The warning about a step whose result is damaged.
pub fn damaged(step: &str) -> String {
    format!("what `{step}` wrote is damaged; it runs again")
}

/// What running a step again has shown.
pub fn verdict(verdict: &RerunVerdict) -> String {
    let when = ago(verdict.when_ms);
    match &verdict.outcome {
        RerunOutcome::Same => format!("the same bytes when run again ({when})"),
        RerunOutcome::Within { tolerance } => {
            format!("the same to within {tolerance:e} when run again ({when})")
        }
        RerunOutcome::Differs { tolerance, files } => {
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

/// The message that a result came from the remote cache.
pub fn fetched(step: &str, size: u64) -> String {
    format!("{step} fetched, {}", crate::pipeline::needs::bytes(size))
}

/// What is done with what a step wrote.
pub fn keeping(files: usize, bytes: u64) -> String {
    format!("hashing its output: {}, {}", count(files, "file"), crate::pipeline::needs::bytes(bytes))
}

/// How a step ended.
pub fn done(seconds: f64, same: bool) -> String {
    format!("done in {}{}", duration(seconds), if same { ", same output as before" } else { "" })
}

/// `0:40`, `11:10`, `1:02:03`.
pub fn clock(seconds: f64) -> String {
    let seconds = seconds.clamp(0.0, 1e9) as u64;
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match hours {
        0 => format!("{minutes}:{seconds:02}"),
        _ => format!("{hours}:{minutes:02}:{seconds:02}"),
    }
}

/// How much of the work is done: `300/600`, `1.2 GB/6.4 GB`.
pub fn so_far(done: u64, total: u64, unit: Unit) -> String {
    match unit {
        Unit::Items => format!("{done}/{total}"),
        Unit::Bytes => format!("{}/{}", ByteSize(done).display().si(), ByteSize(total).display().si()),
    }
}

/// A rate: of items with three digits that count (`0.042`, `12.3`, `4520`), of bytes as a size (`35.1 MB`).
pub fn rate(rate: f64, unit: Unit) -> String {
    match rate {
        _ if unit == Unit::Bytes => ByteSize(rate as u64).display().si().to_string(),
        r if r >= 100.0 => format!("{r:.0}"),
        r if r >= 10.0 => format!("{r:.1}").trim_end_matches(".0").to_owned(),
        r if r >= 1.0 => format!("{r:.2}").trim_end_matches(".00").to_owned(),
        r => format!("{r:.3}"),
    }
}

/// The state of a step, in a word.
pub fn state(state: State) -> &'static str {
    match state {
        State::Fresh => "fresh",
        State::Stale => "stale",
        State::Broken => "broken",
        State::Unneeded => "unneeded",
        State::Waiting => "waiting",
    }
}

/// The state of a fresh step whose result is known by the evidence alone.
pub const FROM_EVIDENCE: &str = "from evidence";

/// The state of a step, and for a fresh one whether it is from evidence.
pub fn state_and_origin(explanation: &Explanation) -> &'static str {
    let is_from_evidence = explanation.state == State::Fresh && explanation.from_evidence;
    if is_from_evidence { FROM_EVIDENCE } else { state(explanation.state) }
}

/// That the last execution of a step failed: when, why and where its log is.
pub fn failed(Failed { run, log }: &Failed) -> String {
    // The lines below the first one are what a command printed last; the log has them too.
    let problem = run.problem.lines().next().unwrap_or_default().trim_end_matches(':');
    let problem = problem.strip_prefix("it ended with ").unwrap_or(problem);
    let log = log.as_ref().map(|log| format!(", log {}", place(log)));
    format!("failed {}: {problem}{}", ago(run.failed_ms), log.unwrap_or_default())
}

/// A path as it is typed in the current folder.
pub fn place(path: &Path) -> String {
    let here = std::env::current_dir().ok();
    let below = here.and_then(|here| path.strip_prefix(here).ok());
    tree::shown(below.filter(|below| !below.as_os_str().is_empty()).unwrap_or(path))
}

/// The beginning of a digest: enough to distinguish two.
pub fn short(digest: &Digest) -> String {
    digest.to_string()[..12].to_owned()
}

/// Who accepted a result, when and why.
pub fn accepted(record: &RunRecord) -> Option<String> {
    let accepted = record.accepted.as_ref()?;
    Some(format!("accepted {} by {}: {}", ago(record.started_ms), accepted.who, accepted.because))
}

/// A param that changed, with both values.
pub fn param(change: &ParamChange) -> String {
    let name = if change.name.is_empty() { "its params" } else { &change.name };
    match (&change.old, &change.new) {
        (Some(old), Some(new)) => format!("param {name}: {old} -> {new}"),
        (None, Some(new)) => format!("param {name}: new, {new}"),
        (Some(old), None) => format!("param {name}: removed, was {old}"),
        (None, None) => format!("param {name}"),
    }
}

/// A reason in one line.
pub fn cause(cause: &Cause) -> String {
    match cause {
        Cause::NeverRun => "no earlier run of it is known".to_owned(),
        Cause::NotRecorded => "not built in this cache; the evidence knows what it reads".to_owned(),
        Cause::Forced => "requested with --force".to_owned(),
        Cause::BytesMissing { from_evidence: true, needed_by } => {
            format!("the evidence knows its result but does not hold what `{needed_by}` needs of it")
        }
        Cause::BytesMissing { from_evidence: false, needed_by } => {
            format!("its result is known but no longer in the cache, and `{needed_by}` needs it")
        }
        Cause::Stage { old, new } => format!("its stage changed: {old} -> {new}"),
        Cause::Param(change) => param(change),
        Cause::Variable { name, change } => {
            let change = match change {
                VariableChange::Changed => "has another value",
                VariableChange::Set => "is set now and was not",
                VariableChange::Unset => "is no longer set",
                VariableChange::Declared => "counts now",
                VariableChange::NoLongerDeclared => "no longer counts",
            };
            format!("environment variable {name} {change}")
        }
        Cause::Input { port, source, old, new, files, .. } => {
            let what = match (old, new) {
                (None, Some(new)) => format!("is new, {}", short(new)),
                (Some(old), None) => format!("is gone, was {}", short(old)),
                (Some(old), Some(new)) if files.is_empty() => {
                    format!("changed: {} -> {}", short(old), short(new))
                }
                _ => format!("changed: {}", file_list(files)),
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
    fn clocks_and_rates_read_well() {
        assert_eq!([0.4, 40.0, 670.0, 3723.0].map(clock), ["0:00", "0:40", "11:10", "1:02:03"]);
        let shown = [0.0421, 1.0, 9.87, 12.34, 4520.4].map(|speed| rate(speed, Unit::Items));
        assert_eq!(shown, ["0.042", "1", "9.87", "12.3", "4520"]);
        assert_eq!(rate(35_140_000.0, Unit::Bytes), "35.1 MB");
    }

    #[test]
    fn durations_read_well() {
        let texts: Vec<String> = [0.001, 0.42, 12.34, 200.0, 7500.0].map(duration).to_vec();
        assert_eq!(texts, ["under 0.01 s", "0.42 s", "12.3 s", "3 min 20 s", "2 h 5 min"]);
    }
}
