//! `vkllm inspect`: metadata, tensors and the memory plan of a model file.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde_json::json;

use super::args::InspectArgs;
use super::{Failure, load};
use crate::gguf::{Gguf, type_name};
use crate::{ModelFile, ModelOptions, Plan};

pub(super) fn run(args: &InspectArgs) -> Result<(), Failure> {
    let gguf = Gguf::open(&args.model)?;
    let metadata: Vec<(String, String)> =
        gguf.metadata().iter().map(|(key, value)| (key.to_owned(), value.to_string())).collect();
    let mut types: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for tensor in gguf.tensors() {
        let entry = types.entry(type_name(tensor.ggml_type)).or_default();
        entry.0 += 1;
        entry.1 += tensor.bytes;
    }
    let tensors: Vec<_> = gguf
        .tensors()
        .iter()
        .map(|t| (t.name.clone(), type_name(t.ggml_type), t.dims.clone(), t.offset, t.bytes))
        .collect();
    let version = gguf.version();
    // A file that cannot be run is still shown, then refused with the reason.
    let plan: Result<Plan, Failure> = load::file(Some(&args.model)).and_then(|file: ModelFile| {
        let [k_type, v_type] = load::cache_types(&args.cache)?;
        let options = ModelOptions { context: args.ctx_size, k_type, v_type, ..ModelOptions::default() };
        Ok(file.plan(&options)?)
    });
    let mut out = io::BufWriter::new(io::stdout().lock());
    if args.json {
        let object = json!({
            "version": version,
            "metadata": metadata.iter().map(|(k, v)| json!({ "key": k, "value": v })).collect::<Vec<_>>(),
            "tensors": tensors
                .iter()
                .map(|(name, kind, dims, offset, bytes)| json!({
                    "name": name, "type": kind, "dims": dims, "offset": offset, "bytes": bytes,
                }))
                .collect::<Vec<_>>(),
            "plan": plan.as_ref().ok().map(|p| json!({
                "weights": p.weights, "kv": p.kv, "k_type": p.k_type.name(), "v_type": p.v_type.name(),
                "tables": p.tables, "scratch": p.scratch, "total": p.total(),
            })),
        });
        serde_json::to_writer_pretty(&mut out, &object)?;
        writeln!(out)?;
    } else {
        writeln!(out, "GGUF version {version}, {} keys, {} tensors", metadata.len(), tensors.len())?;
        for (key, value) in &metadata {
            writeln!(out, "  {key} = {value}")?;
        }
        for (kind, (count, bytes)) in &types {
            writeln!(out, "{kind}: {count} tensors, {:.1} MB", *bytes as f64 / 1e6)?;
        }
        if args.tensors {
            for (name, kind, dims, offset, bytes) in &tensors {
                writeln!(out, "  {name} {kind} {dims:?} at {offset}, {bytes} bytes")?;
            }
        }
        if let Ok(plan) = &plan {
            let mb = |bytes: u64| bytes as f64 / 1e6;
            writeln!(
                out,
                "memory plan: {:.1} MB = weights {:.1} + cache {:.1} (keys {}, values {}) + tables {:.1} + scratch {:.1}",
                mb(plan.total()),
                mb(plan.weights),
                mb(plan.kv),
                plan.k_type.name(),
                plan.v_type.name(),
                mb(plan.tables),
                mb(plan.scratch)
            )?;
        }
    }
    out.flush()?;
    plan.map(|_| ())
}
