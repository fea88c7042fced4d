//! Reflection of small shaders, compiled on the spot: what is found, and what is refused.

use std::collections::BTreeMap;
use std::path::Path;

use super::build::{disagreements, records};
use super::compile::compile_text;
use super::interface::Kernel;
use super::plan::Module;
use super::reflect::reflect;

fn module(name: &str, file: &str) -> Module {
    let op = name.split('.').next().unwrap_or(name).to_owned();
    Module { name: name.to_owned(), op, file: file.into(), axes: Vec::new() }
}

fn interface(file: &str, text: &str) -> Result<Kernel, String> {
    let compiler = shaderc::Compiler::new().unwrap();
    let compiled = compile_text(&compiler, Path::new(""), &module("op.way", file), file, text);
    reflect(&compiled.map_err(|error| format!("{error:#}"))?).map_err(|error| format!("{error:#}"))
}

/// A GLSL kernel with these declarations and this body.
fn glsl(declarations: &str, body: &str) -> Result<Kernel, String> {
    let head = "#version 460\nlayout(local_size_x_id = 0) in;\nlayout(constant_id = 0) const uint WG = 64;\n";
    interface("op.way.comp", &format!("{head}{declarations}\nvoid main() {{ {body} }}\n"))
}

const X: &str = "layout(binding = 0) readonly restrict buffer X { float x[]; };\n";
const Y: &str = "layout(binding = 1) writeonly restrict buffer Y { float y[]; };\n";

fn bindings(kernel: &Kernel) -> Vec<(&str, &str, u32, Option<u32>)> {
    kernel.bindings.iter().map(|b| (b.name.as_str(), b.access.as_str(), b.stride, b.at)).collect()
}

#[test]
fn buffers_push_and_constants() {
    let push =
        "layout(push_constant) uniform Push { uint x_at; uint y_at; uint k; int first; float eps; } push;";
    let specs = "layout(constant_id = 1) const uint SG = 32; layout(constant_id = 4) const bool FLAG = true;";
    let kernel =
        glsl(&format!("{X}{Y}{push}{specs}"), "y[push.y_at] = FLAG ? x[push.x_at] : push.eps;").unwrap();
    assert_eq!(bindings(&kernel), [("x", "Read", 4, Some(0)), ("y", "Write", 4, Some(4))]);
    let push: Vec<_> = kernel.push.iter().map(|f| (f.name.as_str(), f.scalar.as_str(), f.offset)).collect();
    assert_eq!(
        push,
        [("x_at", "u32", 0), ("y_at", "u32", 4), ("k", "u32", 8), ("first", "i32", 12), ("eps", "f32", 16)]
    );
    assert_eq!(kernel.push_size, 20);
    let specs: Vec<_> = kernel.specs.iter().map(|spec| (spec.name.as_str(), spec.id, spec.default)).collect();
    assert_eq!(specs, [("WG", 0, 64), ("SG", 1, 32), ("FLAG", 4, 1)]);
    assert_eq!((kernel.local_size, kernel.needs.len()), ([0, 1, 1], 0));
}

#[test]
fn aliases_are_one_argument() {
    let alias = "layout(binding = 0) readonly buffer X { uint x[]; };\nlayout(binding = 0) readonly buffer X4 { uvec4 x4[]; };\n";
    let kernel = glsl(&format!("{alias}{Y}"), "y[0] = float(x[0] + x4[1].y);").unwrap();
    assert_eq!(bindings(&kernel), [("x", "Read", 16, None), ("y", "Write", 4, None)]);
    let both = "layout(binding = 0) readonly buffer X { uint x[]; };\nlayout(binding = 0) writeonly buffer X4 { uvec4 x4[]; };\n";
    assert_eq!(bindings(&glsl(both, "x4[1] = uvec4(x[0]);").unwrap()), [("x", "ReadWrite", 16, None)]);
    let other = both.replace("x4[]", "y[]");
    assert!(glsl(&other, "y[1] = uvec4(x[0]);").unwrap_err().contains("called both"));
}

#[test]
fn structs_become_records() {
    let declaration = "struct Item { uint id; vec2 pair; float tail[3]; };\nlayout(binding = 0) readonly buffer X { Item items[]; };\n";
    let kernel = glsl(&format!("{declaration}{Y}"), "y[0] = items[0].pair.x;").unwrap();
    let item = &kernel.records["Item"];
    let fields: Vec<_> = item.fields.iter().map(|f| (f.name.as_str(), f.count, f.offset)).collect();
    assert_eq!((item.size, fields), (32, vec![("id", 1, 0), ("pair", 2, 8), ("tail", 3, 16)]));

    let other =
        glsl(&format!("{}{Y}", declaration.replace("uint id", "int id")), "y[0] = items[0].pair.x;").unwrap();
    let kernels = BTreeMap::from([("a.b".to_owned(), kernel.clone()), ("c.d".to_owned(), other)]);
    assert_eq!(records(&kernels).unwrap_err().to_string(), "struct Item differs between a.b and c.d");
    assert_eq!(records(&BTreeMap::from([("a.b".to_owned(), kernel)])).unwrap().len(), 1);
}

