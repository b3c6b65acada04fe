//! Which functions a pickle would call, were it Python that read it. Here none is called; a file that names others than
//! those that build data is hostile, and is refused rather than half believed.

use crate::formats::pickle::{Pickle, Value};

/// What checkpoints hold in addition to tensors: settings of the programs that saved them.
const DATA: [&str; 14] = [
    "torch",
    "collections",
    "numpy",
    "_codecs",
    "argparse",
    "copy_reg",
    "copyreg",
    "omegaconf",
    "yacs",
    "maskrcnn_benchmark",
    "mmf",
    "pathlib",
    "datetime",
    "enum",
];
/// Of Python's own functions those that make values.
const VALUES: [&str; 10] =
    ["set", "frozenset", "list", "dict", "tuple", "bytearray", "complex", "slice", "range", "object"];

/// A function that a pickle calls and that is not there to make data.
pub(super) fn foreign(pickle: &Pickle) -> Option<String> {
    pickle.values().find_map(|value| {
        let Value::Object { callable, .. } = value else { return None };
        let Value::Global(module, name) = pickle.value(*callable) else { return None };
        let is_data = match module.split('.').next().unwrap_or_default() {
            "builtins" | "__builtin__" => VALUES.contains(name),
            root => DATA.contains(&root),
        };
        (!is_data).then(|| format!("{module}.{name}"))
    })
}
