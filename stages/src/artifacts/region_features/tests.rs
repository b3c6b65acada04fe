//! What is written is read back, whichever way it was written.

use std::fs;

use super::*;

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
    let mut writer = RegionWriter::new(dir.path(), 3, 4, 2);
    for (name, count) in [("a.png", 4), ("b.png", 0), ("c.png", 2)] {
        writer.push(name, picture(count, 10.0 * count as f32)).unwrap();
    }
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
    let mut writer = RegionWriter::with(dir.path(), layout);
    let mut given = picture(2, 0.1);
    writer.push("a.png", given.clone()).unwrap();
    given.features[1] = 7e4;
    let error = writer.push("b.png", given).unwrap_err().to_string();
    assert!(error.contains("`b.png` is too large"), "{error}");
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
    let mut killed = RegionWriter::new(&first, 3, 4, 2);
    assert!(!killed.take_up(&names[..2]));
    killed.push("a.png", picture(1, 1.0)).unwrap();
    killed.push("b.png", picture(2, 2.0)).unwrap();
    assert_eq!(killed.last_shard(), first.join("shard-00000.safetensors"));
    killed.push("c.png", picture(3, 3.0)).unwrap();
    drop(killed);
    // What was cut short has another name, or is no shard.
    fs::write(first.join("shard-00001.safetensors"), "short").unwrap();
    let mut writer = RegionWriter::new(&first, 3, 4, 2);
    assert!(writer.take_up(&names[..2]));
    assert!(!writer.take_up(&names[2..]));
    writer.push("c.png", picture(3, 3.0)).unwrap();
    writer.finish_in(&second).unwrap();
    let features = RegionFeatures::open(&second).unwrap();
    for (name, count) in [("a.png", 1), ("b.png", 2), ("c.png", 3)] {
        assert_eq!(features.picture(features.find(name).unwrap()), picture(count, count as f32));
    }
}

#[test]
fn refuses_more_regions_than_declared() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = RegionWriter::new(dir.path(), 3, 1, 2);
    assert!(writer.push("a.png", picture(2, 0.0)).is_err());
}

#[test]
fn a_layout_has_regions_and_pictures_in_bounds() {
    Layout::check(1, 1).unwrap();
    Layout::check(10_000, 1024).unwrap();
    for (regions, shard, told) in [(0, 1, "`regions` is 0"), (10_001, 1, "1 to 10000"), (1, 0, "`shard`")] {
        let error = Layout::check(regions, shard).unwrap_err();
        assert!(error.contains(told), "{error}");
    }
}