#[test]
fn needs_come_from_the_code() {
    let subgroup = "#extension GL_KHR_shader_subgroup_shuffle : require\n";
    let kernel = glsl(&format!("{subgroup}{X}{Y}"), "y[0] = subgroupShuffleXor(x[0], 1);").unwrap();
    assert_eq!(kernel.needs, ["SubgroupBasic", "SubgroupShuffle"]);
    let clustered = "#extension GL_KHR_shader_subgroup_clustered : require\n";
    let error = glsl(&format!("{clustered}{X}{Y}"), "y[0] = subgroupClusteredAdd(x[0], 4);").unwrap_err();
    assert!(error.contains("GroupNonUniformClustered"), "{error}");
}

#[test]
fn breaches_of_the_contract_are_named() {
    let y0 = Y.replace("binding = 1", "binding = 0");
    let refused = |declarations: &str, words: &str| {
        let error = glsl(declarations, "y[0] = 1.0;").unwrap_err();
        assert!(error.contains(words), "{error}");
    };
    refused(Y, "binding 0 is missing");
    refused(&y0.replace("binding = 0", "set = 1, binding = 0"), "is in set 1");
    refused(&y0.replace("float y[]", "uint n; float y[]"), "has 2 members");
    refused(&format!("{y0}layout(constant_id = 2) const uint low = 1;"), "UPPER_CASE");
    refused(&format!("{y0}layout(constant_id = 2) const uint SG = 1;"), "SG has id 1");
    let push = |fields: &str| format!("{y0}layout(push_constant) uniform Push {{ {fields} }} push;");
    refused(&push("uint y_at; vec2 pair;"), "not a scalar");
    refused(&push("uint k; uint y_at;"), "come first");
    refused(&push("uint z_at;"), "expected <name>_at in binding order (y)");
    let many: String = (0..33).map(|index| format!("uint f{index};")).collect();
    refused(&push(&many), "132 bytes");
    let twelve: String =
        (1..13).map(|n| format!("layout(binding = {n}) buffer B{n} {{ float b{n}[]; }};")).collect();
    refused(&format!("{y0}{twelve}"), "13 buffers");
    assert!(glsl("#include \"none.glsl\"\n", "").unwrap_err().contains("none.glsl"));
}

#[test]
fn wgsl_is_read_the_same_way() {
    let text = "
        struct Push { x_at: u32, y_at: u32, k: u32 }
        var<immediate> push: Push;
        @group(0) @binding(0) var<storage, read> x: array<u32>;
        @group(0) @binding(1) var<storage, read_write> y: array<u32>;
        @compute @workgroup_size(32) fn main(@builtin(global_invocation_id) id: vec3<u32>) {
            y[push.y_at + id.x] = x[push.x_at + id.x % push.k];
        }";
    let kernel = interface("op.way.wgsl", text).unwrap();
    assert_eq!(bindings(&kernel), [("x", "Read", 4, Some(0)), ("y", "Write", 4, Some(4))]);
    assert_eq!((kernel.push_size, kernel.local_size, kernel.specs.len()), (12, [32, 1, 1], 0));
    let both = text.replace("] = x[", "] += x[");
    assert_eq!(interface("op.way.wgsl", &both).unwrap().bindings[1].access, "ReadWrite");
}

#[test]
fn kernels_of_an_operation_are_interchangeable() {
    let push = "layout(push_constant) uniform Push { uint x_at; uint y_at; uint k; } push;";
    let spec = "layout(constant_id = 2) const uint ROWS = 4;";
    let base = format!("{X}{Y}{push}{spec}");
    let body = "y[push.y_at] = x[push.x_at];";
    let faults = |from: &str, to: &str, body: &str| -> Vec<String> {
        let kernels = BTreeMap::from([
            ("op.a".to_owned(), glsl(&base, "y[push.y_at] = x[push.x_at];").unwrap()),
            ("op.b".to_owned(), glsl(&base.replace(from, to), body).unwrap()),
        ]);
        let modules = kernels.keys().map(|name| (name.clone(), module(name, "op.way.comp"))).collect();
        disagreements(&modules, &kernels).into_iter().map(|(_, fault)| fault).collect()
    };
    assert!(faults("constant_id = 2", "constant_id = 3", body).is_empty());
    assert!(faults("readonly restrict", "restrict", body).is_empty());
    assert_eq!(faults("ROWS = 4", "ROWS = 8", body), ["op op: ROWS is 4 by default in op.a, but 8 in op.b"]);
    assert!(faults("uint k", "int k", body)[0].contains("pushes"));
    let more = "layout(binding = 2) readonly buffer Z { float z[]; };\nlayout(push_constant)";
    let fault = "op op: op.a binds (x, y), but op.b binds (x, y, z)";
    assert_eq!(faults("layout(push_constant)", more, body), [fault]);
}
