//! `parameters`: Table I, how many parameters each training mode has and trains: in the paper's own model, counted from
//! the model's definition beside the published counts; in the profile's model; and, as published, in the paper's second
//! model. Beside it the memory and time of the authors' runs. It allocates no model.

use stage_api::{Job, Port, Stage, StageError};

use crate::artifacts::read_json;
use crate::cost;
use crate::models::visual_bert::shapes::counts;
use crate::models::visual_bert::{Config, Mode};
use crate::profile::Profile;
use crate::published::{self, MODES, Quantities, Run};
use crate::table::{Cell, Column, Table};

/// Makes Table I.
pub struct Parameters;

impl Stage for Parameters {
    type Params = Profile;
    const NAME: &'static str = "parameters";
    const ABOUT: &'static str =
        "Table I: total, trained and adapter parameters by mode, counted and published";
    const VERSION: u32 = 3;
    const INPUTS: &'static [Port] = &[Port::one("published"), Port::one("vilbert"), Port::one("model")];

    fn run(&self, profile: &Profile, job: &Job) -> Result<(), StageError> {
        let published = published::read_runs(job.inputs.one("published")?)?;
        let second = published::read_quantities(job.inputs.one("vilbert")?)?;
        let path = job.inputs.one("model")?;
        let model: Config = read_json(path)?;
        model.check().map_err(|error| StageError::input("model", path, error))?;
        table(&published, &second, &model, profile).write(job.out)?;
        Ok(cost::table(&published).write(job.out)?)
    }
}

fn table(published: &[Run], second: &[Quantities], model: &Config, profile: &Profile) -> Table {
    let logs = "published";
    let columns = vec![
        Column::words("model", "Model"),
        Column::words("mode", "Mode"),
        Column::numbers("total", "", "Total"),
        Column::numbers("trained", "", "Trained"),
        Column::numbers("adapters", "", "In adapters (PE)"),
        Column::numbers("increase", "increase by PE", "of the new total"),
        Column::numbers("increase_of_base", "increase by PE", "of the base"),
        Column::numbers("trained_share", "", "Trained share"),
        Column::numbers("published_total", logs, "Total"),
        Column::numbers("published_trained", logs, "Trained"),
        Column::words("equal", "Counted = published"),
    ];
    let paper =
        |mode| row("VisualBERT (the paper's)", mode, &of_model(&Config::base(), mode), Some(published));
    let own = profile.short();
    let here = |mode| row(&format!("VisualBERT ({own})"), mode, &of_model(model, mode), None);
    let mut rows: Vec<Vec<Cell>> = Mode::ALL.into_iter().map(paper).collect();
    rows.extend(Mode::ALL.into_iter().map(here));
    for mode in Mode::ALL {
        let found = second.iter().find(|row| row.mode == mode.as_str());
        rows.extend(found.map(|counts| row("ViLBERT (as published)", mode, counts, None)));
    }
    Table {
        name: "table-1".to_owned(),
        place: 0,
        title: "Table I: parameters by training mode".to_owned(),
        caption: format!(
            "Models with a classification head. The paper's VisualBERT is counted from the definition that this program \
             trains; published are the numbers in the authors' training logs. The model of {} has dimensions of its own.",
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
    }
}

fn of_model(config: &Config, mode: Mode) -> Quantities {
    let counts = counts(config, mode);
    Quantities {
        mode: mode.as_str().to_owned(),
        total_parameters: counts.total,
        trained_parameters: counts.trained,
        adapters: counts.adapters,
    }
}

fn row(model: &str, mode: Mode, counts: &Quantities, published: Option<&[Run]>) -> Vec<Cell> {
    let text = |text: &str| Cell::Text(text.to_owned());
    let share = |part: u64, whole: u64, places| Cell::Share { value: part as f64 / whole as f64, places };
    let total = counts.total_parameters;
    let mut cells = vec![
        text(model),
        text(published::title(&MODES, mode.as_str())),
        Cell::Count(total),
        Cell::Count(counts.trained_parameters),
        Cell::Count(counts.adapters),
    ];
    cells.extend(match counts.adapters {
        0 => [Cell::None, Cell::None],
        adapters => [share(adapters, total, 3), share(adapters, total - adapters, 3)],
    });
    cells.push(share(counts.trained_parameters, total, 2));
    let Some(published) = published else {
        cells.extend(std::iter::repeat_n(Cell::None, 3));
        return cells;
    };
    // One log a data set; the numbers of a mode are the same in all of them, or the cell says so.
    let runs: Vec<&Run> = published.iter().filter(|run| run.mode == mode.as_str()).collect();
    let logs: Vec<(u64, u64)> =
        runs.iter().map(|run| (run.total_parameters, run.trained_parameters)).collect();
    cells.extend(match logs.first() {
        None => [Cell::None, Cell::None, Cell::Missing("not published".to_owned())],
        Some(&first) if logs.iter().any(|&log| log != first) => {
            [Cell::None, Cell::None, Cell::Missing("published runs disagree".to_owned())]
        }
        Some(&(log_total, log_trained)) => {
            let equal = (log_total, log_trained) == (total, counts.trained_parameters);
            [Cell::Count(log_total), Cell::Count(log_trained), text(if equal { "yes" } else { "no" })]
        }
    });
    cells
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use stage_api::testing::run_stage;

    use super::*;

    #[test]
    fn the_table_holds_the_papers_integers_and_the_profiles() {
        let dir = tempfile::tempdir().unwrap();
        let model = dir.path().join("config.json");
        let small = Config { vocab_size: 100, hidden_size: 20, num_attention_heads: 2, ..Config::base() };
        std::fs::write(&model, serde_json::to_vec(&small).unwrap()).unwrap();
        let paper = Path::new(env!("CARGO_MANIFEST_DIR")).join("../paper");
        let (published, vilbert) = (paper.join("runs.csv"), paper.join("vilbert.csv"));
        let inputs =
            [("published", published.as_path()), ("vilbert", vilbert.as_path()), ("model", model.as_path())];
        run_stage(&Parameters, "(profile: \"mini\")", &inputs, &dir.path().join("out")).unwrap();
        let table = Table::read(&dir.path().join("out/table-1.json")).unwrap();
        let count = |row: usize, key: &str| {
            let column = table.columns.iter().position(|column| column.key == key).unwrap();
            table.rows[row][column].shown()
        };
        for (row, total, trained, adapters) in [
            (0, "112,044,290", "593,666", "0"),
            (1, "113,455,250", "2,004,626", "1,410,960"),
            (2, "112,044,290", "112,044,290", "0"),
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
        assert_eq!(count(3, "trained"), "502");
        // Twelve layers of 20·2 + 2 + 2·20 + 20.
        assert_eq!(count(4, "adapters"), "1,224");
        assert_eq!([count(7, "total"), count(7, "increase")], ["250,451,446", "1.067 %"]);
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
