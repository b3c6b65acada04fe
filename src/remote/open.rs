//! Opens a remote cache by its URL or folder. Credentials come from the environment, under the usual names of each
//! kind of store. A URL with a password is an error.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, Once};
use std::time::Duration;

use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::http::HttpBuilder;
use object_store::local::LocalFileSystem;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, ObjectStoreScheme, RetryConfig};
use stage_api::secrets;
use tokio::sync::Semaphore;
use url::{Position, Url};

use super::connector::{CONNECT_TIMEOUT, Connector, READ_TIMEOUT};
use super::{Inner, MAX_CONCURRENT, Remote, RemoteError, with_causes};

/// The network needs few threads, even with many requests at a time.
const RUNTIME_THREADS: usize = 2;

/// How a request is repeated after an error of the server.
fn retry() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(10),
            base: 2.0,
        },
        max_retries: 6,
        retry_timeout: Duration::from_secs(60),
    }
}

/// A builder for one kind of store, with its settings from the environment.
macro_rules! built {
    ($builder:ty, $url:expr, $variables:literal) => {{
        let connector = Connector { is_signed: $variables != "HTTP_STORE_" };
        let builder = <$builder>::new()
            .with_url($url)
            .with_retry(retry())
            .with_client_options(
                ClientOptions::new()
                    .with_timeout_disabled()
                    .with_connect_timeout(CONNECT_TIMEOUT)
                    .with_read_timeout(READ_TIMEOUT),
            )
            .with_http_connector(connector);
        let variables = std::env::vars_os().filter_map(|(name, value)| {
            let name = name.into_string().ok().filter(|name| name.starts_with($variables))?;
            Some((name.to_ascii_lowercase(), value.into_string().ok()?))
        });
        let builder = variables.fold(builder, |builder, (name, value)| match name.parse() {
            Ok(name) => builder.with_config(name, value),
            // Other programs use variables with the same prefix.
            Err(_) => builder,
        });
        Arc::new(builder.build()?) as Arc<dyn ObjectStore>
    }};
}

impl Remote {
    /// Opens the remote cache at `place`: `s3://bucket/folder`, `gs://…`, `az://…`, `https://…` (read-only), or a
    /// folder. Sends no request yet.
    ///
    /// # Errors
    /// When `place` cannot name a remote cache.
    pub fn open(place: &str, is_readonly: bool) -> Result<Self, RemoteError> {
        let wrong = |problem: String| RemoteError::Place {
            place: secrets::shown(place),
            problem: secrets::shown(&problem),
        };
        let folder = match place.contains("://") {
            false => Some(std::path::absolute(place).map_err(|error| wrong(error.to_string()))?),
            true => None,
        };
        let url = match &folder {
            Some(folder) => {
                Url::from_directory_path(folder).map_err(|()| wrong("not a valid path".to_owned()))?
            }
            None => Url::parse(place).map_err(|error| wrong(error.to_string()))?,
        };
        if url.password().is_some() {
            let url = "the URL contains a password";
            return Err(RemoteError::Place {
                place: place.split("://").next().unwrap_or_default().to_owned() + "://…",
                problem: format!("{url}, which others could read; set it in the environment"),
            });
        }
        static CIPHERS: Once = Once::new();
        // An error means that they are already chosen.
        CIPHERS.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
        let (scheme, path) = ObjectStoreScheme::parse(&url).map_err(|error| wrong(with_causes(&error)))?;
        let is_web = scheme == ObjectStoreScheme::Http;
        let is_folder = scheme == ObjectStoreScheme::Local;
        let open = || -> object_store::Result<Arc<dyn ObjectStore>> {
            Ok(match scheme {
                ObjectStoreScheme::AmazonS3 => built!(AmazonS3Builder, url.as_str(), "AWS_"),
                ObjectStoreScheme::GoogleCloudStorage => {
                    built!(GoogleCloudStorageBuilder, url.as_str(), "GOOGLE_")
                }
                ObjectStoreScheme::MicrosoftAzure => built!(MicrosoftAzureBuilder, url.as_str(), "AZURE_"),
                ObjectStoreScheme::Http => built!(HttpBuilder, &url[..Position::BeforePath], "HTTP_STORE_"),
                _ => Arc::new(LocalFileSystem::new()),
            })
        };
        let objects = open().map_err(|error| wrong(with_causes(&error)))?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(RUNTIME_THREADS)
            .enable_all()
            .build()
            .map_err(|error| wrong(error.to_string()))?;
        let inner = Inner {
            objects,
            prefix: path,
            damaged: Mutex::default(),
            turns: Semaphore::new(MAX_CONCURRENT),
            stop: AtomicBool::new(false),
            has_failed: AtomicBool::new(false),
            folder: is_folder.then(|| url.to_file_path().ok()).flatten(),
        };
        Ok(Self {
            place: secrets::shown(place.trim_end_matches('/')),
            inner: Arc::new(inner),
            runtime,
            is_readonly: is_readonly || is_web,
        })
    }
}
