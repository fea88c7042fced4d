//! A case: one dispatch in a folder or archive that needs no model. Only words that the operation's meaning touches are
//! in it.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use vkllm_runtime::{Access, Binding, Caps, Kernel, Need, READ, SpecConstant, WRITTEN};
use vkllm_shaders::ops::PUSH_FIELDS;

use super::capsule::{Arg, Capsule, Piece, State};
use super::spirv;

/// Version of the layout.
const SCHEMA: u32 = 1;
/// What words that are not in a case hold: a NaN.
const ABSENT: u32 = 0x7fc0_ab5e;
/// Words between touched words that are kept as well, so that there are few runs.
const JOIN: usize = 16;
/// Words of an argument that are kept although the meaning does not touch it.
const MOST_ASIDE: usize = 1 << 20;
/// Bytes that a case may take in files and in memory.
const MOST_FILE: u64 = 256 << 20;
const MOST_MEMORY: u64 = 2 << 30;
const MANIFEST: &str = "manifest.json";
const SHADER: &str = "shader.spv";

/// The device that a case was captured on.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct DeviceRecord {
    pub name: String,
    pub driver: String,
    pub kind: String,
    pub api: [u32; 3],
    pub vendor_id: u32,
    pub device_id: u32,
    pub uuid: String,
    pub features: Vec<String>,
    pub subgroup: u32,
    pub subgroup_range: [u32; 2],
    pub subgroup_control: bool,
    pub max_binding: u64,
    pub max_buffer: u64,
    pub max_allocation: u64,
    pub offset_alignment: u64,
    pub max_workgroup: u32,
    pub max_groups: [u32; 3],
    pub max_shared: u32,
    pub max_push: u32,
    /// Bytes, and whether local to the device and visible to the host.
    pub heaps: Vec<(u64, bool, bool)>,
    pub simulated: Vec<String>,
}

impl DeviceRecord {
    pub fn new(caps: &Caps) -> Self {
        DeviceRecord {
            name: caps.name.clone(),
            driver: caps.driver.clone(),
            kind: caps.kind.to_string(),
            api: [caps.api.0, caps.api.1, caps.api.2],
            vendor_id: caps.vendor_id,
            device_id: caps.device_id,
            uuid: hex(&caps.uuid),
            features: caps.has.iter().map(|need| need.name().to_owned()).collect(),
            subgroup: caps.subgroup,
            subgroup_range: [caps.subgroup_range.0, caps.subgroup_range.1],
            subgroup_control: caps.subgroup_control,
            max_binding: caps.max_binding,
            max_buffer: caps.max_buffer,
            max_allocation: caps.max_allocation,
            offset_alignment: caps.offset_alignment,
            max_workgroup: caps.max_workgroup,
            max_groups: caps.max_groups,
            max_shared: caps.max_shared,
            max_push: caps.max_push,
            heaps: caps.heaps.iter().map(|heap| (heap.size, heap.device_local, heap.host_visible)).collect(),
            simulated: caps.simulated.iter().map(ToString::to_string).collect(),
        }
    }
}

/// A specialisation constant with its value.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SpecRecord {
    pub name: String,
    pub id: u32,
    pub value: u32,
}

/// A storage buffer and what it is bound to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BindingRecord {
    pub name: String,
    pub access: String,
    pub stride: u32,
    /// Byte in the push block that receives what remains of the offset, in words.
    #[serde(default)]
    pub at: Option<u32>,
    pub piece: usize,
    pub first_word: usize,
    pub bytes: u64,
}

/// Memory: how much there is, and which words of it are in the files (start, count).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PieceRecord {
    pub name: String,
    pub phase: u32,
    pub words: usize,
    pub runs: Vec<(usize, usize)>,
    /// Words that the operation writes.
    pub written: Vec<(usize, usize)>,
    /// SHA-256 of the file with its words before the run.
    pub sha256: String,
}

