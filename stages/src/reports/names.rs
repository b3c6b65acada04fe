//! What tables and figures call data sets, modes, models, classes and samples: as the pipeline names them, and else as the runs do.
//! It knows no table.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::artifacts::history::PREDICTIONS;
use crate::artifacts::labels::Classes;
use crate::models::{Family, Mode};

/// Names, as the params of a step give them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Names {
    /// Data sets in their order, each with its title: `[("hmd", "Hateful Memes")]`. Others follow under their short names.
    pub data: Vec<(String, String)>,
    /// Training modes in their order, each with its title: `[("pe", "PE")]`. Where a run of one of them is not there, tables and
    /// figures say so; without names they have the modes that there are.
    pub modes: Vec<(String, String)>,
    /// The classes by label, as words before a sample: `["not hateful", "hateful"]`. Without names they are those of the data set.
    pub classes: Vec<String>,
    /// What a sample is called, and what several are: `("meme", "memes")`.
    pub samples: (String, String),
}

impl Names {
    /// The names in the canonical params of a step; none where it has none.
    pub fn of_params(params: &str) -> Self {
        #[derive(Deserialize)]
        struct Params {
            #[serde(default)]
            names: Names,
        }
        ron::from_str(params).map(|params: Params| params.names).unwrap_or_default()
    }

    /// Whether nothing is named.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether the names can be used.
    ///
    /// # Errors
    /// A sentence.
    pub fn check(&self) -> Result<(), String> {
        for (what, names) in [("data", &self.data), ("modes", &self.modes)] {
            let is_twice = |at: usize| names[..at].iter().any(|(short, _)| *short == names[at].0);
            if let Some(at) = (0..names.len()).find(|&at| is_twice(at)) {
                return Err(format!("`names` has `{}` twice in `{what}`", names[at].0));
            }
        }
        Classes { names: self.classes.clone(), multi_label: false }
            .check()
            .map_err(|problem| format!("`names`: {problem}"))
    }

