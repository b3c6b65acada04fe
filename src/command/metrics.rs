//! What a command measures while it runs: JSON lines in the file that the variable [`METRICS`] names, and the tables of
//! DVCLive. It reads what is new since the last time and knows neither processes nor logs.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use serde_json::{Map, Value};
use stage_api::{Progress, Unit};

/// The variable with the path of the file for JSON lines.
pub const METRICS: &str = "REPRO_METRICS";
/// That file in the current directory of the command, which it may write in a sandbox too.
pub const FILE: &str = ".repro-metrics.jsonl";
/// Where DVCLive writes its tables, in the current directory or in the output folder.
const DVCLIVE_TABLES: &str = "plots/metrics";
/// The most that is read of a file at once, and the longest line, in bytes.
const MAX_READ: u64 = 1 << 20;

/// The metrics of a running command.
pub struct Metrics {
    lines: Tail,
    folders: [PathBuf; 3],
    tables: BTreeMap<PathBuf, Table>,
    /// Whether a line that is not valid was reported. Others are not.
    has_warned: bool,
}

impl Metrics {
    /// Those of a command that starts in `cwd` and writes to `out`.
    pub fn new(cwd: &Path, out: &Path) -> Self {
        let folders = [cwd.join("dvclive"), out.join("dvclive"), out.to_owned()];
        Self {
            lines: Tail::new(cwd.join(FILE)),
            folders: folders.map(|folder| folder.join(DVCLIVE_TABLES)),
            tables: BTreeMap::new(),
            has_warned: false,
        }
    }

    /// Reads what is new. At the end of the command the last line counts without its line feed too.
    pub fn read(&mut self, is_end: bool) -> Vec<Measured> {
        let mut found = Vec::new();
        for (number, line) in self.lines.new_lines(is_end) {
            match measured(&line, number) {
                Ok(values) => found.extend(values),
                Err(_) if self.has_warned => {}
                Err(problem) => {
                    self.has_warned = true;
                    let problem = format!(
                        "line {number} of {METRICS}: {problem}; further lines like it are not reported"
                    );
                    found.push(Measured::Invalid(problem));
                }
            }
        }
        for folder in &self.folders {
            for file in tables_below(folder) {
                let name = file.strip_prefix(folder).unwrap_or(&file).with_extension("");
                let name = name.to_string_lossy().into_owned();
                let table = self.tables.entry(file);
                let table =
                    table.or_insert_with_key(|file| Table { tail: Tail::new(file.clone()), head: None });
                found.extend(table.new_values(&name, is_end));
            }
        }
        found
    }
}

/// Something that a command measured.
pub enum Measured {
    /// A value.
    Value {
        /// Its name.
        name: String,
        /// At which unit of work.
        at: u64,
        /// The value; NaN where the command wrote no number.
        value: f64,
    },
    /// It is so far.
    Progress {
        /// Units of work done.
        done: u64,
        /// Units of work in all.
        total: u64,
    },
    /// What is wrong with a line.
    Invalid(String),
}

impl Measured {
    /// Passes it on.
    pub fn report(&self, progress: &dyn Progress) {
        match self {
            Self::Value { name, at, value } => progress.scalar(name, *at, *value),
            Self::Progress { done, total } => progress.advance(*done, *total, Unit::Items),
            Self::Invalid(problem) => progress.warn(problem),
        }
    }
}

/// What a line holds, the line `number` of its file. Without `step`, the number is the step.
fn measured(line: &str, number: u64) -> Result<Vec<Measured>, String> {
    let shown =
        || format!("{}{}", line.chars().take(60).collect::<String>(), if line.len() > 60 { "…" } else { "" });
    let not_json = |error: serde_json::Error| format!("it is not JSON ({error}): {}", shown());
    // Python writes numbers that JSON cannot have.
    let parsed = serde_json::from_str(line).or_else(|error| {
        let with_null = line.replace("-Infinity", "null").replace("Infinity", "null").replace("NaN", "null");
        serde_json::from_str(&with_null).map_err(|_| error)
    });
    let Value::Object(mut fields) = parsed.map_err(not_json)? else {
        return Err(format!("it is not a JSON object: {}", shown()));
    };
    let mut count = |name: &str| match fields.remove(name) {
        None => Ok(None),
        // Some programs count in floats.
        Some(value) => match value.as_u64().or(value.as_f64().filter(|v| *v >= 0.0).map(|v| v as u64)) {
            Some(number) => Ok(Some(number)),
            None => Err(format!("`{name}` is {value}, which is not a count")),
        },
    };
    let (step, total) = (count("step")?, count("total")?);
    let at = step.unwrap_or(number);
    let mut found: Vec<Measured> =
        total.map(|total| Measured::Progress { done: at.min(total), total }).into_iter().collect();
    values("", &fields, at, &mut found)?;
    Ok(found)
}

