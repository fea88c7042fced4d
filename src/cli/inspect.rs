//! `vkllm inspect`: metadata, tensors and the memory plan of a model file.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde_json::json;
use vkllm_runtime::{Device, DeviceOptions, Selector};

use super::args::InspectArgs;
use super::{Failure, load};
use crate::Plan;
use crate::gguf::{Gguf, type_name};

pub(super) fn run(args: &InspectArgs) -> Result<(), Failure> {
    let gguf = Gguf::open(&super::fetch::resolve(&args.model)?)?;
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
    let planned = planned(args);
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
            "plan": planned.as_ref().ok().map(Planned::json),
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
        if let Ok(planned) = &planned {
            planned.print(&mut out)?;
        }
    }
    out.flush()?;
    let Planned { plan, device, .. } = planned?;
    if args.plan {
        plan.check(&device)?;
    }
    Ok(())
}

/// A plan and the device it is for.
struct Planned {
    plan: Plan,
    /// What the model has beyond the plain decoder.
    features: Vec<String>,
    /// What of the file would not be honoured.
    unsupported: Vec<String>,
    device: Device,
    /// The largest context that fits, when the device was asked.
    largest: Option<u32>,
}

/// Plans for the device that was asked for, else for the reference, which is always there.
fn planned(args: &InspectArgs) -> Result<Planned, Failure> {
    let file = load::file(Some(&args.model))?;
    let device = if args.plan {
        load::device(&args.common.device)?
    } else {
        Device::open(&DeviceOptions { selector: Selector::Reference, ..DeviceOptions::default() })?
    };
    let options = load::options(&args.common, &file, &device)?;
    let plan = file.plan(device.caps(), &options)?;
    let largest = args.plan.then(|| file.largest_context(&device, &options)).transpose().unwrap_or(None);
    let (features, unsupported) = (file.config.features(), file.unsupported());
    Ok(Planned { plan, features, unsupported, device, largest })
}

impl Planned {
    fn json(&self) -> serde_json::Value {
        let p = &self.plan;
        json!({
            "device": self.device.caps().name, "context": p.context,
            "weights": p.weights, "kv": p.kv, "k_type": p.k_type.name(), "v_type": p.v_type.name(),
            "tables": p.tables, "scratch": p.scratch, "output": p.output, "total": p.total(),
            "taken": p.taken, "room": Plan::room(&self.device), "largest_context": self.largest,
            "states": p.states, "state": p.state, "active": p.active, "features": self.features, "unsupported": self.unsupported, "load_mode": p.mode.name(), "load_why": p.why,
        })
    }

    fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        let p = &self.plan;
        let mb = |bytes: u64| bytes as f64 / 1e6;
        if !self.features.is_empty() {
            writeln!(out, "features: {}", self.features.join("; "))?;
        }
        for what in &self.unsupported {
            writeln!(out, "not supported: {what}")?;
        }
        writeln!(out, "weights read per token: {:.1} of {:.1} MB", mb(p.active), mb(p.weights))?;
        writeln!(
            out,
            "memory plan for {} tokens: {:.1} MB = weights {:.1} + cache {:.1} (keys {}, values {}) + tables {:.1} \
             + scratch {:.1} + output {:.1}",
            p.context,
            mb(p.total()),
            mb(p.weights),
            mb(p.kv + p.states),
            p.k_type.name(),
            p.v_type.name(),
            mb(p.tables),
            mb(p.scratch),
            mb(p.output),
        )?;
        if p.states > 0 {
            let (all, step) = (mb(p.states), mb(p.state));
            writeln!(
                out,
                "states of recurrent layers: {all:.1} MB; a step reads and writes {step:.1} MB of them"
            )?;
        }
        let Some(largest) = self.largest else { return Ok(()) };
        let room = Plan::room(&self.device).map_or("not known".into(), |room| format!("{:.1} MB", mb(room)));
        writeln!(out, "on {}: {:.1} MB to take, there are {room}", self.device.caps().name, mb(p.taken))?;
        writeln!(out, "weights: {} ({})", p.mode.name(), p.why)?;
        writeln!(out, "largest context that fits: {largest} tokens")
    }
}
