//! Features of picture regions: extracted by a detector, or imported from published files; and the detector's weights. It
//! does not know texts, labels or splits.

mod extract;
mod import_detector;
mod import_features;
pub(crate) mod make_detector;

use stage_api::Registry;

/// Adds the stages and tools of this room.
pub(crate) fn register(registry: Registry) -> Registry {
    registry
        .with(make_detector::MakeDetector)
        .with(import_detector::ImportDetector)
        .with(extract::Regions)
        .with(import_features::ImportFeatures)
        .with_tool(extract::ShowRegions)
}
