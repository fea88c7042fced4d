//! All integration tests as one binary, so that one device serves them and shaders are compiled once.

mod ceiling;
mod cli;
mod dry_run;
mod gguf;
mod harness;
mod kernels;
mod models;
mod recording;
mod repro;
mod templates;
mod tokenizers;
