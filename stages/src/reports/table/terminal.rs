//! A table drawn for a terminal. It does not know what the numbers mean.

use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{CellAlignment, ContentArrangement};

use super::Table;

impl Table {
    /// Title, caption, the drawn table and the notes; lines are broken to fit `columns`, if there is a limit.
    pub fn drawn(&self, columns: Option<usize>) -> String {
        let mut drawn = comfy_table::Table::new();
        drawn.load_style(UTF8_HORIZONTAL_ONLY);
        if let Some(columns) = columns {
            drawn.set_content_arrangement(ContentArrangement::Dynamic);
            drawn.set_width(u16::try_from(columns).unwrap_or(u16::MAX));
        }
        drawn.set_header(self.columns.iter().map(|column| match column.group.as_str() {
            "" => column.title.clone(),
            group => format!("{group}\n{}", column.title),
        }));
        for row in &self.rows {
            drawn.add_row(row.iter().map(|cell| match cell.interval() {
                Some(interval) => format!("{}\n{interval}", cell.value()),
                None => cell.value(),
            }));
        }
        for (drawn, column) in drawn.column_iter_mut().zip(&self.columns) {
            drawn.set_padding((0, 1));
            if column.numeric {
                drawn.set_cell_alignment(CellAlignment::Right);
            }
        }
        let mut text = format!("{}\n{}\n{drawn}\n", self.title, self.caption);
        for note in &self.notes {
            text += &format!("{note}\n");
        }
        text
    }
}