/// Everything about a case but its data.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Manifest {
    pub schema: u32,
    pub vkllm: String,
    pub shaders: String,
    pub device: DeviceRecord,
    pub host: String,
    pub label: String,
    pub op: String,
    pub kernel: String,
    pub axes: Vec<(String, String)>,
    pub needs: Vec<String>,
    pub spirv_sha256: String,
    pub grid: [u32; 3],
    pub specs: Vec<SpecRecord>,
    pub push_hex: String,
    /// Push constants by name, as text.
    pub push: Vec<(String, String)>,
    pub bindings: Vec<BindingRecord>,
    pub pieces: Vec<PieceRecord>,
    /// What stands before the dispatch in its command buffer.
    pub barriers_before: String,
    pub expected: String,
    /// What was found, in a sentence.
    pub finding: Option<String>,
    /// Whether the data were made up.
    pub synthetic: bool,
}

/// A case in memory.
#[derive(Clone, Debug)]
pub struct Case {
    pub manifest: Manifest,
    pub capsule: Capsule,
    /// The pieces after the operation's meaning.
    pub expected: State,
    /// And after the run on the device that captured it, if there was one.
    pub actual: Option<State>,
}

/// Bytes as text of two digits each.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes of such a text; `None` for any other.
pub(crate) fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes().chunks(2).map(|pair| {
        let pair = std::str::from_utf8(pair).ok().filter(|pair| pair.len() == 2)?;
        u8::from_str_radix(pair, 16).ok()
    });
    digits.collect()
}

/// Marked words as runs; short gaps are filled.
fn runs(marks: &[u8], mark: u8, join: usize) -> Vec<(usize, usize)> {
    let mut all: Vec<(usize, usize)> = Vec::new();
    for at in (0..marks.len()).filter(|&at| marks[at] & mark != 0) {
        match all.last_mut() {
            Some((start, count)) if at - (*start + *count) <= join => *count = at + 1 - *start,
            _ => all.push((at, 1)),
        }
    }
    all
}

fn gather(words: &[u32], runs: &[(usize, usize)]) -> Vec<u8> {
    runs.iter()
        .flat_map(|&(start, count)| &words[start..start + count])
        .flat_map(|w| w.to_le_bytes())
        .collect()
}

fn scatter(into: &mut [u32], runs: &[(usize, usize)], bytes: &[u8]) {
    let mut words = bytes.chunks_exact(4).map(|c| u32::from_le_bytes([c[0], c[1], c[2], c[3]]));
    for &(start, count) in runs {
        into[start..start + count].iter_mut().zip(&mut words).for_each(|(into, word)| *into = word);
    }
}

/// Push constants by name.
pub(super) fn decoded(op: &str, push: &[u8]) -> Vec<(String, String)> {
    let fields = PUSH_FIELDS.iter().find(|(name, _)| *name == op).map_or(&[][..], |(_, fields)| fields);
    let mut all = Vec::new();
    for &(name, scalar, offset, count) in fields {
        for index in 0..count {
            let at = (offset + 4 * index) as usize;
            let Some(&[a, b, c, d]) = push.get(at..at + 4).and_then(|four| four.first_chunk::<4>()) else {
                continue;
            };
            let word = u32::from_le_bytes([a, b, c, d]);
            let value = match scalar {
                "f32" => format!("{:e}", f32::from_bits(word)),
                "i32" => (word as i32).to_string(),
                _ => word.to_string(),
            };
            all.push((if count == 1 { name.to_owned() } else { format!("{name}[{index}]") }, value));
        }
    }
    all
}

fn host() -> String {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    format!("{} {} {}", std::env::consts::OS, std::env::consts::ARCH, read("/proc/sys/kernel/osrelease"))
}

