//! What is said: jokes about a thing, true descriptions of a scene, and the trimmings of a tweet. It knows
//! things by name only, neither pictures nor labels.

use rand::RngExt;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::scene::{Attribute, Scene, Thing, World, pick};

/// Jokes; `{}` is the thing they are about, named without an article.
pub const JOKES: [&str; 26] = [
    "when you asked for the {} and got this",
    "nobody : absolutely nobody : the {}",
    "me looking for the {} on a monday morning",
    "the {} after one cup of coffee",
    "that {} thinks it can dance",
    "my weekend plans are the {} and a nap",
    "tell me you saw the {} without telling me",
    "how it feels to be the {} at a party",
    "say hello to the {} of the family",
    "i only came here for the {}",
    "keep calm and blame the {}",
    "the {} when the internet is down",
    "never trust the {} before breakfast",
    "my cat would sit on the {} all day",
    "the {} has left the group chat",
    "mom can we keep the {} at home",
    "you can not simply ignore the {}",
    "the {} is why we have no nice things",
    "still waiting for the {} to call back",
    "they said the {} would be on time",
    "the {} ate my homework again",
    "when the {} is your new boss",
    "if monday was a picture : the {}",
    "this {} needs a holiday and so do i",
    "look at the {} go it has no idea",
    "one does not wash the {} with the socks",
];

const EMOJI: [&str; 10] = ["😂", "🙃", "🔥", "💯", "👀", "🤷", "🎉", "😴", "🍕", "🐱"];
const TAGS: [&str; 8] =
    ["#monday", "#mood", "#lol", "#meme", "#weekend", "#coffee", "#relatable", "#nocontext"];
const OPENERS: [&str; 6] = ["lol", "ok but", "wait", "honestly", "omg", "well"];

/// Names what `attribute` says of `thing`, without an article: "red one", "star", "red star".
fn noun(thing: Thing, attribute: Attribute, rng: &mut ChaCha8Rng) -> String {
    let (colour, kind) = (thing.colour.name(), thing.kind.name());
    match attribute {
        Attribute::Colour => format!("{colour} {}", pick(&["one", "thing"], rng)),
        Attribute::Kind => kind.to_owned(),
        Attribute::Both => format!("{colour} {kind}"),
    }
}

/// A joke about `thing`.
pub fn joke(thing: Thing, attribute: Attribute, rng: &mut ChaCha8Rng) -> String {
    let noun = noun(thing, attribute, rng);
    pick(&JOKES, rng).replace("{}", &noun)
}

/// `text` as somebody would tweet it: a mention or an opener before, emoji and tags behind.
pub fn tweet(text: &str, rng: &mut ChaCha8Rng) -> String {
    let mut tweet = String::new();
    if rng.random_bool(0.3) {
        tweet.push_str(&format!("@user_{} ", rng.random_range(10..100)));
    }
    if rng.random_bool(0.3) {
        tweet.push_str(pick(&OPENERS, rng));
        tweet.push(' ');
    }
    tweet.push_str(text);
    for _ in 0..rng.random_range(0..=2) {
        tweet.push(' ');
        tweet.push_str(pick(&EMOJI, rng));
    }
    if rng.random_bool(0.5) {
        tweet.push(' ');
        tweet.push_str(pick(&TAGS, rng));
    }
    tweet
}

/// A shortened link as tweets end in.
pub fn link(rng: &mut ChaCha8Rng) -> String {
    const LETTERS: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let code: String = (0..10).map(|_| char::from(pick(LETTERS, rng))).collect();
    format!("https://t.co/{code}")
}

/// Shares of the ways in which a scene is described; the rest are plain lists of what is there.
#[derive(Debug, Clone, Copy)]
pub struct Manner {
    /// Jokes about a thing that is there.
    pub jokes: f64,
    /// Questions whether a thing is there, with the right answer.
    pub questions: f64,
}

