//! A run as W&B keeps it offline, for `wandb sync` and `wandb leet`: a log of records in LevelDB's framing. It knows the
//! framing and the fields of `wandb_internal.proto`; it speaks to no server.
//!
//! ```text
//! <out>/offline-run-20260131_120000-0123abcd/run-0123abcd.wandb
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;
use stage_api::StageError;

use super::protobuf::Message;
use super::tracked::{Tracked, moment};
use super::write;

/// What the log begins with: a name, a magic number and the version of the format.
const HEADER: &[u8; 7] = b":W&B\xe1\xbe\0";
/// A record does not cross the border of a block; its pieces do.
const BLOCK: usize = 32 * 1024;
/// Checksum, length and kind of a piece.
const PIECE_HEADER: usize = 7;
/// The project that the run is uploaded into, unless `wandb sync --project` names another.
const PROJECT: &str = "repro";

/// Writes the run's folder below `out`, and says where it is.
pub(super) fn export(run: &Tracked, out: &Path) -> Result<PathBuf, StageError> {
    let id = id(run);
    let begin: String = moment(run.run.started_ms)
        .chars()
        .filter_map(|sign| if sign == 'T' { Some('_') } else { sign.is_ascii_digit().then_some(sign) })
        .collect();
    let folder = out.join(format!("offline-run-{begin}-{id}"));
    let mut log = Log::new();
    for (number, record) in (1..).zip(records(run)) {
        log.add(&record.number(1, number).0);
    }
    write(&folder.join(format!("run-{id}.wandb")), &log.0)?;
    Ok(folder)
}

/// Runs of the same key are the same run.
fn id(run: &Tracked) -> String {
    run.key.chars().take(8).collect()
}

/// The records of a run from begin to end.
fn records(run: &Tracked) -> Vec<Message> {
    let record = |field: u32, inner: Message| Message::default().message(field, inner);
    let versions = Message::default().text(1, concat!("repro ", env!("CARGO_PKG_VERSION"))).text(2, "0.0.1");
    let mut records = vec![record(21, Message::default().message(1, versions)), record(17, run_record(run))];
    for (&update, values) in &run.curves {
        let values = values.iter().map(|(name, value)| (name.as_str(), number(*value)));
        let row = values.chain([
            ("_step", update.to_string()),
            ("_runtime", number(run.after(update))),
            ("_timestamp", number(run.at_ms(update) as f64 / 1e3)),
        ]);
        let row = row.fold(Message::default(), |row, (name, json)| row.message(1, item(name, &json)));
        records.push(record(2, row.message(2, Message::default().number(1, update))));
    }
    let last = run.curves.values().flatten().cloned();
    // The later of two values counts.
    let summary: BTreeMap<String, f64> = last.chain(run.finals.iter().cloned()).collect();
    let summary = summary
        .iter()
        .fold(Message::default(), |summary, (name, value)| summary.message(1, item(name, &number(*value))));
    records.push(record(3, summary));
    records.push(record(18, Message::default().number(1, 0).number(2, run.run.seconds.round() as u64)));
    records
}

fn run_record(run: &Tracked) -> Message {
    let facts = [("step", &run.name), ("profile", &run.profile), ("key", &run.key), ("tree", &run.tree)];
    let facts = facts.map(|(name, value)| (format!("repro.{name}"), Value::from(value.as_str())));
    let config =
        run.settings.iter().chain(&facts).fold(Message::default(), |config, (name, value)| {
            config.message(1, item(name, &value.to_string()))
        });
    let (seconds, rest) = (run.run.started_ms / 1000, run.run.started_ms % 1000);
    Message::default()
        .text(1, &id(run))
        .text(3, PROJECT)
        .message(4, config)
        .text(6, &run.profile)
        .text(7, "train")
        .text(8, &run.name)
        .text(13, &run.run.host)
        .message(17, Message::default().number(1, seconds).number(2, rest * 1_000_000))
}

/// A `HistoryItem`, `SummaryItem` or `ConfigItem`, which have the same fields.
fn item(name: &str, json: &str) -> Message {
    // Config and history name a key whole or by its parts; a whole one may hold dots.
    Message::default().text(1, name).text(16, json)
}

/// A number in W&B's JSON, which knows those that are none.
fn number(value: f64) -> String {
    match value {
        _ if value.is_nan() => "NaN".to_owned(),
        _ if value.is_infinite() => if value > 0.0 { "Infinity" } else { "-Infinity" }.to_owned(),
        _ => Value::from(value).to_string(),
    }
}

