//! Two machines with different bytes for one key: the second gets a warning, and neither result is replaced.

use super::on;
use super::server::Server;
use crate::support::TestSpace;

const STEPS: &str = r#"
    (name: "random", stage: "trouble", params: (how: "random")),
    (name: "table", stage: "join", params: (text: "t"), inputs: {"in": ["random/text"]}, publish: "."),
"#;

#[test]
fn the_second_is_warned_and_may_take_the_first_ones_result() {
    let (server, first, second) = (Server::start(), TestSpace::new(STEPS), TestSpace::new(STEPS));
    on(&server, &first, &["make"]).expect(0);
    second.make().expect(0);
    assert_ne!(first.trees()["random"], second.trees()["random"]);
    let before = server.objects("records");
    let run = on(&server, &second, &["push"]).expect(3);
    let warning = "warning: `random`: s3://results/paper has another result of the same key";
    assert!(run.err.contains(warning) && run.err.contains("neither is replaced"), "{}", run.err);
    assert!(run.err.contains(&first.trees()["random"][..12]), "{}", run.err);
    // A result that depends on the other one has another key and is not a conflict.
    assert_eq!(server.objects("records").len(), before.len() + 1);

    // A run warns too, and continues with its own result.
    second.steps(&STEPS.replace("\"t\"", "\"u\""));
    let run = on(&server, &second, &["make"]).expect(0);
    assert!(run.err.contains(warning), "{}", run.err);
    second.steps(STEPS);

    let third = TestSpace::new(STEPS);
    on(&server, &third, &["make"]).expect(0);
    assert_eq!(third.trees(), first.trees(), "the first result stays");

    let run = on(&server, &second, &["pull", "--theirs", "random"]).expect(0);
    assert!(run.err.contains("`random`: the remote cache's result replaces the local one"), "{}", run.err);
    on(&server, &second, &["make"]).expect(0);
    assert_eq!(second.read("reports/mini/text"), first.read("reports/mini/text"));
    on(&server, &second, &["push"]).expect(0);
}
