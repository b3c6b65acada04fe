//! What a stage uses of the machine that it runs on: the device and its failures, room on the disk, the HTTP client. It does not know which
//! stage asks.

pub(crate) mod device;
pub(crate) mod device_fault;
pub(crate) mod disk_space;

use std::sync::Once;

use reqwest::blocking::{Client, ClientBuilder};

/// An HTTP client with this program's name and certificates; its timeouts are set by the caller.
pub(crate) fn http_client() -> ClientBuilder {
    static PROVIDER: Once = Once::new();
    // An error here says that a provider is installed already, which is as good.
    PROVIDER.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
    Client::builder().user_agent(concat!("repro/", env!("CARGO_PKG_VERSION")))
}
