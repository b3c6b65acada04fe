//! What a model gave each row of a split, with the truth: CSV `id,label,p0,p1,…`, a column for each class; `id,labels,…` where a
//! row may have several classes. The predictions in MMF's format lack the label and P(class 0), without which neither the ROC-AUC
//! over all columns nor a paired test can be computed.

use std::path::Path;

use super::labels::{ClassSet, Label};
use super::{ArtifactError, Result};

/// A scored row.
#[derive(Debug, Clone, PartialEq)]
pub struct Score {
    /// The sample's id.
    pub id: String,
    /// Its true class, or classes.
    pub label: Label,
    /// The probability of each class, a float32.
    pub probabilities: Vec<f32>,
}

impl Score {
    /// The probability of a class; 0 of one that there is not.
    pub fn of(&self, class: usize) -> f32 {
        self.probabilities.get(class).copied().unwrap_or_default()
    }
}

/// The file's name within an evaluate step's tree.
pub const FILE: &str = "scores.csv";

/// Writes `scores.csv` into `dir`.
pub fn write(dir: &Path, scores: &[Score]) -> Result<()> {
    let path = dir.join(FILE);
    let fail = |error: csv::Error| ArtifactError::new(&path, error);
    let mut file = csv::WriterBuilder::new().has_headers(false).from_path(&path).map_err(fail)?;
    let multi_label = matches!(scores.first(), Some(Score { label: Label::Several(_), .. }));
    let classes = scores.first().map_or(0, |score| score.probabilities.len());
    let header = ["id".to_owned(), if multi_label { "labels" } else { "label" }.to_owned()];
    file.write_record(header.into_iter().chain((0..classes).map(|class| format!("p{class}"))))
        .map_err(fail)?;
    for Score { id, label, probabilities } in scores {
        file.serialize((id, label.to_string(), probabilities)).map_err(fail)?;
    }
    file.flush().map_err(|error| ArtifactError::new(&path, error))
}

/// Reads `scores.csv` of `dir`.
///
/// # Errors
/// A file that cannot be read; columns, or a line, that [`write()`] does not write.
pub fn read(dir: &Path) -> Result<Vec<Score>> {
    let path = dir.join(FILE);
    let fail = |problem: String| ArtifactError::new(&path, problem);
    let mut file = csv::Reader::from_path(&path).map_err(|error| fail(error.to_string()))?;
    let header = file.headers().map_err(|error| fail(error.to_string()))?.clone();
    let classes = header.len().saturating_sub(2);
    let named = (0..classes).all(|class| header[class + 2] == format!("p{class}"));
    let multi_label = header.get(1) == Some("labels");
    if header.get(0) != Some("id")
        || !(multi_label || header.get(1) == Some("label"))
        || !named
        || classes < 2
    {
        let found = header.iter().collect::<Vec<_>>().join(",");
        return Err(fail(format!("its first line is `{found}`; expected `id,label,p0,p1`")));
    }
    let mut scores = Vec::new();
    for (number, row) in file.deserialize().enumerate() {
        let refuse = |problem: String| fail(format!("row {}: {problem}", number + 1));
        let (id, label, probabilities): (String, String, Vec<f32>) =
            row.map_err(|error: csv::Error| refuse(error.to_string()))?;
        let class = |text: &str| match text.parse::<u8>() {
            Ok(class) if usize::from(class) < classes => Ok(class),
            _ => Err(refuse(format!("its label is `{text}`, of {classes} classes"))),
        };
        let label = match multi_label {
            true => Label::Several(label.split_whitespace().map(class).collect::<Result<ClassSet>>()?),
            false => Label::One(class(&label)?),
        };
        scores.push(Score { id, label, probabilities });
    }
    Ok(scores)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let score = |label: Label, probabilities: &[f32]| Score {
            id: "a,1".to_owned(),
            label,
            probabilities: probabilities.to_vec(),
        };
        for (scores, text) in [
            (vec![score(Label::One(1), &[0.25, 0.75])], "id,label,p0,p1\n\"a,1\",1,0.25,0.75\n"),
            (vec![score(Label::One(2), &[1e-9, 0.5, 0.5])], "id,label,p0,p1,p2\n\"a,1\",2,1e-9,0.5,0.5\n"),
            (
                vec![
                    score(Label::Several([0, 2].into_iter().collect()), &[1.0, 0.0, 1.0]),
                    score(Label::Several(ClassSet::default()), &[0.0, 0.0, 0.0]),
                ],
                "id,labels,p0,p1,p2\n\"a,1\",0 2,1.0,0.0,1.0\n\"a,1\",,0.0,0.0,0.0\n",
            ),
        ] {
            write(dir.path(), &scores).unwrap();
            assert_eq!(std::fs::read_to_string(dir.path().join(FILE)).unwrap(), text);
            assert_eq!(read(dir.path()).unwrap(), scores);
        }
    }

    #[test]
    fn what_is_no_such_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for (text, problem) in [
            ("id,label,p0\n1,0,1\n", "its first line is `id,label,p0`"),
            ("id,label,p1,p0\n", "its first line is"),
            ("id,label,p0,p1\n1,2,0.5,0.5\n", "row 1: its label is `2`, of 2 classes"),
            ("id,labels,p0,p1\n1,0 x,0.5,0.5\n", "row 1: its label is `x`"),
            ("id,label,p0,p1\n1,0,0.5\n", "row 1"),
        ] {
            std::fs::write(dir.path().join(FILE), text).unwrap();
            let error = read(dir.path()).unwrap_err().problem;
            assert!(error.contains(problem), "{problem}: {error}");
        }
    }
}
