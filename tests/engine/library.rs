//! `make` as a library function: in this process, with stages as threads.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};

use repro::make::{MakeOptions, MakeRequest, MakeSummary, make};
use repro::project::{Location, Project};
use repro::run::{Backend, Event, Observer};
use repro::store::ContentStore;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stage_api::{Job, Port, Registry, Stage, StageError};

use super::support::TestSpace;

/// Writes to `text` all that it reads.
struct Concatenate;

#[derive(Serialize, Deserialize, JsonSchema)]
struct NoParams {}

impl Stage for Concatenate {
    type Params = NoParams;
    const NAME: &'static str = "concatenate";
    const ABOUT: &'static str = "Writes all that it reads.";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Port] = &[Port::many("in")];

    fn run(&self, _: &NoParams, job: &Job) -> Result<(), StageError> {
        let texts = job.inputs.all("in").into_iter().map(fs::read_to_string);
        let text = texts.collect::<Result<String, _>>()?;
        Ok(fs::write(job.out.join("text"), text)?)
    }
}

const STEPS: &str = r#"
    (name: "a", stage: "concatenate", inputs: {"in": ["./one"]}),
    (name: "b", stage: "concatenate", inputs: {"in": ["a/text", "./two"]}, publish: "."),
"#;

/// Sends on what it hears of waiting and of steps that have finished.
struct Ear(Sender<String>);

impl Observer for Ear {
    fn on(&mut self, event: &Event) {
        let _ = match event {
            Event::Waiting { .. } => self.0.send("waiting".to_owned()),
            Event::Finished { step, .. } => self.0.send((*step).to_owned()),
            _ => Ok(()),
        };
    }
}

fn make_in(space: &TestSpace, sender: Sender<String>) -> MakeSummary {
    let registry = Arc::new(Registry::new().with(Concatenate));
    let options = MakeOptions { backend: Backend::Threads(registry.clone()), ..MakeOptions::default() };
    let project = Project::locate(&Location::of(space.path("pipeline.ron")), &registry).unwrap();
    make(&project, &MakeRequest::default(), &options, &mut Ear(sender)).unwrap()
}

fn built() -> TestSpace {
    let space = TestSpace::new(STEPS);
    space.write("one", "1");
    space.write("two", "2");
    let (sender, heard) = channel();
    assert!(make_in(&space, sender).run.is_complete());
    assert_eq!(heard.iter().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(space.read("reports/mini/text"), "12");
    space
}

#[test]
fn a_second_make_has_nothing_to_do_and_says_nothing() {
    let space = built();
    // The first time by a plan, then by what that has read.
    for _ in 0..2 {
        let (sender, heard) = channel();
        let summary = make_in(&space, sender);
        assert!(summary.had_nothing_to_do);
        assert_eq!(summary.fresh, 2);
        assert_eq!(heard.iter().count(), 0);
    }
}

#[test]
fn what_was_removed_while_make_waited_is_built_again() {
    let space = built();
    space.write("two", "3");
    let store = ContentStore::open(&space.path("cache")).unwrap();
    let alone = store.alone(&mut |_| {}).unwrap();
    let (sender, heard) = channel();
    std::thread::scope(|scope| {
        let make = scope.spawn(|| make_in(&space, sender));
        assert_eq!(heard.recv().unwrap(), "waiting");
        let tree = space.path(&format!("cache/trees/{}", space.record("a").tree));
        fs::set_permissions(&tree, fs::Permissions::from_mode(0o755)).unwrap();
        fs::remove_dir_all(tree).unwrap();
        drop(alone);
        assert!(make.join().unwrap().run.is_complete());
    });
    assert_eq!(heard.iter().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(space.read("reports/mini/text"), "13");
}
