//! The architectures that can be run, as rows of one table, and what a file says about its model.

mod config;
mod decoder;
mod experts;
mod features;
mod layers;
mod recurrent;
mod rope;
mod streams;
mod table;

pub use config::{Config, LatentConfig, Window};
pub use decoder::{Outputs, StepViews, TrimmedHead, record};
pub use experts::ExpertConfig;
pub use layers::{Entry, Layer, Parts, expected, required_tensors, strangers};
pub use recurrent::{LayerKind, RecurrentConfig, RecurrentKind};
pub use rope::{RopeScaling, query_scale, rope_factors, rope_table, table_bytes};
pub use streams::StreamConfig;
pub use table::{ARCHITECTURES, Architecture, HeadNorm, Pairing, Scale};
