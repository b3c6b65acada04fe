//! `compare-regions`: published region features next to those that the pipeline's own detector extracts from the same pictures, and
//! what runs trained on either reach. It does not know how they were extracted.

use stage_api::{Job, Port, Stage, StageError};

use crate::artifacts::region_features::{PictureRegions, RegionFeatures};
use crate::models::faster_rcnn::iou;
use crate::reports::caption::Profile;
use crate::reports::evaluation::{self, Evaluated, Runs, missing};
use crate::reports::names::Names;
use crate::reports::paper_results::Paper;
use crate::reports::table::{Cell, Column, Table};

/// Compares two extractions.
pub struct CompareRegions;

/// Least overlaps of two boxes that count as the same, the weaker first: that of COCO's AP50, and nearly the same box.
const OVERLAPS: [f32; 2] = [0.5, 0.9];

impl Stage for CompareRegions {
    type Params = Profile;
    const NAME: &'static str = "compare-regions";
    const ABOUT: &'static str =
        "Published region features next to those extracted here: boxes, features, ROC-AUC of runs on either";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Port] =
        &[Port::one("published"), Port::one("own"), Port::many("published_runs"), Port::many("own_runs")];

    fn check(&self, profile: &Profile) -> Result<(), String> {
        profile.names.check()
    }

    fn run(&self, profile: &Profile, job: &Job) -> Result<(), StageError> {
        let agreement = Agreement::measure(job)?;
        let read = |port: &str| evaluation::read(port, &job.inputs.all(port), &Paper::default());
        let (published, own) = (read("published_runs")?, read("own_runs")?);
        let mut rows = agreement.rows();
        let profile = &evaluation::named(profile, &published, &Paper::default());
        let profile = &evaluation::named(profile, &own, &Paper::default());
        for (dataset, _) in &profile.names.data {
            let kinds = published.keys().chain(own.keys()).filter(|(of, _)| of == dataset);
            for kind in profile.names.kinds(kinds.map(|(_, kind)| kind.as_str())) {
                rows.extend(run_row(&published, &own, (dataset, kind), &profile.names));
            }
        }
        Ok(table(rows, profile).write(job.out)?)
    }
}

fn table(rows: Vec<Vec<Cell>>, profile: &Profile) -> Table {
    Table {
        name: "table-regions".to_owned(),
        place: 0,
        title: "Region features: published, and extracted here".to_owned(),
        caption: format!("The same pictures, two extractions, and runs on either. This run: {}.", profile.in_words()),
        columns: vec![
            Column::words("quantity", "Quantity"),
            Column::numbers("published", "", "Published"),
            Column::numbers("own", "", "Own"),
            Column::numbers("both", "", "Own against published"),
            Column::numbers("interval", "", "95% interval"),
            Column::numbers("p", "", "p").derived(),
        ],
        rows,
        notes: vec![
            "Boxes of a picture are matched one to one, the greatest overlap (IoU) first. The distance of two features is the length of \
             their difference by that of the published one, of boxes that overlap by 0.5 or more. ROC-AUC: validation split; intervals of \
             values by the bootstrap, of differences by DeLong's test for paired ROC-AUCs."
                .to_owned(),
        ],
    }
}

/// How far two extractions agree.
#[derive(Debug, Default)]
struct Agreement {
    /// Pictures of the published features, and of our own.
    pictures: [usize; 2],
    /// Pictures that both have.
    shared: usize,
    /// Regions of the shared pictures.
    regions: [usize; 2],
    /// Published regions of shared pictures whose boxes are known.
    boxed: usize,
    /// Those with one of our own that overlaps by [`OVERLAPS`].
    matched: [usize; OVERLAPS.len()],
    /// Distances of the features of matched boxes.
    distances: Vec<f32>,
}

