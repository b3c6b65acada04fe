//! Writes region features in MMF's forms: the pickles are what Python 3's `pickle.dumps(…, protocol=3)` makes of numpy's
//! arrays, with numpy's own names for what rebuilds them, which numpy 1 and 2 both know.

use super::region_features::PictureRegions;

/// A value of the LMDB; `name` is what the features were computed from, `probabilities` are those of the classes without the
/// background, a row for each region.
pub fn value(name: &str, regions: &PictureRegions, probabilities: Option<&[f32]>) -> Vec<u8> {
    let mut pickle = Pickler::new(regions.features.len() + probabilities.map_or(0, <[f32]>::len));
    pickle.begin_dict();
    pickle.text("feature_path");
    pickle.text(name);
    pickle.text("features");
    pickle.table(&regions.features, regions);
    pickle.info(regions, probabilities);
    pickle.end_dict();
    pickle.end()
}

/// The value of the LMDB's entry `keys`.
pub fn keys(keys: &[Vec<u8>]) -> Vec<u8> {
    let mut pickle = Pickler::new(keys.len());
    pickle.0.extend(b"](");
    keys.iter().for_each(|key| pickle.bytes(key));
    pickle.0.push(b'e');
    pickle.end()
}

/// The two files of a picture: `<stem>.npy` and `<stem>_info.npy`; `probabilities` as in [`value`].
pub fn files(regions: &PictureRegions, probabilities: Option<&[f32]>) -> (Vec<u8>, Vec<u8>) {
    let (rows, width) = shape(&regions.features, regions);
    let mut features = npy_header("'<f4'", &format!("({rows}, {width})"));
    features.extend(regions.features.iter().flat_map(|value| value.to_le_bytes()));
    let mut pickle = Pickler::new(probabilities.map_or(0, <[f32]>::len));
    // An array without dimensions around the dict, as numpy saves it.
    pickle.begin_array(&[], "O8", b'|');
    pickle.0.push(b']');
    pickle.begin_dict();
    pickle.info(regions, probabilities);
    pickle.end_dict();
    pickle.0.push(b'a');
    pickle.end_array();
    let mut info = npy_header("'|O'", "()");
    info.extend(pickle.end());
    (features, info)
}

/// Rows and columns of values that have a row for each region.
fn shape(values: &[f32], regions: &PictureRegions) -> (usize, usize) {
    let rows = regions.boxes.len();
    (rows, values.len().checked_div(rows).unwrap_or(0))
}

fn npy_header(kind: &str, shape: &str) -> Vec<u8> {
    let mut header = format!("{{'descr': {kind}, 'fortran_order': False, 'shape': {shape}, }}");
    // The numbers begin at a multiple of 64 bytes.
    let length = (10 + header.len() + 1).next_multiple_of(64) - 10;
    header.push_str(&" ".repeat(length - 1 - header.len()));
    header.push('\n');
    [b"\x93NUMPY\x01\x00", &(length as u16).to_le_bytes()[..], header.as_bytes()].concat()
}

struct Pickler(Vec<u8>);

impl Pickler {
    fn new(floats: usize) -> Self {
        let mut bytes = Vec::with_capacity(4 * floats + 4096);
        bytes.extend(b"\x80\x03");
        Self(bytes)
    }

    fn end(mut self) -> Vec<u8> {
        self.0.push(b'.');
        self.0
    }

    fn begin_dict(&mut self) {
        self.0.extend(b"}(");
    }

    fn end_dict(&mut self) {
        self.0.push(b'u');
    }

