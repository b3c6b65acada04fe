//! A run as TensorBoard reads it: one event file, scalars by update, and the settings for its HPARAMS tab. It knows
//! TFRecord's framing and the fields of `tensorboard.compat.proto`.

use std::path::{Path, PathBuf};

use serde_json::Value;
use stage_api::StageError;

use super::protobuf::Message;
use super::tracked::Tracked;
use super::write;

/// The file within the run's folder. Always the same, so that another export replaces it; TensorBoard wants `tfevents` in it.
const FILE: &str = "events.out.tfevents.repro";

/// `STATUS_SUCCESS` of the HPARAMS plugin.
const SUCCESS: u64 = 1;
/// `DT_FLOAT`.
const FLOAT: u64 = 1;

/// Writes the event file of the run into its folder below `logs`, and says where it is.
pub(super) fn export(run: &Tracked, logs: &Path) -> Result<PathBuf, StageError> {
    let path = logs.join(&run.name).join(FILE);
    write(&path, &events(run))?;
    Ok(path)
}

fn events(run: &Tracked) -> Vec<u8> {
    let mut file = Vec::new();
    let event = |ms: u64| Message::default().double(1, ms as f64 / 1e3);
    let begin = run.run.started_ms;
    frame(&mut file, &event(begin).text(3, "brain.Event:2"));
    let start = Message::default().double(5, begin as f64 / 1e3);
    let start = run.settings.iter().fold(start, |start, (name, value)| {
        start.message(1, Message::default().text(1, name).message(2, setting(value)))
    });
    frame(&mut file, &event(begin).message(5, hparams("session_start_info", 3, start)));
    let finals = run.finals.iter().map(|(name, value)| (run.best, name.as_str(), *value));
    let curves = run
        .curves
        .iter()
        .flat_map(|(at, values)| values.iter().map(|(name, value)| (*at, name.as_str(), *value)));
    for (update, name, value) in curves.chain(finals) {
        let value = Message::default().text(1, name).float(2, value as f32);
        let summary = Message::default().message(1, value);
        frame(&mut file, &event(run.at_ms(update)).number(2, update).message(5, summary));
    }
    let end = begin + (run.run.seconds * 1e3).round() as u64;
    let done = Message::default().number(1, SUCCESS).double(2, end as f64 / 1e3);
    frame(&mut file, &event(end).message(5, hparams("session_end_info", 4, done)));
    file
}

/// A summary for the HPARAMS plugin, which keeps its data where others describe theirs.
fn hparams(tag: &str, field: u32, info: Message) -> Message {
    let data = Message::default().message(field, info);
    let plugin = Message::default().text(1, "hparams").bytes(2, &data.0);
    // A tensor of no elements.
    let shape = Message::default().message(2, Message::default());
    let tensor = Message::default().number(1, FLOAT).message(2, shape);
    let value = Message::default()
        .text(1, &format!("_hparams_/{tag}"))
        .message(8, tensor)
        .message(9, Message::default().message(1, plugin));
    Message::default().message(1, value)
}

/// A `google.protobuf.Value`; what is neither number, text nor flag is written as text.
fn setting(value: &Value) -> Message {
    match value {
        Value::Number(number) => Message::default().double(2, number.as_f64().unwrap_or(f64::NAN)),
        Value::Bool(flag) => Message::default().number(4, u64::from(*flag)),
        Value::String(text) => Message::default().text(3, text),
        other => Message::default().text(3, &other.to_string()),
    }
}

/// A TFRecord: length and bytes, each with its checksum.
fn frame(file: &mut Vec<u8>, event: &Message) {
    let length = (event.0.len() as u64).to_le_bytes();
    file.extend(length);
    file.extend(masked(&length).to_le_bytes());
    file.extend(&event.0);
    file.extend(masked(&event.0).to_le_bytes());
}

/// CRC-32C, masked as TFRecord does it.
fn masked(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::super::tracked::sample;
    use super::*;

    #[test]
    fn the_first_record_is_the_one_that_tensorflow_writes() {
        // RFC 3720, B.4: CRC-32C of 32 zero bytes.
        assert_eq!(crc32c::crc32c(&[0; 32]), 0x8a91_36aa);
        // The length field of a record of 24 bytes, from a file that tensorboard's own writer wrote.
        let length = 24u64.to_le_bytes();
        assert_eq!(masked(&length).to_le_bytes(), [0xa3, 0x7f, 0x4b, 0x22]);
        let file = events(&sample());
        assert_eq!(&file[..12], &[&length[..], &[0xa3, 0x7f, 0x4b, 0x22]].concat()[..]);
        assert!(file[12..36].ends_with(b"\x1a\x0dbrain.Event:2"));
    }

    #[test]
    fn records_follow_each_other_without_a_gap_and_in_order() {
        let file = events(&sample());
        let (mut rest, mut records) = (&file[..], Vec::new());
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            assert_eq!(masked(&rest[..8]).to_le_bytes(), rest[8..12]);
            let event = &rest[12..12 + length];
            assert_eq!(masked(event).to_le_bytes(), rest[12 + length..16 + length]);
            records.push(event);
            rest = &rest[16 + length..];
        }
        // Version, settings, three values of curves, one final one, end.
        assert_eq!(records.len(), 7);
        let holds = |record: &[u8], text: &[u8]| record.windows(text.len()).any(|window| window == text);
        assert!(holds(records[1], b"_hparams_/session_start_info") && holds(records[6], b"session_end_info"));
        assert!(holds(records[5], b"best/roc_auc") && holds(records[4], &f32::NAN.to_le_bytes()));
        assert_eq!(file, events(&sample()), "the same run gives the same bytes");
    }
}