impl Agreement {
    fn measure(job: &Job) -> Result<Self, StageError> {
        let (published_dir, own_dir) = (job.inputs.one("published")?, job.inputs.one("own")?);
        let (published, own) = (RegionFeatures::open(published_dir)?, RegionFeatures::open(own_dir)?);
        if published.width != own.width {
            let problem =
                format!("its features have {} values, the published ones {}", own.width, published.width);
            return Err(StageError::input("own", own_dir, problem));
        }
        let images = published.images();
        let mut found = Self { pictures: [images.len(), own.images().len()], ..Self::default() };
        for (number, (image, at)) in images.iter().enumerate() {
            job.check_cancelled()?;
            let Some(other) = own.find(image) else { continue };
            found.add(&published.picture(*at), &own.picture(other), published.width);
            job.progress.advance(number as u64 + 1, images.len() as u64, stage_api::Unit::Items);
        }
        match found.shared {
            0 => Err(StageError::input("own", own_dir, "has none of the pictures of the published features")),
            _ => Ok(found),
        }
    }

    fn add(&mut self, published: &PictureRegions, own: &PictureRegions, width: usize) {
        self.shared += 1;
        self.regions[0] += published.boxes.len();
        self.regions[1] += own.boxes.len();
        if published.size == PictureRegions::UNKNOWN_SIZE {
            return;
        }
        self.boxed += published.boxes.len();
        for (overlap, a, b) in matched(&published.boxes, &own.boxes) {
            for (matched, least) in self.matched.iter_mut().zip(OVERLAPS) {
                *matched += usize::from(overlap >= least);
            }
            let (published, own) = (&published.features[a * width..], &own.features[b * width..]);
            self.distances.push(distance(&published[..width], &own[..width]));
        }
    }

    fn rows(mut self) -> Vec<Vec<Cell>> {
        let row = |quantity: &str, published: Cell, own: Cell, both: Cell| {
            vec![Cell::Text(quantity.to_owned()), published, own, both, Cell::None, Cell::None]
        };
        let count = |number: usize| Cell::Count(number as u64);
        let mean = |regions: usize| regions as f64 / self.shared as f64;
        let [published, own] = self.regions.map(mean);
        let number = |value: f64, places: u8| Cell::Number { value, places };
        let mut rows = vec![
            row(
                "Pictures, and those of both",
                count(self.pictures[0]),
                count(self.pictures[1]),
                count(self.shared),
            ),
            row(
                "Regions a picture",
                number(published, 1),
                number(own, 1),
                Cell::Difference { value: own - published, places: 1 },
            ),
        ];
        let unknown = || Cell::Missing("the published features have no boxes".to_owned());
        for (least, matched) in OVERLAPS.iter().zip(self.matched) {
            let share = match self.boxed {
                0 => unknown(),
                boxed => Cell::Share { value: matched as f64 / boxed as f64, places: 1 },
            };
            rows.push(row(
                &format!("Published boxes found again, IoU ≥ {least}"),
                Cell::None,
                Cell::None,
                share,
            ));
        }
        self.distances.sort_unstable_by(f32::total_cmp);
        for (part, quantile) in [("half", 0.5), ("95%", 0.95)] {
            let distance = match quantile_of(&self.distances, quantile) {
                Some(value) => number(value.into(), 4),
                None if self.boxed == 0 => unknown(),
                None => Cell::Missing("no box is found again".to_owned()),
            };
            rows.push(row(
                &format!("Distance of their features, {part} are at most"),
                Cell::None,
                Cell::None,
                distance,
            ));
        }
        rows
    }
}

/// Pairs of boxes that overlap by the weaker of [`OVERLAPS`] or more, each box in one pair at most: the overlap, and the places of both.
fn matched(published: &[[f32; 4]], own: &[[f32; 4]]) -> Vec<(f32, usize, usize)> {
    let pairs = published
        .iter()
        .enumerate()
        .flat_map(|(a, one)| own.iter().enumerate().map(move |(b, other)| (iou(*one, *other), a, b)));
    let mut pairs: Vec<_> = pairs.filter(|(overlap, ..)| *overlap >= OVERLAPS[0]).collect();
    pairs.sort_by(|(x, ..), (y, ..)| y.total_cmp(x));
    let (mut taken, mut taken_own) = (vec![false; published.len()], vec![false; own.len()]);
    pairs.retain(|(_, a, b)| {
        let is_free = !taken[*a] && !taken_own[*b];
        if is_free {
            (taken[*a], taken_own[*b]) = (true, true);
        }
        is_free
    });
    pairs
}

