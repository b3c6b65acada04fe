//! Writes memes in the layouts of the two official data sets. It knows file names and fields, not how memes come
//! about.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use image::ImageError;
use rand::RngExt;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::Serialize;
use stage_api::{Job, StageError, Unit};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipWriter};

use super::captions;
use super::draw::Picture;
use super::memes::{Meme, Memes};
use super::scene::Kind;

/// Pictures painted at a time: enough for all threads, few enough for little memory.
const CHUNK: usize = 128;
/// Classes of the MMHS150K annotators, by label.
const CLASSES: [&str; 6] = ["NotHate", "Racist", "Sexist", "Homophobe", "Religion", "OtherHate"];
const README: &str = "Synthetic memes in the layout of MMHS150K: coloured things with jokes about them.\n\
    labels: one number an annotator, 0 stands for harmless. Nothing here was written by or about anybody.\n";

/// Counts finished pictures, tells the job, and stops when the job is to stop.
pub struct Counter<'a> {
    job: &'a Job<'a>,
    done: u64,
    total: u64,
}

impl<'a> Counter<'a> {
    /// A count from nothing to `total`.
    pub fn new(job: &'a Job<'a>, total: usize) -> Self {
        Self { job, done: 0, total: total as u64 }
    }

    /// Paints a picture for each of `items` in parallel and hands the files over in order.
    pub fn paint<T: Sync>(
        &mut self,
        items: &[T],
        paint: impl Fn(&T) -> Result<Vec<u8>, ImageError> + Sync,
        mut store: impl FnMut(&T, Vec<u8>) -> Result<(), StageError>,
    ) -> Result<(), StageError> {
        for chunk in items.chunks(CHUNK) {
            self.job.check_cancelled()?;
            let files: Vec<Vec<u8>> =
                chunk.par_iter().map(&paint).collect::<Result<_, _>>().map_err(StageError::failed)?;
            for (item, file) in chunk.iter().zip(files) {
                store(item, file)?;
            }
            self.done += chunk.len() as u64;
            self.job.progress.advance(self.done, self.total, Unit::Items);
        }
        Ok(())
    }
}

/// A zip archive in the making. Times within it are fixed, so that equal content gives equal bytes.
struct Archive(ZipWriter<BufWriter<File>>);

impl Archive {
    fn create(path: &Path) -> Result<Self, StageError> {
        Ok(Self(ZipWriter::new(BufWriter::new(File::create(path)?))))
    }

    /// Adds a file. Pictures are `Stored`: they are compressed already.
    fn add(&mut self, name: &str, bytes: &[u8], method: CompressionMethod) -> Result<(), StageError> {
        let options = SimpleFileOptions::default()
            .compression_method(method)
            .last_modified_time(DateTime::DEFAULT)
            .unix_permissions(0o644);
        self.0.start_file(name, options).map_err(StageError::failed)?;
        Ok(self.0.write_all(bytes)?)
    }

    fn finish(self) -> Result<(), StageError> {
        let mut file = self.0.finish().map_err(StageError::failed)?;
        Ok(file.flush()?)
    }
}

/// A line of the Hateful Memes annotations.
#[derive(Serialize)]
struct HatefulMeme<'a> {
    id: u32,
    img: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<u8>,
    text: &'a str,
}

/// Writes the phase-2 layout of Hateful Memes: `data/img/*.png` and `data/<split>.jsonl`, labels where the flag
/// of the split says so.
pub fn write_hateful_memes(
    path: &Path,
    splits: &[(&str, Memes, bool)],
    counter: &mut Counter,
    rng: &mut ChaCha8Rng,
) -> Result<(), StageError> {
    let mut archive = Archive::create(path)?;
    let mut ids: Vec<u32> = (1000..100_000).collect();
    ids.shuffle(rng);
    for (name, split, labelled) in splits {
        let own: Vec<u32> = ids.split_off(ids.len() - split.memes.len());
        let mut lines = Vec::new();
        for (meme, id) in split.memes.iter().zip(&own) {
            let line = HatefulMeme {
                id: *id,
                img: format!("img/{id:05}.png"),
                label: labelled.then_some(u8::from(meme.hateful)),
                text: &split.captions[meme.caption],
            };
            serde_json::to_writer(&mut lines, &line).map_err(StageError::failed)?;
            lines.push(b'\n');
        }
        archive.add(&format!("data/{name}.jsonl"), &lines, CompressionMethod::Deflated)?;
        let items: Vec<(&Meme, u32)> = split.memes.iter().zip(own).collect();
        counter.paint(
            &items,
            |(meme, _)| Picture::draw(&split.scenes[meme.scene], Some(&split.captions[meme.caption])).png(),
            |(_, id), file| archive.add(&format!("data/img/{id:05}.png"), &file, CompressionMethod::Stored),
        )?;
    }
    archive.finish()
}

