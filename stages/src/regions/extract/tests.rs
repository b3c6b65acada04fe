//! The two detector stages together, on pictures drawn here: the fitted detector must find what is there, and
//! its features must tell what it is.

use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Tensor};
use image::{GrayAlphaImage, GrayImage, LumaA, Rgb, RgbImage, Rgba, RgbaImage};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use stage_api::testing::{Recorder, run_stage, run_stage_outside};
use stage_api::{AllowedEnv, Host, Inputs};

use super::*;
use crate::artifacts::region_features::RegionFeatures;
use crate::artifacts::scene_objects::{SceneObject, SceneObjects};
use crate::artifacts::write_json_lines;
use crate::formats::image_decode::read_picture;
use crate::models::faster_rcnn::config::Proposals;
use crate::nn::gpu::Gpu;
use crate::nn::gpu::testing::Counting;
use crate::nn::{Compute, Precision};
use crate::regions::make_detector::MakeDetector;

const COLOURS: [(&str, [u8; 3]); 4] =
    [("red", [220, 40, 40]), ("green", [40, 170, 60]), ("blue", [40, 70, 220]), ("yellow", [235, 205, 40])];

/// Draws two or three discs and squares on soft ground with noise, and says where they are.
fn draw(rng: &mut ChaCha8Rng) -> (RgbImage, Vec<SceneObject>) {
    let ground: [u8; 3] = std::array::from_fn(|_| rng.random_range(140..220));
    let mut picture = RgbImage::from_fn(112, 112, |x, y| {
        Rgb(ground.map(|value| value - (x / 4) as u8 - (y / 6) as u8 + rng.random_range(0..12u8)))
    });
    let mut corners: Vec<usize> = vec![0, 1, 2, 3];
    let mut objects = Vec::new();
    for _ in 0..rng.random_range(2..4) {
        let corner = corners.swap_remove(rng.random_range(0..corners.len()));
        let radius = rng.random_range(12.0..16.0f32);
        let mut place = |cell: usize| (28 + 54 * cell) as f32 + rng.random_range(-8.0..8.0f32);
        let (cx, cy) = (place(corner % 2), place(corner / 2));
        let (name, colour) = COLOURS[rng.random_range(0..COLOURS.len())];
        let disc = rng.random_bool(0.5);
        for (x, y, pixel) in picture.enumerate_pixels_mut() {
            let (dx, dy) = ((x as f32 - cx).abs(), (y as f32 - cy).abs());
            let inside = if disc { libm::hypotf(dx, dy) <= radius } else { dx.max(dy) <= radius };
            if inside {
                *pixel = Rgb(colour);
            }
        }
        let kind = if disc { "disc" } else { "square" };
        let (x1, y1) = (cx - radius, cy - radius);
        objects.push(SceneObject(kind.to_owned(), name.to_owned(), x1, y1, cx + radius, cy + radius));
    }
    (picture, objects)
}

/// Writes `count` drawn pictures as scenes into `dir`.
fn write_scenes(dir: &Path, count: usize, seed: u64) -> Vec<SceneObjects> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    std::fs::create_dir_all(dir.join("images")).unwrap();
    let scenes: Vec<SceneObjects> = (0..count)
        .map(|number| {
            let (picture, objects) = draw(&mut rng);
            let image = format!("{number:03}.png");
            picture.save(dir.join("images").join(&image)).unwrap();
            SceneObjects { image, objects }
        })
        .collect();
    write_json_lines(&dir.join("objects.jsonl"), &scenes).unwrap();
    scenes
}

fn make_detector(dir: &Path, examples: usize) {
    write_scenes(&dir.join("scenes"), examples, 1);
    run_stage(&MakeDetector, "(examples: 60)", &[("scenes", &dir.join("scenes"))], &dir.join("detector"))
        .unwrap();
}

fn overlap(a: [f32; 4], b: [f32; 4]) -> f32 {
    let side = |low: usize| (a[low + 2].min(b[low + 2]) - a[low].max(b[low])).max(0.0);
    let area = |c: [f32; 4]| (c[2] - c[0]) * (c[3] - c[1]);
    side(0) * side(1) / (area(a) + area(b) - side(0) * side(1))
}

