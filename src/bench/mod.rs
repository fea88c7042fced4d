//! Measurements: how fast a model runs, what the device could do at most, and where the time went. Nothing here prints; the
//! command `vkllm bench` makes tables, files and pictures of it.

#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
mod amdgpu;
mod attribution;
mod ceilings;
mod kernels;
mod machine;
mod samples;
mod steps;
mod texts;

pub use attribution::{Attribution, Bound, Part};
pub use ceilings::{Ceilings, MemoryRates, Progress, ceilings};
pub use kernels::{KernelRun, KernelTest, Op, SIZES};
pub use machine::{Machine, Snapshot};
pub use samples::{Comparison, Summary, UNSTEADY, Verdict, drift, percentile};
pub use steps::{Kind, Runner, Sample, Test};
pub use texts::{TASKS, Texts, continued, profiled, prompts};