/// A log in LevelDB's framing, with CRC-32 over kind and bytes of each piece.
struct Log(Vec<u8>);

impl Log {
    fn new() -> Self {
        Self(HEADER.to_vec())
    }

    fn add(&mut self, record: &[u8]) {
        let mut rest = record;
        let mut is_first = true;
        loop {
            let room = BLOCK - self.0.len() % BLOCK;
            if room < PIECE_HEADER {
                self.0.resize(self.0.len() + room, 0);
                continue;
            }
            let (piece, after) = rest.split_at(rest.len().min(room - PIECE_HEADER));
            let kind = match (is_first, after.is_empty()) {
                (true, true) => 1,
                (true, false) => 2,
                (false, false) => 3,
                (false, true) => 4,
            };
            let mut sum = crc32fast::Hasher::new();
            sum.update(&[kind]);
            sum.update(piece);
            self.0.extend(sum.finalize().to_le_bytes());
            self.0.extend((piece.len() as u16).to_le_bytes());
            self.0.push(kind);
            self.0.extend(piece);
            (rest, is_first) = (after, false);
            if rest.is_empty() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tracked::sample;
    use super::*;

    /// The records of a log, and the kinds of their pieces.
    fn read(log: &[u8]) -> (Vec<Vec<u8>>, Vec<u8>) {
        assert_eq!(&log[..7], HEADER);
        let (mut at, mut records, mut kinds) = (7, Vec::new(), Vec::new());
        while at < log.len() {
            if BLOCK - at % BLOCK < PIECE_HEADER {
                assert!(log[at..].iter().take(BLOCK - at % BLOCK).all(|byte| *byte == 0));
                at += BLOCK - at % BLOCK;
                continue;
            }
            let length = usize::from(u16::from_le_bytes([log[at + 4], log[at + 5]]));
            let end = at + PIECE_HEADER + length;
            assert!((end - 1) / BLOCK == at / BLOCK, "a piece is in one block");
            assert_eq!(crc32fast::hash(&log[at + 6..end]).to_le_bytes(), log[at..at + 4]);
            let kind = log[at + 6];
            if kind <= 2 {
                records.push(Vec::new());
            }
            records.last_mut().unwrap().extend(&log[at + PIECE_HEADER..end]);
            kinds.push(kind);
            at = end;
        }
        (records, kinds)
    }

    #[test]
    fn records_of_any_length_come_back_across_blocks() {
        // Every way to meet the border of a block: exactly, with no room for a header, with room for nothing but one.
        for left in 0..20 {
            let first = BLOCK - 7 - PIECE_HEADER - left;
            let records = [vec![1; first], vec![2; 5], vec![3; 3 * BLOCK], vec![], vec![4; 9]];
            let mut log = Log::new();
            records.iter().for_each(|record| log.add(record));
            let (found, kinds) = read(&log.0);
            assert!(found == records, "{left} bytes left");
            assert!(kinds.contains(&2) && kinds.contains(&3) && kinds.contains(&4));
        }
    }

    #[test]
    fn a_piece_is_framed_as_wandb_does_it() {
        let mut log = Log::new();
        log.add(b"123456789");
        // CRC-32 of a 1 and the digits, as Python's zlib.crc32(b"\x01123456789") gives it.
        assert_eq!(log.0, [&HEADER[..], &[0xc0, 0x2e, 0xb5, 0x21], &[9, 0, 1], b"123456789"].concat());
    }

    #[test]
    fn a_run_is_a_folder_named_by_its_begin_and_key() {
        let dir = tempfile::tempdir().unwrap();
        let folder = export(&sample(), dir.path()).unwrap();
        assert!(folder.ends_with("offline-run-20231114_221320-01234567"), "{}", folder.display());
        let log = std::fs::read(folder.join("run-01234567.wandb")).unwrap();
        let (records, _) = read(&log);
        // Header, run, two rows of history, summary, exit.
        assert_eq!(records.len(), 6);
        let holds =
            |record: &[u8], text: &str| record.windows(text.len()).any(|window| window == text.as_bytes());
        assert!(
            holds(&records[1], "0.005") && holds(&records[3], "NaN") && holds(&records[4], "best/roc_auc")
        );
        export(&sample(), dir.path()).unwrap();
        assert!(log == std::fs::read(folder.join("run-01234567.wandb")).unwrap());
    }
}
