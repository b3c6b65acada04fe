//! The head of an HTTP request: as much of it as serving files takes. It does not know what is served.

use std::io::{self, Read};
use std::time::Duration;

/// A head of more bytes than this is refused.
const LONGEST: u64 = 16 * 1024;
/// Time limit for reading a request, and for sending a piece of the response.
const PATIENCE: Duration = Duration::from_secs(10);

/// A `GET` or a `HEAD`.
#[derive(Debug, PartialEq, Eq)]
pub struct Request {
    /// The path, decoded, without what follows a question mark.
    pub path: Vec<u8>,
    /// Whether the answer is to have a body.
    pub wants_body: bool,
    /// The requested bytes: the first one, if it is not the last so many, and the last one.
    pub range: Option<(Option<u64>, Option<u64>)>,
    /// Whom the browser believes to speak to.
    host: String,
}

impl Request {
    /// Reads the head; `None` when it is neither `GET` nor `HEAD`, or not well formed.
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
        let mut parts = lines.next()?.split(' ');
        let (method, target) = (parts.next()?, parts.next()?);
        let (mut host, mut range) = (None, None);
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            match name.to_ascii_lowercase().as_str() {
                "host" => host = host.or_else(|| Some(value.trim().to_owned())),
                "range" => range = parse_range(value.trim()),
                _ => {}
            }
        }
        let path = target.split(['?', '#']).next().filter(|path| path.starts_with('/'))?;
        let wants_body = match method {
            "GET" => true,
            "HEAD" => false,
            _ => return None,
        };
        Some(Self { path: decoded(path), wants_body, range, host: host? })
    }

    /// Whether the browser means this machine at this port.
    pub fn is_for(&self, port: u16) -> bool {
        ["127.0.0.1", "localhost"].iter().any(|name| self.host == format!("{name}:{port}"))
            || port == 80 && ["127.0.0.1", "localhost"].contains(&self.host.as_str())
    }
}

/// The bytes that a path in an address encodes. A percent sign without two digits behind it is one.
fn decoded(path: &str) -> Vec<u8> {
    let (bytes, mut found, mut at) = (path.as_bytes(), Vec::with_capacity(path.len()), 0);
    while at < bytes.len() {
        let digits = bytes.get(at + 1..at + 3).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        let digits = digits.filter(|_| bytes[at] == b'%').and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                found.push(byte);
                at += 3;
            }
            None => {
                found.push(bytes[at]);
                at += 1;
            }
        }
    }
    found
}

/// One range of bytes (RFC 9110, 14.1.2): `bytes=5-9`, `bytes=5-`, `bytes=-9`. Several ranges are ignored: then the whole
/// is sent, which is allowed.
fn parse_range(value: &str) -> Option<(Option<u64>, Option<u64>)> {
    let (first, last) = value.strip_prefix("bytes=")?.split_once('-')?;
    let number = |text: &str| if text.is_empty() { Some(None) } else { text.parse().ok().map(Some) };
    let range = (number(first)?, number(last)?);
    let is_one = match range {
        (None, None) => false,
        (Some(first), Some(last)) => first <= last,
        _ => true,
    };
    is_one.then_some(range)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_ranges_are_read_as_they_are_meant() {
        for (path, expected) in [
            ("/a%20b", &b"/a b"[..]),
            ("/%25%2B+", b"/%++"),
            ("/%e9%", b"/\xe9%"),
            ("/%zz%4", b"/%zz%4"),
            ("/%C3%BC/%0d%0a", b"/\xc3\xbc/\r\n"),
        ] {
            assert_eq!(decoded(path), expected);
        }
        for (range, expected) in [
            ("bytes=0-9", Some((Some(0), Some(9)))),
            ("bytes=5-", Some((Some(5), None))),
            ("bytes=-5", Some((None, Some(5)))),
            ("bytes=-", None),
            ("bytes=9-5", None),
            ("bytes=0-1,3-4", None),
            ("bytes=99999999999999999999-", None),
            ("lines=0-1", None),
        ] {
            assert_eq!(parse_range(range), expected, "{range}");
        }
    }

    #[test]
    fn a_get_has_a_path_and_a_host_and_nothing_else_is_one() {
        let request = Request::parse("GET /a?b HTTP/1.1\r\nhOst: localhost:80\r\n\r\n").unwrap();
        assert_eq!((&request.path[..], request.is_for(80), request.is_for(81)), (&b"/a"[..], true, false));
        assert!(request.wants_body);
        assert!(!Request::parse("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap().wants_body);
        for wrong in
            ["", "GET", "GET /", "POST / HTTP/1.1\r\nHost: a\r\n\r\n", "GET a HTTP/1.1\r\nHost: a\r\n\r\n"]
        {
            assert_eq!(Request::parse(wrong), None, "{wrong:?}");
        }
        let foreign = Request::parse("GET / HTTP/1.1\r\nHost: evil.example:8000\r\n\r\n").unwrap();
        assert!(!foreign.is_for(8000));
    }
}
