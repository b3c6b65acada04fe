//! What stands in `reports/`.

use super::support::TestSpace;

#[test]
fn reports_follow_the_trees_and_only_what_was_published_is_removed() {
    let two = r#"(name: "a", stage: "join", inputs: {"in": ["./x", "./y"]}, publish: "tables"),"#;
    let space = TestSpace::new(two);
    space.write("x", "1");
    space.write("y", "2");
    let run = space.make().expect(0);
    assert!(run.err.contains("published 3 files in"), "{}", run.err);
    assert_eq!(space.read("reports/mini/tables/text"), "(1)(2)");
    space.write("reports/mini/tables/notes", "by hand");
    space.steps(&two.replace(", \"./y\"", ""));
    space.make().expect(0);
    assert_eq!(space.read("reports/mini/tables/text"), "(1)");
    assert!(!space.path("reports/mini/tables/parts/1").exists(), "no step writes it any more");
    assert_eq!(space.read("reports/mini/tables/notes"), "by hand");
}

#[test]
fn a_lost_or_edited_report_is_restored_without_running() {
    let space = TestSpace::new(r#"(name: "a", stage: "join", params: (text: "t"), publish: "."),"#);
    space.make().expect(0);
    assert_eq!(space.make().expect(0).err, "nothing to do: 1 step fresh\n");
    space.write("reports/mini/text", "edited");
    assert_eq!(space.make().expect(0).ran(), [""; 0]);
    assert_eq!(space.read("reports/mini/text"), "t");
    std::fs::remove_dir_all(space.path("reports")).unwrap();
    assert_eq!(space.make().expect(0).ran(), [""; 0]);
    assert_eq!(space.read("reports/mini/text"), "t");
}

#[test]
fn a_step_that_is_gone_takes_its_reports_with_it() {
    let a = r#"(name: "a", stage: "join", params: (text: "a"), publish: "a"),"#;
    let b = r#"(name: "b", stage: "join", params: (text: "b"), publish: "b"),"#;
    let space = TestSpace::new(&format!("{a}{b}"));
    space.make().expect(0);
    assert!(space.path("reports/mini/a/text").exists());
    space.steps(&b.replace("text: \"b\"", "text: \"c\""));
    space.make().expect(0);
    assert!(!space.path("reports/mini/a").exists());
    assert_eq!(space.read("reports/mini/b/text"), "c");
}

#[test]
fn two_steps_that_publish_one_file_are_told_and_nothing_is_written() {
    let space = TestSpace::new(
        r#"(name: "a", stage: "join", publish: "."), (name: "b", stage: "join", params: (text: "b"), publish: "."),"#,
    );
    let run = space.make().expect(2);
    assert!(run.err.contains("both publish text"), "{}", run.err);
    assert!(!space.path("reports/mini/text").exists());
}

#[test]
fn a_published_tree_whose_bytes_are_gone_runs_again_only_if_the_reports_lack_it() {
    let space = TestSpace::new(r#"(name: "a", stage: "join", params: (text: "t"), publish: "."),"#);
    space.make().expect(0);
    let tree = format!("cache/trees/{}", space.record("a").tree);
    std::fs::remove_dir_all(space.path(&tree)).unwrap();
    assert_eq!(space.make().expect(0).ran(), [""; 0]);
    std::fs::remove_file(space.path("reports/mini/text")).unwrap();
    let why = space.run(&["why", "a"]).expect(0).out;
    assert!(why.contains("no longer in the cache, and `reports` wants it"), "{why}");
    assert_eq!(space.make().expect(0).ran(), ["a"]);
    assert_eq!(space.read("reports/mini/text"), "t");
}
