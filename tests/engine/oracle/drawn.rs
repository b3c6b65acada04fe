//! The random parts of the oracle: pipelines, edits of them, and actions during a run.

use proptest::prelude::*;

/// Single files of the project that steps may read.
pub const FILES: usize = 2;
/// The folder of the project that steps may read, numbered after the files.
pub const FOLDER: usize = FILES;
/// The number of steps of a pipeline, if none is removed.
pub const STEPS: usize = 7;

/// Names that a file of an output may have.
pub const NAMES: [&[u8]; 10] = [
    b"ends in\r",
    b"a\rb",
    b"a\nb",
    b"\x1b[31mred\x07\x7f",
    b"caf\xe9",
    &[b'n'; 255],
    b".text.part",
    b" 'one' \"two\" & $three ",
    "ü\u{202e}".as_bytes(),
    b"back\\slash",
];

/// Steps or parts of them that a step reads: the number, and whether only its `text`.
pub type Reads = Vec<(usize, bool)>;

/// The work of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Work {
    Join,
    Head,
    Command(Leaves),
}

/// What a command writes to its output, next to `text`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Leaves {
    Nothing,
    /// A file that only its owner may read.
    Private,
    /// A read-only folder.
    ClosedFolder,
    EmptyFolder,
    /// A program: a reader of the whole output sees its executable bit.
    Tool,
    /// A file with one of the [`NAMES`].
    Name(usize),
    Link,
    /// A link that replaces the output folder.
    LinkInstead,
    /// A hard link of a file of the project, if the step reads one, or of `text`.
    HardLink,
}

/// Where a step publishes, below the reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    Own,
    Moved,
    /// A path where another step may have a file.
    Below(usize),
}

/// A step as drawn.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Drawn {
    /// Whether it is in the pipeline.
    pub present: bool,
    /// Whether it has its other name.
    pub renamed: bool,
    pub fails: bool,
    pub publishes: Option<Place>,
    pub work: Work,
    pub param: u8,
    pub reads: Reads,
    /// A file of the project, or [`FOLDER`].
    pub file: Option<usize>,
}

/// An edit between two runs, or an action during the next one.
#[derive(Debug, Clone)]
pub enum Edit {
    Param(usize, u8),
    Work(usize, Work),
    Reads(usize, Reads),
    /// A step is removed from the pipeline, or added again.
    Presence(usize),
    /// A step starts to fail, or works again.
    Failure(usize),
    /// A step publishes to another folder, or not at all.
    Publish(usize, Option<Place>),
    Rename(usize),
    /// A file of the project is written, with the same or other bytes.
    File(usize, u8),
    /// A second file is added to the folder of the project, or removed.
    Folder,
    /// The bytes of a step's result disappear.
    Bytes(usize),
    /// A byte of a step's result flips.
    Flip(usize),
    /// The record of a step disappears.
    Record(usize),
    /// The end of the state log is cut off, at this many thousandths of it.
    Torn(usize),
    /// A byte of the state log flips, at this many thousandths of it.
    FlipLog(usize),
    /// The reports are deleted.
    Reports,
    /// A report is overwritten, or deleted.
    Report(usize, bool),
    /// A person adds a file to the reports.
    Note,
    /// Evidence is written.
    Evidence,
    /// The cache and the reports are deleted; evidence stays.
    Cache,
    /// Another pipeline of the folder runs, with the same cache, profile and reports.
    OtherPipeline,
    /// Another user continues.
    User,
    Force(usize),
    /// Only this step is requested.
    Target(usize),
    /// The run is killed when it prints this line.
    Kill(usize),
    /// The run keeps going when a step fails.
    KeepGoing,
    /// An action while this step runs.
    During(usize, Disturbance),
}

/// An action while a step runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disturbance {
    /// A file is written and restored.
    Rewritten(usize),
    /// The same, with its time.
    RewrittenWithTime(usize),
    /// A file is moved, another one takes its place, and it is moved back.
    Replaced(usize),
    /// A file is added to the folder and removed.
    Added,
    /// A file is written and not restored.
    Changed(usize),
    /// The step moves an input into its output.
    Taken,
    /// The step writes into the results that it reads.
    InPlace,
    /// A child in its own session holds the output open and writes into it later.
    Session,
    /// The same after two forks.
    Orphan,
}

fn reads() -> impl Strategy<Value = Reads> {
    prop::collection::vec((0..STEPS, any::<bool>()), 0..3)
}

