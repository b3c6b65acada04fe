//! What can be seen in a synthetic picture: a few coloured things, and how a scene is drawn by lot. It does not
//! know how a scene is painted or what is said about it.

use rand::RngExt;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use schemars::JsonSchema;
use stage_api::ParamEnum;

/// Side of a picture in pixels.
pub const SIDE: u32 = 112;
/// Height in pixels of the strips at the top and the bottom that are left to the caption.
pub const STRIP: u32 = 20;
/// Things stand in a grid of 3 × 2 cells of this side, so that they never overlap.
const CELL: f32 = 36.0;
/// Radius of a thing in pixels, smallest and largest.
const RADIUS: (f32, f32) = (12.5, 16.5);
/// Most things a picture can hold: one a cell.
pub const MAX_OBJECTS: usize = 6;

/// The shape of a thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Circle,
    Square,
    Triangle,
    Star,
    Cross,
    Ring,
    Heart,
    Moon,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 8] = [
        Self::Circle,
        Self::Square,
        Self::Triangle,
        Self::Star,
        Self::Cross,
        Self::Ring,
        Self::Heart,
        Self::Moon,
    ];

    /// What captions call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Circle => "circle",
            Self::Square => "square",
            Self::Triangle => "triangle",
            Self::Star => "star",
            Self::Cross => "cross",
            Self::Ring => "ring",
            Self::Heart => "heart",
            Self::Moon => "moon",
        }
    }
}

/// The colour of a thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    Red,
    Blue,
    Green,
    Yellow,
    Purple,
    Orange,
}

impl Colour {
    /// All colours, the most distinct first.
    pub const ALL: [Self; 6] = [Self::Red, Self::Blue, Self::Green, Self::Yellow, Self::Purple, Self::Orange];

    /// What captions call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Red => "red",
            Self::Blue => "blue",
            Self::Green => "green",
            Self::Yellow => "yellow",
            Self::Purple => "purple",
            Self::Orange => "orange",
        }
    }

    /// Red, green and blue, 0 to 255.
    pub fn rgb(self) -> [u8; 3] {
        match self {
            Self::Red => [214, 28, 36],
            Self::Blue => [30, 72, 224],
            Self::Green => [18, 150, 54],
            Self::Yellow => [246, 214, 20],
            Self::Purple => [140, 36, 190],
            Self::Orange => [248, 128, 12],
        }
    }
}

/// What a meme's caption speaks about and what therefore decides its label.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, JsonSchema, ParamEnum)]
#[serde(rename_all = "snake_case")]
#[param(unquoted)]
pub enum Attribute {
    /// "the red one": the colour alone.
    #[default]
    Colour,
    /// "the star": the shape alone.
    Kind,
    /// "the red star": colour and shape, which agree; either cue would do.
    Both,
}

/// A coloured thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thing {
    /// Its shape.
    pub kind: Kind,
    /// Its colour.
    pub colour: Colour,
}

impl Thing {
    /// Whether a caption that names `attribute` of `self` could just as well mean `other`.
    pub fn is_like(self, other: Self, attribute: Attribute) -> bool {
        match attribute {
            Attribute::Colour => self.colour == other.colour,
            Attribute::Kind => self.kind == other.kind,
            Attribute::Both => self.colour == other.colour || self.kind == other.kind,
        }
    }
}

/// A thing at its place.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Object {
    /// What it is.
    pub thing: Thing,
    /// Centre, in pixels from the upper left corner.
    pub centre: (f32, f32),
    /// Radius of the circle around it, in pixels.
    pub radius: f32,
    /// Rotation, in radians.
    pub angle: f32,
}

impl Object {
    /// The box around it: x1, y1, x2, y2 in pixels.
    pub fn bounds(&self) -> [f32; 4] {
        let ((x, y), r) = (self.centre, self.radius);
        [x - r, y - r, x + r, y + r]
    }
}

/// What a picture shows.
#[derive(Debug, Clone, PartialEq)]
pub struct Scene {
    /// The things, in no particular order.
    pub objects: Vec<Object>,
    /// Seed of the background.
    pub look: u64,
}

/// From what scenes are drawn.
#[derive(Debug, Clone, Copy)]
pub struct World {
    /// The first so many colours of [`Colour::ALL`] are used.
    pub colours: usize,
    /// The first so many kinds of [`Kind::ALL`] are used.
    pub kinds: usize,
    /// Fewest and most things in a scene.
    pub objects: (usize, usize),
}

