//! Reads numpy's `.npy` files out of bytes: a header that names type, order and shape, then the numbers (format
//! versions 1 to 3). The numbers stay where they are until they are asked for. Objects are handed out as the pickle
//! they are, unread.

use std::borrow::Cow;

use half::f16;

/// The kind of an array's numbers, least byte first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `<f2`
    F16,
    /// `<f4`
    F32,
    /// `<f8`
    F64,
    /// `<i4`
    I32,
    /// `<i8`
    I64,
}

impl Kind {
    /// By numpy's name: `<f4`, or as it is pickled, `f4`.
    ///
    /// # Errors
    /// Another kind, or the byte order of other machines.
    pub fn from_name(name: &str) -> Result<Self, String> {
        match name.strip_prefix(['<', '=', '|']).unwrap_or(name) {
            "f2" => Ok(Self::F16),
            "f4" => Ok(Self::F32),
            "f8" => Ok(Self::F64),
            "i4" => Ok(Self::I32),
            "i8" => Ok(Self::I64),
            _ => Err(format!("an array of `{name}`; f2, f4, f8, i4 and i8 can be read")),
        }
    }

    /// Bytes a number.
    pub fn width(self) -> usize {
        match self {
            Self::F16 => 2,
            Self::F32 | Self::I32 => 4,
            Self::F64 | Self::I64 => 8,
        }
    }
}

/// An array whose numbers are still bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Array<'a> {
    /// Its dimensions; none for a single number.
    pub shape: Vec<usize>,
    /// What its numbers are.
    pub kind: Kind,
    /// Whether the first index runs fastest (Fortran's order) rather than the last (C's).
    pub fortran: bool,
    data: Cow<'a, [u8]>,
}

/// What a `.npy` file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Npy<'a> {
    /// Numbers.
    Array(Array<'a>),
    /// Objects (`|O`): a pickle of them, and the shape they are in.
    Objects(Vec<usize>, &'a [u8]),
}

impl<'a> Array<'a> {
    /// An array over the bytes of its numbers.
    ///
    /// # Errors
    /// Fewer or more bytes than the shape asks for; more dimensions than any array of ours.
    pub fn new(shape: Vec<usize>, kind: Kind, fortran: bool, data: Cow<'a, [u8]>) -> Result<Self, String> {
        if shape.len() > MAX_DIMENSIONS {
            return Err(format!("an array of {} dimensions; {MAX_DIMENSIONS} can be read", shape.len()));
        }
        let bytes = shape.iter().try_fold(kind.width(), |bytes, dim| bytes.checked_mul(*dim));
        if bytes != Some(data.len()) {
            let expected = bytes.map_or("more than can be".to_owned(), |bytes| bytes.to_string());
            return Err(format!("an array of shape {shape:?} has {} bytes, not {expected}", data.len()));
        }
        Ok(Self { shape, kind, fortran, data })
    }

    /// How many numbers it has.
    pub fn count(&self) -> usize {
        self.data.len() / self.kind.width()
    }

    /// Its numbers as `f32`, the last index fastest, whatever the file's order. Whole numbers are rounded to the
    /// nearest that can be.
    pub fn to_f32(&self) -> Vec<f32> {
        let data = &self.data;
        let fixed = |bytes: &[u8]| -> [u8; 8] {
            let mut fixed = [0; 8];
            fixed[..bytes.len()].copy_from_slice(bytes);
            fixed
        };
        let values: Vec<f32> = match self.kind {
            Kind::F16 => data.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
            Kind::F32 => data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
            Kind::F64 => data.chunks_exact(8).map(|b| f64::from_le_bytes(fixed(b)) as f32).collect(),
            Kind::I32 => {
                data.chunks_exact(4).map(|b| i32::from_le_bytes([b[0], b[1], b[2], b[3]]) as f32).collect()
            }
            Kind::I64 => data.chunks_exact(8).map(|b| i64::from_le_bytes(fixed(b)) as f32).collect(),
        };
        if !self.fortran || self.shape.len() < 2 { values } else { self.row_major(&values) }
    }

    /// Numbers in Fortran's order, in C's.
    fn row_major(&self, values: &[f32]) -> Vec<f32> {
        let mut index = vec![0; self.shape.len()];
        let mut turned = Vec::with_capacity(values.len());
        for _ in 0..values.len() {
            let at = index.iter().zip(&self.shape).rev().fold(0, |at, (index, dim)| at * dim + index);
            turned.push(values[at]);
            for (index, dim) in index.iter_mut().zip(&self.shape).rev() {
                *index += 1;
                if *index < *dim {
                    break;
                }
                *index = 0;
            }
        }
        turned
    }
}

/// No array of ours has more dimensions; numpy stops at 64.
const MAX_DIMENSIONS: usize = 32;

/// Reads a `.npy` file.
///
/// # Errors
/// Another file, a header that cannot be understood, fewer bytes than it promises.
pub fn read(bytes: &[u8]) -> Result<Npy<'_>, String> {
    let rest = bytes.strip_prefix(b"\x93NUMPY").ok_or("is not a .npy file")?;
    let (length, rest) = match rest {
        [1, _, a, b, rest @ ..] => (usize::from(u16::from_le_bytes([*a, *b])), rest),
        [2 | 3, _, a, b, c, d, rest @ ..] => (u32::from_le_bytes([*a, *b, *c, *d]) as usize, rest),
        _ => return Err("is a .npy file of an unknown version".to_owned()),
    };
    let (header, data) = rest.split_at_checked(length).ok_or("ends within its header")?;
    let header = std::str::from_utf8(header).map_err(|_| "has a header that is not UTF-8")?;
    let (kind, fortran, shape) = parse(header).ok_or_else(|| {
        format!("has a header that cannot be understood: {}", header.chars().take(200).collect::<String>())
    })?;
    if kind == "|O" || kind == "O" {
        return Ok(Npy::Objects(shape, data));
    }
    Array::new(shape, Kind::from_name(kind)?, fortran, Cow::Borrowed(data)).map(Npy::Array)
}