fn extract(dir: &Path, images: &Path, out: &str) -> Result<RegionFeatures, StageError> {
    let inputs = [("images", images), ("detector", &dir.join("detector"))];
    run_stage(&Regions, "(regions: 12, shard: 7)", &inputs, &dir.join(out))?;
    Ok(RegionFeatures::open(&dir.join(out)).unwrap())
}

/// The boxes of picture `number` (in file-name order), read from the shards of 7 that [`extract`] asks for.
fn written_boxes(dir: &Path, number: usize) -> Vec<[f32; 4]> {
    let shard = dir.join(format!("shard-{:05}.safetensors", number / 7));
    let tensors = candle_core::safetensors::load(shard, &candle_core::Device::Cpu).unwrap();
    let boxes = tensors["boxes"].get(number % 7).unwrap().to_vec2::<f32>().unwrap();
    boxes.into_iter().map(|corners| corners.try_into().unwrap()).collect()
}

/// The nearest class mean (of features scaled to length 1) of each held-out object is its own in most cases.
#[test]
fn finds_objects_and_tells_their_colours() {
    let dir = tempfile::tempdir().unwrap();
    make_detector(dir.path(), 60);
    let scenes = write_scenes(&dir.path().join("unseen"), 40, 2);
    let features = extract(dir.path(), &dir.path().join("unseen/images"), "regions").unwrap();
    let (mut covered, mut rows) = (0, Vec::new());
    let (mut total, mut squares) = (0, 0.0);
    for (number, scene) in scenes.iter().enumerate() {
        let at = features.find(&scene.image).unwrap();
        assert_eq!(features.count(at), 12);
        let mut values = vec![0f32; 12 * features.width];
        features.copy_features(at, &mut values);
        assert!(values.iter().all(|value| value.is_finite() && *value >= 0.0));
        squares += values.iter().map(|value| value * value).sum::<f32>() / values.len() as f32;
        let boxes = written_boxes(&dir.path().join("regions"), number);
        for object in &scene.objects {
            total += 1;
            let overlaps = boxes.iter().map(|&corners| overlap(corners, object.corners()));
            let (best, region) =
                overlaps.zip(0..).max_by(|a, b| a.0.total_cmp(&b.0)).expect("there are twelve boxes");
            covered += usize::from(best >= 0.5);
            let colour = COLOURS.iter().position(|(name, _)| *name == object.1).unwrap();
            rows.push((colour, values[region * features.width..][..features.width].to_vec()));
        }
    }
    let rms = (squares / scenes.len() as f32).sqrt();
    assert!((0.7..4.0).contains(&rms), "features of size {rms}");
    assert!(covered * 10 >= total * 9, "{covered} of {total} objects are covered");

    let (known, unseen) = rows.split_at(rows.len() / 2);
    let mut means = vec![vec![0f32; features.width]; COLOURS.len()];
    let mut counts = [0f32; COLOURS.len()];
    for (colour, row) in known {
        counts[*colour] += 1.0;
        means[*colour].iter_mut().zip(row).for_each(|(mean, value)| *mean += value);
    }
    for (mean, count) in means.iter_mut().zip(counts) {
        mean.iter_mut().for_each(|value| *value /= count);
    }
    let right = unseen.iter().filter(|(colour, row)| {
        let distance = |mean: &[f32]| mean.iter().zip(row).map(|(a, b)| (a - b) * (a - b)).sum::<f32>();
        let nearest = (0..COLOURS.len()).min_by(|&a, &b| distance(&means[a]).total_cmp(&distance(&means[b])));
        nearest == Some(*colour)
    });
    let right = right.count();
    assert!(right * 10 >= unseen.len() * 9, "{right} of {} colours are found", unseen.len());
}

#[test]
fn the_same_bytes_come_out_on_any_number_of_threads() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = |threads: usize| {
        let dir = dir.path().join(threads.to_string());
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            make_detector(&dir, 24);
            extract(&dir, &dir.join("scenes/images"), "regions").unwrap();
        });
        ["detector/weights.safetensors", "regions/shard-00003.safetensors", "regions/regions.json"]
            .map(|name| std::fs::read(dir.join(name)).unwrap())
    };
    assert!(bytes(1) == bytes(3));
}

