//! `repro serve`: the report's page for a browser on this machine, drawn anew while steps run. It does not know how the page
//! is made: that is the tool `page` of the stages.

mod request;

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use clap::Args;
use stage_api::{Registry, Tool, ToolArgs};

use super::context::Context;
use super::error::CliError;
use super::{Global, print, tool};
use crate::digest::Digest;
use request::Request;

/// How often it is looked whether the page has changed.
const EVERY: Duration = Duration::from_secs(2);
/// Browsers and their windows that are served at once.
const MOST: usize = 32;
/// Puts a new page in place of the old one when the server says that there is one; what was open stays open.
const LIVE: &str = include_str!("live.js");

/// Serves the report's page on this machine, drawn anew while steps run.
///
/// Prints its address. Only programs on this machine can reach it. Ends with Ctrl-C.
#[derive(Args)]
pub struct Serve {
    /// The port; 0 takes one that is free.
    #[arg(long, default_value_t = 8000)]
    port: u16,
}

/// What an answer is made of.
struct Server<'a> {
    page: &'a dyn Tool,
    global: &'a Global,
    registry: &'a Registry,
    /// The folder of the reports, whose files are served too.
    reports: PathBuf,
    port: u16,
    served: AtomicUsize,
}

impl Serve {
    pub fn run(&self, global: &Global, registry: &Registry) -> Result<ExitCode, CliError> {
        let page = registry
            .tool("page")
            .ok_or_else(|| CliError::usage("the stages of this program have no page to serve"))?;
        let context = Context::load(global, registry)?;
        let reports = context.workspace()?.reports().folder().to_owned();
        let failed = |error: io::Error| CliError::Usage {
            message: format!("127.0.0.1:{} cannot be served: {error}", self.port),
            hint: Some("choose another port with `--port`, or `--port 0` for one that is free".to_owned()),
        };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, self.port)).map_err(failed)?;
        let port = listener.local_addr().map_err(failed)?.port();
        let server = Server { page, global, registry, reports, port, served: AtomicUsize::new(0) };
        // What is wrong with the page is told here and not first in a browser.
        server.html()?;
        print(&format!("http://127.0.0.1:{port}/\n"))?;
        std::thread::scope(|scope| {
            for stream in listener.incoming().flatten() {
                let server = &server;
                if server.served.fetch_add(1, Ordering::Relaxed) < MOST {
                    scope.spawn(move || {
                        // A browser that went away needs no answer.
                        let _ = server.serve(stream);
                        server.served.fetch_sub(1, Ordering::Relaxed);
                    });
                } else {
                    server.served.fetch_sub(1, Ordering::Relaxed);
                    let _ = answer(stream, "503 Service Unavailable", "text/plain", b"too many windows\n");
                }
            }
        });
        Ok(ExitCode::SUCCESS)
    }
}

impl Server<'_> {
    fn serve(&self, mut stream: TcpStream) -> io::Result<()> {
        let Some(request) = Request::read(&mut stream)? else {
            return answer(stream, "400 Bad Request", "text/plain", b"only GET is answered\n");
        };
        // A page from elsewhere whose name was made to mean this machine must not read this one.
        if !request.is_for(self.port) {
            return answer(stream, "403 Forbidden", "text/plain", b"this is not the name of this machine\n");
        }
        match request.path.as_str() {
            "/" => match self.html() {
                Ok(html) => answer(stream, "200 OK", "text/html", live(&html).as_bytes()),
                Err(error) => {
                    answer(stream, "500 Internal Server Error", "text/plain", error.told().as_bytes())
                }
            },
            "/live.js" => answer(stream, "200 OK", "text/javascript", LIVE.as_bytes()),
            "/events" => self.tell_changes(stream),
            path => match self.report(path.trim_start_matches('/')) {
                Some((kind, bytes)) => answer(stream, "200 OK", kind, &bytes),
                None => answer(stream, "404 Not Found", "text/plain", b"no such file in the reports\n"),
            },
        }
    }

    /// The page as it is now.
    fn html(&self) -> Result<String, CliError> {
        tool::answer(self.page, &ToolArgs::default(), self.global, self.registry).map(|answer| answer.text)
    }

    /// Sends the name of the page as it is, and again each time when it is another one, until the browser goes away.
    fn tell_changes(&self, mut stream: TcpStream) -> io::Result<()> {
        head(&mut stream, "200 OK", "text/event-stream", None)?;
        let mut told = None;
        loop {
            let now = self.html().ok().map(|html| version(&html));
            match now {
                Some(version) if now != told => write!(stream, "data: {version}\n\n")?,
                // A comment: shows whether anybody is there.
                _ => stream.write_all(b":\n\n")?,
            }
            stream.flush()?;
            told = now.or(told);
            std::thread::sleep(EVERY);
        }
    }

    /// A file of the reports. Only what is found by listing them is served, so no path leads out of them.
    fn report(&self, path: &str) -> Option<(&'static str, Vec<u8>)> {
        let file = listed(&self.reports).into_iter().find(|file| file.as_os_str() == path)?;
        let kind = match file.extension().and_then(|ending| ending.to_str()).unwrap_or_default() {
            "html" => "text/html",
            "svg" => "image/svg+xml",
            "png" => "image/png",
            "pdf" => "application/pdf",
            "json" => "application/json",
            "csv" => "text/csv",
            _ => "text/plain",
        };
        Some((kind, std::fs::read(self.reports.join(file)).ok()?))
    }
}

/// The files below a folder, relative to it; no link is followed.
fn listed(root: &Path) -> BTreeSet<PathBuf> {
    let (mut found, mut folders) = (BTreeSet::new(), vec![root.to_owned()]);
    while let Some(folder) = folders.pop() {
        for item in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            match (item.file_type(), item.path().strip_prefix(root)) {
                (Ok(kind), _) if kind.is_dir() => folders.push(item.path()),
                (Ok(kind), Ok(path)) if kind.is_file() => drop(found.insert(path.to_owned())),
                _ => {}
            }
        }
    }
    found
}

fn version(html: &str) -> Digest {
    Digest::of_bytes(html.as_bytes())
}

/// The page with what keeps it up to date, and with no picture of its own, so that browsers do not ask for one.
fn live(html: &str) -> String {
    let script =
        format!("<script src=\"/live.js\" data-shown=\"{}\" defer></script>\n</body>", version(html));
    let icon = "<link rel=\"icon\" href=\"data:,\">\n</head>";
    html.replacen("</head>", icon, 1).replacen("</body>", &script, 1)
}

fn head(stream: &mut TcpStream, status: &str, kind: &str, length: Option<usize>) -> io::Result<()> {
    let length = length.map_or_else(String::new, |length| format!("Content-Length: {length}\r\n"));
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: {kind}; charset=utf-8\r\n{length}Connection: close\r\n\
         Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nContent-Security-Policy: default-src 'none'; \
         style-src 'unsafe-inline'; img-src 'self' data:; script-src 'self'; connect-src 'self'\r\n\r\n"
    )
}

fn answer(mut stream: TcpStream, status: &str, kind: &str, bytes: &[u8]) -> io::Result<()> {
    head(&mut stream, status, kind, Some(bytes.len()))?;
    stream.write_all(bytes)?;
    stream.flush()
}
