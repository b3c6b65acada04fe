//! Benign confounders: memes in blocks, so that neither the caption alone nor the picture alone tells the label.
//! It knows captions and scenes, not how they are stored.
//!
//! A block has captions about two things, A and B, and scenes that show A but not B, or B but not A. Every caption
//! meets every scene. A meme is hateful when its caption speaks about what its picture shows: the joke then has
//! somebody to hit. So every caption and every scene is hateful exactly as often as not.
//!
//! ```text
//!              scenes with A    scenes with B
//! captions A   hateful          harmless
//! captions B   harmless         hateful
//! ```
//!
//! With two captions and two scenes a side (`side` 2), the harmless memes of a corner can be split into two
//! diagonals, and one of them be called `doubtful`: exactly one of the two harmless memes of every caption and of
//! every scene. That is how annotators can disagree on half of the harmless memes and still leave text alone and
//! picture alone at chance.

use rand::RngExt;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::captions;
use super::scene::{Attribute, Scene, World};

/// A caption with a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meme {
    /// Index into [`Memes::captions`].
    pub caption: usize,
    /// Index into [`Memes::scenes`].
    pub scene: usize,
    /// The caption speaks about what the picture shows.
    pub hateful: bool,
    /// Harmless, but somebody takes it amiss.
    pub doubtful: bool,
    /// Number of its block.
    pub block: usize,
}

/// The memes of one split.
#[derive(Debug, Clone, PartialEq)]
pub struct Memes {
    /// The jokes.
    pub captions: Vec<String>,
    /// The scenes.
    pub scenes: Vec<Scene>,
    /// The memes, in random order.
    pub memes: Vec<Meme>,
}

/// How many memes a block of `side` captions and scenes a thing holds.
pub const fn block_size(side: usize) -> usize {
    4 * side * side
}

/// Makes `blocks` blocks.
pub fn make(blocks: usize, side: usize, attribute: Attribute, world: &World, rng: &mut ChaCha8Rng) -> Memes {
    let mut all = Memes { captions: Vec::new(), scenes: Vec::new(), memes: Vec::new() };
    for block in 0..blocks {
        let a = world.thing(rng);
        let b = world.thing_unlike(&[a], attribute, rng);
        let (captions, scenes) = (all.captions.len(), all.scenes.len());
        for (present, absent) in [(a, b), (b, a)] {
            for _ in 0..side {
                all.captions.push(captions::joke(present, attribute, rng));
                all.scenes.push(world.scene_of(present, absent, attribute, rng));
            }
        }
        let diagonal = [rng.random_range(0..2), rng.random_range(0..2)];
        for caption in 0..2 * side {
            for scene in 0..2 * side {
                let hateful = caption / side == scene / side;
                let doubtful = !hateful && (caption + scene) % 2 == diagonal[caption / side];
                let (caption, scene) = (captions + caption, scenes + scene);
                all.memes.push(Meme { caption, scene, hateful, doubtful, block });
            }
        }
    }
    all.memes.shuffle(rng);
    all
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rand::SeedableRng;

    use super::*;

    const WORLD: World = World { colours: 6, kinds: 8, objects: (2, 4) };

    /// Counts of (true, false) by key.
    fn tally<K: Ord>(rows: impl Iterator<Item = (K, bool)>) -> BTreeMap<K, (usize, usize)> {
        let mut counts = BTreeMap::new();
        for (key, truth) in rows {
            let count: &mut (usize, usize) = counts.entry(key).or_default();
            if truth { count.0 += 1 } else { count.1 += 1 }
        }
        counts
    }

    #[test]
    fn every_caption_and_every_scene_is_hateful_half_of_the_time() {
        for side in [1, 2] {
            let all = make(40, side, Attribute::Colour, &WORLD, &mut ChaCha8Rng::seed_from_u64(side as u64));
            assert_eq!(all.memes.len(), 40 * block_size(side));
            let texts = tally(all.memes.iter().map(|meme| (&all.captions[meme.caption], meme.hateful)));
            let scenes = tally(all.memes.iter().map(|meme| (meme.scene, meme.hateful)));
            assert!(texts.values().chain(scenes.values()).all(|(hateful, harmless)| hateful == harmless));
        }
    }

    #[test]
    fn of_every_two_harmless_memes_of_a_caption_or_a_scene_one_is_doubtful() {
        let all = make(40, 2, Attribute::Both, &WORLD, &mut ChaCha8Rng::seed_from_u64(5));
        let harmless = || all.memes.iter().filter(|meme| !meme.hateful);
        let captions = tally(harmless().map(|meme| (meme.caption, meme.doubtful)));
        let scenes = tally(harmless().map(|meme| (meme.scene, meme.doubtful)));
        assert!(captions.values().chain(scenes.values()).all(|&count| count == (1, 1)));
        assert!(all.memes.iter().all(|meme| !(meme.hateful && meme.doubtful)));
    }

    #[test]
    fn the_label_is_whether_the_caption_names_what_the_scene_shows() {
        let all = make(50, 1, Attribute::Colour, &WORLD, &mut ChaCha8Rng::seed_from_u64(6));
        for meme in &all.memes {
            let words: Vec<&str> = all.captions[meme.caption].split_whitespace().collect();
            let shown = all.scenes[meme.scene].objects.iter().any(|o| words.contains(&o.thing.colour.name()));
            assert_eq!(meme.hateful, shown);
        }
    }
}
