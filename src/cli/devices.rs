//! `vkllm devices`: what there is to run on.

use std::io::{self, Write};

use serde_json::json;
use vkllm_runtime::{Device, DeviceInfo};

use super::Failure;
use super::args::DevicesArgs;

pub(super) fn run(args: &DevicesArgs) -> Result<(), Failure> {
    let devices = Device::list()?;
    let mut out = io::stdout().lock();
    if args.json {
        let list: Vec<_> = devices.iter().map(describe).collect();
        serde_json::to_writer_pretty(&mut out, &list)?;
        return Ok(writeln!(out)?);
    }
    for DeviceInfo { index, caps } in &devices {
        writeln!(out, "{index}  {} ({})", caps.name, caps.kind)?;
        let (major, minor, patch) = caps.api;
        writeln!(out, "   driver {}, Vulkan {major}.{minor}.{patch}", caps.driver)?;
        let heaps: Vec<_> = caps
            .heaps
            .iter()
            .map(|heap| {
                let local = if heap.device_local { "device-local" } else { "host" };
                format!("{:.1} GiB {local}", heap.size as f64 / f64::from(1 << 30))
            })
            .collect();
        writeln!(out, "   memory {}", heaps.join(", "))?;
        let (low, high) = caps.subgroup_range;
        let features: Vec<_> = caps.has.iter().map(|need| need.name()).collect();
        writeln!(out, "   subgroups of {low} to {high}, used {}; {}", caps.subgroup, features.join(" "))?;
    }
    if devices.is_empty() {
        writeln!(out, "no Vulkan 1.3 device; the device \"reference\" computes on the CPU, slowly")?;
    }
    Ok(())
}

fn describe(info: &DeviceInfo) -> serde_json::Value {
    let caps = &info.caps;
    let heaps: Vec<_> = caps
        .heaps
        .iter()
        .map(|h| json!({ "bytes": h.size, "device_local": h.device_local, "host_visible": h.host_visible }))
        .collect();
    json!({
        "index": info.index,
        "name": caps.name,
        "kind": caps.kind.to_string(),
        "driver": caps.driver,
        "vulkan": format!("{}.{}.{}", caps.api.0, caps.api.1, caps.api.2),
        "vendor_id": caps.vendor_id,
        "device_id": caps.device_id,
        "heaps": heaps,
        "subgroup": { "used": caps.subgroup, "min": caps.subgroup_range.0, "max": caps.subgroup_range.1 },
        "features": caps.has.iter().map(|need| need.name()).collect::<Vec<_>>(),
        "max_binding_bytes": caps.max_binding,
        "max_allocation_bytes": caps.max_allocation,
        "offset_alignment": caps.offset_alignment,
        "timestamp_period_ns": caps.timestamp_period,
    })
}
