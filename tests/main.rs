//! All integration tests as one binary, so that one device serves them and shaders are compiled once.

mod gguf;
mod tokenizers;
