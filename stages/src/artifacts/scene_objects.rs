//! What is where on pictures whose making is known: the ground truth a detector is fitted to and judged by.
//!
//! ```text
//! <tree>/objects.jsonl   one picture a line: {"image": "00000.png", "objects": [["star", "red", x1, y1, x2, y2], …]}
//! <tree>/images/…        the pictures
//! ```

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Result, read_json_lines};

/// One picture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SceneObjects {
    /// File name of the picture within `images/`.
    pub image: String,
    /// What is on it.
    pub objects: Vec<SceneObject>,
}

/// One object: kind, colour, and the corners x1, y1, x2, y2 in pixels of the picture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SceneObject(pub String, pub String, pub f32, pub f32, pub f32, pub f32);

impl SceneObject {
    /// Kind and colour.
    pub fn name(&self) -> (&str, &str) {
        (&self.0, &self.1)
    }

    /// x1, y1, x2, y2.
    pub fn corners(&self) -> [f32; 4] {
        [self.2, self.3, self.4, self.5]
    }
}

/// Reads `objects.jsonl` of `dir`.
///
/// # Errors
/// A file that is missing or damaged; the line is named.
pub fn read(dir: &Path) -> Result<Vec<SceneObjects>> {
    read_json_lines(&dir.join("objects.jsonl"))
}
