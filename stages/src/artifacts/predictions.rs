//! Predictions as MMF exports them: CSV `id,proba,label` with CR LF line ends. Those of others need `id` and `proba` alone. Of more
//! classes than two it is `id,label,p0,p1,…`, of others `id` and the probabilities.

use std::collections::HashMap;
use std::path::Path;

use csv::{StringRecord, Trim};
use serde::Serialize;
use serde::ser::SerializeStruct;

use super::labels::{Classes, Label};
use super::{ArtifactError, Result};
use crate::formats::file_kind;
use crate::formats::table_file::{Record, Records};

/// One scored sample.
#[derive(Debug, Clone, PartialEq)]
pub struct Prediction {
    /// The sample's id.
    pub id: String,
    /// The probability of each class, a float32.
    pub probabilities: Vec<f32>,
    /// The predicted class, or classes.
    pub label: Label,
}

impl Prediction {
    /// P(class 1) and the predicted class, where there are two.
    pub fn binary(&self) -> Option<(f32, u8)> {
        match (&self.probabilities[..], self.label) {
            (&[_, proba], Label::One(label)) => Some((proba, label)),
            _ => None,
        }
    }
}

/// With the names of MMF where there are two classes.
impl Serialize for Prediction {
    fn serialize<S: serde::Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        let mut fields = to.serialize_struct("Prediction", 3)?;
        fields.serialize_field("id", &self.id)?;
        match self.binary() {
            Some((proba, label)) => {
                fields.serialize_field("proba", &proba)?;
                fields.serialize_field("label", &label)?;
            }
            None => {
                fields.serialize_field("label", &self.label)?;
                fields.serialize_field("probabilities", &self.probabilities)?;
            }
        }
        fields.end()
    }
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
    match predictions.first().filter(|first| first.binary().is_none()) {
        None => text.write_record(["id", "proba", "label"])?,
        Some(first) => {
            let multi_label = matches!(first.label, Label::Several(_));
            let names = ["id".to_owned(), if multi_label { "labels" } else { "label" }.to_owned()];
            let classes = (0..first.probabilities.len()).map(|class| format!("p{class}"));
            text.write_record(names.into_iter().chain(classes))?;
        }
    }
    for row in predictions {
        match row.binary() {
            Some((proba, label)) => {
                text.write_record([row.id.as_str(), &proba.to_string(), &label.to_string()])?;
            }
            None => {
                let probabilities = row.probabilities.iter().map(f32::to_string);
                text.write_record([row.id.clone(), row.label.to_string()].into_iter().chain(probabilities))?;
            }
        }
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
    /// P(class 1) of two classes; of others the probability of each. From 0 to 1.
    pub probabilities: Vec<f64>,
    /// The predicted class, or classes, where the file has them.
    pub label: Option<Label>,
}

/// The probabilities of a row of which there is one class may add up to 1 only so nearly: they are rounded.
const ROUNDING: f64 = 0.01;

/// Reads predictions of others from the file `path`: CSV whose first line names the columns, among them `id` and `proba`, or `p0`,
/// `p1` and so on for `classes` that are not two. Each with its line, in the order of the file.
///
/// # Errors
/// A file of another kind; a line with an id that is empty or on an earlier line, too, with a probability that is not a number
/// from 0 to 1, a `label` that is no class, or another number of fields than the first line.
pub fn read(path: &Path, classes: &Classes) -> Result<Vec<(usize, Given)>> {
    let fail = |problem: String| ArtifactError::new(path, problem);
    let bytes = std::fs::read(path).map_err(|error| fail(error.to_string()))?;
    if let Some(problem) = file_kind::placeholder(&bytes) {
        return Err(fail(problem));
    }
    let bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&bytes);
    let mut records = Records::new(bytes, b',', Trim::All);
    let names = records.next().transpose().map_err(fail)?.map(|record| record.fields).unwrap_or_default();
    let columns = Columns::find(&names, classes).map_err(fail)?;
    let (mut found, mut lines) = (Vec::new(), HashMap::new());
    for record in records {
        let Record { line, fields: record, .. } = record.map_err(fail)?;
        let at_line = |problem: String| fail(format!("line {line}: {problem}"));
        if record.len() != names.len() {
            return Err(at_line(format!("has {} fields, the first line {}", record.len(), names.len())));
        }
        let given = columns.given(&record, classes).map_err(at_line)?;
        if let Some(other) = lines.insert(given.id.clone(), line) {
            return Err(at_line(format!("`{}` is on line {other}, too", file_kind::shown(&given.id))));
        }
        found.push((line, given));
    }
    Ok(found)
}

/// Where the columns are.
struct Columns {
    id: usize,
    /// With their names.
    probabilities: Vec<(String, usize)>,
    label: Option<usize>,
}

impl Columns {
    /// The columns that predictions of `classes` have.
    fn find(names: &StringRecord, classes: &Classes) -> std::result::Result<Self, String> {
        let place = |column: &str| {
            let mut places = names.iter().enumerate().filter(|(_, name)| *name == column).map(|(at, _)| at);
            match (places.next(), places.next()) {
                (_, Some(_)) => Err(format!("line 1 names `{column}` twice")),
                (place, None) => Ok(place),
            }
        };
        let expected: Vec<String> = match classes.is_binary() {
            true => vec!["proba".to_owned()],
            false => (0..classes.count()).map(|class| format!("p{class}")).collect(),
        };
        let mut probabilities = Vec::new();
        for name in &expected {
            probabilities.extend(place(name)?.map(|at| (name.clone(), at)));
        }
        let label = place(if classes.multi_label { "labels" } else { "label" })?;
        match place("id")?.filter(|_| probabilities.len() == expected.len()) {
            Some(id) => Ok(Self { id, probabilities, label }),
            None => {
                let line = names.iter().collect::<Vec<_>>().join(",");
                let line = file_kind::shown(&line);
                Err(format!(
                    "line 1 is `{line}`; it must name the columns `id` and `{}`",
                    expected.join("`, `")
                ))
            }
        }
    }

