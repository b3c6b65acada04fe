//! `parameters`: Table I, how many parameters each training mode has and trains: in the paper's own model,
//! counted from the model's definition, as published, and in the profile's model. It allocates no model.

use stage_api::{Job, Port, Stage, StageError};

use crate::artifacts::read_json;
use crate::models::visual_bert::shapes::{Counts, counts};
use crate::models::visual_bert::{Config, Mode};
use crate::profile::Profile;
use crate::published::{self, MODES, Run};
use crate::table::{Cell, Column, Table};

/// Makes Table I.
pub struct Parameters;

impl Stage for Parameters {
    type Params = Profile;
    const NAME: &'static str = "parameters";
    const ABOUT: &'static str =
        "Table I: total, trained and adapter parameters by mode, counted and published";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Port] = &[Port::one("published"), Port::one("model")];

    fn run(&self, profile: &Profile, job: &Job) -> Result<(), StageError> {
        let published = published::read_runs(job.inputs.one("published")?)?;
        let path = job.inputs.one("model")?;
        let model: Config = read_json(path)?;
        model.check().map_err(|error| StageError::input("model", path, error))?;
        Ok(table(&published, &model, profile).write(job.out)?)
    }
}

fn table(published: &[Run], model: &Config, profile: &Profile) -> Table {
    let (paper, logs) = ("the paper's model, counted", "published");
    let own = profile.short();
    let columns = vec![
        Column::words("mode", "Mode"),
        Column::numbers("total", paper, "Total"),
        Column::numbers("trained", paper, "Trained"),
        Column::numbers("adapters", paper, "In adapters"),
        Column::numbers("trained_share", paper, "Trained share"),
        Column::numbers("adapter_share", paper, "Adapter share"),
        Column::numbers("published_total", logs, "Total"),
        Column::numbers("published_trained", logs, "Trained"),
        Column::words("equal", "Counted = published"),
        Column::numbers("profile_total", &own, "Total"),
        Column::numbers("profile_trained", &own, "Trained"),
        Column::numbers("profile_adapters", &own, "In adapters"),
        Column::numbers("profile_trained_share", &own, "Trained share"),
    ];
    Table {
        name: "table-1".to_owned(),
        title: "Table I: parameters by training mode".to_owned(),
        caption: format!(
            "VisualBERT with a classification head. The paper's model is counted from the definition that this \
             program trains; published are the numbers in the authors' training logs. The model of {} has \
             dimensions of its own.",
            profile.in_words()
        ),
        columns,
        rows: Mode::ALL.into_iter().map(|mode| row(mode, published, model)).collect(),
        notes: vec![
            "Adapter share: parameters in adapters divided by all parameters of the same model, the paper's \
             convention for what PE adds. Trained share: trained parameters divided by all parameters of the \
             same model."
                .to_owned(),
        ],
    }
}

fn row(mode: Mode, published: &[Run], model: &Config) -> Vec<Cell> {
    let text = |text: &str| Cell::Text(text.to_owned());
    let share =
        |part: u64, counts: &Counts| Cell::Share { value: part as f64 / counts.total as f64, places: 2 };
    let paper = counts(&Config::base(), mode);
    let here = counts(model, mode);
    let mut cells = vec![
        text(published::title(&MODES, mode.as_str())),
        Cell::Count(paper.total),
        Cell::Count(paper.trained),
        Cell::Count(paper.adapters),
        share(paper.trained, &paper),
        share(paper.adapters, &paper),
    ];
    // One log a data set; the numbers of a mode are the same in all of them, or the cell says so.
    let logs: Vec<(u64, u64)> = published
        .iter()
        .filter(|run| run.mode == mode.as_str())
        .map(|run| (run.total_parameters, run.trained_parameters))
        .collect();
    cells.extend(match logs.first() {
        None => [Cell::None, Cell::None, Cell::Missing("not published".to_owned())],
        Some(&first) if logs.iter().any(|&log| log != first) => {
            [Cell::None, Cell::None, Cell::Missing("published runs disagree".to_owned())]
        }
        Some(&(total, trained)) => {
            let equal = (total, trained) == (paper.total, paper.trained);
            [Cell::Count(total), Cell::Count(trained), text(if equal { "yes" } else { "no" })]
        }
    });
    cells.extend([
        Cell::Count(here.total),
        Cell::Count(here.trained),
        Cell::Count(here.adapters),
        share(here.trained, &here),
    ]);
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
        let published = Path::new(env!("CARGO_MANIFEST_DIR")).join("../paper/runs.csv");
        let inputs = [("published", published.as_path()), ("model", model.as_path())];
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
        // 20·20 + 20 (dense), 2·20 (norm), 2·20 + 2 (classifier).
        assert_eq!(count(0, "profile_trained"), "502");
        // Twelve layers of 20·2 + 2 + 2·20 + 20.
        assert_eq!(count(1, "profile_adapters"), "1,224");
    }

    #[test]
    fn a_wrong_model_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let model = dir.path().join("config.json");
        std::fs::write(&model, "{\"vocab_size\": 3}").unwrap();
        let published = Path::new(env!("CARGO_MANIFEST_DIR")).join("../paper/runs.csv");
        let inputs = [("published", published.as_path()), ("model", model.as_path())];
        let error = run_stage(&Parameters, "(profile: \"mini\")", &inputs, &dir.path().join("out"));
        let error = error.err().unwrap().to_string();
        assert!(error.contains("config.json") && error.contains("missing field"), "{error}");
    }
}
