//! The architectures that can be run, as rows of one table, and what a file says about its model.

mod config;
mod decoder;
mod rope;

pub use config::{Config, RopeScaling};
pub use decoder::{Outputs, Parts, StepViews, record, required_tensors};
pub use rope::{query_scale, rope_table, table_bytes};

/// Which elements of a head RoPE rotates together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairing {
    /// 2i with 2i + 1.
    Adjacent,
    /// i with i + n/2.
    Halves,
}

impl Pairing {
    /// Value of the specialisation constant `PAIRING`.
    pub fn code(self) -> u32 {
        match self {
            Pairing::Adjacent => 1,
            Pairing::Halves => 2,
        }
    }
}

/// One architecture: how its files differ from the plain decoder. Biases, tied output and frequency factors are not
/// here, because the tensors present say so.
#[derive(Debug)]
pub struct Architecture {
    /// `general.architecture`.
    pub name: &'static str,
    pub pairing: Pairing,
    /// Queries and keys are normalised per head before RoPE.
    pub head_norm: bool,
    /// Every n-th layer has no RoPE; 0 means that all have it.
    pub no_rope_every: u32,
}

const PLAIN: Architecture =
    Architecture { name: "", pairing: Pairing::Adjacent, head_norm: false, no_rope_every: 0 };

/// All architectures.
pub static ARCHITECTURES: &[Architecture] = &[
    Architecture { name: "llama", ..PLAIN },
    Architecture { name: "mistral3", ..PLAIN },
    Architecture { name: "qwen2", pairing: Pairing::Halves, ..PLAIN },
    Architecture { name: "qwen3", pairing: Pairing::Halves, head_norm: true, ..PLAIN },
    Architecture { name: "smollm3", no_rope_every: 4, ..PLAIN },
];
