//! `cargo xtask`: what the project's own development needs and its users do not.

mod check;
mod fuzz;
#[cfg(feature = "isa")]
mod isa;
mod shaders;
#[cfg(feature = "synth")]
mod synth;

use std::process::ExitCode;

use clap::Parser;

/// Tasks of vkllm's development.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Task {
    /// Check the rules of the house that a compiler does not know.
    Check(check::CheckArgs),
    /// Run the fuzz targets, each for some time.
    Fuzz(fuzz::FuzzArgs),
    /// Compile the shaders, reflect their interfaces, and write or check `shaders/spirv`.
    Shaders(shaders::ShadersArgs),
    /// Compile every pipeline for real GPUs, without them, and compare the machine code with baselines.
    #[cfg(feature = "isa")]
    Isa(isa::IsaArgs),
    /// Write a model with the shapes of a real one and random weights.
    #[cfg(feature = "synth")]
    Synth(synth::SynthArgs),
}

fn main() -> ExitCode {
    let result = match Task::parse() {
        Task::Check(args) => check::run(args),
        Task::Fuzz(args) => fuzz::run(args),
        Task::Shaders(args) => shaders::run(args),
        #[cfg(feature = "isa")]
        Task::Isa(args) => isa::run(args),
        #[cfg(feature = "synth")]
        Task::Synth(args) => synth::run(args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