    /// These names, with the data sets and the classes that runs have where nothing is named.
    pub fn with_runs<'a>(
        &self,
        datasets: impl Iterator<Item = &'a str>,
        mut classes: impl Iterator<Item = &'a Classes>,
    ) -> Self {
        let mut names = self.clone();
        let mut found: Vec<&str> = datasets.collect();
        found.sort_unstable();
        for short in found {
            if self.data_rank(short) == self.data.len()
                && names.data.last().is_none_or(|(last, _)| last != short)
            {
                names.data.push((short.to_owned(), short.to_owned()));
            }
        }
        if let Some(first) = classes.next().filter(|_| names.classes.is_empty())
            && classes.all(|other| other == first)
        {
            names.classes.clone_from(&first.names);
        }
        names
    }

    /// The title of a data set; the short name itself where it has none.
    pub fn data_title<'a>(&'a self, short: &'a str) -> &'a str {
        title(&self.data, short).unwrap_or(short)
    }

    /// The place of a data set; what is not named comes last.
    pub fn data_rank(&self, short: &str) -> usize {
        self.data.iter().position(|(other, _)| other == short).unwrap_or(self.data.len())
    }

    /// The title of a mode.
    pub fn mode_title<'a>(&'a self, mode: &'a str) -> &'a str {
        let usual = || Mode::ALL.into_iter().find(|usual| usual.as_str() == mode).map(Mode::title);
        title(&self.modes, mode).or_else(usual).unwrap_or(mode)
    }

    /// Whether runs of this mode are missed where they are not there.
    pub fn expects(&self, mode: &str) -> bool {
        title(&self.modes, mode).is_some()
    }

    /// The title of a kind of run: `PE`, `ViLBERT PE`; of predictions of others their name.
    pub fn kind_title(&self, kind: &str) -> String {
        let (model, mode) = parts_of_kind(kind);
        let mode = self.mode_title(mode);
        match model {
            None => mode.to_owned(),
            Some(model) if is_given(kind) => model.to_owned(),
            Some(model) => {
                let family = Family::ALL.into_iter().find(|family| family.as_str() == model);
                format!("{} {mode}", family.map_or(model, |family| family.title()))
            }
        }
    }

    /// The place of a kind of run: models in their order, in each the modes in theirs.
    pub fn kind_rank(&self, kind: &str) -> (usize, usize) {
        let (model, mode) = parts_of_kind(kind);
        let family = |model: &str| Family::ALL.iter().position(|family| family.as_str() == model);
        let usual = || Mode::ALL.iter().position(|usual| usual.as_str() == mode);
        let named = self.modes.iter().position(|(short, _)| short == mode);
        let rank = named.or_else(|| usual().filter(|_| self.modes.is_empty()));
        (
            model.map_or(0, |model| family(model).unwrap_or(Family::ALL.len())),
            rank.unwrap_or(self.modes.len().max(Mode::ALL.len())),
        )
    }

    /// The modes that are named, and whatever other kinds of run there are, in order.
    pub fn kinds<'a>(&'a self, found: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
        let mut kinds: Vec<&str> = self.modes.iter().map(|(mode, _)| mode.as_str()).chain(found).collect();
        kinds.sort_by_key(|kind| (self.kind_rank(kind), *kind));
        kinds.dedup();
        kinds
    }

    /// The name of a class: `hateful`.
    pub fn class(&self, label: u8) -> String {
        self.classes.get(usize::from(label)).cloned().unwrap_or_else(|| format!("class {label}"))
    }

    /// The names of these classes, which are those of runs.
    ///
    /// # Errors
    /// A sentence: others are named here.
    pub fn titles(&self, classes: &Classes) -> Result<Vec<String>, String> {
        let (named, found) = (self.classes.len(), classes.count());
        if named > 0 && named != found {
            return Err(format!("`names` has {named} classes, the runs have {found}"));
        }
        Ok((0..found as u8).map(|class| self.class(class)).collect())
    }

    /// Several samples: `memes`.
    pub fn samples(&self) -> &str {
        if self.samples.1.is_empty() { "rows" } else { &self.samples.1 }
    }

    /// Several samples of class 1: `hateful memes`.
    pub fn positives(&self) -> String {
        match self.samples.1.as_str() {
            "" => format!("rows of {}", self.as_noun()),
            samples => format!("{} {samples}", self.class(1)),
        }
    }

    /// A sample of class 1: `a hateful meme`.
    pub fn positive(&self) -> String {
        let class = self.class(1);
        match self.samples.0.as_str() {
            "" => format!("a row of {}", self.as_noun()),
            sample if class.starts_with(['a', 'e', 'i', 'o', 'u']) => format!("an {class} {sample}"),
            sample => format!("a {class} {sample}"),
        }
    }

    /// Samples of class 0: `other memes`.
    pub fn others(&self) -> String {
        format!("other {}", self.samples())
    }

    /// Several samples, as a heading: `Memes`.
    pub fn samples_title(&self) -> String {
        let mut letters = self.samples().chars();
        letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
    }

    /// Class 1 where it is no word before a sample: `class yes`.
    fn as_noun(&self) -> String {
        if self.classes.len() == 2 { format!("class {}", self.classes[1]) } else { self.class(1) }
    }
}

fn title<'a>(names: &'a [(String, String)], short: &str) -> Option<&'a str> {
    names.iter().find(|(other, _)| other == short).map(|(_, title)| title.as_str())
}

/// The model, where it is not the paper's first, and the mode of a kind of run
/// ([`RunInfo::kind`](crate::artifacts::history::RunInfo::kind)): of `vilbert-pe`, `vilbert` and `pe`.
pub fn parts_of_kind(kind: &str) -> (Option<&str>, &str) {
    kind.rsplit_once('-').map_or((None, kind), |(model, mode)| (Some(model), mode))
}

/// Whether a kind is of predictions of others, which have a name of their own in place of the model's.
pub fn is_given(kind: &str) -> bool {
    parts_of_kind(kind).1 == PREDICTIONS
}