impl World {
    /// Any thing.
    pub fn thing(&self, rng: &mut ChaCha8Rng) -> Thing {
        Thing {
            kind: Kind::ALL[rng.random_range(0..self.kinds)],
            colour: Colour::ALL[rng.random_range(0..self.colours)],
        }
    }

    /// A thing that is like none of `others`. Needs more colours and kinds than there are `others`.
    pub fn thing_unlike(&self, others: &[Thing], attribute: Attribute, rng: &mut ChaCha8Rng) -> Thing {
        loop {
            let thing = self.thing(rng);
            if !others.iter().any(|other| thing.is_like(*other, attribute)) {
                return thing;
            }
        }
    }

    /// A scene of any things.
    pub fn scene(&self, rng: &mut ChaCha8Rng) -> Scene {
        let count = rng.random_range(self.objects.0..=self.objects.1);
        let things = (0..count).map(|_| self.thing(rng)).collect();
        place(things, rng)
    }

    /// A scene in which exactly one thing is like `present` and none is like `absent`.
    pub fn scene_of(
        &self,
        present: Thing,
        absent: Thing,
        attribute: Attribute,
        rng: &mut ChaCha8Rng,
    ) -> Scene {
        let count = rng.random_range(self.objects.0..=self.objects.1);
        let mut shown = present;
        // What the caption does not speak about is drawn again, so that it reveals nothing.
        match attribute {
            Attribute::Colour => shown.kind = self.thing(rng).kind,
            Attribute::Kind => shown.colour = self.thing(rng).colour,
            Attribute::Both => {}
        }
        let mut things = vec![shown];
        while things.len() < count {
            things.push(self.thing_unlike(&[present, absent], attribute, rng));
        }
        place(things, rng)
    }
}

fn place(things: Vec<Thing>, rng: &mut ChaCha8Rng) -> Scene {
    let mut cells: Vec<usize> = (0..MAX_OBJECTS).collect();
    cells.shuffle(rng);
    let left = (SIDE as f32 - 3.0 * CELL) / 2.0;
    let objects = things
        .into_iter()
        .zip(cells)
        .map(|(thing, cell)| {
            let radius = rng.random_range(RADIUS.0..RADIUS.1);
            let slack = CELL / 2.0 - radius;
            let x = left + CELL * ((cell % 3) as f32 + 0.5) + rng.random_range(-slack..slack);
            let y = STRIP as f32 + CELL * ((cell / 3) as f32 + 0.5) + rng.random_range(-slack..slack);
            Object { thing, centre: (x, y), radius, angle: rng.random_range(-0.25..0.25) }
        })
        .collect();
    Scene { objects, look: rng.random() }
}

/// One of a fixed list.
pub fn pick<T: Copy>(from: &[T], rng: &mut ChaCha8Rng) -> T {
    from[rng.random_range(0..from.len())]
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    const WORLD: World = World { colours: 6, kinds: 8, objects: (2, 4) };

    #[test]
    fn things_stay_in_the_picture_and_apart() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for _ in 0..500 {
            let scene = WORLD.scene(&mut rng);
            assert!((2..=4).contains(&scene.objects.len()));
            for (i, object) in scene.objects.iter().enumerate() {
                let [x1, y1, x2, y2] = object.bounds();
                assert!(x1 >= 0.0 && x2 <= SIDE as f32, "{object:?}");
                assert!(y1 >= STRIP as f32 && y2 <= (SIDE - STRIP) as f32, "{object:?}");
                for other in &scene.objects[..i] {
                    let [u1, v1, u2, v2] = other.bounds();
                    assert!(x2 <= u1 || u2 <= x1 || y2 <= v1 || v2 <= y1, "{object:?} meets {other:?}");
                }
            }
        }
    }

    #[test]
    fn a_scene_shows_what_it_must_once_and_what_it_must_not_never() {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        for attribute in [Attribute::Colour, Attribute::Kind, Attribute::Both] {
            for _ in 0..200 {
                let present = WORLD.thing(&mut rng);
                let absent = WORLD.thing_unlike(&[present], attribute, &mut rng);
                let scene = WORLD.scene_of(present, absent, attribute, &mut rng);
                let like = |thing: Thing| {
                    scene.objects.iter().filter(|object| object.thing.is_like(thing, attribute)).count()
                };
                assert_eq!((like(present), like(absent)), (1, 0), "{attribute:?}");
            }
        }
    }
}
