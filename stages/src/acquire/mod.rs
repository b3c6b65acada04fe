//! Where data come from: downloads, archives, and synthetic data in place of both. It does not know what the files of a
//! data set mean.

mod fetch;
pub(crate) mod stand_in;
mod synthesize;
mod unpack;

use stage_api::Registry;

/// Adds the stages and tools of this room.
pub(crate) fn register(registry: Registry) -> Registry {
    registry
        .with(synthesize::Synthesize)
        .with(stand_in::StandIn)
        .with(fetch::Fetch::default())
        .with(unpack::Unpack)
}
