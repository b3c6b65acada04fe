//! Against pictures that PIL wrote: stages/tests/reference/pictures.py writes the fixtures.

use std::path::Path;

use super::*;
use crate::dataset::indexing::testing::{jpeg, png};
use crate::formats::image_decode;

fn fixture(name: &str) -> Vec<u8> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pictures");
    std::fs::read(dir.join(name)).unwrap()
}

const ODD: [(&str, &[Anomaly]); 12] = [
    ("palette.png", &[Anomaly::Palette]),
    ("transparent.png", &[Anomaly::Palette, Anomaly::Transparent]),
    ("alpha.png", &[Anomaly::Transparent]),
    ("sixteen.png", &[Anomaly::SixteenBit]),
    ("turned.jpg", &[Anomaly::ExifRotation]),
    ("turned.png", &[Anomaly::ExifRotation]),
    ("progressive.jpg", &[]),
    ("cmyk.jpg", &[Anomaly::Cmyk]),
    ("moving.gif", &[Anomaly::Animated, Anomaly::Palette]),
    ("still.gif", &[Anomaly::Palette]),
    ("moving.png", &[Anomaly::Animated]),
    ("gif.jpg", &[Anomaly::Palette, Anomaly::Misnamed]),
];

#[test]
fn tells_what_is_odd_and_the_decoder_takes_it() {
    for (name, odd) in ODD {
        let bytes = fixture(if name == "gif.jpg" { "still.gif" } else { name });
        let looks = look(&bytes, name).map_err(|unusable| format!("{name}: {unusable:?}")).unwrap();
        assert_eq!((looks.width, looks.height, looks.odd.as_slice()), (16, 12, odd), "{name}");
        let picture = image_decode::decode(&bytes).map_err(|problem| format!("{name}: {problem}")).unwrap();
        assert_eq!((picture.width, picture.height), (16, 12), "{name}");
    }
}

/// Cut anywhere before its end mark, a picture is truncated; never does looking at it panic.
#[test]
fn a_cut_picture_is_truncated() {
    for (name, bytes) in ODD
        .iter()
        .filter(|(name, _)| *name != "gif.jpg")
        .map(|(name, _)| (*name, fixture(name)))
        .chain([("a.png", png(1)), ("a.jpeg", jpeg(1))])
    {
        for length in 13..bytes.len() {
            let cut = look(&bytes[..length], name);
            if length <= bytes.len() - 12 {
                assert!(
                    matches!(cut, Err((Anomaly::TruncatedPicture, _))),
                    "{name} cut at {length}: {cut:?}"
                );
            }
        }
        assert!(look(&bytes, name).is_ok(), "{name}");
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0xff;
            let _ = look(&damaged, name);
        }
    }
}

#[test]
fn what_is_no_picture_has_a_reason() {
    let mut huge = png(1);
    huge[16..20].copy_from_slice(&30_000u32.to_be_bytes());
    for (bytes, anomaly) in [
        (&b""[..], Anomaly::EmptyPicture),
        (b"<html>", Anomaly::UnreadablePicture),
        (b"RIFF\0\0\0\0WEBP", Anomaly::UnreadablePicture),
        (b"\xff\xd8\xff\xd9", Anomaly::UnreadablePicture),
        (b"\x89PNG\r\n\x1a\n\0\0\0\0IEND\0\0\0\0", Anomaly::UnreadablePicture),
        (&huge, Anomaly::UnreadablePicture),
    ] {
        assert_eq!(look(bytes, "a.png").unwrap_err().0, anomaly, "{bytes:?}");
    }
}

/// Four inks become the colours that PIL makes of them.
#[test]
fn cmyk_is_converted_as_pil_does() {
    assert_eq!(image_decode::decode(&fixture("cmyk.jpg")).unwrap().rgb, fixture("cmyk.rgb"));
}
