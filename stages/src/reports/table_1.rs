//! `parameters`: Table I, how many parameters each training mode has and trains: in the paper's own models, counted from
//! the models' definitions next to the published counts; and in the profile's. Next to it the memory and time of the authors' runs. It allocates no model.

use candle_core::Result;
use stage_api::{Job, Port, Stage, StageError};

use crate::artifacts::read_json;
use crate::models::{Config, Family, Mode};
use crate::reports::caption::Profile;
use crate::reports::cost;
use crate::reports::paper_results::{self, Quantities, Run};
use crate::reports::table::{Cell, Column, Table};

/// Makes Table I.
pub struct Parameters;

impl Stage for Parameters {
    type Params = Profile;
    const NAME: &'static str = "parameters";
    const ABOUT: &'static str =
        "Table I: total, trained and adapter parameters by mode, counted and published";
    const VERSION: u32 = 4;
    const INPUTS: &'static [Port] = &[Port::one("published"), Port::one("vilbert"), Port::one("model")];

    fn check(&self, profile: &Profile) -> std::result::Result<(), String> {
        profile.names.check()
    }

    fn run(&self, profile: &Profile, job: &Job) -> std::result::Result<(), StageError> {
        let published = paper_results::read_runs(job.inputs.one("published")?)?;
        let second = paper_results::read_quantities(job.inputs.one("vilbert")?)?;
        let path = job.inputs.one("model")?;
        let model: Config = read_json(path)?;
        model.check().map_err(|error| StageError::input("model", path, error))?;
        let logs: Vec<Published> = published.iter().map(Published::from).collect();
        let readme: Vec<Published> = second.iter().map(Published::from).collect();
        let paper = [(Family::VisualBert, logs), (Family::Vilbert, readme)];
        table(&paper, &model, profile).map_err(StageError::failed)?.write(job.out)?;
        Ok(cost::table(&published, &profile.names).write(job.out)?)
    }
}

/// Published counts of a mode.
struct Published {
    mode: String,
    /// All, and those that are trained.
    counts: (u64, u64),
}

impl From<&Run> for Published {
    fn from(run: &Run) -> Self {
        Self { mode: run.mode.clone(), counts: (run.total_parameters, run.trained_parameters) }
    }
}

impl From<&Quantities> for Published {
    fn from(row: &Quantities) -> Self {
        Self { mode: row.mode.clone(), counts: (row.total_parameters, row.trained_parameters) }
    }
}

fn table(paper: &[(Family, Vec<Published>)], model: &Config, profile: &Profile) -> Result<Table> {
    let said = "published";
    let columns = vec![
        Column::words("model", "Model"),
        Column::words("mode", "Mode"),
        Column::numbers("total", "", "Total"),
        Column::numbers("trained", "", "Trained"),
        Column::numbers("adapters", "", "In adapters (PE)"),
        Column::numbers("increase", "increase by PE", "of the new total"),
        Column::numbers("increase_of_base", "increase by PE", "of the base"),
        Column::numbers("trained_share", "", "Trained share"),
        Column::numbers("published_total", said, "Total"),
        Column::numbers("published_trained", said, "Trained"),
        Column::words("equal", "Counted = published"),
    ];
    let mut rows = Vec::new();
    for (family, published) in paper {
        let name = format!("{} (the paper's)", family.title());
        for mode in Mode::ALL {
            rows.push(row(&name, mode, &family.base(), Some(published), profile)?);
        }
    }
    let name = format!("{} ({})", model.family().title(), profile.short());
    for mode in Mode::ALL {
        rows.push(row(&name, mode, model, None, profile)?);
    }
    Ok(Table {
        name: "table-1".to_owned(),
        place: 0,
        title: "Table I: parameters by training mode".to_owned(),
        caption: format!(
            "Models with a classification head. The paper's are counted from the definitions that this program trains; \
             published are, of VisualBERT, the numbers in the authors' training logs, and of ViLBERT those in their README. The \
             model of {} has dimensions of its own.",
            profile.in_words()
        ),
        columns,
        rows,
        notes: vec![
            "Increase by PE: parameters in adapters, divided by all parameters of the model with adapters (the paper's \
             convention) and by those of the model without (the usual one). Trained share: trained parameters divided by \
             all parameters of the same model."
                .to_owned(),
        ],
    })
}

