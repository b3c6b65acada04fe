//! The checkpoint of a run: all that its rest depends on, in one file of the step's scratch folder, so that a
//! run that was killed goes on and ends with the same bytes. Dropout and the order of rows are functions of seed
//! and update, so the number of the update replaces the state of generators.
//!
//! Written next to the old one, forced to disk, then renamed over it: there is always a whole one or none. It does
//! not know how a run goes on from it.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use candle_core::safetensors::Load;
use candle_core::{Device, Error, Result, Tensor};
use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};

use super::best_checkpoint::BestCheckpoint;
use crate::artifacts::history::{TrainPoint, ValPoint};
use crate::nn::{Momentum, ParamStore};
use crate::training::loss_meter::LossMeter;

/// How far a run is.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct State {
    /// Updates done.
    pub update: u64,
    /// The most rows that the device's memory held side by side. Part of what a rerun must know: gradients that are added up
    /// in other micro-batches are rounded otherwise.
    pub micro_batch_size: usize,
    /// The logged loss.
    pub meter: LossMeter,
    /// Log lines so far.
    pub train: Vec<TrainPoint>,
    /// Validations so far.
    pub val: Vec<ValPoint>,
}

impl Default for State {
    /// Before the first update, nothing known of the device.
    fn default() -> Self {
        let (meter, train, val) = <(LossMeter, Vec<TrainPoint>, Vec<ValPoint>)>::default();
        Self { update: 0, micro_batch_size: usize::MAX, meter, train, val }
    }
}

/// A checkpoint read back.
pub(super) struct Saved {
    /// How far the run was.
    pub state: State,
    /// The trained parameters.
    pub trained: HashMap<String, Tensor>,
    /// The optimizer's state.
    pub moments: HashMap<String, Momentum>,
    /// The best validation so far.
    pub best: BestCheckpoint,
}

/// What is not a tensor. In RON, which keeps every bit of a number.
#[derive(Serialize, Deserialize)]
struct Header {
    state: State,
    /// Updates each parameter took part in.
    updates: BTreeMap<String, u64>,
    best: Option<ValPoint>,
}

const HEADER: &str = "run";
const TRAINED: &str = "trained/";
const FIRST: &str = "m/";
const SECOND: &str = "v/";
const BEST: &str = "best/";

fn file(scratch: &Path) -> PathBuf {
    scratch.join("checkpoint.safetensors")
}

/// Replaces the checkpoint in `scratch`.
///
/// # Errors
/// A disk that does not take it; the old one is still there then.
pub(super) fn write(
    scratch: &Path,
    state: State,
    params: &ParamStore,
    moments: Vec<(String, Momentum)>,
    best: &BestCheckpoint,
) -> Result<State> {
    let mut tensors = Vec::new();
    for (name, param) in params.trained() {
        tensors.push((format!("{TRAINED}{name}"), param.value().detach()));
    }
    let mut updates = BTreeMap::new();
    for (name, Momentum { m, v, updates: done }) in moments {
        tensors.extend([(format!("{FIRST}{name}"), m), (format!("{SECOND}{name}"), v)]);
        updates.insert(name, done);
    }
    let (point, weights) = best.kept();
    tensors.extend(weights.map(|(name, tensor)| (format!("{BEST}{name}"), tensor.clone())));
    let header = Header { state, updates, best: point };
    let text = ron::to_string(&header).map_err(Error::wrap)?;
    let (path, new) = (file(scratch), scratch.join("checkpoint.new"));
    safetensors::serialize_to_file(tensors, Some(HashMap::from([(HEADER.to_owned(), text)])), &new)?;
    File::open(&new)?.sync_all()?;
    fs::rename(&new, &path)?;
    File::open(scratch)?.sync_all()?;
    Ok(header.state)
}

/// The checkpoint in `scratch`, if there is one.
///
/// # Errors
/// One that cannot be read, or that is not of this program's making.
pub(super) fn read(scratch: &Path) -> Result<Option<Saved>> {
    let bytes = match fs::read(file(scratch)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let (_, metadata) = SafeTensors::read_metadata(&bytes)?;
    let text = metadata.metadata().as_ref().and_then(|texts| texts.get(HEADER));
    let text = text.ok_or_else(|| Error::msg("it does not say how far the run was"))?;
    let Header { state, updates, best: point } = ron::from_str(text).map_err(Error::wrap)?;
    let (mut trained, mut best) = (HashMap::new(), HashMap::new());
    let (mut first, mut second) = (HashMap::new(), HashMap::new());
    for (name, view) in SafeTensors::deserialize(&bytes)?.tensors() {
        let tensor = view.load(&Device::Cpu)?;
        for (prefix, group) in
            [(TRAINED, &mut trained), (FIRST, &mut first), (SECOND, &mut second), (BEST, &mut best)]
        {
            if let Some(name) = name.strip_prefix(prefix) {
                group.insert(name.to_owned(), tensor.clone());
            }
        }
    }
    let mut moments = HashMap::new();
    for (name, updates) in updates {
        let (Some(m), Some(v)) = (first.remove(&name), second.remove(&name)) else {
            return Err(Error::msg(format!("it lacks the moments of `{name}`")));
        };
        moments.insert(name, Momentum { m, v, updates });
    }
    Ok(Some(Saved { state, trained, moments, best: BestCheckpoint::from_kept(point, best) }))
}