/// The numbers of an object, those of objects in it as `outer/inner`.
fn values(
    before: &str,
    fields: &Map<String, Value>,
    at: u64,
    found: &mut Vec<Measured>,
) -> Result<(), String> {
    for (name, value) in fields {
        let name = format!("{before}{name}");
        match value {
            Value::Object(inner) => values(&format!("{name}/"), inner, at, found)?,
            Value::Null => found.push(Measured::Value { name, at, value: f64::NAN }),
            value => match value.as_f64() {
                Some(value) => found.push(Measured::Value { name, at, value }),
                None => return Err(format!("`{name}` is {value}, which is not a number")),
            },
        }
    }
    Ok(())
}

/// The tables below a folder, in the order of their names. No link is followed.
fn tables_below(folder: &Path) -> Vec<PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for item in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let Ok(kind) = item.file_type() else { continue };
            let path = item.path();
            if kind.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "tsv") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// A table of DVCLive: columns `step` and the name of the value, and maybe `timestamp`.
struct Table {
    tail: Tail,
    /// The columns of the step and of the value.
    head: Option<(usize, usize)>,
}

impl Table {
    fn new_values(&mut self, name: &str, is_end: bool) -> Vec<Measured> {
        let mut found = Vec::new();
        for (_, line) in self.tail.new_lines(is_end) {
            let cells: Vec<&str> = line.split('\t').collect();
            let Some((step, value)) = self.head else {
                let column = |is_it: &dyn Fn(&str) -> bool| cells.iter().position(|cell| is_it(cell));
                let value = column(&|cell| cell != "step" && cell != "timestamp");
                self.head = column(&|cell| cell == "step").zip(value);
                continue;
            };
            let number = |at: usize| cells.get(at).and_then(|cell| cell.trim().parse::<f64>().ok());
            if let (Some(at), Some(value)) = (number(step), number(value)) {
                found.push(Measured::Value { name: name.to_owned(), at: at as u64, value });
            }
        }
        found
    }
}

/// A file that grows.
struct Tail {
    path: PathBuf,
    /// Up to where it was read, and the line that had no end there.
    at: u64,
    rest: Vec<u8>,
    lines: u64,
}

impl Tail {
    fn new(path: PathBuf) -> Self {
        Self { path, at: 0, rest: Vec::new(), lines: 0 }
    }

    /// The lines that are new and not empty, with their numbers from 1.
    fn new_lines(&mut self, is_end: bool) -> Vec<(u64, String)> {
        let mut found = Vec::new();
        // A file that cannot be read has no metrics.
        while self.read_some().is_ok_and(|read| read > 0) {
            self.split(&mut found, false);
        }
        if is_end {
            self.split(&mut found, true);
        }
        found
    }

    fn read_some(&mut self) -> io::Result<u64> {
        // The command may have put a link here, or a pipe, which would wait for a writer.
        let metadata = fs::symlink_metadata(&self.path)?;
        if !metadata.is_file() || metadata.len() <= self.at {
            return Ok(0);
        }
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
        let mut file = OpenOptions::new().read(true).custom_flags(flags as i32).open(&self.path)?;
        file.seek(SeekFrom::Start(self.at))?;
        let before = self.rest.len();
        file.take(MAX_READ).read_to_end(&mut self.rest)?;
        let read = (self.rest.len() - before) as u64;
        self.at += read;
        Ok(read)
    }