/// The length of the difference by that of `a`; 0 for the same features, infinite where only `a` is all zeros.
fn distance(a: &[f32], b: &[f32]) -> f32 {
    let length = |values: &mut dyn Iterator<Item = f32>| {
        values.map(f64::from).map(|value| value * value).sum::<f64>().sqrt()
    };
    match length(&mut a.iter().zip(b).map(|(a, b)| a - b)) {
        0.0 => 0.0,
        difference => (difference / length(&mut a.iter().copied())) as f32,
    }
}

/// The least of sorted values that so many of them do not exceed; `None` of none.
fn quantile_of(sorted: &[f32], quantile: f64) -> Option<f32> {
    let place = (quantile * sorted.len() as f64).ceil() as usize;
    sorted.get(place.saturating_sub(1)).copied()
}

/// The ROC-AUC of a kind of run on either, where one of them is there.
fn run_row(published: &Runs, own: &Runs, (dataset, kind): (&str, &str), names: &Names) -> Option<Vec<Cell>> {
    let key = (dataset.to_owned(), kind.to_owned());
    let (a, b) = (published.get(&key), own.get(&key));
    let title = names.data_title(dataset);
    let name = Cell::Text(format!("ROC-AUC, {title}, {}", names.kind_title(kind)));
    let shown = |runs: Option<&Vec<Evaluated>>| match runs {
        None => missing(&key),
        Some(runs) => {
            let value = evaluation::mean_roc_auc(runs);
            evaluation::roc_auc_interval(runs).map_or(Cell::Number { value, places: 4 }, |interval| {
                Cell::Estimate { value, low: interval.low, high: interval.high, places: 4 }
            })
        }
    };
    let [difference, interval, p] = match (a, b) {
        (None, None) => return None,
        (Some(a), Some(b)) => compared(a, b),
        _ => [Cell::None, Cell::None, Cell::None],
    };
    Some(vec![name, shown(a), shown(b), difference, interval, p])
}

