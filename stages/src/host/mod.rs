//! What a stage uses of the machine that it runs on: the device, room on the disk, the HTTP client. It does not know which
//! stage asks.

pub(crate) mod device;
pub(crate) mod disk_space;
pub(crate) mod http;
