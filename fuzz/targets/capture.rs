//! A case of `vkllm repro`: its manifest and files, with checksums made right so that what lies behind them is reached.
#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use sha2::{Digest, Sha256};
use vkllm::repro::Case;

fn hash(bytes: &[u8]) -> Value {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>().into()
}

/// Files one behind the other: length of the name, name, length in two bytes, bytes.
fn files(mut data: &[u8]) -> Option<BTreeMap<String, Vec<u8>>> {
    let mut all = BTreeMap::new();
    while let Some((&length, rest)) = data.split_first() {
        let (name, rest) = rest.split_at_checked(usize::from(length))?;
        let (size, rest) = rest.split_first_chunk::<2>()?;
        let (bytes, rest) = rest.split_at(usize::from(u16::from_le_bytes(*size)).min(rest.len()));
        all.insert(String::from_utf8_lossy(name).into_owned(), bytes.to_vec());
        data = rest;
    }
    Some(all)
}

fuzz_target!(|data: &[u8]| {
    let Some((&raw, data)) = data.split_first() else { return };
    let Some(mut files) = files(data) else { return };
    let manifest = files.get("manifest.json").and_then(|text| serde_json::from_slice::<Value>(text).ok());
    if let Some(mut manifest) = manifest.filter(Value::is_object) {
        if let Some(shader) = files.get("shader.spv") {
            manifest["spirv_sha256"] = hash(shader);
        }
        for (index, piece) in manifest["pieces"].as_array_mut().into_iter().flatten().enumerate() {
            if let (Some(bytes), true) = (files.get(&format!("in_{index}.bin")), piece.is_object()) {
                piece["sha256"] = hash(bytes);
            }
        }
        files.insert("manifest.json".into(), manifest.to_string().into_bytes());
    }
    match Case::from_files(&files, raw % 2 == 1, raw & 2 != 0) {
        Ok(case) => {
            let _ = case.files().map(|files| files.len());
        }
        Err(reason) => assert!(!reason.is_empty()),
    }
});