    fn text(&mut self, text: &str) {
        self.0.push(b'X');
        self.0.extend((text.len() as u32).to_le_bytes());
        self.0.extend(text.as_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.0.push(b'B');
        self.0.extend((bytes.len() as u32).to_le_bytes());
        self.0.extend(bytes);
    }

    /// A whole number of up to 32 bits, sign apart.
    fn number(&mut self, number: u32) {
        self.0.extend([0x8a, 5]);
        self.0.extend(number.to_le_bytes());
        self.0.push(0);
    }

    /// `numpy.ndarray.__reduce__` up to the array's content.
    fn begin_array(&mut self, shape: &[usize], kind: &str, order: u8) {
        self.0.extend(b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85C\x01b\x87R(K\x01(");
        shape.iter().for_each(|&dim| self.number(dim as u32));
        self.0.extend(b"tcnumpy\ndtype\n");
        self.text(kind);
        // Version 3, byte order, no parts, sizes that the kind says, flags: 63 where the content are objects.
        self.0.extend(b"\x89\x88\x87R(K\x03");
        self.text(std::str::from_utf8(&[order]).unwrap_or("<"));
        self.0.extend(b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK");
        self.0.push(if order == b'|' { 63 } else { 0 });
        self.0.extend(b"tb\x89");
    }

    fn end_array(&mut self) {
        self.0.extend(b"tb");
    }

    fn array<T: Copy, const N: usize>(
        &mut self,
        shape: &[usize],
        kind: &str,
        values: &[T],
        to_bytes: impl Fn(T) -> [u8; N],
    ) {
        self.begin_array(shape, kind, b'<');
        self.0.push(b'B');
        self.0.extend(((N * values.len()) as u32).to_le_bytes());
        let start = self.0.len();
        self.0.resize(start + N * values.len(), 0);
        for (into, value) in self.0[start..].chunks_exact_mut(N).zip(values) {
            into.copy_from_slice(&to_bytes(*value));
        }
        self.end_array();
    }

    /// An array with a row for each region.
    fn table(&mut self, values: &[f32], regions: &PictureRegions) {
        let (rows, width) = shape(values, regions);
        self.array(&[rows, width], "f4", values, |value: f32| value.to_le_bytes());
    }

    /// The entries of the info dict.
    fn info(&mut self, regions: &PictureRegions, probabilities: Option<&[f32]>) {
        let rows = regions.boxes.len();
        self.text("bbox");
        self.array(&[rows, 4], "f4", regions.boxes.as_flattened(), |value: f32| value.to_le_bytes());
        self.text("num_boxes");
        self.number(regions.scores.iter().filter(|score| **score != 0.0).count() as u32);
        self.text("objects");
        self.array(&[rows], "i8", &regions.objects, |object: u32| i64::from(object).to_le_bytes());
        self.text("image_height");
        self.number(regions.size.1);
        self.text("image_width");
        self.number(regions.size.0);
        self.text("cls_prob");
        match probabilities {
            Some(probabilities) => self.table(probabilities, regions),
            None => self.0.push(b'N'),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::mmf_features::{read_files, read_keys, read_value};

    /// That Python reads the same is shown by `tests/reference/mmf_exports.py`.
    #[test]
    fn what_is_written_is_read() {
        let regions = PictureRegions {
            features: (0..6).map(|value| value as f32 / 3.0).collect(),
            boxes: vec![[1.0, 2.0, 3.5, 4.0], [5.0, 6.0, 7.0, 8.0]],
            scores: vec![0.5, 0.0],
            objects: vec![3, 1599],
            size: (640, 480),
        };
        let probabilities: Vec<f32> = (0..10).map(|value| value as f32 / 45.0).collect();
        for probabilities in [None, Some(probabilities.as_slice())] {
            let value = value("08291", &regions, probabilities);
            let (features, info) = files(&regions, probabilities);
            for found in [read_value(&value).unwrap(), read_files(&features, Some(&info)).unwrap()] {
                let found = found.info.probabilities.map(|found| (found.shape.clone(), found.to_f32()));
                assert_eq!(found, probabilities.map(|values| (vec![2, 5], values.to_vec())));
            }
        }
        let value = value("08291", &regions, None);
        let (features, info) = files(&regions, None);
        for found in [read_value(&value).unwrap(), read_files(&features, Some(&info)).unwrap()] {
            assert_eq!(
                (found.features.shape.as_slice(), found.features.to_f32()),
                (&[2, 3][..], regions.features.clone())
            );
            assert_eq!(found.info.boxes.unwrap().to_f32(), regions.boxes.as_flattened());
            assert_eq!(found.info.objects.unwrap().to_f32(), [3.0, 1599.0]);
            assert_eq!((found.info.num_boxes, found.info.size), (Some(1), Some((640, 480))));
        }
        let names = vec![b"1".to_vec(), b"keys".to_vec()];
        assert_eq!(read_keys(&keys(&names)).unwrap(), names);
        let nothing = PictureRegions::default();
        let nothing = super::value("x", &nothing, Some(&[]));
        let nothing = read_value(&nothing).unwrap();
        assert_eq!(nothing.features.shape, [0, 0]);
        assert_eq!(nothing.info.probabilities.unwrap().shape, [0, 0]);
    }
}
