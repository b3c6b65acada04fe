//! Follows the documentation word for word: writes what its pages show, and runs their commands.

use std::fs;
use std::path::Path;

use super::support::TestSpace;

fn text(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The code blocks of a page in a language, without their fences.
fn blocks<'a>(page: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("```{language}\n");
    page.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

#[test]
fn a_stage_takes_the_file_and_the_line_of_the_page() {
    let page = text("docs/adding-a-stage.md");
    let [file, line] = blocks(&page, "rust")[..] else { panic!("a file and a line") };
    assert_eq!(file, text("tests/engine/count_words.rs"), "the file of the page is the one that runs here");
    assert!(text("tests/engine/toy.rs").contains(line.trim()), "{line}");

    let space = TestSpace::new("");
    let pipeline = blocks(&page, "ron")[0];
    space.write("pipeline.ron", pipeline);
    space.write("text.txt", "a stage takes one file and a line\n");
    assert!(space.run(&["list", "--stages"]).expect(0).out.contains("count-words"));
    space.make().expect(0);
    assert_eq!(space.read("reports/words/words/count.txt"), "6\n");

    // A changed param reruns it. A misspelt one is an error with its position and the nearest name.
    space.write("pipeline.ron", &pipeline.replace("shortest: 2", "shortest: 5"));
    assert_eq!(space.make().expect(0).ran(), ["words"]);
    assert_eq!(space.read("reports/words/words/count.txt"), "2\n");
    space.write("pipeline.ron", &pipeline.replace("shortest", "shotrest"));
    let text = space.make().expect(2).err;
    assert!(text.contains("pipeline.ron:5:") && text.contains("`shortest`"), "{text}");
}

#[test]
fn the_example_of_commands_alone_runs_and_has_its_slopes() {
    let space = TestSpace::new("");
    space.write("examples/command.ron", &text("examples/command.ron"));
    space.run(&["-f", "examples/command.ron", "make"]).expect(0);
    let table = space.read("examples/reports/default/table/table.md");
    let slopes: Vec<f64> =
        table.lines().skip(2).map(|line| line.split('|').nth(2).unwrap().trim().parse().unwrap()).collect();
    assert_eq!(slopes.len(), 3, "{table}");
    for (series, slope) in (1..).zip(slopes) {
        assert!((slope - f64::from(series)).abs() < 0.2, "{table}");
    }
    assert!(space.run(&["-f", "examples/command.ron", "make"]).expect(0).err.contains("nothing to do"));
}

#[test]
fn every_linked_page_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let pages = fs::read_dir(root.join("docs")).unwrap().map(|item| item.unwrap().path());
    let pages =
        pages.chain([root.join("README.md"), root.join("CONTRIBUTING.md"), root.join("paper/README.md")]);
    for page in pages.filter(|page| page.extension().is_some_and(|ending| ending == "md")) {
        let text = fs::read_to_string(&page).unwrap();
        for link in text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            let file = link.split('#').next().unwrap();
            if file.is_empty() || file.contains("://") {
                continue;
            }
            let target = page.parent().unwrap().join(file);
            assert!(target.exists(), "{} names {file}, which is not there", page.display());
        }
    }
}
