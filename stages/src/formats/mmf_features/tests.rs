//! Against what Python and numpy write: stages/tests/reference/mmf_features.py writes the fixtures.

use std::path::Path;

use super::*;

fn fixture(name: &str) -> Vec<u8> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/mmf");
    std::fs::read(dir.join(name)).unwrap()
}

fn check(read: &MmfFeatures) {
    assert_eq!(read.features.shape, [2, 3]);
    assert_eq!(read.features.to_f32(), [0., 1., 2., 10., 11., 12.]);
}

fn check_info(info: &MmfInfo) {
    assert_eq!(info.boxes.as_ref().unwrap().to_f32(), [1., 2., 30., 40., 5., 6., 70., 80.5]);
    assert_eq!(info.objects.as_ref().unwrap().to_f32(), [7., 1599.]);
    assert_eq!((info.num_boxes, info.size), (Some(2), Some((640, 480))));
}

#[test]
fn values_by_every_binary_protocol() {
    for name in ["1", "2", "3", "4", "5", "fortran"] {
        let bytes = fixture(&format!("value-{name}.pickle"));
        let read = read_value(&bytes).map_err(|problem| format!("{name}: {problem}")).unwrap();
        check(&read);
        check_info(&read.info);
        assert_eq!(read.features.fortran, name == "fortran");
    }
    assert_eq!(read_keys(&fixture("keys.pickle")).unwrap(), [b"8291".to_vec(), b"08292".to_vec()]);
}

#[test]
fn files_of_every_precision_and_order() {
    for name in ["c", "fortran", "half", "double"] {
        check(&read_files(&fixture(&format!("{name}.npy")), None).unwrap());
    }
    let (features, info) = (fixture("c.npy"), fixture("c_info.npy"));
    let read = read_files(&features, Some(&info)).unwrap();
    check(&read);
    check_info(&read.info);
}

#[test]
fn damage_is_an_error_or_another_number_and_never_more() {
    for name in ["value-1.pickle", "value-2.pickle", "value-3.pickle", "value-4.pickle", "c_info.npy"] {
        let whole = fixture(name);
        let mut refused = 0;
        for at in 0..whole.len() {
            for flip in [0x01, 0x55, 0xff] {
                let mut damaged = whole.clone();
                damaged[at] ^= flip;
                refused += usize::from(match name {
                    "c_info.npy" => read_files(&fixture("c.npy"), Some(&damaged)).is_err(),
                    _ => read_value(&damaged).is_err(),
                });
            }
            assert!(name == "c_info.npy" || read_value(&whole[..at]).is_err());
        }
        assert!(refused > whole.len(), "{name}: {refused}");
    }
}

#[test]
fn parts_that_do_not_fit_are_refused() {
    let whole = fixture("value-3.pickle");
    let at = whole.windows(4).position(|bytes| bytes == b"bbox").unwrap();
    let mut other = whole.clone();
    other[at..at + 4].copy_from_slice(b"bbux");
    assert_eq!(read_value(&other).unwrap().info.boxes, None);
    for (bytes, problem) in [
        (&b"}."[..], "is not a dict with `features`"),
        (b"N.", "is not a dict with `features`"),
        (b"}X\x08\0\0\0featuresK\x01s.", "`features`: is not an array"),
    ] {
        assert!(read_value(bytes).unwrap_err().contains(problem));
    }
    assert!(read_keys(b"N.").is_err());
    assert!(read_keys(b"]Na.").is_err());
}
