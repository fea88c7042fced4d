//! Compute shaders of vkllm: compiled kernels with their interfaces, the table that says what each is meant for,
//! and for every operation one naive CPU function that says what it means.

#![deny(unsafe_code)]

pub mod formats;
pub mod matrix;
pub mod reference;
pub mod select;
pub mod table;

#[allow(clippy::all)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/generated.rs"));
}

pub use generated::{SHADER_HASH, SOURCES, ops, records};
