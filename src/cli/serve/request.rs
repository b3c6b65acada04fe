//! The head of an HTTP request: as much of it as serving files takes. It does not know what is served.

use std::io::{self, Read};
use std::time::Duration;

/// A head of more bytes than this is refused.
const LONGEST: u64 = 16 * 1024;
/// How long a browser may take to say what it wants, and to take a piece of the answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// A `GET`.
#[derive(Debug, PartialEq, Eq)]
pub struct Request {
    /// The path, without what follows a question mark.
    pub path: String,
    /// Whom the browser believes to speak to.
    host: String,
}

impl Request {
    /// Reads the head; `None` when it is no `GET` or is not well formed.
    ///
    /// # Errors
    /// When the connection breaks or takes too long.
    pub fn read(stream: &mut std::net::TcpStream) -> io::Result<Option<Self>> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut head = Vec::new();
        let mut piece = [0; 1024];
        while !head.windows(4).any(|end| end == b"\r\n\r\n") {
            let number = stream.read(&mut piece)?;
            head.extend_from_slice(&piece[..number]);
            if number == 0 || head.len() as u64 > LONGEST {
                return Ok(None);
            }
        }
        Ok(Self::parse(&String::from_utf8_lossy(&head)))
    }

    fn parse(head: &str) -> Option<Self> {
        let mut lines = head.split("\r\n");
        let mut words = lines.next()?.split(' ');
        let (method, target) = (words.next()?, words.next()?);
        let host = lines.find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("host").then(|| value.trim().to_owned())
        })?;
        let path = target.split(['?', '#']).next()?.to_owned();
        (method == "GET" && path.starts_with('/')).then_some(Self { path, host })
    }

    /// Whether the browser means this machine at this port.
    pub fn is_for(&self, port: u16) -> bool {
        ["127.0.0.1", "localhost"].iter().any(|name| self.host == format!("{name}:{port}"))
            || port == 80 && ["127.0.0.1", "localhost"].contains(&self.host.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_get_has_a_path_and_a_host_and_nothing_else_is_one() {
        let request = Request::parse("GET /a?b HTTP/1.1\r\nhOst: localhost:80\r\n\r\n").unwrap();
        assert_eq!((request.path.as_str(), request.is_for(80), request.is_for(81)), ("/a", true, false));
        for wrong in
            ["", "GET", "GET /", "POST / HTTP/1.1\r\nHost: a\r\n\r\n", "GET a HTTP/1.1\r\nHost: a\r\n\r\n"]
        {
            assert_eq!(Request::parse(wrong), None, "{wrong:?}");
        }
        let elsewhere = Request::parse("GET / HTTP/1.1\r\nHost: evil.example:8000\r\n\r\n").unwrap();
        assert!(!elsewhere.is_for(8000));
    }
}
