//! A table in LaTeX, ruled by booktabs. It does not know what the numbers mean.

use super::Table;

/// A table wider than this is scaled down to the width of the text.
const COLUMNS_OF_A_PAGE: usize = 7;

impl Table {
    /// A `table` environment to be read in with `\input`; the document loads booktabs and graphicx.
    pub fn latex(&self) -> String {
        let alignment: String =
            self.columns.iter().map(|column| if column.numeric { 'r' } else { 'l' }).collect();
        let row = |cells: Vec<String>| format!("{} \\\\\n", cells.join(" & "));
        let mut tabular = format!("\\begin{{tabular}}{{{alignment}}}\n\\toprule\n");
        let groups = self.groups();
        if groups.len() > 1 {
            let mut rules = String::new();
            let mut first = 1;
            let mut heading = Vec::new();
            for (title, width) in groups {
                heading.push(format!("\\multicolumn{{{width}}}{{c}}{{{}}}", escaped(title)));
                if !title.is_empty() {
                    rules += &format!("\\cmidrule(lr){{{first}-{}}}", first + width - 1);
                }
                first += width;
            }
            tabular += &row(heading);
            tabular += &format!("{rules}\n");
        }
        tabular += &row(self.columns.iter().map(|column| escaped(&column.title)).collect());
        tabular += "\\midrule\n";
        for cells in &self.rows {
            tabular += &row(cells.iter().map(|cell| escaped(&cell.shown())).collect());
        }
        tabular += "\\bottomrule\n\\end{tabular}";
        if self.columns.len() > COLUMNS_OF_A_PAGE {
            tabular = format!("\\resizebox{{\\textwidth}}{{!}}{{%\n{tabular}}}");
        }
        let notes: String = self
            .notes
            .iter()
            .map(|note| format!("\\par\\smallskip\\footnotesize {}\n", escaped(note)))
            .collect();
        format!(
            "% Needs \\usepackage{{booktabs,graphicx}}.\n\\begin{{table}}\n\\centering\n\\caption{{{}. {}}}\n\
             \\label{{tab:{}}}\n{tabular}\n{notes}\\end{{table}}\n",
            escaped(&self.title),
            escaped(&self.caption),
            self.name
        )
    }
}

/// Text that LaTeX sets as it is here.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' | '%' | '$' | '#' | '_' | '{' | '}' => {
                out.push('\\');
                out.push(letter);
            }
            '\\' => out += "\\textbackslash{}",
            '~' => out += "\\textasciitilde{}",
            '^' => out += "\\textasciicircum{}",
            '<' => out += "$<$",
            '>' => out += "$>$",
            '|' => out += "$|$",
            '±' => out += "$\\pm$",
            '\u{2212}' => out += "$-$",
            '·' => out += "$\\cdot$",
            '–' => out += "--",
            '\n' => out.push(' '),
            _ => out.push(letter),
        }
    }
    out
}