fn leaves() -> impl Strategy<Value = Leaves> {
    prop_oneof![
        8 => Just(Leaves::Nothing),
        1 => Just(Leaves::Private),
        1 => Just(Leaves::ClosedFolder),
        1 => Just(Leaves::EmptyFolder),
        2 => Just(Leaves::Tool),
        2 => (0..NAMES.len()).prop_map(Leaves::Name),
        1 => prop_oneof![Just(Leaves::Link), Just(Leaves::LinkInstead)],
        1 => Just(Leaves::HardLink),
    ]
}

fn work() -> impl Strategy<Value = Work> {
    prop_oneof![1 => Just(Work::Join), 1 => Just(Work::Head), 3 => leaves().prop_map(Work::Command)]
}

fn place() -> impl Strategy<Value = Option<Place>> {
    prop_oneof![
        10 => Just(None),
        14 => Just(Some(Place::Own)),
        4 => Just(Some(Place::Moved)),
        1 => (0..STEPS).prop_map(|step| Some(Place::Below(step))),
    ]
}

fn disturbance() -> impl Strategy<Value = Disturbance> {
    prop_oneof![
        (0..FILES).prop_map(Disturbance::Rewritten),
        (0..FILES).prop_map(Disturbance::RewrittenWithTime),
        (0..FILES).prop_map(Disturbance::Replaced),
        Just(Disturbance::Added),
        (0..FILES).prop_map(Disturbance::Changed),
        Just(Disturbance::Taken),
        Just(Disturbance::InPlace),
        Just(Disturbance::Session),
        Just(Disturbance::Orphan),
    ]
}

pub fn steps() -> impl Strategy<Value = Vec<Drawn>> {
    let rarely = || prop::bool::weighted(0.1);
    let step = (rarely(), prop::bool::weighted(0.05), place(), work(), 0..3u8, reads(), 0..2 * FOLDER + 2);
    let step = step.prop_map(|(absent, fails, publishes, work, param, reads, file)| Drawn {
        present: !absent,
        renamed: false,
        fails,
        publishes,
        work,
        param,
        reads,
        file: (file <= FOLDER).then_some(file),
    });
    prop::collection::vec(step, STEPS)
}

pub fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let step = || 0..STEPS;
    let edit = prop_oneof![
        3 => (step(), 0..3u8).prop_map(|(step, param)| Edit::Param(step, param)),
        2 => (step(), work()).prop_map(|(step, work)| Edit::Work(step, work)),
        2 => (step(), reads()).prop_map(|(step, reads)| Edit::Reads(step, reads)),
        1 => step().prop_map(Edit::Presence),
        1 => step().prop_map(Edit::Failure),
        3 => (step(), place()).prop_map(|(step, place)| Edit::Publish(step, place)),
        1 => step().prop_map(Edit::Rename),
        2 => (0..FOLDER + 1, 0..3u8).prop_map(|(file, text)| Edit::File(file, text)),
        1 => Just(Edit::Folder),
        1 => step().prop_map(Edit::Bytes),
        1 => step().prop_map(Edit::Flip),
        1 => step().prop_map(Edit::Record),
        1 => (0..1000usize).prop_map(Edit::Torn),
        1 => (0..1000usize).prop_map(Edit::FlipLog),
        1 => prop_oneof![Just(Edit::Reports), Just(Edit::Cache)],
        1 => (0..20usize, any::<bool>()).prop_map(|(report, deleted)| Edit::Report(report, deleted)),
        1 => prop_oneof![Just(Edit::Note), Just(Edit::OtherPipeline)],
        1 => Just(Edit::Evidence),
        1 => Just(Edit::User),
        1 => step().prop_map(Edit::Force),
        1 => step().prop_map(Edit::Target),
        2 => (0..2 * STEPS).prop_map(Edit::Kill),
        1 => Just(Edit::KeepGoing),
        6 => (step(), disturbance()).prop_map(|(step, what)| Edit::During(step, what)),
    ];
    prop::collection::vec(edit, 1..12)
}

/// Applies an edit of the pipeline; the caller applies the others.
pub fn apply(steps: &mut [Drawn], edit: &Edit) {
    match edit {
        Edit::Param(step, param) => steps[*step].param = *param,
        Edit::Work(step, work) => steps[*step].work = *work,
        Edit::Reads(step, reads) => steps[*step].reads.clone_from(reads),
        // A pipeline has at least one step.
        Edit::Presence(step) if *step > 0 => steps[*step].present ^= true,
        Edit::Failure(step) => steps[*step].fails ^= true,
        Edit::Publish(step, place) => steps[*step].publishes = *place,
        Edit::Rename(step) => steps[*step].renamed ^= true,
        // Only commands can be disturbed.
        Edit::During(step, _) if !matches!(steps[*step].work, Work::Command(_)) => {
            steps[*step].work = Work::Command(Leaves::Nothing);
        }
        _ => {}
    }
}