impl Case {
    /// A case of a dispatch that came from a recording. Words that its meaning does not touch are taken out, and the
    /// expectation is formed anew.
    pub fn new(capsule: &Capsule, caps: &Caps, finding: Option<String>) -> Self {
        let mut marks = capsule.touched();
        // Stages of sampling want the results of those before, which their meaning leaves aside.
        let is_stage = capsule.kernel.op.starts_with("sample");
        for (binding, arg) in capsule.kernel.bindings.iter().zip(&capsule.args) {
            let own = &mut marks[arg.piece][arg.range()];
            // Kernels use the sums behind a block's scale, which the meaning forms anew from its codes.
            if binding.name == "x" && capsule.kernel.axis("ACT") == "q8" {
                for at in (0..own.len()).rev().filter(|at| own[*at] & READ != 0).collect::<Vec<_>>() {
                    let end = (at + 4).min(own.len());
                    own[at..end].iter_mut().for_each(|mark| *mark |= READ);
                }
            }
            if is_stage
                && binding.access.reads()
                && own.len() <= MOST_ASIDE
                && own.iter().all(|mark| *mark == 0)
            {
                own.fill(READ);
            }
        }
        let mut capsule = capsule.clone();
        let mut pieces = Vec::with_capacity(marks.len());
        for (piece, marks) in capsule.pieces.iter_mut().zip(&marks) {
            let kept = runs(marks, READ | WRITTEN, JOIN);
            let mut words = vec![ABSENT; piece.words.len()];
            for &(start, count) in &kept {
                words[start..start + count].copy_from_slice(&piece.words[start..start + count]);
            }
            piece.words = words;
            pieces.push(PieceRecord {
                name: piece.name.clone(),
                phase: piece.phase,
                words: piece.words.len(),
                sha256: hex(&Sha256::digest(gather(&piece.words, &kept))),
                runs: kept,
                written: runs(marks, WRITTEN, 0),
            });
        }
        let kernel = capsule.kernel;
        let bindings = kernel.bindings.iter().zip(&capsule.args).map(|(binding, arg)| BindingRecord {
            name: binding.name.to_owned(),
            access: format!("{:?}", binding.access),
            stride: binding.stride,
            at: binding.at,
            piece: arg.piece,
            first_word: arg.at,
            bytes: arg.len,
        });
        let specs = kernel.specs.iter().zip(&capsule.specs).map(|(spec, value)| SpecRecord {
            name: spec.name.to_owned(),
            id: spec.id,
            value: *value,
        });
        let manifest = Manifest {
            schema: SCHEMA,
            vkllm: env!("CARGO_PKG_VERSION").to_owned(),
            shaders: crate::SHADER_HASH.to_owned(),
            device: DeviceRecord::new(caps),
            host: host(),
            label: capsule.label.clone(),
            op: kernel.op.to_owned(),
            kernel: kernel.name.to_owned(),
            axes: kernel.axes.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect(),
            needs: kernel.needs.iter().map(|need| need.name().to_owned()).collect(),
            spirv_sha256: hex(&Sha256::digest(kernel.spirv)),
            grid: capsule.grid,
            specs: specs.collect(),
            push_hex: hex(&capsule.push),
            push: decoded(kernel.op, &capsule.push),
            bindings: bindings.collect(),
            pieces,
            barriers_before: "none: what it reads was written before its submission".into(),
            expected: "by the naive CPU function that defines the operation".into(),
            finding,
            synthetic: false,
        };
        let expected = capsule.meaning();
        Case { manifest, capsule, expected, actual: None }
    }

    /// The words that a run may have changed, as they are compared.
    pub fn written<'a>(&'a self, state: &'a State) -> impl Iterator<Item = u32> + 'a {
        self.manifest.pieces.iter().zip(state).flat_map(|(record, words)| {
            record.written.iter().flat_map(|&(start, count)| words[start..start + count].iter().copied())
        })
    }

    /// Its files by name.
    pub fn files(&self) -> Result<BTreeMap<String, Vec<u8>>, String> {
        let mut files = BTreeMap::new();
        let json = serde_json::to_vec_pretty(&self.manifest).map_err(|error| error.to_string())?;
        files.insert(MANIFEST.to_owned(), json);
        files.insert(SHADER.to_owned(), self.capsule.kernel.spirv.to_vec());
        let assembly =
            spirv::assembly(self.capsule.kernel.spirv).unwrap_or_else(|error| format!("; {error}\n"));
        files.insert("shader.spvasm".to_owned(), assembly.into_bytes());
        for (name, text) in sources(self.capsule.kernel) {
            files.insert(format!("source_{}", name.replace('/', "_")), text.as_bytes().to_vec());
        }
        for (index, record) in self.manifest.pieces.iter().enumerate() {
            files.insert(format!("in_{index}.bin"), gather(&self.capsule.pieces[index].words, &record.runs));
            if !record.written.is_empty() {
                files.insert(format!("expect_{index}.bin"), gather(&self.expected[index], &record.written));
                if let Some(actual) = &self.actual {
                    files.insert(format!("actual_{index}.bin"), gather(&actual[index], &record.written));
                }
            }
        }
        files.insert("README.md".to_owned(), self.readme().into_bytes());
        Ok(files)
    }

