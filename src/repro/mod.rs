//! From wrong text to one dispatch that a driver developer can run: find it, capture it, run it alone, reduce it and
//! export it.

mod capsule;
mod case;
mod export;
mod find;
mod judge;
mod pattern;
mod reduce;
mod replay;
mod shadow;
mod spirv;
mod synthetic;

pub use capsule::{Arg, Capsule, Piece, Ran, Stage, State};
pub use case::{Case, DeviceRecord, Manifest};
#[cfg(feature = "cli")]
pub(crate) use case::{hex, unhex};
pub use export::{Code, Tracker, amber, c, issue};
pub use find::{FindOptions, Finding, Found, Kind, capsules, capture, compare, dispatches, find};
pub use judge::{Output, Wrong, judge};
pub use pattern::pattern;
pub use reduce::{Reduction, Shrink, reduce};
pub use replay::{Replay, Verdict, replay};
pub use spirv::assembly;
pub use synthetic::{has_ids, synthetic};
