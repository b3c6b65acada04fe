//! Evidence: committed records and results that stand in for training in a fresh clone. `read` knows the committed
//! folder. `write` selects its content and replaces it. Neither knows how steps run.

mod read;
mod write;

pub use read::{Evidence, Proof, replace};
pub use write::{Collected, Refusal, collect};