fn row(
    name: &str,
    mode: Mode,
    model: &Config,
    published: Option<&Vec<Published>>,
    profile: &Profile,
) -> Result<Vec<Cell>> {
    let text = |text: &str| Cell::Text(text.to_owned());
    let share = |part: u64, whole: u64, places| Cell::Share { value: part as f64 / whole as f64, places };
    let counts = model.counts(mode)?;
    let mut cells = vec![
        text(name),
        text(profile.names.mode_title(mode.as_str())),
        Cell::Count(counts.total),
        Cell::Count(counts.trained),
        Cell::Count(counts.adapters),
    ];
    cells.extend(match counts.adapters {
        0 => [Cell::None, Cell::None],
        adapters => [share(adapters, counts.total, 3), share(adapters, counts.total - adapters, 3)],
    });
    cells.push(share(counts.trained, counts.total, 2));
    let Some(published) = published else {
        cells.extend(std::iter::repeat_n(Cell::None, 3));
        return Ok(cells);
    };
    // One log a data set; the numbers of a mode are the same in all of them, or the cell says so.
    let said: Vec<(u64, u64)> =
        published.iter().filter(|row| row.mode == mode.as_str()).map(|row| row.counts).collect();
    cells.extend(match said.first() {
        None => [Cell::None, Cell::None, Cell::Missing("not published".to_owned())],
        Some(&first) if said.iter().any(|&other| other != first) => {
            [Cell::None, Cell::None, Cell::Missing("published runs disagree".to_owned())]
        }
        Some(&(total, trained)) => {
            let equal = (total, trained) == (counts.total, counts.trained);
            [Cell::Count(total), Cell::Count(trained), text(if equal { "yes" } else { "no" })]
        }
    });
    Ok(cells)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use stage_api::testing::run_stage;

    use super::*;
    use crate::models::visual_bert;

    #[test]
    fn the_table_holds_the_papers_integers_and_the_profiles() {
        let dir = tempfile::tempdir().unwrap();
        let model = dir.path().join("config.json");
        let base = visual_bert::Config::base();
        let small = visual_bert::Config { vocab_size: 100, hidden_size: 20, num_attention_heads: 2, ..base };
        std::fs::write(&model, serde_json::to_vec(&small).unwrap()).unwrap();
        let paper = Path::new(env!("CARGO_MANIFEST_DIR")).join("../paper");
        let (published, vilbert) = (paper.join("runs.csv"), paper.join("vilbert.csv"));
        let inputs =
            [("published", published.as_path()), ("vilbert", vilbert.as_path()), ("model", model.as_path())];
        let params = crate::reports::names::made_up::params();
        run_stage(&Parameters, &params, &inputs, &dir.path().join("out")).unwrap();
        let table = Table::read(&dir.path().join("out/table-1.json")).unwrap();
        let count = |row: usize, key: &str| {
            let column = table.columns.iter().position(|column| column.key == key).unwrap();
            table.rows[row][column].shown()
        };
        for (row, total, trained, adapters) in [
            (0, "112,044,290", "593,666", "0"),
            (1, "113,455,250", "2,004,626", "1,410,960"),
            (2, "112,044,290", "112,044,290", "0"),
            (3, "247,780,354", "1,053,698", "0"),
            (4, "250,451,446", "3,724,790", "2,671,092"),
            (5, "247,780,354", "247,780,354", "0"),
        ] {
            assert_eq!(count(row, "total"), total);
            assert_eq!(count(row, "trained"), trained);
            assert_eq!(count(row, "adapters"), adapters);
            assert_eq!(count(row, "published_total"), total);
            assert_eq!(count(row, "published_trained"), trained);
            assert_eq!(count(row, "equal"), "yes");
        }
        // 1,410,960 of 113,455,250 and of 112,044,290.
        assert_eq!([count(1, "increase"), count(1, "increase_of_base")], ["1.244 %", "1.259 %"]);
        let cost = Table::read(&dir.path().join("out/table-1-cost.json")).unwrap();
        // 5,888 s for 22,000 updates.
        let shown: Vec<String> = cost.rows[1].iter().map(Cell::shown).collect();
        assert_eq!(shown, ["Hateful Memes", "PE", "3,439", "268"]);
        // 20·20 + 20 (dense), 2·20 (norm), 2·20 + 2 (classifier).
        assert_eq!(count(6, "trained"), "502");
        // Twelve layers of 20·2 + 2 + 2·20 + 20.
        assert_eq!(count(7, "adapters"), "1,224");
        assert_eq!(count(4, "increase"), "1.067 %");
    }

    #[test]
    fn a_wrong_model_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let model = dir.path().join("config.json");
        std::fs::write(&model, "{\"vocab_size\": 3}").unwrap();
        let paper = Path::new(env!("CARGO_MANIFEST_DIR")).join("../paper");
        let (published, vilbert) = (paper.join("runs.csv"), paper.join("vilbert.csv"));
        let inputs =
            [("published", published.as_path()), ("vilbert", vilbert.as_path()), ("model", model.as_path())];
        let error = run_stage(&Parameters, "(profile: \"mini\")", &inputs, &dir.path().join("out"));
        let error = error.err().unwrap().to_string();
        assert!(error.contains("config.json") && error.contains("missing field"), "{error}");
    }
}
