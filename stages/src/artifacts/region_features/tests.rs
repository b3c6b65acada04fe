//! What is written is read back, whichever way it was written.

use std::fs;

use half::f16;
use safetensors::tensor::{Dtype, TensorView};

use super::*;

const LAYOUT: Layout = Layout { width: 3, max_regions: 4, shard: 2, half: false };

fn named(name: &str, count: usize, base: f32) -> (String, PictureRegions) {
    (name.to_owned(), picture(count, base))
}

fn picture(count: usize, base: f32) -> PictureRegions {
    PictureRegions {
        features: (0..count * 3).map(|i| base + i as f32).collect(),
        boxes: (0..count).map(|i| [i as f32, 0.0, base, 9.0]).collect(),
        scores: vec![0.5; count],
        objects: vec![7; count],
        size: (640, 480),
    }
}

#[test]
fn reads_back_what_was_written_across_shards() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = RegionWriter::new(dir.path(), LAYOUT);
    writer.write(&[named("a.png", 4, 40.0), named("b.png", 0, 0.0)]).unwrap();
    writer.write(&[named("c.png", 2, 20.0)]).unwrap();
    writer.finish().unwrap();
    let features = RegionFeatures::open(dir.path()).unwrap();
    let c = features.find("c.png").unwrap();
    assert_eq!(features.count(c), 2);
    let mut buffer = vec![f32::NAN; 9];
    assert_eq!(features.copy_features(c, &mut buffer), 2);
    assert_eq!(buffer, [20.0, 21.0, 22.0, 23.0, 24.0, 25.0, 0.0, 0.0, 0.0]);
    assert_eq!(features.boxes(c).collect::<Vec<_>>(), [[0.0, 0.0, 20.0, 9.0], [1.0, 0.0, 20.0, 9.0]]);
    assert_eq!(features.size(c), (640, 480));
    assert_eq!(features.picture(c), picture(2, 20.0));
    let b = features.find("b.png").unwrap();
    assert_eq!((features.count(b), features.boxes(b).count()), (0, 0));
    assert!(features.find("d.png").is_none());
    let images: Vec<&str> = features.images().into_iter().map(|(image, _)| image).collect();
    assert_eq!(images, ["a.png", "b.png", "c.png"]);
}

#[test]
fn halves_take_half_the_room() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout { width: 3, max_regions: 200, shard: 9, half: true };
    let mut writer = RegionWriter::new(dir.path(), layout);
    let mut given = [named("a.png", 2, 0.1), named("b.png", 2, 0.1)];
    given[1].1.features[1] = 7e4;
    let error = writer.write(&given).unwrap_err().to_string();
    assert!(error.contains("`b.png` is too large"), "{error}");
    writer.write(&given[..1]).unwrap();
    writer.finish().unwrap();
    let features = RegionFeatures::open(dir.path()).unwrap();
    let mut found = vec![0f32; 6];
    features.copy_features(features.find("a.png").unwrap(), &mut found);
    for (found, expected) in found.iter().zip(picture(2, 0.1).features) {
        assert!((found - expected).abs() < 2e-3 && (found - expected).abs() <= expected / 1024.0, "{found}");
    }
    let bytes = fs::metadata(dir.path().join("shard-00000.safetensors")).unwrap().len();
    assert!(bytes.abs_diff(layout.bytes(1)) < 700, "{bytes}, not {}", layout.bytes(1));
    assert!(2 * layout.bytes(9) > Layout { half: false, ..layout }.bytes(9));
}

