//! `vkllm repro export`: a case as others read it, and what drivers at hand and simulated ones make of its kernel.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Stdio};

use serde::{Deserialize, Serialize};
use vkllm_runtime::{DeviceOptions, Executable, Inspector};

use super::super::{Failure, input, load};
use super::ExportArgs;
use crate::repro::{self, Case, Code, Tracker};

/// Chips that Mesa's simulated device stands for: Radeon 890M, RX 7900 and RX 6800.
const AMD: [&str; 3] = ["gfx1150", "navi31", "navi21"];
/// Names that newer versions of Mesa have for some of them.
const RENAMED: &[(&str, &str)] = &[("gfx1150", "strix1")];
const SHIM: &str = "libamdgpu_noop_drm_shim.so";

/// What a child says of a kernel.
#[derive(Serialize, Deserialize)]
struct Answer {
    device: String,
    driver: String,
    parts: Vec<Part>,
}

#[derive(Serialize, Deserialize)]
struct Part {
    name: String,
    subgroup: u32,
    statistics: Vec<(String, f64)>,
    texts: Vec<(String, String)>,
}

impl From<Answer> for Code {
    fn from(answer: Answer) -> Self {
        let part = |part: Part| Executable {
            name: part.name,
            subgroup: part.subgroup,
            statistics: part.statistics,
            texts: part.texts,
        };
        let executables = answer.parts.into_iter().map(part).collect();
        Code { device: answer.device, driver: answer.driver, executables }
    }
}

pub(super) fn run(args: &ExportArgs) -> Result<(), Failure> {
    if args.code {
        return say(args);
    }
    if args.amber.is_none() && args.c.is_none() && args.issue.is_none() {
        return Err(input("say what to write: --amber FILE, --c FILE or --issue TRACKER"));
    }
    let case = Case::read(&args.case, args.raw).map_err(input)?;
    let write = |path: &Path, bytes: &[u8]| {
        std::fs::write(path, bytes).map_err(|error| input(format!("{}: {error}", path.display())))
    };
    if let Some(path) = &args.amber {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let (script, files) = repro::amber(&case, &stem).map_err(input)?;
        write(path, script.as_bytes())?;
        for (name, bytes) in files {
            write(&path.with_file_name(name), &bytes)?;
        }
    }
    if let Some(path) = &args.c {
        write(path, repro::c(&case).map_err(input)?.as_bytes())?;
    }
    if let Some(name) = &args.issue {
        let tracker = Tracker::ALL.into_iter().find(|tracker| tracker.name() == name).ok_or_else(|| {
            let known = Tracker::ALL.map(Tracker::name).join(", ");
            input(format!("--issue is \"{name}\"; allowed are {known}"))
        })?;
        io::stdout().lock().write_all(repro::issue(&case, tracker, &codes(args, tracker)).as_bytes())?;
    }
    Ok(())
}

/// What the driver at hand makes of the kernel, and for Mesa what it makes for AMD's chips.
fn codes(args: &ExportArgs, tracker: Tracker) -> Vec<Code> {
    let mut all = Vec::new();
    match ask(args, &[]) {
        Ok(code) => all.extend(Some(code).filter(|code| !code.executables.is_empty())),
        Err(error) => tracing::warn!("the driver tells nothing of the pipeline: {error}"),
    }
    if tracker != Tracker::Mesa {
        return all;
    }
    let (Some(shim), Some(driver)) = (
        args.amd_shim.clone().or_else(|| find(&libraries(), SHIM)),
        args.amd_driver.clone().or_else(|| find(&["/usr/share/vulkan/icd.d".into()], "radeon_icd")),
    ) else {
        tracing::warn!("no simulated AMD devices: {SHIM} (package mesa-drm-shim) or RADV is not installed");
        return all;
    };
    for chip in AMD {
        let newer = RENAMED.iter().filter(|(old, _)| *old == chip).map(|(_, new)| *new);
        let found = newer.chain([chip]).find_map(|id| {
            let set = [
                ("LD_PRELOAD", shim.as_os_str()),
                ("AMDGPU_GPU_ID", id.as_ref()),
                ("VK_DRIVER_FILES", driver.as_os_str()),
            ];
            ask(args, &set).ok()
        });
        match found {
            Some(code) => all.push(Code { device: format!("{chip}, simulated: {}", code.device), ..code }),
            None => tracing::warn!("the simulated {chip} tells nothing"),
        }
    }
    all
}

/// Asks a child, which lives with other variables and may crash.
fn ask(args: &ExportArgs, set: &[(&str, &std::ffi::OsStr)]) -> Result<Code, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut child = Process::new(program);
    child.args(["repro", "export", "--code", "--raw"]).arg(&args.case).envs(set.iter().copied());
    if let Some(device) = args.device.device.as_deref().filter(|_| set.is_empty()) {
        child.args(["--device", device]);
    }
    let output = child.stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
    let told = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice::<Answer>(&output.stdout)
        .map(Code::from)
        .map_err(|_| told.lines().next_back().unwrap_or("it says nothing").to_owned())
}

/// The child: machine code and statistics as JSON.
fn say(args: &ExportArgs) -> Result<(), Failure> {
    let case = Case::read(&args.case, args.raw).map_err(input)?;
    let selector = load::selector(args.device.device.as_deref());
    let inspector = Inspector::open(&DeviceOptions { selector, ..DeviceOptions::default() })?;
    let (kernel, caps) = (case.capsule.kernel, inspector.caps());
    let own = |name: &str, value: u32| match name {
        // A case of narrow subgroups is compiled for those that there are.
        "SG" => value.clamp(caps.subgroup_range.0, caps.subgroup_range.1),
        _ => value,
    };
    let specs: Vec<_> = kernel
        .specs
        .iter()
        .zip(&case.capsule.specs)
        .map(|(s, value)| (s.name, own(s.name, *value)))
        .collect();
    let wide = |(name, value): (&'static str, u32)| {
        let lanes = specs.iter().find(|(name, _)| *name == "SG").map_or(1, |(_, lanes)| *lanes);
        // Whole subgroups, as they are demanded.
        (name, if name == "WG" { value.next_multiple_of(lanes) } else { value })
    };
    let specs: Vec<_> = specs.iter().copied().map(wide).collect();
    let part = |executable: Executable| Part {
        name: executable.name,
        subgroup: executable.subgroup,
        statistics: executable.statistics,
        texts: executable.texts,
    };
    let parts = inspector.compile(kernel, &specs, true)?.into_iter().map(part).collect();
    let answer = Answer { device: caps.name.clone(), driver: caps.driver.clone(), parts };
    serde_json::to_writer(io::stdout().lock(), &answer)?;
    Ok(())
}

/// Folders of libraries.
fn libraries() -> Vec<PathBuf> {
    let below = |folder: &str| {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect::<Vec<_>>()
    };
    [vec!["/usr/lib64".into(), "/usr/lib".into()], below("/usr/lib")].concat()
}

/// The file in some folders whose name begins so.
fn find(folders: &[PathBuf], start: &str) -> Option<PathBuf> {
    let files = folders.iter().flat_map(|folder| std::fs::read_dir(folder).into_iter().flatten().flatten());
    files.map(|entry| entry.path()).find(|path| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(start)) && path.is_file()
    })
}
