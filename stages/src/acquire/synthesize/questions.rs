//! Questions about pictures as somebody's own data set: a table with a class for each row, in no official layout. The colour that a
//! row asks for does not depend on the thing, so neither the text alone nor the picture alone tells the class.

use std::path::Path;

use rand_chacha::ChaCha8Rng;
use stage_api::StageError;

use super::archives::Counter;
use super::draw::Picture;
use super::scene::{Attribute, Scene, World, pick};

/// The table, and the folder of its pictures.
const TABLE: &str = "questions.csv";
const PICTURES: &str = "questions";
/// What a row asks; `{}` is a kind of thing.
const FORMS: [&str; 3] =
    ["what colour is the {} ?", "which colour has the {} ?", "the {} , what colour is that ?"];
/// So many colours there are, which are the classes.
const COLOURS: usize = 3;

/// A row of the table.
struct Question {
    id: String,
    text: String,
    answer: &'static str,
    scene: Scene,
}

/// Writes `count` questions with their pictures into `dir`.
pub fn write(
    dir: &Path,
    count: usize,
    world: &World,
    counter: &mut Counter,
    rng: &mut ChaCha8Rng,
) -> Result<(), StageError> {
    let world = World { colours: COLOURS, ..*world };
    let questions: Vec<Question> = (0..count).map(|number| question(number, &world, rng)).collect();
    let mut table = csv::Writer::from_path(dir.join(TABLE)).map_err(StageError::failed)?;
    table.write_record(["id", "image", "text", "label"]).map_err(StageError::failed)?;
    for Question { id, text, answer, .. } in &questions {
        let image = format!("{id}.png");
        table.write_record([id, &image, text, *answer]).map_err(StageError::failed)?;
    }
    table.flush()?;
    let pictures = dir.join(PICTURES);
    std::fs::create_dir_all(&pictures)?;
    counter.paint(
        &questions,
        |question| Picture::draw(&question.scene, None).png(),
        |question, file| Ok(std::fs::write(pictures.join(format!("{}.png", question.id)), file)?),
    )
}

fn question(number: usize, world: &World, rng: &mut ChaCha8Rng) -> Question {
    let asked = world.thing(rng);
    let other = world.thing_unlike(&[asked], Attribute::Kind, rng);
    // Exactly one thing is of the kind, and its colour is drawn by lot.
    let scene = world.scene_of(asked, other, Attribute::Kind, rng);
    let shown = scene.objects.iter().find(|object| object.thing.kind == asked.kind);
    Question {
        id: format!("q{number:05}"),
        text: pick(&FORMS, rng).replace("{}", asked.kind.name()),
        answer: shown.map_or(asked.colour, |object| object.thing.colour).name(),
        scene,
    }
}
