//! What is printed of a result that the evidence alone knows: what evidence holds of it, and where the rest is.

use stage_api::Unit;

use super::format;
use crate::record::RunRecord;
use crate::workspace::Workspace;

/// What the evidence holds of a result: `the evidence holds history.json of it, not weights.safetensors`.
pub fn held(workspace: &Workspace, record: &RunRecord) -> String {
    let held: Vec<String> = workspace.evidence().held(record).into_iter().map(|(path, _)| path).collect();
    // The deeper paths of a record are those that other steps read.
    let top_level = record.outputs.keys().filter(|path| !path.contains('/'));
    let not_held: Vec<&str> = top_level.filter(|path| !held.contains(path)).map(String::as_str).collect();
    match (held.is_empty(), not_held.is_empty()) {
        (_, true) => "the evidence holds all of it".to_owned(),
        (true, _) => "the evidence holds its record, not its bytes".to_owned(),
        _ => format!("the evidence holds {} of it, not {}", held.join(", "), not_held.join(", ")),
    }
}

/// When, for how long and where a recorded execution ran; for an accepted result, who accepted it.
pub fn ran(record: &RunRecord) -> String {
    if let Some(accepted) = format::accepted(record) {
        return format!("was {accepted}");
    }
    let (when, time) = (format::ago(record.started_ms), format::duration(record.seconds));
    let (host, device) = (&record.machine.name, &record.machine.device);
    format!("ran {when}, took {time}, on {host} ({device})")
}

/// How many updates a recorded execution did, and how fast: `600 updates, 17.9 per second`.
pub fn throughput(record: &RunRecord) -> Option<String> {
    let work = record.work?;
    let rate = 1.0 / work.seconds_a_unit?;
    let updates = format::count(work.units as usize, "update");
    Some(format!("{updates}, {} per second", format::rate(rate, Unit::Items)))
}
