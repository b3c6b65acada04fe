//! The bytes of other programs' files: archives, pictures, tables, LMDB, numpy, pickle, torch, the text files of data sets. Each
//! module reads or writes one form, and trusts no byte of it. Nothing here knows a stage, an artifact or a model.

pub(crate) mod archive;
pub(crate) mod dataset_files;
pub(crate) mod file_kind;
pub(crate) mod image_decode;
pub mod lmdb;
pub(crate) mod mapped_file;
pub mod mmf_features;
pub mod npy;
pub mod pickle;
pub(crate) mod table_file;
pub(crate) mod tar_members;
pub(crate) mod tar_reader;
pub(crate) mod tokenizer_files;
pub(crate) mod torch_file;
pub(crate) mod torch_writer;
pub(crate) mod zip_reader;