    fn split(&mut self, found: &mut Vec<(u64, String)>, is_end: bool) {
        let is_too_long = self.rest.len() as u64 > 2 * MAX_READ;
        let all = is_end || is_too_long;
        let end = if all {
            self.rest.len()
        } else {
            self.rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1)
        };
        let whole: Vec<u8> = self.rest.drain(..end).collect();
        for line in whole.split_inclusive(|byte| *byte == b'\n') {
            self.lines += 1;
            let line = String::from_utf8_lossy(line).trim().to_owned();
            if !line.is_empty() {
                found.push((self.lines, line));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;
    use std::sync::Mutex;

    use super::*;

    #[derive(Default)]
    struct Heard(Mutex<Vec<String>>);

    impl Progress for Heard {
        fn advance(&self, done: u64, total: u64, _: Unit) {
            self.0.lock().unwrap().push(format!("{done}/{total}"));
        }
        fn scalar(&self, name: &str, step: u64, value: f64) {
            self.0.lock().unwrap().push(format!("{name}@{step}={value}"));
        }
        fn note(&self, text: &str) {
            self.0.lock().unwrap().push(text.to_owned());
        }
        fn cancelled(&self) -> bool {
            false
        }
    }

    fn heard(metrics: &mut Metrics, is_end: bool) -> Vec<String> {
        let heard = Heard::default();
        metrics.read(is_end).iter().for_each(|measured| measured.report(&heard));
        heard.0.into_inner().unwrap()
    }

    #[test]
    fn lines_are_read_once_and_the_last_one_when_it_is_complete() {
        let cwd = tempfile::tempdir().unwrap();
        let mut metrics = Metrics::new(cwd.path(), &cwd.path().join("out"));
        let mut file = File::create(cwd.path().join(FILE)).unwrap();
        assert_eq!(heard(&mut metrics, false), [""; 0]);
        file.write_all(b"{\"step\": 10, \"total\": 20, \"loss\": 0.3}\n{\"step\": 20, \"lo").unwrap();
        assert_eq!(heard(&mut metrics, false), ["10/20", "loss@10=0.3"]);
        file.write_all(b"ss\": NaN}\n\n{\"val\": {\"auc\": 1}}").unwrap();
        assert_eq!(heard(&mut metrics, false), ["loss@20=NaN"]);
        assert_eq!(heard(&mut metrics, true), ["val/auc@4=1"]);
    }

    #[test]
    fn the_first_line_that_is_not_valid_is_reported_and_the_others_count() {
        let cwd = tempfile::tempdir().unwrap();
        let mut metrics = Metrics::new(cwd.path(), cwd.path());
        let lines = "{\"step\": 1, \"loss\": 2}\nloss=0.3\n[1]\n{\"step\": -1}\n{\"step\": 2, \"text\": \"x\"}\n{\"step\": 3.0, \"loss\": 1}";
        fs::write(cwd.path().join(FILE), lines).unwrap();
        let heard = heard(&mut metrics, true);
        assert_eq!(heard.len(), 3, "{heard:?}");
        assert!(heard[1].starts_with("line 2 of REPRO_METRICS: it is not JSON ("), "{heard:?}");
        assert!(heard[1].ends_with(": loss=0.3; further lines like it are not reported"), "{heard:?}");
        assert_eq!(heard[2], "loss@3=1");
        for (line, expected) in [
            ("[1]", "it is not a JSON object: [1]"),
            ("{\"step\": -1}", "`step` is -1, which is not a count"),
            ("{\"a\": {\"b\": \"x\"}}", "`a/b` is \"x\", which is not a number"),
        ] {
            assert_eq!(measured(line, 1).err().as_deref(), Some(expected));
        }
    }

    #[test]
    fn tables_of_dvclive_are_read_by_their_names() {
        let out = tempfile::tempdir().unwrap();
        let mut metrics = Metrics::new(&out.path().join("cwd"), out.path());
        let folder = out.path().join("plots/metrics/train");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("loss.tsv"), "timestamp\tstep\tloss\n1\t0\t0.5\n2\t1\t0.25\n").unwrap();
        fs::write(out.path().join("plots/metrics/acc.tsv"), "step\tacc\n0\t1\n").unwrap();
        assert_eq!(heard(&mut metrics, false), ["acc@0=1", "train/loss@0=0.5", "train/loss@1=0.25"]);
        assert_eq!(heard(&mut metrics, true), [""; 0]);
    }
}
