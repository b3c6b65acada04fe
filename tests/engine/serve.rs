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

    /// The complete answer to a raw request.
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
    let foreign = served.ask("GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n");
    assert!(foreign.starts_with("HTTP/1.1 403 ") && !foreign.contains("fresh"), "{foreign}");
    for wrong in ["POST / HTTP/1.1\r\nHost: localhost\r\n\r\n", "nonsense\r\n\r\n"] {
        assert!(served.ask(wrong).starts_with("HTTP/1.1 400 "), "{wrong}");
    }
}

#[test]
fn files_of_any_name_and_ranges_of_them_are_served() {
    let names = ["with space", "100%", "a+b", "c%20d", "\u{fc}\u{8a9e}", "x?y#z", "<b>&\"'", "big"];
    let steps = r#"(name: "a", stage: "join", params: (text: "one"), publish: "."),"#;
    let space = TestSpace::new(steps);
    space.make().expect(0);
    for name in names {
        space.write(&format!("reports/mini/in ner/{name}"), &format!("text of {name}"));
    }
    let served = Served::of(&space);
    for name in names {
        let encoded: String = format!("in ner/{name}")
            .bytes()
            .map(|byte| match byte {
                b'/' | b'+' => char::from(byte).to_string(),
                byte if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
                byte => format!("%{byte:02X}"),
            })
            .collect();
        let answer = served.get(&format!("/{encoded}"));
        assert!(
            answer.starts_with("HTTP/1.1 200 ") && answer.ends_with(&format!("\r\n\r\ntext of {name}")),
            "{answer}"
        );
    }
    let ask = |method: &str, range: &str| {
        let host = format!("Host: localhost:{}\r\n", served.port);
        served.ask(&format!("{method} /in%20ner/big HTTP/1.1\r\n{host}{range}\r\n"))
    };
    let head = ask("HEAD", "");
    assert!(head.contains("Content-Length: 11\r\n") && head.ends_with("\r\n\r\n"), "{head}");
    for (range, status, place, body) in [
        ("bytes=0-3", "206", "0-3/11", "text"),
        ("bytes=8-", "206", "8-10/11", "big"),
        ("bytes=-3", "206", "8-10/11", "big"),
        ("bytes=8-99", "206", "8-10/11", "big"),
        ("bytes=11-", "416", "*/11", ""),
        ("bytes=1-2,4-5", "200", "", "text of big"),
    ] {
        let answer = ask("GET", &format!("Range: {range}\r\n"));
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{range}: {answer}");
        assert!(answer.contains(place) && answer.ends_with(&format!("\r\n\r\n{body}")), "{range}: {answer}");
    }
}

/// A file of 3 GiB once took twice that.
#[test]
fn a_large_file_is_served_in_chunks() {
    let space = TestSpace::new(r#"(name: "a", stage: "join", publish: "."),"#);
    space.make().expect(0);
    const SIZE: u64 = 3 << 30;
    std::fs::File::create(space.path("reports/mini/large")).unwrap().set_len(SIZE).unwrap();
    let served = Served::of(&space);
    let request = format!("GET /large HTTP/1.1\r\nHost: localhost:{}\r\n\r\n", served.port);
    let mut stream = served.connect(&request);
    let read = std::io::copy(&mut (&mut stream).take(64 << 20), &mut std::io::sink()).unwrap();
    assert_eq!(read, 64 << 20);
    let status = std::fs::read_to_string(format!("/proc/{}/status", served.child.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    let kilobytes: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(kilobytes < 300_000, "{line}");
}

#[test]
fn a_browser_gets_an_event_when_the_page_changes() {
    let space = TestSpace::new(STEPS);
    let served = Served::of(&space);
    let page = served.get("/");
    assert!(page.contains("<p>a stale none"), "{page}");
    let request = format!("GET /events HTTP/1.1\r\nHost: localhost:{}\r\n\r\n", served.port);
    let mut lines = BufReader::new(served.connect(&request)).lines().map_while(Result::ok);
    let mut event = || lines.find(|line| line.starts_with("data: ")).unwrap();
    let first = event();
    assert!(page.contains(&format!("data-shown=\"{}\"", &first["data: ".len()..])), "{first}\n{page}");
    space.make().expect(0);
    assert_ne!(event(), first);
    assert!(served.get("/").contains("<p>b fresh"));
}

#[test]
fn a_port_in_use_is_an_error() {
    let space = TestSpace::new(STEPS);
    let served = Served::of(&space);
    let refused = space.run(&["serve", "--port", &served.port.to_string()]).expect(2);
    assert!(refused.err.contains("cannot be served") && refused.err.contains("--port 0"), "{}", refused.err);
}

#[test]
fn a_pipeline_without_a_report_has_a_plain_page_of_what_is_published() {
    let space = TestSpace::new(
        r#"(name: "numbers", stage: "command", publish: "numbers",
            params: (shell: "printf 'model,f1\\n<b>x</b>,0.5\\n' > {out}/scores.csv; echo '{\"val\": {\"f1\": 0.5}}' > {out}/metrics.json; printf 'w' > {out}/weights.bin")),
        (name: "later", stage: "command", params: (run: ["false"]), publish: "later"),"#,
    );
    space.run(&["make", "numbers"]).expect(0);
    let run = space.run(&["page", "--out", "page.html"]).expect(0);
    assert_eq!(run.out, "page.html\n");
    let page = space.read("page.html");
    for shown in [
        "<td>&lt;b&gt;x&lt;/b&gt;</td><td class=\"number\">0.5</td>",
        "<td>val.f1</td><td class=\"number\">0.5</td>",
        "<a href=\"reports/mini/numbers/weights.bin\">weights.bin</a>",
        "From <a href=\"#step-numbers\">numbers</a>",
        "Not up to date: <code>later</code>",
        "repro make later",
        "<tr id=\"step-numbers\">",
    ] {
        assert!(page.contains(shown), "{shown}: {page}");
    }
    assert!(!page.contains("<script"), "{page}");
    let served = Served::of(&space);
    let page = served.get("/");
    assert!(page.contains("<a href=\"/numbers/weights.bin\">") && page.contains("/live.js"), "{page}");
    assert!(served.get("/numbers/weights.bin").ends_with("\r\n\r\nw"));
}

#[test]
fn a_plain_page_of_nothing_says_so() {
    let space = TestSpace::new(r#"(name: "a", stage: "command", params: (run: ["true"])),"#);
    let page = space.run(&["page"]).expect(0).out;
    assert!(page.contains("No step of this pipeline has <code>publish</code>"), "{page}");
    let run = space.run(&["page", "--out", "no/such/folder"]).expect(2);
    assert!(run.err.contains("no/such/folder: cannot be written: "), "{}", run.err);
}
