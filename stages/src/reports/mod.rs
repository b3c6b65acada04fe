//! Tables, figures and pages about results, and the paper's own numbers beside them. It reads artifacts and computes
//! statistics; it does not know how a run was trained.

pub(crate) mod claims;
mod cost;
pub(crate) mod curves;
pub(crate) mod data;
mod evaluated;
mod figure;
mod look;
pub(crate) mod parameters;
mod profile;
mod published;
pub(crate) mod report;
pub(crate) mod results;
pub(crate) mod roc;
pub(crate) mod shift;
mod table;
pub(crate) mod table_tool;