    fn given(&self, record: &StringRecord, classes: &Classes) -> std::result::Result<Given, String> {
        let id = &record[self.id];
        if id.is_empty() {
            return Err("`id` is empty".to_owned());
        }
        let mut probabilities = Vec::new();
        for (name, at) in &self.probabilities {
            let text = &record[*at];
            let number: f64 = text
                .parse()
                .map_err(|_| format!("`{name}` is `{}`, which is not a number", file_kind::shown(text)))?;
            if !(0.0..=1.0).contains(&number) {
                return Err(format!("`{name}` is {number}; it must be a probability, from 0 to 1"));
            }
            probabilities.push(number);
        }
        let sum: f64 = probabilities.iter().sum();
        if !classes.multi_label && !classes.is_binary() && (sum - 1.0).abs() > ROUNDING {
            return Err(format!(
                "its probabilities add up to {sum}; of classes of which a row has one it is 1"
            ));
        }
        let class = |text: &str| match text.parse::<u8>() {
            Ok(class) if usize::from(class) < classes.count() => Ok(class),
            _ => Err(format!("`label` is `{}`; it must be {}", file_kind::shown(text), classes.in_words())),
        };
        let label = match self.label.map(|at| &record[at]) {
            None => None,
            Some(text) if classes.multi_label => {
                let set: std::result::Result<_, String> = text.split_whitespace().map(class).collect();
                Some(Label::Several(set?))
            }
            Some(text) => Some(Label::One(class(text)?)),
        };
        Ok(Given { id: id.to_owned(), probabilities, label })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &[u8]) -> std::result::Result<Vec<(usize, Given)>, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        read(file.path(), &Classes::default()).map_err(|error| error.problem)
    }

    #[test]
    fn files_of_mmf_pandas_and_spreadsheets_are_read() {
        let given = |id: &str, proba: f64, label: Option<u8>| Given {
            id: id.to_owned(),
            probabilities: vec![proba],
            label: label.map(Label::One),
        };
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
        let own =
            [Prediction { id: "a,\"b".to_owned(), probabilities: vec![0.9, 0.1], label: Label::One(0) }];
        write(file.path(), &own).unwrap();
        assert_eq!(read(file.path(), &Classes::default()).unwrap(), vec![(2, given("a,\"b", 0.1, Some(0)))]);
    }

    #[test]
    fn predictions_of_more_classes_have_a_column_for_each() {
        let of =
            |multi_label: bool| Classes { names: ["a", "b", "c"].map(String::from).to_vec(), multi_label };
        let file = tempfile::NamedTempFile::new().unwrap();
        let several = |classes: &[u8]| Label::Several(classes.iter().copied().collect());
        for (multi_label, label, probabilities, text) in [
            (false, Label::One(2), vec![0.25, 0.25, 0.5], "id,label,p0,p1,p2\r\nx,2,0.25,0.25,0.5\r\n"),
            (true, several(&[0, 1]), vec![1.0, 0.75, 0.0], "id,labels,p0,p1,p2\r\nx,0 1,1,0.75,0\r\n"),
            (true, several(&[]), vec![0.0; 3], "id,labels,p0,p1,p2\r\nx,,0,0,0\r\n"),
        ] {
            let own = [Prediction { id: "x".to_owned(), probabilities: probabilities.clone(), label }];
            write(file.path(), &own).unwrap();
            assert_eq!(std::fs::read_to_string(file.path()).unwrap(), text);
            let probabilities = probabilities.into_iter().map(f64::from).collect();
            let expected = Given { id: "x".to_owned(), probabilities, label: Some(label) };
            assert_eq!(read(file.path(), &of(multi_label)).unwrap(), vec![(2, expected)]);
        }
        let json = |prediction: &Prediction| serde_json::to_string(prediction).unwrap();
        let own = Prediction { id: "x".to_owned(), probabilities: vec![0.75, 0.25], label: Label::One(0) };
        assert_eq!(json(&own), r#"{"id":"x","proba":0.25,"label":0}"#);
        let own = Prediction { label: several(&[0]), ..own };
        assert_eq!(json(&own), r#"{"id":"x","label":[0],"probabilities":[0.75,0.25]}"#);
        for (text, problem) in [
            ("id,proba\n1,0.5\n", "it must name the columns `id` and `p0`, `p1`, `p2`"),
            ("id,p0,p1,p2\n1,0.5,0.5,0.5\n", "line 2: its probabilities add up to 1.5"),
            ("id,label,p0,p1,p2\n1,3,0,0,1\n", "`label` is `3`; it must be a number below 3"),
        ] {
            std::fs::write(file.path(), text).unwrap();
            let error = read(file.path(), &of(false)).unwrap_err().problem;
            assert!(error.contains(problem), "{problem}: {error}");
        }
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