/// The header: a Python dict of three known keys, `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }`.
fn parse(header: &str) -> Option<(&str, bool, Vec<usize>)> {
    let mut rest = header.trim().strip_prefix('{')?.strip_suffix('}')?.trim();
    let (mut kind, mut fortran, mut shape) = (None, None, None);
    while !rest.is_empty() {
        let (key, after) = quoted(rest)?;
        rest = after.trim_start().strip_prefix(':')?.trim_start();
        match key {
            "descr" => {
                let (value, after) = quoted(rest)?;
                (kind, rest) = (Some(value), after);
            }
            "fortran_order" => {
                let (value, after) = match rest.strip_prefix("True") {
                    Some(after) => (true, after),
                    None => (false, rest.strip_prefix("False")?),
                };
                (fortran, rest) = (Some(value), after);
            }
            "shape" => {
                let (inside, after) = rest.strip_prefix('(')?.split_once(')')?;
                let parts = inside.split(',').map(str::trim).filter(|part| !part.is_empty());
                // Python 2 wrote long numbers as `3L`.
                let dims = parts.map(|part| part.trim_end_matches('L').parse().ok());
                let dims: Vec<usize> = dims.collect::<Option<_>>()?;
                (shape, rest) = (Some(dims), after);
            }
            _ => return None,
        }
        rest = rest.trim_start();
        rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
    }
    Some((kind?, fortran?, shape?))
}

fn quoted(text: &str) -> Option<(&str, &str)> {
    let quote = text.chars().next().filter(|quote| matches!(quote, '\'' | '"'))?;
    text[1..].split_once(quote)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        let length = (header.len() as u16).to_le_bytes();
        [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes(), data].concat()
    }

    fn f32s(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    #[test]
    fn both_orders_give_the_same_matrix() {
        let c = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }      \n";
        let fortran = c.replace("False", "True");
        for (header, data) in [(c, [1., 2., 3., 4., 5., 6.]), (&fortran, [1., 4., 2., 5., 3., 6.])] {
            let bytes = file(header, &f32s(&data));
            let Ok(Npy::Array(array)) = read(&bytes) else { panic!("{header}") };
            assert_eq!((array.shape.as_slice(), array.count()), (&[2, 3][..], 6));
            assert_eq!(array.to_f32(), [1., 2., 3., 4., 5., 6.]);
        }
    }

    #[test]
    fn every_kind_of_number() {
        let cases: [(&str, Vec<u8>); 5] = [
            ("<f2", [1.5, -2.0].iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect()),
            ("<f4", f32s(&[1.5, -2.0])),
            ("<f8", [1.5f64, -2.0].iter().flat_map(|value| value.to_le_bytes()).collect()),
            ("<i4", [7i32, -2].iter().flat_map(|value| value.to_le_bytes()).collect()),
            ("<i8", [7i64, -2].iter().flat_map(|value| value.to_le_bytes()).collect()),
        ];
        for (kind, data) in cases {
            let bytes = file(&format!("{{'shape': (2,), 'fortran_order': False, 'descr': '{kind}'}}"), &data);
            let Ok(Npy::Array(array)) = read(&bytes) else { panic!("{kind}") };
            assert_eq!(array.to_f32(), [if kind.contains('i') { 7.0 } else { 1.5 }, -2.0], "{kind}");
        }
        let scalar = file("{'descr': '<f4', 'fortran_order': False, 'shape': ()}", &f32s(&[3.0]));
        let Ok(Npy::Array(scalar)) = read(&scalar) else { panic!("a single number") };
        assert_eq!(scalar.to_f32(), [3.0]);
        let objects = file("{'descr': '|O', 'fortran_order': False, 'shape': ()}", b"N.");
        assert_eq!(read(&objects), Ok(Npy::Objects(vec![], b"N.")));
    }

    #[test]
    fn says_what_is_wrong() {
        let header = |text: &str| file(text, &[0; 8]);
        for (bytes, problem) in [
            (b"PK".to_vec(), "is not a .npy file"),
            (b"\x93NUMPY\x07\x00\x00\x00".to_vec(), "unknown version"),
            (b"\x93NUMPY\x01\x00\xff\xff{}".to_vec(), "ends within its header"),
            (header("{'descr': '>f4', 'fortran_order': False, 'shape': (2,)}"), "`>f4`"),
            (header("{'descr': '<c8', 'fortran_order': False, 'shape': (1,)}"), "`<c8`"),
            (header("{'descr': '<f4', 'fortran_order': False, 'shape': (3,)}"), "8 bytes, not 12"),
            (
                header("{'descr': '<f4', 'fortran_order': False, 'shape': (9999999999, 9999999999)}"),
                "more than can be",
            ),
            (header("{'descr': '<f4', 'fortran_order': False}"), "cannot be understood"),
            (
                header("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2,)}"),
                "cannot be understood",
            ),
        ] {
            let error = read(&bytes).unwrap_err();
            assert!(error.contains(problem), "{error}");
        }
    }
}
