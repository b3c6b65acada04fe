//! What may be odd about an entry of a data set, and the rule for each: dropped or kept. docs/data.md has the same
//! as a table. It does not know how oddities are found.

use std::collections::BTreeMap;

use stage_api::{Progress, StageError};

use crate::artifacts::data_summary::AnomalyCount;

/// Cases that are listed of what is kept.
const FEW: usize = 20;
/// Dropped entries that the step's log names one by one.
const LOGGED: usize = 1000;

/// A kind of oddity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Anomaly {
    /// A line that is not JSON or lacks a field.
    InvalidLine,
    /// A label outside its range, or not as many as there must be.
    BadLabel,
    /// Annotators of whom no two say the same.
    NoMajority,
    /// A split that is none of the three, or none at all.
    BadSplit,
    /// A path or id that names no file of its own within the archive.
    BadName,
    /// An id that its split has already.
    Twice,
    /// An id that the truth file does not know.
    NoTruth,
    /// A picture that is not there.
    MissingPicture,
    /// A picture of zero bytes.
    EmptyPicture,
    /// A picture that ends early.
    TruncatedPicture,
    /// A file that is no picture of a known format, or an absurdly large one.
    UnreadablePicture,
    /// More than one frame.
    Animated,
    /// Colours from a table.
    Palette,
    /// Four inks.
    Cmyk,
    /// More than 8 bits a channel.
    SixteenBit,
    /// An alpha channel or a transparent colour.
    Transparent,
    /// EXIF asks for a turn.
    ExifRotation,
    /// Another format than the name says.
    Misnamed,
    /// No text.
    EmptyText,
    /// A text of more than [`Anomaly::LONG`] characters.
    LongText,
    /// Characters beyond the basic plane: emoji, mostly; surrogate pairs in JSON.
    Emoji,
    /// What was no character: half a surrogate pair, bytes that are not UTF-8.
    BrokenText,
    /// Text read off a picture in a file that cannot be read.
    BadPictureText,
    /// An id that the truth file has more than once.
    TruthTwice,
    /// A file that begins with a byte-order mark.
    ByteOrderMark,
    /// A file with lines that end in CR LF.
    CarriageReturns,
}

impl Anomaly {
    /// Texts above this many characters are called long.
    pub const LONG: usize = 1000;

    /// Its name in the summary, and the rule.
    fn name_and_rule(self) -> (&'static str, &'static str) {
        match self {
            Self::InvalidLine => ("invalid line", "dropped"),
            Self::BadLabel => ("bad label", "dropped"),
            Self::NoMajority => ("annotators disagree", "dropped"),
            Self::BadSplit => ("bad split", "dropped"),
            Self::BadName => ("bad name", "dropped"),
            Self::Twice => ("id twice in a split", "the first is kept, the others are dropped"),
            Self::NoTruth => ("id without truth", "dropped"),
            Self::MissingPicture => ("missing picture", "dropped"),
            Self::EmptyPicture => ("picture of zero bytes", "dropped"),
            Self::TruncatedPicture => ("truncated picture", "dropped"),
            Self::UnreadablePicture => ("unreadable picture", "dropped"),
            Self::Animated => ("animated picture", "kept: the first frame counts"),
            Self::Palette => ("palette picture", "kept: the palette is applied"),
            Self::Cmyk => ("CMYK picture", "kept: converted to RGB"),
            Self::SixteenBit => ("16-bit picture", "kept: reduced to 8 bits"),
            Self::Transparent => ("transparent picture", "kept: transparency is dropped without blending"),
            Self::ExifRotation => ("EXIF rotation", "kept: not turned, as in the original"),
            Self::Misnamed => ("misnamed picture", "kept: read as what its content is"),
            Self::EmptyText => ("empty text", "kept: [CLS] [SEP]"),
            Self::LongText => ("text of more than 1,000 characters", "kept: tokens cuts its end"),
            Self::Emoji => ("emoji (beyond the basic plane)", "kept as they are"),
            Self::BrokenText => ("broken characters", "kept: U+FFFD stands in, which tokens leaves out"),
            Self::BadPictureText => ("unreadable OCR file", "kept: without the picture's text"),
            Self::TruthTwice => ("id twice in the truth file", "kept: the last one counts"),
            Self::ByteOrderMark => ("byte-order mark", "kept: the mark is left out"),
            Self::CarriageReturns => ("CR LF line ends", "kept: read as line ends"),
        }
    }

    /// Whether an entry with it is dropped.
    pub fn drops(self) -> bool {
        self <= Self::UnreadablePicture
    }
}

/// Everything odd that was found.
#[derive(Debug, Default)]
pub struct Ledger {
    found: BTreeMap<Anomaly, (usize, Vec<String>)>,
}

impl Ledger {
    /// Enters a case. Of what is dropped, every case is one entry of a split.
    pub fn add(&mut self, anomaly: Anomaly, case: impl FnOnce() -> String) {
        let (count, cases) = self.found.entry(anomaly).or_default();
        *count += 1;
        if anomaly.drops() || cases.len() < FEW {
            cases.push(case());
        }
    }

    /// How many entries were dropped.
    pub fn dropped(&self) -> usize {
        self.found.iter().filter(|(anomaly, _)| anomaly.drops()).map(|(_, (count, _))| count).sum()
    }

    /// Tells the step's log what was found.
    pub fn tell(&self, progress: &dyn Progress) {
        for (anomaly, (count, cases)) in &self.found {
            let (name, rule) = anomaly.name_and_rule();
            progress.note(&format!("{name}: {count}, {rule}"));
            let logged = if anomaly.drops() { LOGGED } else { 3 };
            cases.iter().take(logged).for_each(|case| progress.note(&format!("  {case}")));
            if *count > logged.min(cases.len()) {
                progress.note(&format!("  and {} more", count - logged.min(cases.len())));
            }
        }
    }

    /// Whether few enough of `listed` entries were dropped.
    ///
    /// # Errors
    /// More than the share `max_dropped`, with the entries.
    pub fn check(&self, listed: usize, max_dropped: f64) -> Result<(), StageError> {
        let dropped = self.dropped();
        if dropped as f64 <= max_dropped * listed as f64 {
            return Ok(());
        }
        let cases = || {
            self.found.iter().filter(|(anomaly, _)| anomaly.drops()).flat_map(|(anomaly, (_, cases))| {
                cases.iter().map(|case| format!("{case} ({})", anomaly.name_and_rule().0))
            })
        };
        let first: Vec<String> = cases().take(FEW).map(|case| format!("\n  {case}")).collect();
        let more = dropped.saturating_sub(FEW);
        Err(StageError::failed(format!(
            "{dropped} of {listed} entries cannot be used, {:.2} %; `max_dropped` allows {:.2} %:{}{}\n\
             Mend the data, or raise `max_dropped` to go on without them",
            100.0 * dropped as f64 / listed.max(1) as f64,
            100.0 * max_dropped,
            first.concat(),
            if more > 0 { format!("\n  and {more} more, which the step's log names") } else { String::new() }
        )))
    }

    /// What was found, for the summary.
    pub fn counts(&self) -> Vec<AnomalyCount> {
        let count = |(anomaly, (count, cases)): (&Anomaly, &(usize, Vec<String>))| {
            let (kind, rule) = anomaly.name_and_rule();
            AnomalyCount {
                kind: kind.to_owned(),
                rule: rule.to_owned(),
                dropped: anomaly.drops(),
                count: *count,
                cases: cases.clone(),
            }
        };
        self.found.iter().map(count).collect()
    }
}
