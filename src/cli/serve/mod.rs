//! `repro serve`: the page of the results for a browser on this machine, redrawn while steps run. It does not know how the
//! page is built: that is `repro page`.

mod request;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use clap::Args;
use stage_api::Registry;

use super::error::CliError;
use super::{Global, page, print};
use crate::digest::Digest;
use request::Request;

/// How often the server checks whether the page has changed.
const EVERY: Duration = Duration::from_secs(2);
/// The largest number of connections at a time.
const MOST: usize = 32;
/// Replaces the page when the server reports a new one; opened sections stay open.
const LIVE: &str = include_str!("live.js");

/// Serve the page of the results on this machine and update it while steps run.
///
/// Prints the address. Only programs on this machine can reach it. Ctrl-C stops it.
#[derive(Args)]
pub struct Serve {
    /// The port; 0 chooses a free one.
    #[arg(long, default_value_t = 8000)]
    port: u16,
}

/// What the responses are built from.
struct Server<'a> {
    global: &'a Global,
    registry: &'a Registry,
    /// The folder of the reports, whose files are served too.
    reports: PathBuf,
    port: u16,
    served: AtomicUsize,
}

impl Serve {
    pub fn run(&self, global: &Global, registry: &Registry) -> Result<ExitCode, CliError> {
        let project = global.project(registry)?;
        let reports = project.workspace()?.reports().folder().to_owned();
        let failed = |error: io::Error| CliError::Usage {
            message: format!("127.0.0.1:{} cannot be served: {error}", self.port),
            hint: Some("choose another port with `--port`, or `--port 0` for one that is free".to_owned()),
        };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, self.port)).map_err(failed)?;
        let port = listener.local_addr().map_err(failed)?.port();
        let server = Server { global, registry, reports, port, served: AtomicUsize::new(0) };
        // Errors of the page appear here, not first in a browser.
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
                    let _ =
                        send(&stream, true, "503 Service Unavailable", "text/plain", b"too many windows\n");
                }
            }
        });
        Ok(ExitCode::SUCCESS)
    }
}

impl Server<'_> {
    fn serve(&self, mut stream: TcpStream) -> io::Result<()> {
        let Some(request) = Request::read(&mut stream)? else {
            return send(&stream, true, "400 Bad Request", "text/plain", b"only GET and HEAD are answered\n");
        };
        // A foreign page whose host name resolves to this machine (DNS rebinding) must not read this one.
        if !request.is_for(self.port) {
            let text = b"this is not the name of this machine\n";
            return send(&stream, request.wants_body, "403 Forbidden", "text/plain", text);
        }
        let answer = |status, kind, bytes: &[u8]| send(&stream, request.wants_body, status, kind, bytes);
        match &request.path[..] {
            b"/" => match self.html() {
                Ok(html) => answer("200 OK", "text/html", live(&html).as_bytes()),
                Err(error) => answer("500 Internal Server Error", "text/plain", error.message().as_bytes()),
            },
            b"/live.js" => answer("200 OK", "text/javascript", LIVE.as_bytes()),
            b"/events" => self.stream_changes(stream),
            path => match self.report(OsStr::from_bytes(path.strip_prefix(b"/").unwrap_or(path))) {
                Some((kind, file)) => send_file(&stream, &request, kind, file),
                None => answer("404 Not Found", "text/plain", b"no such file in the reports\n"),
            },
        }
    }

    /// The page as it is now.
    fn html(&self) -> Result<String, CliError> {
        page::html(self.global, self.registry, "/")
    }

    /// Sends the name of the page as it is, and again each time when it is another one, until the browser goes away.
    fn stream_changes(&self, mut stream: TcpStream) -> io::Result<()> {
        head(&stream, "200 OK", "text/event-stream", "")?;
        let mut sent = None;
        loop {
            let now = self.html().ok().map(|html| version(&html));
            match now {
                Some(version) if now != sent => write!(stream, "data: {version}\n\n")?,
                // A comment: shows whether anybody is there.
                _ => stream.write_all(b":\n\n")?,
            }
            stream.flush()?;
            sent = now.or(sent);
            std::thread::sleep(EVERY);
        }
    }

    /// A file of the reports. Only what is found by listing them is served, so no path leads out of them.
    fn report(&self, path: &OsStr) -> Option<(&'static str, File)> {
        let file = published_files(&self.reports).into_iter().find(|file| file.as_os_str() == path)?;
        let kind = match file.extension().and_then(|ending| ending.to_str()).unwrap_or_default() {
            "html" => "text/html",
            "svg" => "image/svg+xml",
            "png" => "image/png",
            "pdf" => "application/pdf",
            "json" => "application/json",
            "csv" => "text/csv",
            "jpg" | "jpeg" => "image/jpeg",
            "gif" => "image/gif",
            "webp" => "image/webp",
            _ => "text/plain",
        };
        Some((kind, File::open(self.reports.join(file)).ok()?))
    }
}

/// The files below a folder, relative to it; no link is followed.
pub fn published_files(root: &Path) -> BTreeSet<PathBuf> {
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

fn head(mut stream: &TcpStream, status: &str, kind: &str, more: &str) -> io::Result<()> {
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: {kind}; charset=utf-8\r\n{more}Connection: close\r\n\
         Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nContent-Security-Policy: default-src 'none'; \
         style-src 'unsafe-inline'; img-src 'self' data:; script-src 'self'; connect-src 'self'\r\n\r\n"
    )
}

fn send(mut stream: &TcpStream, wants_body: bool, status: &str, kind: &str, bytes: &[u8]) -> io::Result<()> {
    head(stream, status, kind, &format!("Content-Length: {}\r\n", bytes.len()))?;
    if wants_body {
        stream.write_all(bytes)?;
    }
    stream.flush()
}

/// Sends a file, or the requested range of it, in pieces: it may be larger than the memory.
fn send_file(mut stream: &TcpStream, request: &Request, kind: &str, mut file: File) -> io::Result<()> {
    let size = file.metadata()?.len();
    let (status, start, end) = match request.range {
        None => ("200 OK", 0, size),
        Some((None, Some(last))) => ("206 Partial Content", size.saturating_sub(last), size),
        Some((start, end)) => {
            let end = end.map_or(size, |last| last.saturating_add(1).min(size));
            ("206 Partial Content", start.unwrap_or(0), end)
        }
    };
    if request.range.is_some() && start >= end {
        let more = format!("Content-Range: bytes */{size}\r\nContent-Length: 0\r\n");
        return head(stream, "416 Range Not Satisfiable", "text/plain", &more);
    }
    let mut more = format!("Accept-Ranges: bytes\r\nContent-Length: {}\r\n", end - start);
    if request.range.is_some() {
        more.push_str(&format!("Content-Range: bytes {start}-{}/{size}\r\n", end - 1));
    }
    head(stream, status, kind, &more)?;
    if request.wants_body {
        file.seek(SeekFrom::Start(start))?;
        io::copy(&mut file.take(end - start), &mut stream)?;
    }
    stream.flush()
}
