//! What a server's answer says: which bytes of which file follow, or why none do. It reads headers, not bodies.

use std::time::Duration;

use reqwest::StatusCode;
use reqwest::blocking::Response;
use reqwest::header::{
    CONTENT_RANGE, CONTENT_TYPE, DATE, ETAG, HeaderMap, HeaderName, LAST_MODIFIED, RETRY_AFTER,
    TRANSFER_ENCODING,
};

use super::part::Origin;

/// What an answer comes to.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The whole file follows.
    Whole,
    /// The file follows from the byte that was asked for.
    Rest,
    /// All bytes are here already.
    NothingLeft,
    /// The bytes that are here are of no use: another version of the file, or a server that cannot continue.
    Restart(String),
    /// Trying again later may help; the server may say how much later.
    Retry(String, Option<Duration>),
    /// The server wants to know who asks, and was not satisfied.
    Refused(String),
    /// Trying again gives the same.
    Fatal(String),
}

/// Reads an answer to a request for `have` bytes onwards of the file `known`, and what it says of the file.
pub fn read(response: &Response, have: u64, known: &Origin, place: &str) -> (Outcome, Origin) {
    let (status, headers) = (response.status(), response.headers());
    let origin = Origin {
        place: place.to_owned(),
        validator: validator(headers),
        total: match status {
            StatusCode::PARTIAL_CONTENT => range(headers).and_then(|(_, total)| total),
            _ => response.content_length(),
        },
    };
    let answer = match status {
        StatusCode::OK => Outcome::Whole,
        StatusCode::PARTIAL_CONTENT if have > 0 => rest(headers, have, known, &origin),
        StatusCode::RANGE_NOT_SATISFIABLE if have > 0 => match range(headers) {
            Some((_, total)) if total == Some(have) => Outcome::NothingLeft,
            _ => Outcome::Restart(format!("the server's file ends before byte {have}")),
        },
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            Outcome::Refused(format!("the server answered {status}"))
        }
        StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY => {
            Outcome::Retry(format!("the server answered {status}"), retry_after(headers))
        }
        status if status.is_server_error() => {
            Outcome::Retry(format!("the server answered {status}"), retry_after(headers))
        }
        StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
            Outcome::Retry(format!("the server answered {status} to a request for the whole file"), None)
        }
        status => Outcome::Fatal(format!("the server answered {status}")),
    };
    (answer, origin)
}

fn rest(headers: &HeaderMap, have: u64, known: &Origin, now: &Origin) -> Outcome {
    let differs = |a: Option<String>, b: Option<String>| a.zip(b).is_some_and(|(a, b)| a != b);
    match range(headers) {
        Some((Some(start), _)) if start == have => {
            let same_place = known.place == now.place;
            let total = |origin: &Origin| origin.total.map(|total| total.to_string());
            if differs(total(known), total(now))
                || (same_place && differs(known.validator.clone(), now.validator.clone()))
            {
                return Outcome::Restart("the file changed on the server".to_owned());
            }
            Outcome::Rest
        }
        _ => Outcome::Restart(format!("the server cannot continue at byte {have}")),
    }
}

/// Whether the end of the body differs from a broken connection.
pub fn has_an_end(response: &Response) -> bool {
    response.content_length().is_some()
        || response.headers().contains_key(TRANSFER_ENCODING)
        || response.version() >= reqwest::Version::HTTP_2
}

/// Whether this is a page for people, where a file was asked for: a login, an apology.
pub fn is_page(response: &Response, name: &str) -> bool {
    let is_html = text(response.headers(), &CONTENT_TYPE)
        .is_some_and(|kind| kind.trim_start().to_ascii_lowercase().starts_with("text/html"));
    is_html && !name.ends_with(".html") && !name.ends_with(".htm")
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// A validator that `If-Range` may carry (RFC 9110, 13.1.5): weak tags are none.
fn validator(headers: &HeaderMap) -> Option<String> {
    let tag = text(headers, &ETAG).filter(|tag| tag.starts_with('"'));
    tag.or_else(|| text(headers, &LAST_MODIFIED)).map(ToOwned::to_owned)
}

/// First byte and whole length of `content-range: bytes 5-9/10` or `bytes */10`.
fn range(headers: &HeaderMap) -> Option<(Option<u64>, Option<u64>)> {
    let (range, total) = text(headers, &CONTENT_RANGE)?.strip_prefix("bytes ")?.split_once('/')?;
    Some((range.split('-').next()?.trim().parse().ok(), total.trim().parse().ok()))
}

/// How long the server asks to wait: seconds, or a date, which is compared with the server's own clock.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = text(headers, &RETRY_AFTER)?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let then = httpdate::parse_http_date(value).ok()?;
    let now = httpdate::parse_http_date(text(headers, &DATE)?).ok()?;
    Some(then.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    #[test]
    fn waits_are_seconds_or_dates_by_the_servers_clock() {
        let wait = |lines: &[(&'static str, &'static str)]| retry_after(&headers(lines));
        assert_eq!(wait(&[("retry-after", "7")]), Some(Duration::from_secs(7)));
        let then = ("retry-after", "Wed, 21 Oct 2015 07:28:00 GMT");
        assert_eq!(wait(&[then, ("date", "Wed, 21 Oct 2015 07:27:20 GMT")]), Some(Duration::from_secs(40)));
        assert_eq!(wait(&[then, ("date", "Wed, 21 Oct 2015 08:00:00 GMT")]), Some(Duration::ZERO));
        assert_eq!(wait(&[then]), None);
        assert_eq!(wait(&[("retry-after", "soon")]), None);
    }

    #[test]
    fn ranges_and_validators() {
        let read = |text: &'static str| range(&headers(&[("content-range", text)]));
        assert_eq!(read("bytes 5-9/10"), Some((Some(5), Some(10))));
        assert_eq!(read("bytes */10"), Some((None, Some(10))));
        assert_eq!(read("bytes 5-9/*"), Some((Some(5), None)));
        assert_eq!(read("items 5-9/10"), None);
        let weak = [("etag", "W/\"1\""), ("last-modified", "Wed, 21 Oct 2015 07:28:00 GMT")];
        assert_eq!(validator(&headers(&weak)).as_deref(), Some("Wed, 21 Oct 2015 07:28:00 GMT"));
        assert_eq!(validator(&headers(&[("etag", "\"1\"")])).as_deref(), Some("\"1\""));
    }
}