    fn readme(&self) -> String {
        let Manifest { label, kernel, op, device, finding, synthetic, spirv_sha256, .. } = &self.manifest;
        let finding = finding.as_deref().unwrap_or("Captured; nothing was found wrong with it.");
        let data = if *synthetic {
            "made up"
        } else {
            "those of the captured step, only what the operation touches"
        };
        format!(
            "# {op}: {kernel} in {label}\n\n{finding}\n\n* Device: {} ({})\n* SPIR-V: {spirv_sha256}\n* Data: {data}\n\n\
             Run it with `vkllm repro run <this folder>`: exit code 0 match, 1 mismatch, 2 bad case, 10 device lost, \
             11 hang, 12 compile failure or crash, 13 validation message, 125 not supported here.\n\n\
             `manifest.json` says everything else. `in_N.bin` holds the words of piece N that its runs list, \
             `expect_N.bin` and `actual_N.bin` those that are written; all little endian.\n",
            device.name, device.driver,
        )
    }

    /// Writes a folder, or an archive when the name ends in `.tar.zst`.
    ///
    /// Errors: a sentence with the path.
    pub fn write(&self, path: &Path) -> Result<(), String> {
        let files = self.files()?;
        let failed = |path: &Path, error: std::io::Error| format!("{}: {error}", path.display());
        if is_archive(path) {
            let mut tar = tar::Builder::new(Vec::new());
            for (name, bytes) in &files {
                let mut header = tar::Header::new_gnu();
                header.set_size(bytes.len() as u64);
                header.set_mode(0o644);
                tar.append_data(&mut header, name, bytes.as_slice()).map_err(|error| failed(path, error))?;
            }
            let tar = tar.into_inner().map_err(|error| failed(path, error))?;
            let packed = ruzstd::encoding::compress_to_vec(
                tar.as_slice(),
                ruzstd::encoding::CompressionLevel::Fastest,
            );
            return std::fs::write(path, packed).map_err(|error| failed(path, error));
        }
        std::fs::create_dir_all(path).map_err(|error| failed(path, error))?;
        for (name, bytes) in &files {
            let path = path.join(name);
            let written = std::fs::File::create(&path).and_then(|mut file| file.write_all(bytes));
            written.map_err(|error| failed(&path, error))?;
        }
        Ok(())
    }

    /// Reads a folder or an archive. With `raw` its SPIR-V need not be that of a kernel of this program.
    ///
    /// Errors: a sentence with the file, what is wrong and what is allowed.
    pub fn read(path: &Path, raw: bool) -> Result<Self, String> {
        Case::read_with(path, raw, None)
    }

    /// As [`Case::read`], with another module in place of its own, which needs `raw`.
    ///
    /// Errors: as [`Case::read`].
    pub fn read_with(path: &Path, raw: bool, module: Option<Vec<u8>>) -> Result<Self, String> {
        let mut files = if is_archive(path) { unpack(path)? } else { folder(path)? };
        let other = module.is_some();
        files.extend(module.map(|module| (SHADER.to_owned(), module)));
        Case::from_files(&files, raw, other).map_err(|reason| format!("{}: {reason}", path.display()))
    }

