//! Opening a shared store by its name. Credentials come from the environment, under the names that the makers of each
//! kind of store gave them; a name that holds a password is refused.

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

use super::connector::{CONNECT, Connector, SILENCE};
use super::{AT_ONCE, Inner, Remote, RemoteError, in_words};

/// A bucket has many readers; the machine need not have many threads for it.
const THREADS: usize = 2;

/// How often and how long a request is repeated that the store could not answer.
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

/// A builder with what the environment says to this kind of store.
macro_rules! built {
    ($builder:ty, $url:expr, $variables:literal) => {{
        let connector = Connector { is_signed: $variables != "HTTP_STORE_" };
        let builder = <$builder>::new()
            .with_url($url)
            .with_retry(retry())
            .with_client_options(
                ClientOptions::new()
                    .with_timeout_disabled()
                    .with_connect_timeout(CONNECT)
                    .with_read_timeout(SILENCE),
            )
            .with_http_connector(connector);
        let variables = std::env::vars_os().filter_map(|(name, value)| {
            let name = name.into_string().ok().filter(|name| name.starts_with($variables))?;
            Some((name.to_ascii_lowercase(), value.into_string().ok()?))
        });
        let builder = variables.fold(builder, |builder, (name, value)| match name.parse() {
            Ok(name) => builder.with_config(name, value),
            // The same prefix has other uses.
            Err(_) => builder,
        });
        Arc::new(builder.build()?) as Arc<dyn ObjectStore>
    }};
}

impl Remote {
    /// The store of that name: `s3://bucket/folder`, `gs://…`, `az://…`, `https://…` (to read from), or a folder. It is
    /// not asked for anything yet.
    ///
    /// # Errors
    /// When there can be no such store.
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
                Url::from_directory_path(folder).map_err(|()| wrong("no such path".to_owned()))?
            }
            None => Url::parse(place).map_err(|error| wrong(error.to_string()))?,
        };
        if url.password().is_some() {
            let url = "a password in it";
            return Err(RemoteError::Place {
                place: place.split("://").next().unwrap_or_default().to_owned() + "://…",
                problem: format!("{url} would be told to everybody; give it by the environment"),
            });
        }
        static CIPHERS: Once = Once::new();
        // An error here says that they are chosen already, which is as good.
        CIPHERS.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
        let (scheme, path) = ObjectStoreScheme::parse(&url).map_err(|error| wrong(in_words(&error)))?;
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
        let objects = open().map_err(|error| wrong(in_words(&error)))?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .enable_all()
            .build()
            .map_err(|error| wrong(error.to_string()))?;
        let inner = Inner {
            objects,
            prefix: path,
            damaged: Mutex::default(),
            turns: Semaphore::new(AT_ONCE),
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
