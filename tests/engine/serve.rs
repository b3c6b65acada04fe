//! `repro serve`: the page over HTTP on this machine, and only what the reports hold.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Child;

use super::support::TestSpace;

/// A server that ends with its test.
struct Served {
    child: Child,
    port: u16,
}

impl Served {
    fn of(space: &TestSpace) -> Self {
        let mut child = space.spawn(&["serve", "--port", "0"]);
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let port = line.trim_end_matches("/\n").rsplit(':').next().and_then(|port| port.parse().ok());
        let port = port.unwrap_or_else(|| panic!("no address: {line:?}"));
        Self { child, port }
    }

    fn connect(&self, request: &str) -> TcpStream {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        stream
    }

    /// The whole answer to a request as it is written.
    fn ask(&self, request: &str) -> String {
        let mut answer = Vec::new();
        self.connect(request).read_to_end(&mut answer).unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    fn get(&self, path: &str) -> String {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\n\r\n", self.port))
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const STEPS: &str = r#"
    (name: "a", stage: "join", params: (text: "one"), publish: "."),
    (name: "b", stage: "join", inputs: {"in": ["a/text"]}),
"#;

#[test]
fn the_page_and_the_files_of_the_reports_are_served_and_nothing_else() {
    let space = TestSpace::new(STEPS);
    space.make().expect(0);
    space.write("secret", "not for a browser");
    std::os::unix::fs::symlink(space.path("secret"), space.path("reports/mini/link")).unwrap();
    let served = Served::of(&space);
    let page = served.get("/");
    assert!(page.starts_with("HTTP/1.1 200 OK\r\n") && page.contains("<p>b fresh"), "{page}");
    assert!(page.contains("<script src=\"/live.js\"") && page.contains("default-src 'none'"), "{page}");
    assert!(
        page.contains("<a href=\"#step-a\">") && page.contains("join · "),
        "the graph has links and times: {page}"
    );
    assert!(served.get("/live.js").contains("EventSource"));
    assert!(served.get("/text").ends_with("\r\n\r\none"), "{}", served.get("/text"));
    let outside = ["/../../secret", "/..%2f..%2fsecret", "//etc/passwd", "/link", "/./text", "/no", "/text/"];
    for path in outside {
        let answer = served.get(path);
        assert!(answer.starts_with("HTTP/1.1 404 ") && !answer.contains("not for"), "{path}: {answer}");
    }
    let elsewhere = served.ask("GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n");
    assert!(elsewhere.starts_with("HTTP/1.1 403 ") && !elsewhere.contains("fresh"), "{elsewhere}");
    for wrong in ["POST / HTTP/1.1\r\nHost: localhost\r\n\r\n", "nonsense\r\n\r\n"] {
        assert!(served.ask(wrong).starts_with("HTTP/1.1 400 "), "{wrong}");
    }
}

#[test]
fn a_browser_is_told_when_the_page_is_another_one() {
    let space = TestSpace::new(STEPS);
    let served = Served::of(&space);
    let page = served.get("/");
    assert!(page.contains("<p>a stale none"), "{page}");
    let request = format!("GET /events HTTP/1.1\r\nHost: localhost:{}\r\n\r\n", served.port);
    let mut lines = BufReader::new(served.connect(&request)).lines().map_while(Result::ok);
    let mut told = || lines.find(|line| line.starts_with("data: ")).unwrap();
    let first = told();
    assert!(page.contains(&format!("data-shown=\"{}\"", &first["data: ".len()..])), "{first}\n{page}");
    space.make().expect(0);
    assert_ne!(told(), first);
    assert!(served.get("/").contains("<p>b fresh"));
}

#[test]
fn a_port_that_is_taken_is_told() {
    let space = TestSpace::new(STEPS);
    let served = Served::of(&space);
    let refused = space.run(&["serve", "--port", &served.port.to_string()]).expect(2);
    assert!(refused.err.contains("cannot be served") && refused.err.contains("--port 0"), "{}", refused.err);
}
