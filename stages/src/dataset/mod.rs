//! From the files of a data set to samples and tokens: indexes, vocabulary, token ids. It knows the data sets' own rules,
//! and neither models nor regions of pictures.

pub(crate) mod index_hmd;
pub(crate) mod index_mmhs;
pub(crate) mod index_table;
pub(crate) mod indexing;
mod learn_vocabulary;
mod tokens;

use stage_api::Registry;

/// Adds the stages and tools of this room.
pub(crate) fn register(registry: Registry) -> Registry {
    registry
        .with(index_hmd::IndexHmd)
        .with(index_mmhs::IndexMmhs)
        .with(index_table::IndexTable)
        .with(learn_vocabulary::LearnVocabulary)
        .with(tokens::Tokens)
}
