//! The models: dimensions, one struct per block, names equal to the checkpoints'. They compute on tensors and
//! know neither files nor stages.

pub mod faster_rcnn;
pub mod visual_bert;