/// An entry of `MMHS150K_GT.json`.
#[derive(Serialize)]
struct Tweet {
    img_url: String,
    labels: [u8; 3],
    labels_str: [&'static str; 3],
    tweet_text: String,
    tweet_url: String,
}

/// A split of the tweets: its name, its memes, and what each caption reads as a tweet (without the link).
pub struct TweetSplit {
    /// `train`, `val`, `test`.
    pub name: &'static str,
    /// The memes.
    pub memes: Memes,
    /// By caption.
    pub texts: Vec<String>,
}

/// Writes the layout of MMHS150K. About half of the blocks have their caption within the picture, too.
pub fn write_mmhs150k(
    path: &Path,
    splits: &[TweetSplit],
    counter: &mut Counter,
    rng: &mut ChaCha8Rng,
) -> Result<(), StageError> {
    let mut archive = Archive::create(path)?;
    let mut truth = BTreeMap::new();
    let mut id = 1_021_000_000_000_000_000u64;
    for TweetSplit { name, memes: split, texts } in splits {
        let blocks = split.memes.iter().map(|meme| meme.block + 1).max().unwrap_or(0);
        let written: Vec<bool> = (0..blocks).map(|_| rng.random_bool(0.5)).collect();
        let mut ids = String::new();
        let mut items: Vec<(&Meme, String)> = Vec::new();
        for meme in &split.memes {
            id += rng.random_range(1_000_000..9_000_000_000);
            let labels = votes(meme, rng);
            let tweet = Tweet {
                img_url: format!("https://example.org/media/{id}.jpg"),
                labels,
                labels_str: labels.map(|label| CLASSES[usize::from(label)]),
                tweet_text: format!("{} {}", texts[meme.caption], captions::link(rng)),
                tweet_url: format!("https://example.org/user/status/{id}"),
            };
            if written[meme.block] {
                let text = serde_json::json!({ "img_text": split.captions[meme.caption] }).to_string();
                archive.add(&format!("img_txt/{id}.json"), text.as_bytes(), CompressionMethod::Stored)?;
            }
            ids.push_str(&format!("{id}\n"));
            items.push((meme, id.to_string()));
            truth.insert(id.to_string(), tweet);
        }
        archive.add(&format!("splits/{name}_ids.txt"), ids.as_bytes(), CompressionMethod::Deflated)?;
        counter.paint(
            &items,
            |(meme, _)| {
                let caption = written[meme.block].then(|| split.captions[meme.caption].as_str());
                Picture::draw(&split.scenes[meme.scene], caption).jpeg()
            },
            |(_, id), file| archive.add(&format!("img_resized/{id}.jpg"), &file, CompressionMethod::Stored),
        )?;
    }
    let truth = serde_json::to_vec(&truth).map_err(StageError::failed)?;
    archive.add("MMHS150K_GT.json", &truth, CompressionMethod::Deflated)?;
    let keywords: String = Kind::ALL.iter().map(|kind| format!("{}\n", kind.name())).collect();
    archive.add("hatespeech_keywords.txt", keywords.as_bytes(), CompressionMethod::Deflated)?;
    archive.add("readme.txt", README.as_bytes(), CompressionMethod::Deflated)?;
    archive.finish()
}

/// What three annotators say, 0 for harmless: two or all three find a hateful meme so, one a doubtful meme, none
/// the others. So the majority is always right, and half of the harmless memes are hateful to somebody: 75 % of
/// all, as 3,719 of the 5,000 real validation tweets are.
fn votes(meme: &Meme, rng: &mut ChaCha8Rng) -> [u8; 3] {
    let against = match (meme.hateful, meme.doubtful) {
        (true, _) => rng.random_range(2..=3),
        (false, doubtful) => usize::from(doubtful),
    };
    let mut votes = [0; 3];
    for vote in &mut votes[..against] {
        *vote = rng.random_range(1..=5);
    }
    votes.shuffle(rng);
    votes
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn the_majority_is_right_and_any_vote_counts_the_doubtful() {
        let mut rng = ChaCha8Rng::seed_from_u64(4);
        for (hateful, doubtful) in [(true, false), (false, true), (false, false)] {
            for _ in 0..100 {
                let meme = Meme { caption: 0, scene: 0, hateful, doubtful, block: 0 };
                let against = votes(&meme, &mut rng).iter().filter(|vote| **vote > 0).count();
                assert_eq!(against >= 2, hateful);
                assert_eq!(against >= 1, hateful || doubtful);
            }
        }
    }
}
