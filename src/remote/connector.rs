//! The HTTP client of a remote cache. It sends credentials to the store alone: headers that sign a request, such as
//! `x-amz-security-token`, follow no redirect to another host, scheme or port.

use std::time::Duration;

use object_store::client::{HttpClient, HttpConnector};
use object_store::{ClientConfigKey, ClientOptions};
use reqwest::redirect::{Attempt, Policy};
use reqwest::{Client, Url};

/// Longest time without data from the other side; also the longest time to send a chunk.
pub(super) const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest time to open a connection.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Limit of redirects per request.
const MAX_REDIRECTS: usize = 10;

/// Connects to a store.
#[derive(Debug)]
pub(super) struct Connector {
    /// Whether requests are signed, so that they must not go to another host.
    pub is_signed: bool,
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let value_of = |key| options.get_config_value(&key);
        let is_set =
            |key| value_of(key).is_some_and(|value| value.eq_ignore_ascii_case("true") || value == "1");
        let duration_of = |key| {
            value_of(key).map(|text| humantime::parse_duration(&text)).transpose().map_err(|error| {
                object_store::Error::Generic { store: "HTTP client", source: Box::new(error) }
            })
        };
        let is_signed = self.is_signed;
        let failed = |error: reqwest::Error| object_store::Error::Generic {
            store: "HTTP client",
            source: Box::new(error.without_url()),
        };
        let mut client = Client::builder()
            .user_agent(concat!("repro/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(duration_of(ClientConfigKey::ConnectTimeout)?.unwrap_or(CONNECT_TIMEOUT))
            .read_timeout(duration_of(ClientConfigKey::ReadTimeout)?.unwrap_or(READ_TIMEOUT))
            .https_only(!is_set(ClientConfigKey::AllowHttp))
            .danger_accept_invalid_certs(is_set(ClientConfigKey::AllowInvalidCertificates))
            .redirect(Policy::custom(move |attempt| on_redirect(attempt, is_signed)));
        if let Some(proxy) = value_of(ClientConfigKey::ProxyUrl) {
            let proxy = reqwest::Proxy::all(proxy).map_err(failed)?;
            let excluded = value_of(ClientConfigKey::ProxyExcludes);
            client =
                client.proxy(proxy.no_proxy(excluded.and_then(|list| reqwest::NoProxy::from_string(&list))));
        }
        Ok(HttpClient::new(client.build().map_err(failed)?))
    }
}

fn on_redirect(attempt: Attempt, is_signed: bool) -> reqwest::redirect::Action {
    let origin =
        |url: &Url| (url.scheme().to_owned(), url.host_str().map(str::to_owned), url.port_or_known_default());
    let leaves = attempt.previous().last().is_some_and(|from| origin(from) != origin(attempt.url()));
    let is_weaker = attempt.url().scheme() != "https"
        && attempt.previous().last().is_some_and(|from| from.scheme() == "https");
    match attempt.previous().len() {
        _ if is_signed && leaves => {
            attempt.error("it redirects to another host, which must not receive the credentials")
        }
        _ if is_weaker => attempt.error("it redirects from https to http"),
        0..=MAX_REDIRECTS => attempt.follow(),
        _ => attempt.error("it redirects too many times"),
    }
}