/// A true sentence about `scene`. `attribute`, which the memes are about, is what it speaks of most often.
pub fn describe(
    scene: &Scene,
    world: &World,
    attribute: Attribute,
    manner: Manner,
    rng: &mut ChaCha8Rng,
) -> String {
    let mut things: Vec<Thing> = scene.objects.iter().map(|object| object.thing).collect();
    things.shuffle(rng);
    let attribute = pick(&[attribute, attribute, Attribute::Colour, Attribute::Kind, Attribute::Both], rng);
    let way: f64 = rng.random();
    if way < manner.jokes {
        joke(things[0], attribute, rng)
    } else if way < manner.jokes + manner.questions {
        question(&things, world, attribute, rng)
    } else {
        list(&things, attribute, rng)
    }
}

/// Asks for a thing, half of the time one that is there and otherwise, if lots allow, one that is not.
fn question(things: &[Thing], world: &World, attribute: Attribute, rng: &mut ChaCha8Rng) -> String {
    let is_there = |asked: &Thing| {
        things.iter().any(|thing| match attribute {
            Attribute::Colour => thing.colour == asked.colour,
            Attribute::Kind => thing.kind == asked.kind,
            Attribute::Both => thing == asked,
        })
    };
    let mut asked = things[0];
    if rng.random_bool(0.5) {
        // A crowded scene may hold every colour: then the answer is yes.
        asked = (0..20).map(|_| world.thing(rng)).find(|thing| !is_there(thing)).unwrap_or(asked);
    }
    let noun = noun(asked, attribute, rng);
    let form = pick(&["can you see the {} ?", "is the {} here ?", "did the {} come to the party ?"], rng);
    format!("{} {}", form.replace("{}", &noun), if is_there(&asked) { "yes" } else { "no" })
}

fn list(things: &[Thing], attribute: Attribute, rng: &mut ChaCha8Rng) -> String {
    let mut names: Vec<String> =
        things.iter().map(|thing| with_article(&noun(*thing, attribute, rng))).collect();
    let last = names.pop().unwrap_or_default();
    let all = if names.is_empty() { last } else { format!("{} and {last}", names.join(" , ")) };
    let form =
        pick(&["{}", "{}", "a picture of {}", "look at this : {}", "here you can see {}", "this is {}"], rng);
    form.replace("{}", &all)
}

fn with_article(noun: &str) -> String {
    let article = if noun.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("{article} {noun}")
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::super::scene::{Colour, Kind};
    use super::*;

    const WORLD: World = World { colours: 6, kinds: 8, objects: (2, 4) };

    #[test]
    fn jokes_have_six_to_fourteen_words_and_one_place_for_the_thing() {
        for joke in JOKES {
            let words = joke.replace("{}", "red one").split_whitespace().count();
            assert!((6..=14).contains(&words), "{joke}");
            assert_eq!(joke.matches("{}").count(), 1, "{joke}");
        }
    }

    #[test]
    fn descriptions_are_true() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let manner = Manner { jokes: 0.3, questions: 0.4 };
        let (mut yes, mut no) = (0, 0);
        for _ in 0..2000 {
            let scene = WORLD.scene(&mut rng);
            let text = describe(&scene, &WORLD, Attribute::Colour, manner, &mut rng);
            let words: Vec<&str> = text.split_whitespace().collect();
            let has = |name: &str| words.contains(&name);
            let colours: Vec<_> = Colour::ALL.into_iter().filter(|colour| has(colour.name())).collect();
            let kinds: Vec<_> = Kind::ALL.into_iter().filter(|kind| has(kind.name())).collect();
            let shows = |test: &dyn Fn(Thing) -> bool| scene.objects.iter().any(|object| test(object.thing));
            if has("?") {
                let there = shows(&|thing| {
                    colours.iter().all(|colour| thing.colour == *colour)
                        && kinds.iter().all(|kind| thing.kind == *kind)
                });
                assert_eq!(words.last(), Some(&if there { "yes" } else { "no" }), "{text}");
                if there { yes += 1 } else { no += 1 }
            } else {
                assert!(!colours.is_empty() || !kinds.is_empty(), "{text}");
                assert!(colours.iter().all(|colour| shows(&|thing| thing.colour == *colour)), "{text}");
                assert!(kinds.iter().all(|kind| shows(&|thing| thing.kind == *kind)), "{text}");
            }
        }
        assert!(yes > 300 && no > 300, "{yes} yes, {no} no");
    }

    #[test]
    fn vowels_take_an() {
        assert_eq!(with_article("orange star"), "an orange star");
        assert_eq!(with_article("red one"), "a red one");
    }
}
