//! Which column of a table holds what. It knows names, not rows.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::formats::dataset_files::PICTURE_COLUMNS;
use crate::formats::file_kind;

/// Names of columns. Without a name, the usual ones are looked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Columns {
    /// The id of a sample; `id`. Where there is none, the path of the picture is the id.
    pub id: Option<String>,
    /// The picture: its path, its name, or its name without the ending; `image`, `img` or `file_name`.
    pub image: Option<String>,
    /// The text; `text`.
    pub text: Option<String>,
    /// The class, by name or number; `label`. An empty one means that it is not known.
    pub label: Option<String>,
    /// The split: `train`, `val` (`validation`, `valid`, `dev`) or `test`; `split`.
    pub split: Option<String>,
    /// What must not be in two splits, such as the author of a meme.
    pub group: Option<String>,
}

/// Columns of one table, by place.
pub(super) struct Places {
    pub id: Option<usize>,
    pub image: usize,
    pub text: usize,
    pub label: usize,
    pub split: Option<usize>,
    pub group: Option<usize>,
}

impl Columns {
    /// Where these are among the columns of a table.
    ///
    /// # Errors
    /// A column that is named and not there, with the nearest; one that a table must have.
    pub(super) fn places(&self, columns: &[String]) -> Result<Places, String> {
        let at = |name: &str| columns.iter().position(|column| column == name);
        let listed = || {
            columns.iter().map(|name| format!("`{}`", file_kind::shown(name))).collect::<Vec<_>>().join(", ")
        };
        let absent = |name: &str| {
            let nearest = file_kind::nearest(name, columns.iter().map(String::as_str));
            let nearest = nearest.split(", ").next().unwrap_or_default().to_owned();
            format!("has no column `{name}`; the nearest is {nearest}, of {}", listed())
        };
        let find = |what: &str, named: &Option<String>, usual: &[&str], must: bool| match named {
            Some(name) => at(name).map(Some).ok_or_else(|| absent(name)),
            None => match usual.iter().find_map(|name| at(name)) {
                None if must => Err(format!(
                    "{}; name the one that holds the {what}: `columns: ({what}: \"…\")`",
                    absent(usual[0])
                )),
                found => Ok(found),
            },
        };
        let must = |what: &str, named: &Option<String>, usual: &[&str]| {
            find(what, named, usual, true).map(Option::unwrap_or_default)
        };
        Ok(Places {
            id: find("id", &self.id, &["id"], false)?,
            image: must("image", &self.image, &PICTURE_COLUMNS)?,
            text: must("text", &self.text, &["text"])?,
            label: must("label", &self.label, &["label"])?,
            split: find("split", &self.split, &["split"], false)?,
            group: find("group", &self.group, &[], false)?,
        })
    }
}