    /// A case from its files, as [`Case::files`] gives them. With `raw` its SPIR-V need not be that of a kernel of this
    /// program, with `other` not that which the manifest names.
    ///
    /// Errors: as [`Case::read`], without the path.
    pub fn from_files(files: &BTreeMap<String, Vec<u8>>, raw: bool, other: bool) -> Result<Self, String> {
        let file = |name: &str| files.get(name).ok_or_else(|| format!("{name} is missing"));
        let manifest: Manifest =
            serde_json::from_slice(file(MANIFEST)?).map_err(|error| format!("{MANIFEST}: {error}"))?;
        if manifest.schema != SCHEMA {
            return Err(format!("{MANIFEST}: schema is {}; this program reads {SCHEMA}", manifest.schema));
        }
        let spirv = file(SHADER)?;
        if !other && hex(&Sha256::digest(spirv)) != manifest.spirv_sha256 {
            return Err(format!("{SHADER} is not what {MANIFEST} says: its SHA-256 differs"));
        }
        spirv::check(spirv).map_err(|reason| format!("{SHADER}: {reason}"))?;
        let kernel = kernel(&manifest, spirv, raw)?;
        let mut memory = 0u64;
        for record in &manifest.pieces {
            memory = memory.saturating_add((record.words as u64).saturating_mul(4));
            for runs in [&record.runs, &record.written] {
                let mut end = 0;
                for &(start, count) in runs {
                    if start < end || count == 0 {
                        return Err(format!("{MANIFEST}: runs of {} are empty or out of order", record.name));
                    }
                    end = start.saturating_add(count);
                }
                if end > record.words {
                    return Err(format!(
                        "{MANIFEST}: a run of {} ends at {end}, beyond {}",
                        record.name, record.words
                    ));
                }
            }
        }
        if memory > MOST_MEMORY {
            return Err(format!("{MANIFEST}: its pieces have {memory} bytes; allowed are {MOST_MEMORY}"));
        }
        let total = |runs: &[(usize, usize)]| runs.iter().map(|(_, count)| count * 4).sum::<usize>();
        let sized = |name: String, runs: &[(usize, usize)]| -> Result<Option<&Vec<u8>>, String> {
            match files.get(&name) {
                Some(bytes) if bytes.len() != total(runs) => {
                    Err(format!("{name} has {} bytes; {MANIFEST} says {}", bytes.len(), total(runs)))
                }
                found => Ok(found),
            }
        };
        let mut pieces = Vec::new();
        let (mut expected, mut actual) = (Vec::new(), Vec::new());
        let mut ran = true;
        for (index, record) in manifest.pieces.iter().enumerate() {
            let mut words = vec![ABSENT; record.words];
            let name = format!("in_{index}.bin");
            let bytes = sized(name.clone(), &record.runs)?.ok_or_else(|| format!("{name} is missing"))?;
            if hex(&Sha256::digest(bytes)) != record.sha256 {
                return Err(format!("{name} is not what {MANIFEST} says: its SHA-256 differs"));
            }
            scatter(&mut words, &record.runs, bytes);
            let (mut want, mut got) = (words.clone(), words.clone());
            if !record.written.is_empty() {
                let name = format!("expect_{index}.bin");
                let bytes =
                    sized(name.clone(), &record.written)?.ok_or_else(|| format!("{name} is missing"))?;
                scatter(&mut want, &record.written, bytes);
                match sized(format!("actual_{index}.bin"), &record.written)? {
                    Some(bytes) => scatter(&mut got, &record.written, bytes),
                    None => ran = false,
                }
            }
            pieces.push(Piece { name: record.name.clone(), phase: record.phase, words });
            expected.push(want);
            actual.push(got);
        }
        let args = manifest.bindings.iter().map(|b| Arg { piece: b.piece, at: b.first_word, len: b.bytes });
        let capsule = Capsule {
            label: manifest.label.clone(),
            kernel,
            specs: manifest.specs.iter().map(|spec| spec.value).collect(),
            push: unhex(&manifest.push_hex)
                .ok_or_else(|| format!("{MANIFEST}: push_hex is not hexadecimal"))?,
            grid: manifest.grid,
            args: args.collect(),
            pieces,
        };
        capsule.check().map_err(|reason| format!("{MANIFEST}: {reason}"))?;
        Ok(Case { manifest, capsule, expected, actual: ran.then_some(actual) })
    }
}

