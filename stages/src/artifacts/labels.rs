//! Labels: the class of a sample, or its classes where it may have several; and what a data set calls them.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::metrics::argmax_of;
use crate::metrics::multiclass::Predictions;

/// The most classes of a data set.
pub const MAX_CLASSES: usize = 64;

/// The classes that a sample has. In files a class is its number from 0, and a set of them is a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Label {
    /// One, of which it has exactly one.
    One(u8),
    /// Those that it has, which may be none.
    Several(ClassSet),
}

impl Label {
    /// Whether it has this class.
    pub fn has(self, class: usize) -> bool {
        match self {
            Self::One(own) => usize::from(own) == class,
            Self::Several(set) => set.has(class),
        }
    }
}

impl From<u8> for Label {
    fn from(class: u8) -> Self {
        Self::One(class)
    }
}

/// The number of a class; of several, the numbers with spaces between them.
impl fmt::Display for Label {
    fn fmt(&self, to: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::One(class) => class.fmt(to),
            Self::Several(set) => {
                let numbers: Vec<String> = set.classes().map(|class| class.to_string()).collect();
                to.write_str(&numbers.join(" "))
            }
        }
    }
}

/// A set of classes, each below [`MAX_CLASSES`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "Vec<u8>", try_from = "Vec<u8>")]
pub struct ClassSet(u64);

impl ClassSet {
    /// Whether `class` is one of them.
    pub fn has(self, class: usize) -> bool {
        class < MAX_CLASSES && self.0 >> class & 1 == 1
    }

    /// The classes in order.
    pub fn classes(self) -> impl Iterator<Item = u8> {
        (0u8..).take(MAX_CLASSES).filter(move |class| self.has(usize::from(*class)))
    }
}

/// Of classes below [`MAX_CLASSES`]; others are left out.
impl FromIterator<u8> for ClassSet {
    fn from_iter<I: IntoIterator<Item = u8>>(classes: I) -> Self {
        Self(
            classes
                .into_iter()
                .filter_map(|class| 1u64.checked_shl(class.into()))
                .fold(0, |set, bit| set | bit),
        )
    }
}

impl TryFrom<Vec<u8>> for ClassSet {
    type Error = String;

    fn try_from(classes: Vec<u8>) -> Result<Self, String> {
        match classes.iter().find(|class| usize::from(**class) >= MAX_CLASSES) {
            Some(class) => Err(format!("class {class} of at most {MAX_CLASSES}")),
            None => Ok(classes.into_iter().collect()),
        }
    }
}

impl From<ClassSet> for Vec<u8> {
    fn from(set: ClassSet) -> Self {
        set.classes().collect()
    }
}

/// The classes of a data set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Classes {
    /// Their names by number; none where class 1 is hateful and 0 is not.
    #[serde(rename = "classes", default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// Whether a sample may have several of them, or none.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub multi_label: bool,
}

impl Classes {
    /// What they are called where the data set does not say.
    pub const HATEFUL: [&str; 2] = ["not hateful", "hateful"];

    /// How many.
    pub fn count(&self) -> usize {
        if self.names.is_empty() { Self::HATEFUL.len() } else { self.names.len() }
    }

    /// Whether a sample has one of two: class 1 is what is looked for.
    pub fn is_binary(&self) -> bool {
        !self.multi_label && self.count() == 2
    }

    /// Their names.
    pub fn titles(&self) -> Vec<&str> {
        match &self.names[..] {
            [] => Self::HATEFUL.to_vec(),
            names => names.iter().map(String::as_str).collect(),
        }
    }

    /// Whether names make classes.
    ///
    /// # Errors
    /// A sentence.
    pub fn check(&self) -> Result<(), String> {
        let names = &self.names;
        if names.len() == 1 || names.len() > MAX_CLASSES {
            return Err(format!("`classes` names {} of them; name 2 to {MAX_CLASSES}, or none", names.len()));
        }
        if self.multi_label && names.is_empty() {
            return Err("a sample can only have several classes that `classes` names".to_owned());
        }
        if let Some(twice) = names.iter().enumerate().find(|(at, name)| names[..*at].contains(name)) {
            return Err(format!("`classes` names `{}` twice", twice.1));
        }
        if names.iter().any(|name| name.trim().is_empty() || name.chars().any(char::is_control)) {
            return Err("`classes` holds an empty name, or one of several lines".to_owned());
        }
        Ok(())
    }

