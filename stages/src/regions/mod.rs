//! Features of picture regions: extracted by a detector, or imported from published files; and the detector's weights. It
//! does not know texts, labels or splits.

pub(crate) mod extract;
pub(crate) mod import_detector;
pub(crate) mod import_features;
pub(crate) mod make_detector;
