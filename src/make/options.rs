//! The request of a make, and its options.

use std::io;
use std::rc::Rc;
use std::sync::mpsc::Sender;

use crate::remote::{Remote, RemoteCache, RemoteError};
use crate::run::{Backend, Message, ResourceLimits};

/// What to bring up to date.
#[derive(Debug, Clone, Default)]
pub struct MakeRequest {
    /// Targets or steps by name; without any the target `all`, or every step.
    pub targets: Vec<String>,
    /// Steps to run though their results are known.
    pub force: Vec<String>,
}

/// How to do it. The default is to run on all of this machine and to stop at the first failure.
#[derive(Clone, Default)]
pub struct MakeOptions<'a> {
    /// What may be used.
    pub limits: ResourceLimits,
    /// Where steps run.
    pub backend: Backend,
    /// A store of other machines' results.
    pub remote: Option<RemoteAddress>,
    /// Whether what does not depend on a failed step still runs.
    pub keep_going: bool,
    /// Whether to leave steps that another process runs instead of waiting for them.
    pub no_wait: bool,
    /// Whether to leave the reports as they are and only compare them.
    pub check: bool,
    /// Is called when steps are about to start, with what stops them.
    pub on_start: Option<&'a dyn Fn(StopHandle) -> io::Result<()>>,
}

/// Which store of other machines' results to use.
#[derive(Debug, Clone)]
pub struct RemoteAddress {
    /// Its address, or a folder.
    pub url: String,
    /// Whether nothing is pushed to it.
    pub is_readonly: bool,
}

/// Stops a run from another thread.
pub struct StopHandle {
    pub(super) sender: Sender<Message>,
    pub(super) stop_fetching: Option<Box<dyn Fn() + Send>>,
}

impl StopHandle {
    /// Asks running steps to stop; ends them when called again. Returns `false` when the run is over.
    pub fn stop(&self) -> bool {
        self.stop_fetching.iter().for_each(|stop| stop());
        self.sender.send(Message::Stop).is_ok()
    }
}

impl RemoteAddress {
    /// Opens the store.
    ///
    /// # Errors
    /// When it cannot be named like that.
    pub fn open(&self) -> Result<Rc<RemoteCache>, RemoteError> {
        Ok(Rc::new(RemoteCache::new(Remote::open(&self.url, self.is_readonly)?)))
    }
}
