//! Tables, figures and pages about results, and the paper's own numbers next to them. It reads artifacts and computes
//! statistics; it does not know how a run was trained.

mod caption;
pub(crate) mod claims;
mod cost;
pub(crate) mod curves;
pub(crate) mod data_summary;
mod evaluation;
mod figure;
mod paper_results;
pub(crate) mod report;
pub(crate) mod roc;
pub(crate) mod shift;
mod table;
pub(crate) mod table_1;
pub(crate) mod table_2;
pub(crate) mod table_tool;
