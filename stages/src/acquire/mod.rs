//! Where data come from: downloads, archives, and synthetic data in place of both. It does not know what the files of a
//! data set mean.

pub(crate) mod fetch;
pub(crate) mod stand_in;
pub(crate) mod synthesize;
pub(crate) mod unpack;
