//! Large language models through Vulkan compute, on GPUs that share their memory with the CPU and on all others.
//!
//! ```no_run
//! use vkllm::{Device, DeviceOptions, Event, GenerateOptions, Model, ModelOptions, SamplerOptions, Session};
//!
//! # fn main() -> Result<(), vkllm::Error> {
//! let device = Device::open(&DeviceOptions::default())?;
//! let model = Model::open(&device, "model.gguf".as_ref(), &ModelOptions::default(), &|_, _| true)?;
//! let prompt = model.vocabulary().map(|v| v.encode("Once upon a time", Default::default())).unwrap_or_default();
//! let mut session = Session::new(&model, SamplerOptions::greedy())?;
//! for event in session.generate(&prompt, GenerateOptions::default())? {
//!     if let Event::Token(token) = event? {
//!         print!("{}", token.text);
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! The library is quiet: it does not print, read environment variables, install signal handlers or exit.

#![deny(unsafe_code)]

pub mod audit;
mod batch;
#[cfg(feature = "bench")]
pub mod bench;
mod blocks;
mod cache;
#[cfg(feature = "chat")]
pub mod chat;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
#[cfg(feature = "constrain")]
pub mod constrain;
#[cfg(feature = "repro")]
pub mod doctor;
mod engine;
mod error;
pub mod gguf;
#[cfg(feature = "hub")]
pub mod hub;
mod models;
mod ops;
#[cfg(feature = "repro")]
pub mod repro;
pub mod sample;
#[cfg(feature = "selftest")]
pub mod selftest;
mod session;
pub mod speculate;
mod tensor;
pub mod text;
mod weights;

pub use cache::KvType;
pub use engine::{
    LabelTotal, Model, ModelFile, ModelOptions, PipelineUse, Plan, Profile, Span, Watch, Work, pipelines,
};
pub use error::{Error, Result};
pub use models::{ARCHITECTURES, Config};
pub use ops::Activations;
pub use sample::SamplerOptions;
#[cfg(feature = "stream")]
pub use session::EventStream;
pub use session::{
    Batch, CancelToken, Constraint, DraftHead, Event, Finish, GenerateOptions, Generation, Session, Snapshot,
    Source, SpecOptions, Stats, Token,
};
pub use vkllm_runtime::{
    Avoid, Caps, Device, DeviceInfo, DeviceKind, DeviceOptions, Executable, Inspector, Kernel, Need,
    Selector, Simulated, Substitute, Validation,
};
pub use weights::{LoadMode, LoadReport, Progress};

/// Hash of the compiled shaders this library was built with.
pub const SHADER_HASH: &str = vkllm_shaders::SHADER_HASH;