#[test]
fn takes_every_kind_of_picture() {
    let dir = tempfile::tempdir().unwrap();
    make_detector(dir.path(), 8);
    let images = dir.path().join("odd");
    std::fs::create_dir_all(&images).unwrap();
    RgbImage::new(1, 1).save(images.join("a-dot.png")).unwrap();
    RgbImage::from_pixel(5000, 20, Rgb([9, 200, 90])).save(images.join("b-strip.jpg")).unwrap();
    GrayImage::new(60, 90).save(images.join("c-grey.png")).unwrap();
    GrayAlphaImage::from_pixel(50, 40, LumaA([99, 0])).save(images.join("d-grey-alpha.png")).unwrap();
    RgbaImage::from_pixel(50, 40, Rgba([200, 10, 10, 0])).save(images.join("e-alpha.PNG")).unwrap();
    std::fs::write(images.join("notes.txt"), "not a picture").unwrap();
    let features = extract(dir.path(), &images, "regions").unwrap();
    for name in ["a-dot.png", "b-strip.jpg", "c-grey.png", "d-grey-alpha.png", "e-alpha.PNG"] {
        assert!(features.count(features.find(name).unwrap()) > 0, "{name}");
    }
    assert!(features.find("notes.txt").is_none());
    // Transparency is dropped without blending.
    assert_eq!(read_picture(&images.join("e-alpha.PNG")).unwrap().rgb[..3], [200, 10, 10]);
}

/// The checksums are of what PIL decodes (stages/tests/reference/jpegs.py).
#[test]
fn jpeg_files_have_the_features_of_the_pixels_that_pil_decodes() {
    let dir = tempfile::tempdir().unwrap();
    make_detector(dir.path(), 8);
    let (jpegs, pngs) = (dir.path().join("jpegs"), dir.path().join("pngs"));
    std::fs::create_dir_all(&jpegs).unwrap();
    std::fs::create_dir_all(&pngs).unwrap();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pictures/jpeg");
    let text = std::fs::read_to_string(fixtures.join("checksums.json")).unwrap();
    let checksums: std::collections::BTreeMap<String, (u32, u32, u32)> = serde_json::from_str(&text).unwrap();
    let chosen: Vec<&String> = checksums.keys().step_by(2).take(20).collect();
    for name in &chosen {
        let jpeg = fixtures.join(format!("{name}.jpg"));
        std::fs::copy(&jpeg, jpegs.join(format!("{name}.jpg"))).unwrap();
        let (width, height, checksum) = checksums[*name];
        let pixels = read_picture(&jpeg).unwrap().rgb;
        assert_eq!(crc32fast::hash(&pixels), checksum, "{name}");
        RgbImage::from_raw(width, height, pixels).unwrap().save(pngs.join(format!("{name}.png"))).unwrap();
    }
    let of_jpegs = extract(dir.path(), &jpegs, "of-jpegs").unwrap();
    let of_pngs = extract(dir.path(), &pngs, "of-pngs").unwrap();
    for name in chosen {
        let jpeg = of_jpegs.picture(of_jpegs.find(&format!("{name}.jpg")).unwrap());
        let png = of_pngs.picture(of_pngs.find(&format!("{name}.png")).unwrap());
        assert!(!jpeg.boxes.is_empty(), "{name}");
        assert_eq!((jpeg.boxes, jpeg.features), (png.boxes, png.features), "{name}");
    }
}

#[test]
fn names_the_picture_it_cannot_read() {
    let dir = tempfile::tempdir().unwrap();
    make_detector(dir.path(), 8);
    let images = dir.path().join("bad");
    std::fs::create_dir_all(&images).unwrap();
    let error = extract(dir.path(), &images, "none").err().unwrap();
    assert!(error.to_string().contains("holds no .png"), "{error}");
    std::fs::write(images.join("x.png"), b"\x89PNG\r\n\x1a\nand then nothing").unwrap();
    let error = extract(dir.path(), &images, "broken").err().unwrap();
    assert!(error.to_string().contains("x.png") && error.to_string().contains("cannot"), "{error}");
    // Thirty thousand pixels a side are not decoded: what a file says of itself is looked at first.
    let chunk = |kind: &[u8], data: &[u8]| {
        let body = [kind, data].concat();
        let sum = crc32fast::hash(&body).to_be_bytes();
        [&(data.len() as u32).to_be_bytes()[..], &body, &sum].concat()
    };
    let side = 30_000u32.to_be_bytes();
    let header = [&side[..], &side, &[8, 2, 0, 0, 0]].concat();
    let png =
        [b"\x89PNG\r\n\x1a\n".to_vec(), chunk(b"IHDR", &header), chunk(b"IDAT", &[]), chunk(b"IEND", &[])];
    std::fs::write(images.join("x.png"), png.concat()).unwrap();
    let error = extract(dir.path(), &images, "huge").err().unwrap().to_string();
    assert!(error.contains("x.png") && error.contains("cannot be read as a picture"), "{error}");
}

