//! The tensors of a checkpoint, by what becomes of each: taken under a name of the model, or left, for a reason that the log
//! gives. It does not know the model's names.

use std::collections::{BTreeMap, HashMap, HashSet};

use candle_core::{DType, Tensor};
use stage_api::{Job, Progress, StageError};

use super::checkpoint::Checkpoint;
use super::from::usual;
use crate::formats::file_kind;
use crate::models::{Family, classifier_name};

/// Beginnings of names that a line of the log lists.
const LISTED: usize = 20;

/// What becomes of the tensors of a checkpoint.
pub(super) struct TensorNames {
    /// All, as the checkpoint spells them.
    all: Vec<String>,
    /// Those that are taken: spelt here and in the checkpoint.
    taken: BTreeMap<String, String>,
    /// Those that are left, by reason.
    left: BTreeMap<&'static str, Vec<String>>,
}

impl TensorNames {
    /// Takes those that `own` gives a name here.
    ///
    /// # Errors
    /// Two tensors that are the same part of the model.
    pub(super) fn sort(all: Vec<String>, own: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let (mut taken, mut left) = (BTreeMap::new(), BTreeMap::<_, Vec<String>>::new());
        for name in &all {
            let usual = usual(name);
            let Some(ours) = usual.as_deref().and_then(&own) else {
                left.entry(reason(usual.as_deref())).or_default().push(name.clone());
                continue;
            };
            if let Some(other) = taken.insert(ours, name.clone()) {
                return Err(format!("`{other}` and `{name}` are the same part of the model"));
            }
        }
        Ok(Self { all, taken, left })
    }

    /// Whether there is any that the model has.
    ///
    /// # Errors
    /// There is none; with some of the names.
    pub(super) fn check_any(&self, title: &str) -> Result<(), String> {
        if !self.taken.is_empty() {
            return Ok(());
        }
        let first: Vec<String> =
            self.all.iter().take(3).map(|name| format!("`{}`", file_kind::shown(name))).collect();
        let first = first.join(", ");
        Err(format!("holds no tensor of a {title}; the first of the {} names in it: {first}", self.all.len()))
    }

    /// Whether those that are taken are exactly the `expected`, of a `title` for a model of `family`; `surplus` says of another what
    /// is wrong with it.
    ///
    /// # Errors
    /// A tensor too many, or the first ones that are missing with the nearest names there are.
    pub(super) fn check(
        &self,
        expected: &[(String, Vec<usize>)],
        title: &str,
        family: Family,
        surplus: impl Fn(&str) -> &'static str,
    ) -> Result<(), String> {
        let known: HashSet<&str> = expected.iter().map(|(name, _)| name.as_str()).collect();
        if let Some((name, theirs)) = self.taken.iter().find(|(name, _)| !known.contains(name.as_str())) {
            return Err(format!("`{theirs}` {}", surplus(name)));
        }
        let names = expected.iter().map(|(name, _)| name.as_str());
        let missing: Vec<&str> = names.filter(|name| !self.taken.contains_key(*name)).collect();
        let Some(first) = missing.first() else { return Ok(()) };
        let as_model = missing.iter().filter(|name| self.all.iter().any(|other| other == *name)).count();
        let as_model = match as_model {
            0 => String::new(),
            count => format!(
                "; {count} of them have the names of a {}, which `from: \"bert\"` does not look for",
                family.title()
            ),
        };
        Err(format!(
            "{} of {} tensors of a {title} of these dimensions are missing, first {}; the nearest of the {} names in it: \
             {}{as_model}",
            missing.len(),
            expected.len(),
            missing.iter().take(3).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "),
            self.all.len(),
            file_kind::nearest(first, self.all.iter().map(String::as_str)),
        ))
    }

    /// The tensors that are taken, by their names here, in f32.
    ///
    /// # Errors
    /// A file that is cut off, or elements that cannot be read; a request to stop.
    pub(super) fn load(
        &self,
        checkpoint: Checkpoint,
        job: &Job,
        refuse: impl Fn(String) -> StageError,
    ) -> Result<HashMap<String, Tensor>, StageError> {
        let theirs: Vec<&str> = self.taken.values().map(String::as_str).collect();
        let mut found = checkpoint.load(&theirs).map_err(&refuse)?;
        let mut tensors = HashMap::new();
        for (name, theirs) in &self.taken {
            job.check_cancelled()?;
            let tensor = found
                .remove(theirs)
                .ok_or_else(|| refuse(format!("`{theirs}` is named but has no data: the file is cut off")))?;
            let tensor = tensor.to_dtype(DType::F32);
            let tensor = tensor.map_err(|error| refuse(format!("`{theirs}`: {error}")))?;
            tensors.insert(name.clone(), tensor);
        }
        Ok(tensors)
    }

    /// Writes into the log which tensors are left, a line for each reason.
    pub(super) fn note_left(&self, progress: &dyn Progress) {
        for (reason, names) in &self.left {
            let mut beginnings: BTreeMap<String, usize> = BTreeMap::new();
            for name in names {
                *beginnings.entry(beginning(name)).or_default() += 1;
            }
            let more = beginnings.len().saturating_sub(LISTED);
            let list = beginnings.iter().take(LISTED).map(|(name, count)| match count {
                1 => format!("`{name}`"),
                _ => format!("`{name}` ({count})"),
            });
            let list = list.collect::<Vec<_>>().join(", ");
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            progress.note(&format!("{} tensors not taken, {reason}: {list}{more}", names.len()));
        }
    }
}

/// Whether tensors have the shapes of the model.
///
/// # Errors
/// The first that has another, by name.
pub(super) fn check_shapes(
    tensors: &HashMap<String, Tensor>,
    expected: &[(String, Vec<usize>)],
) -> Result<(), String> {
    let wrong = expected.iter().find_map(|(name, shape)| {
        let dims = tensors.get(name).map(Tensor::dims)?;
        (dims != shape).then(|| format!("`{name}` has shape {dims:?}, the model needs {shape:?}"))
    });
    wrong.map_or(Ok(()), Err)
}

/// Why a tensor is left, by its usual name; a constant has none.
fn reason(name: Option<&str>) -> &'static str {
    let Some(name) = name else { return "a constant that models compute themselves" };
    if ["model.cls.", "bert.cls.", "cls."].iter().any(|prefix| name.starts_with(prefix)) {
        return "the head of pretraining";
    }
    match classifier_name(name) {
        Some(_) => "the classifier of a finished model, which `import-run` takes",
        None => "which the model does not have",
    }
}

/// A name, or what it and its neighbours begin with.
fn beginning(name: &str) -> String {
    let shown = file_kind::shown(name);
    match shown.match_indices('.').nth(2) {
        Some((at, _)) => format!("{}.*", &shown[..at]),
        None => shown,
    }
}
