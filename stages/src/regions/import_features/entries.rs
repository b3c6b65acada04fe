//! Which entry of a file of features is a picture's: that of its name, else, where entries are numbers, that of its number,
//! as MMF looks into its LMDB. It knows names, not features.

use std::collections::{HashMap, HashSet};

use crate::formats::file_kind::nearest;

/// The entries that features have been kept under.
pub(super) struct Entries {
    keys: HashSet<String>,
    /// Keys by the last part of their path.
    by_name: HashMap<String, Vec<String>>,
    /// Whether a picture without an entry of its name may have that of its number.
    by_number: bool,
}

impl Entries {
    pub(super) fn new(keys: impl IntoIterator<Item = String>, by_number: bool) -> Self {
        let keys: HashSet<String> = keys.into_iter().collect();
        let mut by_name: HashMap<String, Vec<String>> = HashMap::new();
        for key in &keys {
            by_name.entry(file_of(key).to_owned()).or_default().push(key.clone());
        }
        by_name.values_mut().for_each(|keys| keys.sort());
        Self { keys, by_name, by_number }
    }

    /// The entry of each picture, in the same order.
    ///
    /// # Errors
    /// A picture without an entry, or that could have several; two pictures that have the same.
    pub(super) fn assign(&self, images: &[String]) -> Result<Vec<String>, String> {
        let (mut found, mut absent) = (Vec::with_capacity(images.len()), Vec::new());
        let mut owners: HashMap<&str, &str> = HashMap::new();
        for image in images {
            let Some(key) = self.find(image)? else {
                absent.push(image);
                continue;
            };
            if let Some(other) = owners.insert(key, image) {
                return Err(format!(
                    "`{other}` and `{image}` would both take the features of its entry `{key}`; \
                     name the entries after the pictures"
                ));
            }
            found.push(key.to_owned());
        }
        let Some(first) = absent.first() else { return Ok(found) };
        let (some, all, held) = (absent.len(), images.len(), self.keys.len());
        let looked_for: Vec<String> = self.names(first).iter().map(|name| format!("`{name}`")).collect();
        Err(format!(
            "has no features of {some} of {all} pictures, the first is `{first}`, looked for as {}; it holds {held} \
             entries{}",
            looked_for.join(", "),
            match nearest(stem_of(file_of(first)), self.keys.iter().map(String::as_str)) {
                names if names.is_empty() => String::new(),
                names => format!(", the most like it are {names}"),
            }
        ))
    }

    /// The entry of a picture.
    fn find(&self, image: &str) -> Result<Option<&str>, String> {
        let folder = &image[..image.len() - file_of(image).len()];
        for name in self.names(image) {
            if let Some(key) = self.keys.get(&format!("{folder}{name}")) {
                return Ok(Some(key));
            }
            match self.by_name.get(&name).map(Vec::as_slice) {
                None | Some([]) => {}
                Some([key]) => return Ok(Some(key)),
                Some([first, second, ..]) => {
                    return Err(format!("holds `{first}` and `{second}`: which one is that of `{image}`?"));
                }
            }
        }
        Ok(None)
    }

    /// What a picture's entry may be called, the closest name first: its file name, its stem, what is before the first
    /// dot of it, and its number.
    fn names(&self, image: &str) -> Vec<String> {
        let file = file_of(image);
        let before_dots = file.split('.').next().unwrap_or(file);
        let mut names = vec![file.to_owned(), stem_of(file).to_owned(), before_dots.to_owned()];
        if self.by_number {
            names.extend(number(before_dots));
        }
        names.dedup();
        names.retain(|name| !name.is_empty());
        names
    }
}

fn file_of(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn stem_of(file: &str) -> &str {
    file.rsplit_once('.').map_or(file, |(stem, _)| stem)
}

/// MMF's number of a picture, without leading zeros: what follows the last underscore of its stem.
fn number(stem: &str) -> Option<String> {
    let last = stem.rsplit('_').next().unwrap_or(stem);
    last.bytes().all(|byte| byte.is_ascii_digit()).then(|| last.parse::<u64>().ok())?.map(|n| n.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assign(keys: &[&str], by_number: bool, images: &[&str]) -> Result<Vec<String>, String> {
        let entries = Entries::new(keys.iter().map(|key| (*key).to_owned()), by_number);
        entries.assign(&images.iter().map(|image| (*image).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn the_name_comes_before_the_number() {
        for by_number in [false, true] {
            let found =
                assign(&["1", "mami_1", "01"], by_number, &["01.png", "1.png", "mami_1.png"]).unwrap();
            assert_eq!(found, ["01", "1", "mami_1"]);
            // Letter case and zeros are part of a name.
            assert!(assign(&["A"], by_number, &["a.png"]).is_err());
            // Of several endings and dots the whole name comes first.
            let keys = ["a.b", "a", "c.png"];
            assert_eq!(
                assign(&keys, by_number, &["a.b.jpg", "a.jpg", "c.png"]).unwrap(),
                ["a.b", "a", "c.png"]
            );
        }
        assert_eq!(assign(&["8291"], true, &["img/08291.png"]).unwrap(), ["8291"]);
        assert_eq!(assign(&["42"], true, &["COCO_val2014_000000000042.jpg"]).unwrap(), ["42"]);
        assert_eq!(assign(&["1023_a"], true, &["1023_a.b.jpg"]).unwrap(), ["1023_a"]);
        // A number is no name of a file.
        assert!(assign(&["1"], false, &["mami_1.png"]).is_err());
    }

    #[test]
    fn two_pictures_never_have_one_entry() {
        for (keys, by_number, images) in [
            (&["1"][..], true, ["2020_01.png", "2021_01.png"]),
            (&["1"], true, ["1.png", "mami_1.png"]),
            (&["1"], true, ["001.png", "01.png"]),
            (&["1"], false, ["1.jpg", "1.png"]),
            (&["a"], false, ["a.b.png", "a.c.png"]),
            (&["x/1"], false, ["x/1.png", "y/1.png"]),
        ] {
            let problem = assign(keys, by_number, &images).unwrap_err();
            assert!(images.iter().all(|image| problem.contains(&format!("`{image}`"))), "{problem}");
            assert!(problem.contains("both take"), "{problem}");
        }
    }

    #[test]
    fn entries_in_folders_are_found_where_there_is_one() {
        let keys = ["train/1", "dev/1", "dev/2"];
        assert_eq!(
            assign(&keys, false, &["2.png", "dev/1.png", "train/1.png"]).unwrap(),
            ["dev/2", "dev/1", "train/1"]
        );
        let problem = assign(&keys, false, &["1.png"]).unwrap_err();
        assert!(problem.contains("`dev/1` and `train/1`") && problem.contains("`1.png`"), "{problem}");
    }

    #[test]
    fn what_is_there_is_named() {
        let problem = assign(&["7", "00002_x", "00003"], true, &["00002.png", "7.png"]).unwrap_err();
        for word in ["1 of 2", "`00002.png`", "`00002`, `2`", "3 entries", "most like it are `00003`"] {
            assert!(problem.contains(word), "{problem}");
        }
    }
}