/// What an attempt that was killed left is taken as it is: here shards that differ from those of this run.
#[test]
fn a_killed_extraction_goes_on_after_its_last_whole_shard() {
    let dir = tempfile::tempdir().unwrap();
    make_detector(dir.path(), 24);
    let images = dir.path().join("scenes/images");
    extract(dir.path(), &images, "whole").unwrap();
    let scratch = dir.path().join("again.scratch");
    std::fs::create_dir_all(&scratch).unwrap();
    let shard = |folder: &str, number: usize| {
        std::fs::read(dir.path().join(folder).join(format!("shard-{number:05}.safetensors"))).unwrap()
    };
    std::fs::write(scratch.join("shard-00000.safetensors"), shard("whole", 1)).unwrap();
    std::fs::write(scratch.join("shard-00001.safetensors"), &shard("whole", 1)[..5000]).unwrap();
    std::fs::write(scratch.join("shard-00002.new"), "cut short").unwrap();
    extract(dir.path(), &images, "again").unwrap();
    assert!(shard("again", 0) == shard("whole", 1), "the whole shard was taken");
    for number in 1..4 {
        assert!(shard("again", number) == shard("whole", number), "shard {number} was made");
    }
}

#[test]
fn only_new_pictures_are_extracted() {
    let dir = tempfile::tempdir().unwrap();
    make_detector(dir.path(), 24);
    let (images, kept) = (dir.path().join("images"), dir.path().join("kept"));
    std::fs::create_dir_all(&images).unwrap();
    let add = |numbers: std::ops::Range<usize>| {
        for number in numbers {
            // Names move: a picture is known by what is in its file.
            let from = dir.path().join(format!("scenes/images/{number:03}.png"));
            std::fs::copy(from, images.join(format!("{:03}.png", 900 - number))).unwrap();
        }
    };
    let extract_to = |out: &str, params: &str, memory: bool| -> Recorder {
        let variables = memory.then(|| ("REPRO_REGIONS".into(), kept.clone().into()));
        let allowed_env = AllowedEnv::select(&["REPRO_REGIONS"], variables);
        let inputs = [("images", images.as_path()), ("detector", &dir.path().join("detector"))];
        run_stage_outside(&Regions, params, &inputs, &dir.path().join(out), &allowed_env).unwrap()
    };
    let files = |out: &str| -> Vec<Vec<u8>> {
        let names = ["regions.json", "shard-00000.safetensors", "shard-00001.safetensors"];
        names.map(|name| std::fs::read(dir.path().join(out).join(name)).unwrap()).into()
    };
    let known = |recorder: Recorder| {
        let notes = recorder.notes.into_inner().unwrap();
        notes.into_iter().find(|note| note.contains("extracted before"))
    };
    let params = "(regions: 6, shard: 8)";
    add(0..10);
    assert_eq!(known(extract_to("first", params, true)), None);
    add(10..14);
    let message = known(extract_to("second", params, true)).unwrap();
    assert!(message.starts_with("10 pictures"), "{message}");
    extract_to("plain", params, false);
    assert!(files("second") == files("plain"), "what is remembered is what would be made");
    assert_eq!(known(extract_to("other", "(regions: 5, shard: 8)", true)), None);
    assert_eq!(known(extract_to("halves", "(regions: 6, shard: 8, half: true)", true)), None);
    // Damage makes a shard unknown.
    for entry in std::fs::read_dir(&kept).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|ending| ending == "safetensors") {
            let mut bytes = std::fs::read(&path).unwrap();
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
            std::fs::remove_file(&path).unwrap();
            std::fs::write(&path, bytes).unwrap();
        }
    }
    assert_eq!(known(extract_to("third", params, true)), None);
    assert!(files("third") == files("plain"));
}

