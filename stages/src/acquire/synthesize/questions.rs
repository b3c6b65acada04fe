//! Questions about pictures as somebody's own data set: a table with a class for each row, in no official layout. Whether the thing
//! that a row asks for is there does not depend on the thing, so neither the text alone nor the picture alone tells the class.

use std::path::Path;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use stage_api::StageError;

use super::archives::Counter;
use super::draw::Picture;
use super::scene::{Attribute, Scene, World, pick};

/// The table, and the folder of its pictures.
const TABLE: &str = "questions.csv";
const PICTURES: &str = "questions";
/// What a row asks; `{}` is a thing.
const FORMS: [&str; 3] = ["is there a {} ?", "can you see a {} ?", "did a {} come to the party ?"];
/// The answers, which are the classes.
const ANSWERS: [&str; 2] = ["no", "yes"];

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
    let questions: Vec<Question> = (0..count).map(|number| question(number, world, rng)).collect();
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
    let other = world.thing_unlike(&[asked], Attribute::Both, rng);
    let answer = rng.random_range(0..ANSWERS.len());
    let (present, absent) = if answer == 1 { (asked, other) } else { (other, asked) };
    let name = format!("{} {}", asked.colour.name(), asked.kind.name());
    Question {
        id: format!("q{number:05}"),
        text: pick(&FORMS, rng).replace("{}", &name),
        answer: ANSWERS[answer],
        scene: world.scene_of(present, absent, Attribute::Both, rng),
    }
}
