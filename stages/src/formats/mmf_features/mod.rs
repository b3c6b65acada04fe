//! Region features as MMF keeps them: a pickled dict a picture, in the values of an LMDB or, in two halves, in
//! `<stem>.npy` and `<stem>_info.npy`. It knows that form, not where the bytes come from.
//!
//! The dict has `features` (N × D), and may have `bbox` (N × 4, x1 y1 x2 y2 in pixels), `objects` (N), `num_boxes`,
//! `image_width`, `image_height`, `cls_prob` and `feature_path`. Arrays are numpy's, pickled by protocols 1 to 5.

use std::borrow::Cow;

use super::npy::{Array, Kind, Npy};
use super::pickle::{Pickle, Value};

/// The features of one picture.
#[derive(Debug, Clone, PartialEq)]
pub struct MmfFeatures<'a> {
    /// N × D.
    pub features: Array<'a>,
    /// What else is known of the picture.
    pub info: MmfInfo<'a>,
}

/// What is known of a picture in addition to its features.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MmfInfo<'a> {
    /// N × 4: x1, y1, x2, y2 in pixels of the original picture.
    pub boxes: Option<Array<'a>>,
    /// N: the best class of each box, 0-based, background left out.
    pub objects: Option<Array<'a>>,
    /// How many boxes have a score; not how many rows are there.
    pub num_boxes: Option<usize>,
    /// Width and height of the original picture.
    pub size: Option<(u32, u32)>,
    /// N × C: the probability of each class, background left out.
    pub probabilities: Option<Array<'a>>,
}

/// Reads a value of the LMDB.
///
/// # Errors
/// Another form, or parts that do not fit together.
pub fn read_value(bytes: &[u8]) -> Result<MmfFeatures<'_>, String> {
    let (pickle, _) = Pickle::read(bytes)?;
    let root = pickle.root();
    let features = pickle.get(root, "features").ok_or("is not a dict with `features`")?;
    let features = array(&pickle, features).map_err(|problem| format!("`features`: {problem}"))?;
    together(features, info(&pickle, root)?)
}

/// Reads the two files of a picture.
///
/// # Errors
/// As [`read_value`].
pub fn read_files<'a>(features: &'a [u8], info_file: Option<&'a [u8]>) -> Result<MmfFeatures<'a>, String> {
    let Npy::Array(features) = super::npy::read(features)? else {
        return Err("holds objects where numbers were expected".to_owned());
    };
    let info = match info_file.map(super::npy::read).transpose()? {
        None => MmfInfo::default(),
        Some(Npy::Objects(_, bytes)) => {
            let (pickle, _) = Pickle::read(bytes)?;
            // An array without dimensions around the dict.
            let mut value = pickle.root();
            if let Some(Ok(Content::Objects(list))) = pickled_array(&pickle, value) {
                value = pickle.items(list).and_then(|mut items| items.next()).unwrap_or(value);
            }
            info(&pickle, value)?
        }
        Some(Npy::Array(_)) => return Err("holds numbers where an info dict was expected".to_owned()),
    };
    together(features, info)
}

/// The keys of the LMDB, the value of its entry `keys`: a pickled list of bytes.
///
/// # Errors
/// Another form.
pub fn read_keys(bytes: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let (pickle, _) = Pickle::read(bytes)?;
    let key = |value: &Value| match value {
        Value::Bytes(bytes) => Ok(bytes.to_vec()),
        Value::Text(text) => Ok(text.as_bytes().to_vec()),
        _ => Err("holds a key that is not text".to_owned()),
    };
    pickle.items(pickle.root()).ok_or("is not a list of keys")?.map(key).collect()
}

fn info<'a>(pickle: &Pickle<'a>, dict: &Value<'a>) -> Result<MmfInfo<'a>, String> {
    if !matches!(dict, Value::Dict(_)) {
        return Err("the info is not a dict".to_owned());
    }
    let arrays = |name: &str| match pickle.get(dict, name) {
        None | Some(Value::None) => Ok(None),
        Some(value) => array(pickle, value).map(Some).map_err(|problem| format!("`{name}`: {problem}")),
    };
    let number = |name: &str| match pickle.get(dict, name) {
        None | Some(Value::None) => Ok(None),
        Some(value) => match whole(pickle, value) {
            Some(number) if number >= 0 => Ok(Some(number as usize)),
            _ => Err(format!("`{name}` is not a count")),
        },
    };
    let side = |name: &str| Ok::<_, String>(number(name)?.and_then(|side| u32::try_from(side).ok()));
    Ok(MmfInfo {
        boxes: arrays("bbox")?,
        objects: arrays("objects")?,
        num_boxes: number("num_boxes")?,
        size: side("image_width")?.zip(side("image_height")?),
        probabilities: arrays("cls_prob")?,
    })
}

fn together<'a>(features: Array<'a>, info: MmfInfo<'a>) -> Result<MmfFeatures<'a>, String> {
    let &[rows, width] = features.shape.as_slice() else {
        return Err(format!("`features` has the shape {:?}; it must be rows × width", features.shape));
    };
    // The file says how many such rows there are, without a byte for any.
    if width == 0 && rows > 0 {
        return Err(format!("`features` has the shape {:?}: rows without numbers", features.shape));
    }
    if info.boxes.as_ref().is_some_and(|boxes| boxes.shape != [rows, 4]) {
        return Err(format!("`bbox` does not fit {rows} rows of features"));
    }
    if info.objects.as_ref().is_some_and(|objects| objects.shape != [rows]) {
        return Err(format!("`objects` does not fit {rows} rows of features"));
    }
    if info.probabilities.as_ref().is_some_and(|all| all.shape.len() != 2 || all.shape[0] != rows) {
        return Err(format!("`cls_prob` does not fit {rows} rows of features"));
    }
    Ok(MmfFeatures { features, info })
}