/// The kernel of a case. It lives as long as the program: a run reads one case.
fn kernel(manifest: &Manifest, spirv: &[u8], raw: bool) -> Result<&'static Kernel, String> {
    let known = vkllm_shaders::ops::ALL.iter().find(|kernel| kernel.name == manifest.kernel);
    let Some(known) = known else {
        return Err(format!("{MANIFEST}: this program has no kernel {}", manifest.kernel));
    };
    if known.spirv != spirv && !raw {
        return Err(format!(
            "{SHADER} is not the {} of this program, and nothing here can say that it is harmless; --raw runs it anyway",
            known.name
        ));
    }
    let same = known.op == manifest.op
        && known.push_size as usize * 2 == manifest.push_hex.len()
        && known.bindings.len() == manifest.bindings.len()
        && known.specs.len() == manifest.specs.len()
        && known.bindings.iter().zip(&manifest.bindings).all(|(a, b): (&Binding, _)| {
            a.name == b.name && access(&b.access) == Some(a.access) && a.at == b.at && a.stride == b.stride
        })
        && known
            .specs
            .iter()
            .zip(&manifest.specs)
            .all(|(a, b): (&SpecConstant, _)| a.name == b.name && a.id == b.id)
        && manifest.needs.iter().all(|name| Need::ALL.iter().any(|need| need.name() == name));
    if !same {
        return Err(format!("{MANIFEST}: the interface of {} is not that of this program", known.name));
    }
    if known.spirv == spirv {
        return Ok(known);
    }
    let digest = Sha256::digest(spirv);
    let hash = digest.iter().take(8).fold(0, |hash, byte| hash << 8 | u64::from(*byte));
    Ok(Box::leak(Box::new(Kernel { spirv: spirv.to_vec().leak(), hash, ..**known })))
}

fn access(name: &str) -> Option<Access> {
    [Access::Read, Access::Write, Access::ReadWrite].into_iter().find(|access| format!("{access:?}") == name)
}

/// The source of a kernel and what it includes.
fn sources(kernel: &Kernel) -> Vec<(&'static str, &'static str)> {
    let mut parts = kernel.name.split('.');
    let stem: Vec<&str> = parts.by_ref().take(2).collect();
    let own = format!("kernels/{}.", stem.join("."));
    let format = format!("formats/{}.glsl", kernel.axis("FORMAT"));
    let all = vkllm_shaders::SOURCES;
    let mut found: Vec<_> =
        all.iter().filter(|(name, _)| name.starts_with(&own) || *name == format).copied().collect();
    let mut at = 0;
    while at < found.len() {
        for line in found[at].1.lines().filter(|line| line.trim_start().starts_with("#include")) {
            let included = all.iter().find(|(name, _)| {
                let file = name.rsplit('/').next().unwrap_or(name);
                line.contains(&format!("\"{file}\"")) || line.contains(&format!("/{file}\""))
            });
            if let Some(included) = included.filter(|(name, _)| found.iter().all(|(other, _)| other != name))
            {
                found.push(*included);
            }
        }
        at += 1;
    }
    found
}

fn is_archive(path: &Path) -> bool {
    path.to_string_lossy().ends_with(".tar.zst")
}

/// Names that a case may have: no folders.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && name.len() < 100 && !name.starts_with('.') && !name.contains(['/', '\\', '\0'])
}

fn folder(path: &Path) -> Result<BTreeMap<String, Vec<u8>>, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    let (mut files, mut room) = (BTreeMap::new(), MOST_FILE);
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // Links and pipes are none of ours.
        if !entry.file_type().map_err(failed)?.is_file() || !is_plain(&name) {
            continue;
        }
        let file = std::fs::File::open(entry.path()).map_err(failed)?;
        files.insert(
            name,
            bounded(file, &mut room).map_err(|reason| format!("{}: {reason}", path.display()))?,
        );
    }
    Ok(files)
}

fn bounded(reader: impl Read, room: &mut u64) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    reader.take(*room + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    *room =
        room.checked_sub(bytes.len() as u64).ok_or(format!("the case has more than {MOST_FILE} bytes"))?;
    Ok(bytes)
}

fn unpack(path: &Path) -> Result<BTreeMap<String, Vec<u8>>, String> {
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let mut file = std::fs::File::open(path).map_err(|error| failed(&error))?;
    let stream = ruzstd::decoding::StreamingDecoder::new(&mut file).map_err(|error| failed(&error))?;
    let (mut files, mut room) = (BTreeMap::new(), MOST_FILE);
    // The archive's own headers count as well.
    let mut archive = tar::Archive::new(stream.take(2 * MOST_FILE));
    for entry in archive.entries().map_err(|error| failed(&error))? {
        let entry = entry.map_err(|error| failed(&error))?;
        let name = entry.path().map_err(|error| failed(&error))?.to_string_lossy().into_owned();
        if entry.header().entry_type().is_file() && is_plain(&name) {
            files.insert(name, bounded(entry, &mut room).map_err(|reason| failed(&reason))?);
        }
    }
    Ok(files)
}
