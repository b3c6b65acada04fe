//! Predictions as MMF exports them: CSV `id,proba,label` with CR LF line ends. Those of others need `id` and `proba` alone.

use std::collections::HashMap;
use std::path::Path;

use csv::{StringRecord, Trim};
use serde::Serialize;

use super::{ArtifactError, Result};
use crate::formats::file_kind;
use crate::formats::table_file::{Record, Records};

/// One scored sample.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Prediction {
    /// The sample's id.
    pub id: String,
    /// P(class 1), a float32 softmax.
    pub proba: f32,
    /// Predicted class: argmax of the softmax.
    pub label: u8,
}

/// Writes predictions to the file `path`.
pub fn write(path: &Path, predictions: &[Prediction]) -> Result<()> {
    let fail = |error: &dyn std::fmt::Display| ArtifactError::new(path, error);
    let text = csv(predictions).map_err(|error| fail(&error))?;
    std::fs::write(path, text).map_err(|error| fail(&error))
}

/// Predictions as CSV.
///
/// # Errors
/// Only if memory fails.
pub fn csv(predictions: &[Prediction]) -> csv::Result<Vec<u8>> {
    let mut text = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(Vec::new());
    text.write_record(["id", "proba", "label"])?;
    for row in predictions {
        text.write_record([row.id.as_str(), &row.proba.to_string(), &row.label.to_string()])?;
    }
    text.into_inner().map_err(|error| error.into_error().into())
}

/// What some programs begin a text with, in UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A prediction of others.
#[derive(Debug, Clone, PartialEq)]
pub struct Given {
    /// The sample's id.
    pub id: String,
    /// P(class 1), from 0 to 1.
    pub proba: f64,
    /// Predicted class, where the file has one.
    pub label: Option<u8>,
}

/// Reads predictions of others from the file `path`: CSV whose first line names the columns, among them `id` and `proba`.
/// Each with its line, in the order of the file.
///
/// # Errors
/// A file of another kind; a line with an id that is empty or on an earlier line, too, with a `proba` that is not a number
/// from 0 to 1, a `label` that is neither 0 nor 1, or another number of fields than the first line.
pub fn read(path: &Path) -> Result<Vec<(usize, Given)>> {
    let fail = |problem: String| ArtifactError::new(path, problem);
    let bytes = std::fs::read(path).map_err(|error| fail(error.to_string()))?;
    if let Some(problem) = file_kind::placeholder(&bytes) {
        return Err(fail(problem));
    }
    let bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&bytes);
    let mut records = Records::new(bytes, b',', Trim::All);
    let names = records.next().transpose().map_err(fail)?.map(|record| record.fields).unwrap_or_default();
    let columns = columns(&names).map_err(fail)?;
    let (mut found, mut lines) = (Vec::new(), HashMap::new());
    for record in records {
        let Record { line, fields: record, .. } = record.map_err(fail)?;
        let at_line = |problem: String| fail(format!("line {line}: {problem}"));
        if record.len() != names.len() {
            return Err(at_line(format!("has {} fields, the first line {}", record.len(), names.len())));
        }
        let given = given(&record, &columns).map_err(at_line)?;
        if let Some(other) = lines.insert(given.id.clone(), line) {
            return Err(at_line(format!("`{}` is on line {other}, too", file_kind::shown(&given.id))));
        }
        found.push((line, given));
    }
    Ok(found)
}

/// The places of `id`, `proba` and, where there is one, `label`.
fn columns(names: &StringRecord) -> std::result::Result<(usize, usize, Option<usize>), String> {
    let place = |column: &str| {
        let mut places = names.iter().enumerate().filter(|(_, name)| *name == column).map(|(at, _)| at);
        match (places.next(), places.next()) {
            (_, Some(_)) => Err(format!("line 1 names `{column}` twice")),
            (place, None) => Ok(place),
        }
    };
    match (place("id")?, place("proba")?, place("label")?) {
        (Some(id), Some(proba), label) => Ok((id, proba, label)),
        _ => {
            let line = names.iter().collect::<Vec<_>>().join(",");
            Err(format!("line 1 is `{}`; it must name the columns `id` and `proba`", file_kind::shown(&line)))
        }
    }
}

