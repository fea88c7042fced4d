//! Vulkan compute as data. A caller describes work in a [`Recording`]: dispatches of static [`Kernel`]s on
//! [`View`]s of named buffers. [`Device::compile`] places the transient buffers in one arena, infers the barriers
//! from byte ranges and encodes a command buffer that may be submitted as often as wished. The same recording
//! runs on the reference device, where each kernel is its naive CPU meaning.
//!
//! Contracts:
//! * What a caller can get wrong by programming (a kernel with too few views, a view outside its buffer) is
//!   checked when the dispatch is recorded and answered with [`Error::Recording`].
//! * What depends on drivers and machines is a typed [`Error`]; nothing here panics on it, waits without end,
//!   prints or reads the environment. Only [`Device::prepare`] starts threads, and ends them.
//! * Handles free themselves. A dropped buffer or compiled recording waits for the submissions that use it.

#![deny(unsafe_code)]

mod arena;
mod buffer;
mod call;
mod caps;
mod choose;
#[allow(unsafe_code)]
mod commands;
#[allow(unsafe_code)]
mod device;
#[allow(unsafe_code)]
mod encode;
mod error;
#[allow(unsafe_code)]
mod fault;
mod hazard;
#[allow(unsafe_code)]
mod inspect;
mod kernel;
mod measure;
#[allow(unsafe_code)]
mod memory;
#[allow(unsafe_code)]
mod physical;
#[allow(unsafe_code)]
mod pipeline;
mod place;
mod recording;
mod reference;
mod regrid;
mod run;
mod simulate;
mod slice;
#[allow(unsafe_code)]
mod submit;
mod trace;
mod trail;
mod transfer;
#[allow(unsafe_code)]
mod vulkan;

pub use arena::Arena;
/// Handles of [`Borrowed`] devices are this crate's.
pub use ash;
pub use buffer::{Buffer, Memory, Usage, View};
pub use call::{Call, READ, WRITTEN, Words};
pub use caps::{Caps, DeviceKind, HeapInfo, MatrixShape, MemoryType, Need};
pub use device::{Avoid, CompileOptions, Compiled, Device, DeviceInfo, DeviceOptions, Selector, Substitute};
pub use error::Error;
pub use fault::{Fault, Faults};
pub use inspect::{Executable, Inspector};
pub use kernel::{Access, Binding, Kernel, SpecConstant};
pub use memory::HostMemory;
pub use pipeline::PipelineTime;
#[cfg(fuzzing)]
pub use pipeline::check_cache;
pub use recording::{Command, Dispatch, Grid, Recording};
pub use regrid::Grids;
pub use run::Ran;
pub use simulate::Simulated;
pub use submit::{Calls, Ticket};
pub use trace::{LabelTime, Reading, Times, host_time};
pub use trail::Place;
pub use transfer::Uploader;
pub use vulkan::{Borrowed, Message, QueueLock, Validation};

/// Result of the runtime.
pub type Result<T, E = Error> = std::result::Result<T, E>;
