//! How this program speaks HTTP, whoever asks for it: its name and its certificates. It does not know what is asked.

use std::sync::Once;

use reqwest::blocking::{Client, ClientBuilder};

/// A client that is yet to be told how patient it is.
pub(crate) fn client() -> ClientBuilder {
    static PROVIDER: Once = Once::new();
    // An error here says that a provider is installed already, which is as good.
    PROVIDER.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
    Client::builder().user_agent(concat!("repro/", env!("CARGO_PKG_VERSION")))
}