fn given(
    record: &StringRecord,
    &(id, proba, label): &(usize, usize, Option<usize>),
) -> std::result::Result<Given, String> {
    let (id, proba, label) = (&record[id], &record[proba], label.map(|label| &record[label]));
    if id.is_empty() {
        return Err("`id` is empty".to_owned());
    }
    let number: f64 = proba
        .parse()
        .map_err(|_| format!("`proba` is `{}`, which is not a number", file_kind::shown(proba)))?;
    if !(0.0..=1.0).contains(&number) {
        return Err(format!("`proba` is {number}; it must be a probability, from 0 to 1"));
    }
    let label = match label {
        None => None,
        Some("0") => Some(0),
        Some("1") => Some(1),
        Some(other) => return Err(format!("`label` is `{}`; it must be 0 or 1", file_kind::shown(other))),
    };
    Ok(Given { id: id.to_owned(), proba: number, label })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &[u8]) -> std::result::Result<Vec<(usize, Given)>, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        read(file.path()).map_err(|error| error.problem)
    }

    #[test]
    fn files_of_mmf_pandas_and_spreadsheets_are_read() {
        let given = |id: &str, proba: f64, label| Given { id: id.to_owned(), proba, label };
        let mmf = b"id,proba,label\r\n8291,0.25,0\r\n46971,1e-3,1\r\n";
        let expected = vec![(2, given("8291", 0.25, Some(0))), (3, given("46971", 0.001, Some(1)))];
        assert_eq!(read_text(mmf).unwrap(), expected);
        // With a byte order mark, quotes, a column of its own, blank lines and no line end at the end.
        let other = b"\xef\xbb\xbf\"proba\", \"note\",\"id\"\n\n0.25,\"a, b\n\",\"8291\"\n 1 ,,46971";
        assert_eq!(
            read_text(other).unwrap(),
            vec![(3, given("8291", 0.25, None)), (5, given("46971", 1.0, None))]
        );
        assert_eq!(read_text(b"id,proba\n").unwrap(), vec![]);
        // What is written is read.
        let file = tempfile::NamedTempFile::new().unwrap();
        let own = [Prediction { id: "a,\"b".to_owned(), proba: 0.1, label: 0 }];
        write(file.path(), &own).unwrap();
        assert_eq!(read(file.path()).unwrap(), vec![(2, given("a,\"b", 0.1, Some(0)))]);
    }

    #[test]
    fn what_cannot_be_read_is_named_with_its_line() {
        for (text, problem) in [
            (&b"8291,0.5\n"[..], "line 1 is `8291,0.5`; it must name the columns `id` and `proba`"),
            (b"id;proba\n1;0.5\n", "line 1 is `id;proba`"),
            (b"id,proba,proba\n", "line 1 names `proba` twice"),
            (b"id,proba\n1,0.5\n2,0.5,1\n", "line 3: has 3 fields, the first line 2"),
            (b"id,proba\n\"1,0.5\n2,0.5\n", "line 2: has 1 fields"),
            (b"id,proba\r\n1,0.5\r\n1,0.6\r\n", "line 3: `1` is on line 2, too"),
            (b"id,proba\n,0.5\n", "line 2: `id` is empty"),
            (b"id,proba\n1,high\n", "line 2: `proba` is `high`, which is not a number"),
            (b"id,proba\n1,\n", "line 2: `proba` is ``, which is not a number"),
            (b"id,proba\n1,\"0,5\"\n", "line 2: `proba` is `0,5`, which is not a number"),
            (b"id,proba\n1,1.5\n", "line 2: `proba` is 1.5; it must be a probability"),
            (b"id,proba\n1,-1e-9\n", "it must be a probability"),
            (b"id,proba\n1,NaN\n", "`proba` is NaN"),
            (b"id,proba\n1,inf\n", "`proba` is inf"),
            (b"id,proba,label\n1,0.5,yes\n", "line 2: `label` is `yes`"),
            (b"id,proba\n\xff,0.5\n", "line 2"),
            (b"", "is empty"),
            (b"<!DOCTYPE html><title>Sign in</title>", "is a web page (`Sign in`)"),
        ] {
            let error = read_text(text).unwrap_err();
            assert!(error.contains(problem), "{problem}: {error}");
        }
    }
}
