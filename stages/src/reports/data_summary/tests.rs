use std::path::{Path, PathBuf};

use stage_api::testing::{Recorder, run_stage};
use stage_api::{AllowedEnv, Host, Results, StepView};

use super::*;
use crate::artifacts::labels::Label;
use crate::dataset::index_hmd::IndexHmd;
use crate::dataset::indexing::testing::{png, zip};

fn indexed(dir: &Path) -> PathBuf {
    let line = |id: u8, text: &str| {
        format!(r#"{{"id":{id},"img":"img/{id}.png","label":{},"text":"{text}"}}"#, id % 2)
    };
    let mut files: Vec<(String, Vec<u8>)> =
        (1..=6).map(|id| (format!("img/{id}.png"), png(id * 40))).collect();
    for (name, lines) in [
        ("train.jsonl", [line(1, "a <script> b"), line(2, "b")]),
        ("dev.jsonl", [line(3, "c"), line(4, "B")]),
        ("test.jsonl", [line(5, ""), line(6, "e")]),
    ] {
        files.push((name.to_owned(), lines.join("\n").into_bytes()));
    }
    let (archive, out) = (zip(dir, &files), dir.join("index"));
    run_stage(&IndexHmd, "()", &[("archive", &archive)], &out).unwrap();
    out
}

#[test]
fn the_report_shows_tables_and_blurred_pictures() {
    let dir = tempfile::tempdir().unwrap();
    let index = indexed(dir.path());
    let part = dir.path().join("part");
    run_stage(&Data, "()", &[(INDEXES, &index)], &part).unwrap();
    let figures = figure::read(&part).unwrap();
    let [(entry, svg)] = figures.as_slice() else { panic!("one sheet") };
    assert_eq!(entry.name, "data-hmd");
    assert_eq!(svg.matches("<image").count(), 2);
    let page = dir.path().join("page");
    run_stage(&crate::reports::report::Report, "(profile: \"mini\")", &[("parts", &part)], &page).unwrap();
    let page = std::fs::read_to_string(page.join("index.html")).unwrap();
    for shown in
        ["Splits and class balance of the data", "dev.jsonl", "What splits share", "data:image/png;base64,"]
    {
        assert!(page.contains(shown), "{shown}");
    }
}

#[test]
fn blurred_pictures_have_a_few_pixels() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.png");
    image::RgbImage::from_fn(300, 200, |x, y| image::Rgb([x as u8, y as u8, 7])).save(&path).unwrap();
    let samples = vec![crate::artifacts::samples::Sample {
        id: "1".to_owned(),
        image: "a.png".to_owned(),
        text: String::new(),
        label: Some(Label::One(1)),
        soft: None,
        split: crate::artifacts::samples::Split::Train,
    }];
    let set = SampleSet { samples, ..SampleSet::default() };
    let side = |blur: bool| {
        let svg = thumbnails::sheet(&set, dir.path(), &DataParams { blur, pictures: 1 }).unwrap();
        let data = svg.split("base64,").nth(1).unwrap().split('"').next().unwrap().to_owned();
        let png = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, data).unwrap();
        image::load_from_memory(&png).unwrap().width()
    };
    assert_eq!((side(true), side(false)), (10, 160));
}

#[test]
fn classes_with_names_have_rows_and_pictures_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let files: Vec<_> = (1..=6).map(|id| (format!("{id}.png"), png(id * 40))).collect();
    let row =
        |id: usize| format!("{id},{id}.png,t{id},{},{}\n", ["a<b", "c"][id % 2], ["train", "val"][id / 5]);
    let table = dir.path().join("pets.csv");
    std::fs::write(&table, "id,image,text,label,split\n".to_owned() + &(1..=6).map(row).collect::<String>())
        .unwrap();
    let (images, index) = (zip(dir.path(), &files), dir.path().join("index"));
    let params = r#"(name: "pets", classes: ["a<b", "c"])"#;
    run_stage(
        &crate::dataset::index_table::IndexTable,
        params,
        &[("images", &images), ("table", &table)],
        &index,
    )
    .unwrap();
    let part = dir.path().join("part");
    run_stage(&Data, "()", &[(INDEXES, &index)], &part).unwrap();
    let table = crate::reports::table::Table::read(&part.join("data-splits.json")).unwrap();
    let shown: Vec<Vec<String>> =
        table.rows.iter().map(|row| row.iter().map(crate::reports::table::Cell::shown).collect()).collect();
    assert_eq!(shown[0], ["PETS", "pets.csv (train)", "4", "4", "0", "a<b", "2", "50.0 %"]);
    assert_eq!(shown[3], ["PETS", "pets.csv (val)", "–", "–", "–", "c", "1", "50.0 %"]);
    let svg = std::fs::read_to_string(part.join("data-pets.svg")).unwrap();
    assert!(svg.contains(">a&lt;b</text>") && svg.matches("<image").count() == 4, "{svg}");
}

/// One step, with or without a result.
struct One(Option<PathBuf>);

impl Results for One {
    fn root(&self) -> &Path {
        Path::new(".")
    }
    fn file(&self) -> &Path {
        Path::new("pipeline.ron")
    }
    fn profile(&self) -> &str {
        "mini"
    }
    fn steps(&self) -> Vec<StepView> {
        let (name, stage) = ("hmd-samples".to_owned(), "index-hmd".to_owned());
        vec![StepView { name, stage, ..StepView::default() }]
    }
    fn output(&self, step: &str) -> Result<PathBuf, StageError> {
        self.0.clone().ok_or_else(|| StageError::Failed(format!("step `{step}` is not up to date")))
    }
}

#[test]
fn the_tool_answers_with_text_and_json() {
    let dir = tempfile::tempdir().unwrap();
    let (host, recorder) = (Host { device: "cpu".to_owned(), threads: 1 }, Recorder::default());
    let ask = |results: &One, args: &DataArgs| {
        let allowed_env = &AllowedEnv::default();
        DataTool
            .run(args, &ToolContext { results, host: &host, allowed_env, progress: &recorder, columns: None })
    };
    let answer = ask(&One(Some(indexed(dir.path()))), &DataArgs { steps: Vec::new() }).unwrap();
    let row = answer.text.lines().find(|line| line.contains("train.jsonl")).unwrap();
    let cells: Vec<&str> = row.split_whitespace().collect();
    assert_eq!(cells.join(" "), "HMD train.jsonl 2 2 1 1 0 50.0 %");
    let json: serde_json::Value = serde_json::from_str(&answer.json).unwrap();
    assert_eq!(json["hmd-samples"]["overlaps"][0]["texts"], 1);
    assert!(!answer.text.contains("script"), "no text of the data is shown");
    let error = ask(&One(None), &DataArgs { steps: Vec::new() }).unwrap_err().to_string();
    assert!(error.contains("run `repro make` first"), "{error}");
    let named = DataArgs { steps: vec!["x".to_owned()] };
    let error = ask(&One(Some(dir.path().to_owned())), &named).unwrap_err().to_string();
    assert!(error.contains("step `x` is no index of a data set"), "{error}");
}
