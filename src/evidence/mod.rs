//! Evidence: what vouches for results in a fresh clone. [`read`] knows the committed folder, [`write`] decides what it is to
//! hold and replaces it. Neither knows how steps run.

mod read;
mod write;

pub use read::{Evidence, Proof, replace};
pub use write::{Collected, Refusal, collect};
