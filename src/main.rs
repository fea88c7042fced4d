//! The `vkllm` program; everything it does is in the library's `cli` module.

use std::process::ExitCode;

fn main() -> ExitCode {
    vkllm::cli::main()
}
