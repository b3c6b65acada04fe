//! Which functions a pickle would call, were it Python that read it. Here none is called; a file that names others than
//! those that make data was made to do harm, and is refused rather than half believed.

use candle_core::pickle::Object;

/// What checkpoints are made of beside tensors: settings of the programs that saved them.
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
pub(super) fn foreign(object: &Object) -> Option<String> {
    match object {
        Object::Reduce { callable, args } | Object::Build { callable, args } => {
            if let Object::Class { module_name, class_name } = callable.as_ref() {
                let root = module_name.split('.').next().unwrap_or_default();
                let is_data = match root {
                    "builtins" | "__builtin__" => VALUES.contains(&class_name.as_str()),
                    _ => DATA.contains(&root),
                };
                if !is_data {
                    return Some(format!("{module_name}.{class_name}"));
                }
            }
            foreign(callable).or_else(|| foreign(args))
        }
        Object::Tuple(parts) | Object::List(parts) => parts.iter().find_map(foreign),
        Object::Dict(entries) => {
            entries.iter().find_map(|(key, value)| foreign(key).or_else(|| foreign(value)))
        }
        Object::PersistentLoad(id) => foreign(id),
        _ => None,
    }
}
