//! Tables, figures and pages about results, and the paper's own numbers next to them. It reads artifacts and computes
//! statistics; it does not know how a run was trained.

mod caption;
mod claims;
mod compare_regions;
mod cost;
mod curves;
mod data_summary;
mod evaluation;
mod figure;
mod names;
mod paper_results;
mod report;
mod roc;
mod shift;
mod table;
mod table_1;
mod table_2;
mod table_tool;

use stage_api::Registry;

/// The name of the table of each class, which Table II has of more classes than two.
const CLASS_TABLE: &str = "table-2-classes";

/// Adds the stages and tools of this room.
pub(crate) fn register(registry: Registry) -> Registry {
    registry
        .with(data_summary::Data)
        .with(table_1::Parameters)
        .with(table_2::Results)
        .with(shift::Shift)
        .with(claims::Claims)
        .with(compare_regions::CompareRegions)
        .with(curves::Curves)
        .with(roc::Roc)
        .with(report::Report)
        .with_tool(table_tool::ShowTable)
        .with_tool(data_summary::DataTool)
        .with_tool(claims::CheckClaims)
        .with_page(report::PAGE)
}
