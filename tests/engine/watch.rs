//! `repro watch`: plots the measurements of a step.

use super::support::TestSpace;

#[test]
fn measurements_are_plotted_and_a_step_without_any_is_an_error() {
    let space =
        TestSpace::new(r#"(name: "a", stage: "join", params: (text: "one")), (name: "b", stage: "join")"#);
    let refused = space.run(&["watch", "a"]).expect(2);
    assert!(refused.err.contains("step `a` has measured nothing"), "{}", refused.err);
    space.run(&["make", "a"]).expect(0);
    let drawn = space.run(&["watch", "a"]).expect(0).out;
    assert!(drawn.starts_with("length: 3.0000 at 1\n") && drawn.contains('│'), "{drawn}");
    let json = space.run(&["watch", "a", "--json"]).expect(0).out;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["values"]["length"], serde_json::json!([{"at": 1, "value": 3.0}]));
    space.run(&["watch", "a", "--only", "loss"]).expect(2);
    space.run(&["watch", "c"]).expect(2);
}