    /// Whether a sample may have this label.
    pub fn may_have(&self, label: Label) -> bool {
        match label {
            Label::One(class) => !self.multi_label && usize::from(class) < self.count(),
            Label::Several(set) => {
                self.multi_label && set.classes().all(|class| usize::from(class) < self.count())
            }
        }
    }

    /// Which labels a sample may have, in words: `0 or 1`, `a number below 3`.
    pub fn in_words(&self) -> String {
        match (self.multi_label, self.count()) {
            (false, 2) => "0 or 1".to_owned(),
            (false, count) => format!("a number below {count}"),
            (true, count) => format!("a list of numbers below {count}"),
        }
    }

    /// Whether rows with these labels have a ROC-AUC: some class that some of them have and others do not.
    pub fn has_roc_auc(&self, labels: &[Label]) -> bool {
        (0..self.count()).any(|class| {
            let with = labels.iter().filter(|label| label.has(class)).count();
            with > 0 && with < labels.len()
        })
    }
}

/// The numbers of labels of which a sample has exactly one; of others 0.
pub fn numbers(labels: &[Label]) -> Vec<u8> {
    let number = |label: &Label| if let Label::One(class) = label { *class } else { 0 };
    labels.iter().map(number).collect()
}

/// The prediction of a row with these probabilities: the most probable class, or those that are more probable than not.
pub fn predicted_label(probabilities: &[f32], multi_label: bool) -> Label {
    if multi_label {
        let probable = |(class, p): (u8, &f32)| (*p > 0.5).then_some(class);
        Label::Several((0u8..).zip(probabilities).filter_map(probable).collect())
    } else {
        Label::One(argmax_of(probabilities) as u8)
    }
}

/// Whether each row has each of `classes`, row by row.
pub fn truth(classes: usize, labels: &[Label]) -> Vec<bool> {
    labels.iter().flat_map(|label| (0..classes).map(|class| label.has(class))).collect()
}

/// Rows with their labels, their predictions, and the score of each class, row by row.
pub fn scored(classes: usize, labels: &[Label], predicted: &[Label], scores: &[f32]) -> Predictions {
    match labels.first() {
        Some(Label::Several(_)) => {
            Predictions::multi_label(classes, &truth(classes, labels), &truth(classes, predicted), scores)
        }
        _ => Predictions::single_label(classes, &numbers(labels), &numbers(predicted), scores),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_a_number_or_a_list_in_files() {
        let set = Label::Several([5, 0, 63].into_iter().collect());
        for (label, json, text) in [(Label::One(2), "2", "2"), (set, "[0,5,63]", "0 5 63")] {
            assert_eq!(serde_json::to_string(&label).unwrap(), json);
            assert_eq!(serde_json::from_str::<Label>(json).unwrap(), label);
            assert_eq!(label.to_string(), text);
        }
        assert!(
            serde_json::from_str::<Label>("[64]").is_err() && serde_json::from_str::<Label>("-1").is_err()
        );
        assert!(set.has(5) && !set.has(1) && !set.has(1000) && Label::One(2).has(2));
    }

    #[test]
    fn classes_say_which_labels_there_may_be() {
        let named = |names: &[&str], multi_label: bool| Classes {
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            multi_label,
        };
        let none = Label::Several(ClassSet::default());
        let (binary, three) = (Classes::default(), named(&["a", "b", "c"], false));
        let several = named(&["a", "b", "c"], true);
        assert!(binary.is_binary() && !three.is_binary() && !named(&["a", "b"], true).is_binary());
        assert!(binary.may_have(Label::One(1)) && !binary.may_have(Label::One(2)) && !binary.may_have(none));
        assert!(three.may_have(Label::One(2)) && several.may_have(none) && !several.may_have(Label::One(0)));
        assert!(!several.may_have(Label::Several([3].into_iter().collect())));
        for (classes, problem) in [
            (named(&["a"], false), "names 1 of them"),
            (named(&["a", "a"], false), "`a` twice"),
            (named(&["a", " "], false), "an empty name"),
            (named(&[], true), "that `classes` names"),
        ] {
            assert!(classes.check().unwrap_err().contains(problem));
        }
        assert_eq!(truth(3, &[Label::One(2), Label::One(0)]), [false, false, true, true, false, false]);
        assert!(!three.has_roc_auc(&[Label::One(2); 3]) && several.has_roc_auc(&[none, Label::One(1)]));
    }
}