/// Our own ROC-AUC minus the published one, its interval, and how likely so much is by chance.
fn compared(published: &[Evaluated], own: &[Evaluated]) -> [Cell; 3] {
    let compared = evaluation::components(own, &own[0])
        .and_then(|ours| Ok((ours, evaluation::components(published, &own[0])?)))
        .and_then(|(ours, theirs)| ours.compare(&theirs).ok_or("the runs were scored on different rows"));
    match compared {
        Err(why) => [Cell::Missing(why.to_owned()), Cell::None, Cell::None],
        Ok(found) => {
            let (low, high) = found.interval();
            [
                Cell::Difference { value: found.difference, places: 4 },
                Cell::Interval { low, high, places: 4 },
                found.p.map_or(Cell::None, Cell::PValue),
            ]
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use stage_api::testing::run_stage;

    use super::*;
    use crate::artifacts::region_features::{Layout, RegionWriter};
    use crate::reports::evaluation::made_up::write as write_run;
    use crate::reports::names;

    /// A picture of boxes whose features are (box number + `shift`, 0).
    fn picture(boxes: &[[f32; 4]], shift: f32) -> PictureRegions {
        PictureRegions {
            features: (1..=boxes.len()).flat_map(|number| [number as f32 + shift, 0.0]).collect(),
            boxes: boxes.to_vec(),
            scores: vec![0.5; boxes.len()],
            objects: vec![0; boxes.len()],
            size: (100, 100),
        }
    }

    fn write(dir: &Path, width: usize, pictures: &[(&str, PictureRegions)]) -> PathBuf {
        let layout = Layout { width, max_regions: 4, shard: 8, half: false };
        let mut writer = RegionWriter::new(dir, layout);
        let pictures: Vec<_> =
            pictures.iter().map(|(name, picture)| ((*name).to_owned(), picture.clone())).collect();
        std::fs::create_dir_all(dir).unwrap();
        writer.write(&pictures).unwrap();
        writer.finish().unwrap();
        dir.to_owned()
    }

    const LEFT: [f32; 4] = [0.0, 0.0, 9.0, 9.0];
    const RIGHT: [f32; 4] = [50.0, 0.0, 59.0, 9.0];

    fn made(root: &Path, published: &Path, own: &Path) -> Result<Table, StageError> {
        let theirs = write_run(&root.join("theirs"), "hmd", "pe", 1, 0.75, 0.3);
        let ours = write_run(&root.join("ours"), "hmd", "pe", 1, 0.75, 0.3);
        let inputs =
            [("published", published), ("own", own), ("published_runs", &theirs), ("own_runs", &ours)];
        run_stage(&CompareRegions, &names::made_up::params(), &inputs, &root.join("out"))?;
        Ok(Table::read(&root.join("out/table-regions.json"))?)
    }

    #[test]
    fn boxes_are_matched_once_and_their_features_compared() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        // Shifted by 2 of 10 pixels, LEFT overlaps by 8 of 12; a second box there has no partner left. RIGHT is the same.
        let shifted = [2.0, 0.0, 11.0, 9.0];
        let theirs = [("a.png", picture(&[LEFT, RIGHT], 0.0)), ("b.png", picture(&[LEFT], 0.0))];
        let ours = [("a.png", picture(&[shifted, RIGHT, shifted], 1.0)), ("c.png", picture(&[LEFT], 0.0))];
        let (theirs, ours) = (write(&root.join("p"), 2, &theirs), write(&root.join("o"), 2, &ours));
        let table = made(root, &theirs, &ours).unwrap();
        let shown = |row: usize| -> Vec<String> { table.rows[row].iter().map(Cell::shown).collect() };
        assert_eq!(shown(0)[1..4], ["2", "2", "1"]);
        assert_eq!(shown(1)[1..4], ["2.0", "3.0", "+1.0"]);
        assert_eq!([&shown(2)[3], &shown(3)[3]], ["100.0 %", "50.0 %"]);
        // Features 1 and 2 became 2 and 3.
        assert_eq!([&shown(4)[3], &shown(5)[3]], ["0.5000", "1.0000"]);
        assert_eq!(shown(6)[0], "ROC-AUC, Hateful Memes, PE");
        assert_eq!(shown(6)[3..], ["0.0000", "0.0000 to 0.0000", "1.000"]);
        // Where neither has a run, no row would say anything.
        assert_eq!(table.rows.len(), 7);
        assert!(!table.rows.iter().any(|row| row[0].shown().contains("MMHS150K")));
    }

    #[test]
    fn other_widths_other_pictures_and_unknown_boxes_are_said() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let one = write(&root.join("one"), 2, &[("a.png", picture(&[LEFT], 0.0))]);
        let wide = PictureRegions { features: vec![0.0; 3], ..picture(&[LEFT], 0.0) };
        let wide = write(&root.join("wide"), 3, &[("a.png", wide)]);
        let error = made(root, &one, &wide).unwrap_err().to_string();
        assert!(error.contains("its features have 3 values, the published ones 2"), "{error}");
        let other = write(&root.join("other"), 2, &[("b.png", picture(&[LEFT], 0.0))]);
        let error = made(root, &one, &other).unwrap_err().to_string();
        assert!(error.contains("none of the pictures"), "{error}");
        let unknown = PictureRegions { size: PictureRegions::UNKNOWN_SIZE, ..picture(&[[0.0; 4]], 0.0) };
        let unknown = write(&root.join("unknown"), 2, &[("a.png", unknown)]);
        let table = made(root, &unknown, &one).unwrap();
        assert_eq!(table.rows[2][3].shown(), "the published features have no boxes");
    }

    #[test]
    fn a_quantile_is_a_value_that_is_there() {
        let values = [1.0, 2.0, 3.0, 4.0];
        assert_eq!(
            [0.5, 0.75, 0.95].map(|part| quantile_of(&values, part)),
            [Some(2.0), Some(3.0), Some(4.0)]
        );
        assert_eq!(quantile_of(&[], 0.5), None);
        assert_eq!(distance(&[0.0, 0.0], &[0.0, 0.0]), 0.0);
    }
}