/// Names for tests.
#[cfg(test)]
pub mod made_up {
    /// Params of a report stage of the profile `mini` with the names of `pipeline.ron`.
    pub fn params() -> String {
        let pipeline = include_str!("../../../pipeline.ron");
        let names = pipeline.split_once("names: (").and_then(|(_, rest)| rest.split_once(")),\n")).unwrap().0;
        format!("(profile: \"mini\", about: \"synthetic memes\", names: ({names}))")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(names: &[(&str, &str)]) -> Vec<(String, String)> {
        names.iter().map(|(short, title)| ((*short).to_owned(), (*title).to_owned())).collect()
    }

    #[test]
    fn kinds_of_runs_have_titles_and_an_order() {
        let named =
            Names { modes: pairs(&[("fc", "FC"), ("pe", "PE"), ("full", "Full-FT")]), ..Names::default() };
        let found = named.kinds(["vilbert-pe", "pe", "gpt-fc", "vilbert-fc"].into_iter());
        assert_eq!(found, ["fc", "pe", "full", "vilbert-fc", "vilbert-pe", "gpt-fc"]);
        assert_eq!(named.kind_title("full"), "Full-FT");
        assert_eq!(named.kind_title("vilbert-pe"), "ViLBERT PE");
        assert_eq!(named.kind_title("gpt-fc"), "gpt FC");
        assert_eq!(named.kind_title("hate-clipper-predictions"), "hate-clipper");
        assert!(named.kind_rank("vilbert-full") < named.kind_rank("hate-clipper-predictions"));
        // Without names the modes that there are, in the usual order and under the usual titles.
        let bare = Names::default();
        assert_eq!(bare.kinds(["full", "fc", "full"].into_iter()), ["fc", "full"]);
        assert_eq!(bare.kind_title("pe"), "PE");
        assert!(bare.expects("pe") != named.expects("pe"));
        let own = Names { modes: pairs(&[("full", "everything")]), ..Names::default() };
        assert_eq!(own.kinds(["fc", "full"].into_iter()), ["full", "fc"]);
        assert_eq!(own.kind_title("vilbert-full"), "ViLBERT everything");
    }

    #[test]
    fn what_is_not_named_is_called_as_the_runs_call_it() {
        let named = Names { data: pairs(&[("b", "Bees")]), ..Names::default() };
        let classes = Classes { names: vec!["no".to_owned(), "yes".to_owned()], multi_label: false };
        let names = named.with_runs(["c", "a", "b", "a"].into_iter(), [&classes, &classes].into_iter());
        assert_eq!(names.data, pairs(&[("b", "Bees"), ("a", "a"), ("c", "c")]));
        assert_eq!(
            (names.positives(), names.positive()),
            ("rows of class yes".into(), "a row of class yes".into())
        );
        assert_eq!(names.others(), "other rows");
        let differ = named.with_runs([].into_iter(), [&classes, &Classes::default()].into_iter());
        assert_eq!((differ.class(1), differ.positive()), ("class 1".into(), "a row of class 1".into()));
        let said = Names {
            classes: vec!["fine".into(), "odd".into()],
            samples: ("post".into(), "posts".into()),
            ..Names::default()
        };
        let said = said.with_runs([].into_iter(), [&classes].into_iter());
        assert_eq!(
            [said.positives(), said.positive(), said.others()],
            ["odd posts", "an odd post", "other posts"]
        );
    }

    #[test]
    fn names_that_cannot_be_told_apart_are_refused() {
        let twice = Names { data: pairs(&[("a", "A"), ("a", "B")]), ..Names::default() };
        assert!(twice.check().unwrap_err().contains("has `a` twice in `data`"));
        let one = Names { classes: vec!["a".into()], ..Names::default() };
        assert!(one.check().unwrap_err().contains("names 1 of them"));
        let two = Names { classes: vec!["a".into(), "b".into()], ..Names::default() };
        let three = Classes { names: ["x", "y", "z"].map(String::from).to_vec(), multi_label: false };
        assert_eq!(two.titles(&three), Err("`names` has 2 classes, the runs have 3".to_owned()));
        assert_eq!(Names::default().titles(&Classes::default()).unwrap(), ["class 0", "class 1"]);
        assert!(Names::default().check().is_ok() && Names::default().is_empty());
    }
}
