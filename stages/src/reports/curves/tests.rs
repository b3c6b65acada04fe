//! The curves of invented runs next to the published ones.

use std::fs;
use std::path::{Path, PathBuf};

use rand::RngExt;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use stage_api::testing::run_stage;

use super::*;
use crate::artifacts::history::{ParameterCounts, RunInfo, TrainPoint, ValPoint};
use crate::reports::names;

const MODES: [&str; 3] = ["fc", "pe", "full"];

/// A run of 600 updates with the shape of a real one: a saturating rise under noise.
fn history(dataset: &str, mode: &str, seed: u64) -> History {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let last = [("fc", 0.62), ("pe", 0.82), ("full", 0.84)].iter().find(|(name, _)| *name == mode).unwrap().1;
    let mut noise = |width: f64| random.random_range(-width..width);
    let rise = |update: u64| 1.0 - libm::exp(-4.0 * update as f64 / 600.0);
    let train = (1..=30).map(|i| 20 * i).map(|update| {
        let loss = 0.7 - 1.5 * (last - 0.5) * rise(update) + noise(0.02);
        TrainPoint { update, loss, loss_average: loss, lr: 1e-3 }
    });
    let train = train.collect();
    let val: Vec<ValPoint> = (1..=12)
        .map(|i| 50 * i)
        .map(|update| {
            let roc_auc = 0.55 + (last - 0.55) * rise(update) + noise(0.01);
            ValPoint { update, loss: 1.2 - roc_auc, roc_auc, accuracy: roc_auc, f1: 0.5 }
        })
        .collect();
    let best = *val.iter().rev().max_by(|a, b| a.roc_auc.total_cmp(&b.roc_auc)).unwrap();
    History {
        run: RunInfo::from_kind(dataset, mode, seed, 600),
        parameters: ParameterCounts { total: 10, trained: 5, adapters: 0 },
        rows: (100, 50),
        train,
        val,
        best,
    }
}

fn draw(root: &Path, histories: &[History]) -> PathBuf {
    let published = Path::new(env!("CARGO_MANIFEST_DIR")).join("../paper/curves.csv");
    let dirs: Vec<PathBuf> = (0..histories.len()).map(|place| root.join(format!("run-{place}"))).collect();
    for (dir, history) in dirs.iter().zip(histories) {
        fs::create_dir_all(dir).unwrap();
        history.write(dir).unwrap();
    }
    let mut inputs: Vec<(&str, &Path)> = vec![("published", &published)];
    inputs.extend(dirs.iter().map(|dir| ("runs", dir.as_path())));
    let out = root.join("out");
    run_stage(&Curves, &names::made_up::params(), &inputs, &out).unwrap();
    out
}

#[test]
fn without_a_paper_figures_have_the_runs_alone() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    fs::create_dir_all(&run).unwrap();
    history("shapes", "pe", 1).write(&run).unwrap();
    let out = dir.path().join("out");
    run_stage(&Curves, "(profile: \"own\")", &[("runs", &run)], &out).unwrap();
    let figures = figure::read(&out).unwrap();
    let names: Vec<&str> = figures.iter().map(|(entry, _)| entry.name.as_str()).collect();
    assert_eq!(names, ["shapes-roc-auc", "shapes-loss"]);
    for (_, svg) in &figures {
        assert!(svg.contains("This run") && svg.contains("PE: "), "{svg}");
        assert!(!svg.contains("ublished") && !svg.contains("no run"), "{svg}");
    }
}

#[test]
fn four_figures_name_profile_runs_and_published_bests_and_are_the_same_bytes_again() {
    let histories: Vec<History> =
        ["hmd", "mmh"].iter().flat_map(|dataset| MODES.map(|mode| history(dataset, mode, 1))).collect();
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (a, b) = (draw(first.path(), &histories), draw(second.path(), &histories));
    for (name, best) in [
        ("hmd-roc-auc", "PE: best 0.728 at update 19,000"),
        ("mmh-roc-auc", "Full-FT: best 0.724 at update 16,000"),
        ("hmd-loss", "FC: 0.794 at update 19,000"),
        ("mmh-loss", "PE: 0.514 at update 13,000"),
    ] {
        for ending in ["svg", "png", "pdf"] {
            let file = format!("{name}.{ending}");
            assert_eq!(fs::read(a.join(&file)).unwrap(), fs::read(b.join(&file)).unwrap(), "{file}");
        }
        let svg = fs::read_to_string(a.join(format!("{name}.svg"))).unwrap();
        assert!(svg.contains("By profile mini (synthetic memes)."), "{name}");
        assert!(svg.contains(best), "{name} without {best}");
        // For these PNG and PDF need sines and tangents, and their library takes those from the system.
        for shape in ["<circle", "<ellipse", " rx=", "rotate(", "skew"] {
            assert!(!svg.contains(shape), "{name} with {shape}");
        }
    }
}