#[test]
fn goes_on_after_whole_shards_only() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (dir.path().join("first"), dir.path().join("second"));
    fs::create_dir_all(&first).unwrap();
    fs::create_dir_all(&second).unwrap();
    let names: Vec<String> = ["a.png", "b.png", "c.png"].map(str::to_owned).to_vec();
    let mut killed = RegionWriter::durable(&first, LAYOUT);
    assert!(!killed.take_up(&names[..2]));
    let whole = killed.write(&[named("a.png", 1, 1.0), named("b.png", 2, 2.0)]).unwrap();
    assert_eq!(whole, first.join("shard-00000.safetensors"));
    let cut_short = killed.begin(&names[2..]).unwrap();
    cut_short.put(0, &picture(3, 3.0)).unwrap();
    drop((cut_short, killed));
    let mut writer = RegionWriter::durable(&first, LAYOUT);
    assert!(writer.take_up(&names[..2]));
    assert!(!writer.take_up(&names[2..]));
    // What has the name and is no shard is written again.
    fs::write(first.join("shard-00001.safetensors"), "short").unwrap();
    assert!(!writer.take_up(&names[2..]));
    writer.write(&[named("c.png", 3, 3.0)]).unwrap();
    writer.finish_in(&second).unwrap();
    let features = RegionFeatures::open(&second).unwrap();
    for (name, count) in [("a.png", 1), ("b.png", 2), ("c.png", 3)] {
        assert_eq!(features.picture(features.find(name).unwrap()), picture(count, count as f32));
    }
}

#[test]
fn refuses_what_does_not_fit() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = RegionWriter::new(dir.path(), LAYOUT);
    assert!(writer.write(&[named("a.png", 5, 0.0)]).is_err());
    let shard = writer.begin(&["a.png".to_owned(), "b.png".to_owned()]).unwrap();
    shard.put(1, &picture(1, 0.0)).unwrap();
    let error = writer.end(shard).unwrap_err().to_string();
    assert!(error.contains("of 2 pictures 1 were written"), "{error}");
}

/// Rows may come in any order, and what a picture has fewer regions than others is zero: the file is the one that the
/// library writes.
#[test]
fn a_shard_is_what_safetensors_writes() {
    for half in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = RegionWriter::new(dir.path(), Layout { half, ..LAYOUT });
        let shard = writer.begin(&["a.png".to_owned(), "b.png".to_owned()]).unwrap();
        shard.put(1, &picture(4, 0.5)).unwrap();
        shard.put(0, &picture(1, 0.25)).unwrap();
        let path = writer.end(shard).unwrap();
        let mut features = [0f32; 2 * 4 * 3];
        features[..3].copy_from_slice(&[0.25, 1.25, 2.25]);
        (0..12).for_each(|at| features[12 + at] = 0.5 + at as f32);
        let halves = features.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes());
        let (dtype, features): (_, Vec<u8>) =
            if half { (Dtype::F16, halves.collect()) } else { (Dtype::F32, bytes(&features)) };
        let mut boxes = [[0f32; 4]; 8];
        boxes[0] = [0.0, 0.0, 0.25, 9.0];
        (0..4).for_each(|at| boxes[4 + at] = [at as f32, 0.0, 0.5, 9.0]);
        let boxes = bytes(boxes.as_flattened());
        let scores = bytes(&[0.5, 0.0, 0.0, 0.0, 0.5, 0.5, 0.5, 0.5]);
        let whole = |values: &[u32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        let (objects, counts) = (whole(&[7, 0, 0, 0, 7, 7, 7, 7]), whole(&[1, 4]));
        let sizes = whole(&[640, 480, 640, 480]);
        let expected = safetensors::serialize(
            [
                ("features", TensorView::new(dtype, vec![2, 4, 3], &features).unwrap()),
                ("boxes", TensorView::new(Dtype::F32, vec![2, 4, 4], &boxes).unwrap()),
                ("scores", TensorView::new(Dtype::F32, vec![2, 4], &scores).unwrap()),
                ("objects", TensorView::new(Dtype::U32, vec![2, 4], &objects).unwrap()),
                ("counts", TensorView::new(Dtype::U32, vec![2], &counts).unwrap()),
                ("sizes", TensorView::new(Dtype::U32, vec![2, 2], &sizes).unwrap()),
            ],
            None,
        );
        assert!(fs::read(&path).unwrap() == expected.unwrap(), "half: {half}");
    }
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

#[test]
fn a_layout_has_regions_and_pictures_in_bounds() {
    Layout::check(1, 1).unwrap();
    Layout::check(10_000, 1024).unwrap();
    for (regions, shard, words) in [(0, 1, "`regions` is 0"), (10_001, 1, "1 to 10000"), (1, 0, "`shard`")] {
        let error = Layout::check(regions, shard).unwrap_err();
        assert!(error.contains(words), "{error}");
    }
}
