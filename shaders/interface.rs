//! What `cargo xtask shaders` learned from the compiled shaders, as it stands in `spirv/interfaces.json` and
//! `spirv/manifest.json`. Shared by the tool that writes these files and the build script that reads them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Everything reflected from all modules.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interfaces {
    /// Structs that are elements of buffers, by their name in the shaders.
    pub records: BTreeMap<String, Record>,
    /// By module name, for example `linear.matvec.q4_k.q8`.
    pub kernels: BTreeMap<String, Kernel>,
}

/// A struct that shaders and host share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Distance between two elements of an array, in bytes.
    pub size: u32,
    pub fields: Vec<Field>,
}

/// A scalar, or `count` scalars, at a byte offset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Field {
    pub name: String,
    /// `u32`, `i32` or `f32`.
    #[serde(rename = "type")]
    pub scalar: String,
    /// 1 for a scalar, more for a vector or an array.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub count: u32,
    pub offset: u32,
}

/// The interface of one module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kernel {
    pub bindings: Vec<Binding>,
    pub push: Vec<Field>,
    pub push_size: u32,
    pub specs: Vec<Spec>,
    /// Names of `vkllm_runtime::Need` variants.
    pub needs: Vec<String>,
    /// Workgroup size; 0 in x where the specialisation constant `WG` sets it.
    pub local_size: [u32; 3],
    /// Records its buffers hold.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub records: BTreeMap<String, Record>,
}

/// One storage buffer; its place in the list is its binding number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    pub name: String,
    /// `Read`, `Write` or `ReadWrite`.
    pub access: String,
    /// Largest array stride of the declarations of this binding.
    pub stride: u32,
    /// Byte offset in the push block of `<name>_at`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<u32>,
}

/// One specialisation constant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    pub name: String,
    pub id: u32,
    pub default: u32,
}

/// From what each checked-in module was made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Identifies the whole set of modules.
    pub hash: String,
    pub modules: BTreeMap<String, Made>,
}

/// Hashes of one module, SHA-256 in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    /// Of the source, what it includes, its definitions, the options and the version of the compiler.
    pub input: String,
    /// Of the `.spv` file.
    pub spirv: String,
}

fn one() -> u32 {
    1
}

fn is_one(count: &u32) -> bool {
    *count == 1
}