#[test]
fn the_picture_holds_every_validation_at_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let run = history("hmd", "pe", 3);
    let out = draw(dir.path(), std::slice::from_ref(&run));
    let svg = fs::read_to_string(out.join("hmd-roc-auc.svg")).unwrap();
    // Ours is the last line, the published ones lie behind it. The plot is 776 wide from 66 on.
    let line = svg.lines().rfind(|line| line.starts_with("<polyline")).unwrap();
    let points = line.split('"').nth(1).unwrap().split(' ');
    let points: Vec<(f64, f64)> = points
        .map(|point| point.split_once(',').unwrap())
        .map(|(x, y)| (x.parse().unwrap(), y.parse().unwrap()))
        .collect();
    assert_eq!(points.len(), run.val.len());
    for ((x, y), val) in points.iter().zip(&run.val) {
        assert!((x - (66.0 + 776.0 * val.update as f64 / 600.0)).abs() < 0.06, "{x} at {}", val.update);
        // Heights are in proportion: the same line through the first and the last point.
        let (low, high) = (run.val.first().unwrap(), run.val.last().unwrap());
        let share = (val.roc_auc - low.roc_auc) / (high.roc_auc - low.roc_auc);
        let expected = points[0].1 + share * (points.last().unwrap().1 - points[0].1);
        assert!((y - expected).abs() < 0.3, "{y} is not {expected}");
    }
    assert!(svg.contains("Full-FT: no run") && svg.contains("updates, published"));
}

#[test]
fn the_png_is_the_svg_with_its_lines_and_letters() {
    let dir = tempfile::tempdir().unwrap();
    let out = draw(dir.path(), &[history("hmd", "pe", 3)]);
    let picture = image::open(out.join("hmd-roc-auc.png")).unwrap().into_rgb8();
    assert_eq!(picture.width(), 2 * 860);
    let blue = picture.pixels().filter(|pixel| pixel.0 == [0x00, 0x72, 0xb2]).count();
    assert!(blue > 1000, "{blue} pixels of our line");
    // The title's line of text: dark pixels only if the font was found.
    let title = picture.enumerate_pixels().filter(|(x, y, pixel)| *x < 900 && *y < 60 && pixel.0[0] < 0x80);
    assert!(title.count() > 500);
}

#[test]
fn several_seeds_become_their_mean_with_a_band() {
    let dir = tempfile::tempdir().unwrap();
    let seeds = [history("mmh", "fc", 2), history("mmh", "fc", 1)];
    let out = draw(dir.path(), &seeds);
    let svg = fs::read_to_string(out.join("mmh-roc-auc.svg")).unwrap();
    let at = |update: u64| {
        seeds.each_ref().map(|run| run.val.iter().find(|v| v.update == update).unwrap().roc_auc)
    };
    let ([a, b], band) = (at(300), "<polygon points=");
    let (mean, low, high) = ((a + b) / 2.0, a.min(b), a.max(b));
    let says = format!("FC (seeds 1, 2): {mean:.4} ({low:.4} to {high:.4}) at update 300");
    assert!(svg.contains(&says), "{says}");
    assert!(svg.contains("bands: from the least to the greatest"));
    assert_eq!(svg.lines().filter(|line| line.contains(band) && line.contains("fill-opacity")).count(), 1);
}

#[test]
fn a_value_that_is_no_number_leaves_a_gap_and_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let mut run = history("hmd", "pe", 3);
    run.val[4].roc_auc = f64::NAN;
    run.train[0].loss = f64::NAN;
    let whole = draw(&dir.path().join("whole"), &[history("hmd", "pe", 3)]);
    let broken = draw(&dir.path().join("broken"), &[run]);
    let lines = |out: &Path| {
        let svg = fs::read_to_string(out.join("hmd-roc-auc.svg")).unwrap();
        (svg.matches("<polyline").count(), svg.contains("; 2 values are no numbers"))
    };
    let ((before, _), (after, said)) = (lines(&whole), lines(&broken));
    assert_eq!((after, said), (before + 1, true));
}

#[test]
fn a_run_without_any_number_still_has_its_figure() {
    let dir = tempfile::tempdir().unwrap();
    let mut run = history("mmh", "full", 1);
    run.val.iter_mut().for_each(|val| (val.roc_auc, val.loss) = (f64::NAN, f64::NAN));
    run.best = run.val[0];
    let out = draw(dir.path(), &[run]);
    let svg = fs::read_to_string(out.join("mmh-roc-auc.svg")).unwrap();
    assert!(svg.contains("Full-FT: never validated; 24 values are no numbers"), "{svg}");
}