#[test]
fn an_extraction_says_what_it_takes() {
    let dir = tempfile::tempdir().unwrap();
    make_detector(dir.path(), 24);
    let inputs = [("images", dir.path().join("scenes/images")), ("detector", dir.path().join("detector"))];
    let inputs = [("images", inputs[0].1.as_path()), ("detector", &inputs[1].1)];
    let recorder = run_stage(&Regions, "()", &inputs, &dir.path().join("out")).unwrap();
    let notes = recorder.notes.into_inner().unwrap();
    assert!(notes.iter().any(|note| note.starts_with("24 pictures to extract: about ")), "{notes:?}");
}

#[test]
fn a_full_disk_that_half_the_bits_would_fit_on_has_a_hint() {
    let dir = tempfile::tempdir().unwrap();
    let disk = rustix::fs::statvfs(dir.path()).unwrap();
    let layout = Layout { width: 2048, max_regions: 100, shard: 1024, half: false };
    let pictures = |share: f64| {
        (disk.f_bavail as f64 * disk.f_frsize as f64 * share) as usize / layout.bytes(1) as usize
    };
    check_room(dir.path(), layout, pictures(0.5)).unwrap();
    let message = |pictures: usize| check_room(dir.path(), layout, pictures).unwrap_err().to_string();
    assert!(message(pictures(1.5)).contains("`half: true`"), "{}", message(pictures(1.5)));
    assert!(!message(pictures(4.0)).contains("`half: true`"), "{}", message(pictures(4.0)));
}

/// A GPU that has no memory for all boxes at once: fewer pictures are in flight, then fewer boxes, and all pictures get their regions.
#[test]
fn a_device_without_memory_gets_fewer_pictures_and_then_fewer_boxes() {
    let dir = tempfile::tempdir().unwrap();
    write_scenes(&dir.path().join("scenes"), 10, 3);
    let mini = Config::mini(5);
    let proposals = Proposals { before_nms: 1000, nms: 1.0, after_nms: 300, over_levels: 300 };
    let config = Config { proposals, pooled_size: 7, ..mini };
    let pooled = 300 * config.pooled_values();
    for (largest, warnings) in [(pooled, 0), (pooled / 2, 3), (1000, 4)] {
        let tensors = FasterRcnn::parameters(&config).unwrap().into_iter();
        let device = candle_core::Device::Cpu;
        let tensors = tensors.map(|(name, shape)| (name, Tensor::ones(shape, DType::F32, &device).unwrap()));
        let gpu = Gpu::new(Arc::new(Counting::refusing_beyond(largest)), Precision::F32, true).unwrap();
        let params = ParamStore::new(tensors.collect(), |_| false).unwrap();
        let params = params.with_compute(Compute::on(gpu, &device).unwrap());
        let detector = FasterRcnn::build(&config, &params).unwrap();
        let [scratch, out] = ["scratch", "out"].map(|name| dir.path().join(format!("{name}{largest}")));
        for folder in [&scratch, &out] {
            std::fs::create_dir_all(folder).unwrap();
        }
        let recorder = Recorder::default();
        let job = Job {
            inputs: &Inputs::default(),
            out: &out,
            scratch: &scratch,
            host: &Host { device: "cuda:0".to_owned(), threads: 2 },
            allowed_env: &AllowedEnv::default(),
            progress: &recorder,
        };
        let images = dir.path().join("scenes/images");
        let layout = Layout { width: config.head_width, max_regions: 12, shard: 7, half: false };
        let schedule = Schedule::on_a_gpu(proposals.over_levels);
        let work = Work { job: &job, images: &images, detector, layout, cache: None, schedule };
        let found = work.extract(&picture_names(&images).unwrap());
        let notes = recorder.notes.lock().unwrap();
        let warned = notes.iter().filter(|note| note.contains("the device has no memory for more")).count();
        assert_eq!(warned, warnings, "{notes:?}");
        if warnings == 4 {
            let error = found.unwrap_err().to_string();
            assert!(error.contains("enough free memory") && error.contains("hint:"), "{error}");
        } else {
            found.unwrap();
            let features = RegionFeatures::open(&out).unwrap();
            assert_eq!(features.count(features.find("009.png").unwrap()), 12);
        }
    }
}
