//! From the files of a data set to samples and tokens: indexes, vocabulary, token ids. It knows the data sets' own rules,
//! and neither models nor regions of pictures.

pub(crate) mod index_hmd;
pub(crate) mod index_mmhs;
pub(crate) mod indexing;
pub(crate) mod learn_vocabulary;
pub(crate) mod tokens;