/// A whole number, Python's or one of numpy's own (`scalar(dtype, bytes)`).
fn whole(pickle: &Pickle, value: &Value) -> Option<i64> {
    match value {
        Value::Int(number) => Some(*number),
        Value::Object { callable, arguments, .. } if named(pickle.value(*callable), "scalar") => {
            let mut arguments = pickle.items(pickle.value(*arguments))?;
            let kind = kind(pickle, arguments.next()?).ok()?;
            let bytes = raw(pickle, arguments.next()?)?;
            match kind {
                Kind::I32 => Some(i64::from(i32::from_le_bytes(bytes.as_ref().try_into().ok()?))),
                Kind::I64 => Some(i64::from_le_bytes(bytes.as_ref().try_into().ok()?)),
                _ => None,
            }
        }
        _ => None,
    }
}

/// What a pickled array holds.
enum Content<'s, 'a> {
    Numbers(Array<'a>),
    /// A list of the objects.
    Objects(&'s Value<'a>),
}

fn array<'a>(pickle: &Pickle<'a>, value: &Value<'a>) -> Result<Array<'a>, String> {
    match pickled_array(pickle, value) {
        Some(Ok(Content::Numbers(array))) => Ok(array),
        Some(Ok(Content::Objects(_))) => Err("an array of objects".to_owned()),
        Some(Err(problem)) => Err(problem),
        None => Err("is not an array".to_owned()),
    }
}

/// An array as numpy pickles it: `_reconstruct(ndarray, (0,), b'b')` with the state `(version, shape, dtype,
/// fortran, data)`, by protocol 5 `_frombuffer(data, dtype, shape, order)`; nothing for any other value.
fn pickled_array<'s, 'a>(
    pickle: &'s Pickle<'a>,
    value: &'s Value<'a>,
) -> Option<Result<Content<'s, 'a>, String>> {
    let Value::Object { callable, arguments, state } = value else { return None };
    if named(pickle.value(*callable), "_frombuffer") {
        let mut arguments = pickle.items(pickle.value(*arguments))?;
        let (data, dtype, shape, order) =
            (arguments.next()?, arguments.next()?, arguments.next()?, arguments.next()?);
        return numbers(pickle, shape, dtype, matches!(order, Value::Text("F")), data);
    }
    let state = state.filter(|_| named(pickle.value(*callable), "_reconstruct"))?;
    let mut state = pickle.items(pickle.value(state))?.skip(1);
    let (shape, dtype, fortran, data) = (state.next()?, state.next()?, state.next()?, state.next()?);
    if matches!(data, Value::List(_)) {
        return Some(Ok(Content::Objects(data)));
    }
    numbers(pickle, shape, dtype, matches!(fortran, Value::Bool(true) | Value::Int(1)), data)
}

fn numbers<'s, 'a>(
    pickle: &'s Pickle<'a>,
    shape: &Value<'a>,
    dtype: &Value<'a>,
    fortran: bool,
    data: &Value<'a>,
) -> Option<Result<Content<'s, 'a>, String>> {
    let dim = |value: &Value| match value {
        Value::Int(dim) => usize::try_from(*dim).ok(),
        _ => None,
    };
    let shape: Vec<usize> = pickle.items(shape)?.map(dim).collect::<Option<_>>()?;
    let bytes = raw(pickle, data)?;
    Some(kind(pickle, dtype).and_then(|kind| Array::new(shape, kind, fortran, bytes)).map(Content::Numbers))
}

/// `dtype('f4', …)` with the state `(version, '<', …)`.
fn kind(pickle: &Pickle, value: &Value) -> Result<Kind, String> {
    let read = || {
        let Value::Object { callable, arguments, state } = value else { return None };
        if !named(pickle.value(*callable), "dtype") {
            return None;
        }
        let text = |value: &Value| match value {
            Value::Text(text) => Some((*text).to_owned()),
            Value::Bytes(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
            _ => None,
        };
        let name = text(pickle.items(pickle.value(*arguments))?.next()?)?;
        let order = state.and_then(|state| text(pickle.items(pickle.value(state))?.nth(1)?));
        Some(format!("{}{name}", order.unwrap_or_default()))
    };
    Kind::from_name(&read().ok_or("is of no kind of number")?)
}

fn named(value: &Value, name: &str) -> bool {
    matches!(value, Value::Global(module, found) if module.starts_with("numpy") && *found == name)
}

/// Bytes, also as protocols 1 and 2 write them: `_codecs.encode(text, 'latin1')`.
fn raw<'a>(pickle: &Pickle<'a>, value: &Value<'a>) -> Option<Cow<'a, [u8]>> {
    match value {
        Value::Bytes(bytes) => Some(Cow::Borrowed(bytes)),
        Value::Object { callable, arguments, .. }
            if matches!(pickle.value(*callable), Value::Global("_codecs", "encode")) =>
        {
            let Value::Text(text) = pickle.items(pickle.value(*arguments))?.next()? else { return None };
            text.chars()
                .map(|character| u8::try_from(u32::from(character)).ok())
                .collect::<Option<Vec<u8>>>()
                .map(Cow::Owned)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
