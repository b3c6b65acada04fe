//! A slow, busy, dead or forbidden server: nothing is lost, nothing is wrong, and a run continues without it.

use std::time::Instant;

use super::server::{Faults, Server};
use super::{machine, made_alone, on, reports};
use crate::process::finished;

#[test]
fn requests_are_repeated_after_errors_stalls_and_cuts() {
    let (server, first) = (Server::start(), machine());
    server.set(Faults { unavailable: 4, ..Faults::default() });
    let run = on(&server, &first, &["make"]).expect(0);
    assert!(run.err.contains("pushed 5 results") && !run.err.contains("warning"), "{}", run.err);
    for faults in [
        Faults { unavailable: 4, ..Faults::default() },
        Faults { stalled: 1, ..Faults::default() },
        Faults { cut: 3, ..Faults::default() },
    ] {
        let (second, case) = (machine(), format!("{faults:?}"));
        server.set(faults);
        let run = on(&server, &second, &["pull", "large", "many", "table"]).expect(0);
        assert!(!run.err.contains("warning"), "{case}: {}", run.err);
        assert_eq!(on(&server, &second, &["make"]).expect(0).ran(), [""; 0]);
        assert_eq!(reports(&second), reports(&first), "{case}");
    }
}

#[test]
fn a_server_that_dies_at_any_moment_leaves_no_incomplete_result() {
    let expected = made_alone();
    for after in [0, 5, 9, 12, 15, 18, 24] {
        let (server, first) = (Server::start(), machine());
        server.set(Faults { dies_after: Some(after), ..Faults::default() });
        let run = on(&server, &first, &["make"]).expect(0);
        assert_eq!(reports(&first), expected);
        server.set(Faults::default());
        // Every object that arrived is complete.
        let second = machine();
        let pull = on(&server, &second, &["make", "--remote-readonly"]).expect(0);
        assert!(!pull.err.contains("damaged"), "{after}: {}", pull.err);
        assert_eq!((reports(&second), second.trees()), (expected.clone(), first.trees()), "{after}");
        // The next push sends exactly the others.
        let chunks = server.objects("chunks").len();
        server.requests();
        let push = on(&server, &first, &["push"]).expect(0);
        let sent = server.requests().get("PUT").copied().unwrap_or_default();
        let all = 5 + 5 + 5;
        assert!(
            sent <= all - chunks,
            "{after}: {sent} sent, {chunks} chunks were there: {} {}",
            run.err,
            push.err
        );
        assert_eq!(on(&server, &machine(), &["make"]).expect(0).ran(), [""; 0]);
    }
}

#[test]
fn a_server_that_dies_during_a_fetch_costs_a_run_here() {
    let (server, first) = (Server::start(), machine());
    on(&server, &first, &["make"]).expect(0);
    for after in [0, 3, 8, 10] {
        let second = machine();
        server.set(Faults { dies_after: Some(after), ..Faults::default() });
        let run = on(&server, &second, &["make"]).expect(0);
        assert!(run.err.contains("continuing without the remote cache"), "{after}: {}", run.err);
        assert_eq!(run.err.matches("warning").count(), 1, "one warning: {}", run.err);
        assert_eq!((reports(&second), second.trees()), (reports(&first), first.trees()));
    }
}

#[test]
fn without_a_server_steps_run_and_local_results_stay_known() {
    let space = machine();
    let run = space.run(&["make", "--remote", "http://127.0.0.1:9/x"]).expect(0);
    assert!(run.err.contains("http://127.0.0.1:9/x: v1/records/"), "{}", run.err);
    assert_eq!(run.ran().len(), 5);
    let since = Instant::now();
    assert!(
        space.run(&["make", "--remote", "http://127.0.0.1:9/x"]).expect(0).err.starts_with("nothing to do")
    );
    assert!(since.elapsed().as_secs() < 2, "it is not waited for");
}

#[test]
fn wrong_credentials_are_reported() {
    let (server, space) = (Server::start(), machine());
    let wrong = |args: &[&str]| {
        let mut command = server.with(space.command(args));
        finished(command.env("AWS_SECRET_ACCESS_KEY", "another").output().unwrap())
    };
    let run = wrong(&["make"]).expect(0);
    assert!(run.err.contains("check the credentials in the environment"), "{}", run.err);
    assert_eq!((run.ran().len(), reports(&space)), (5, made_alone()));
    let run = wrong(&["push"]).expect(1);
    assert!(run.err.contains("was not pushed (and 4 more)"), "{}", run.err);
    wrong(&["pull"]).expect(0);
    assert_eq!(server.objects("records").len(), 0);
}
