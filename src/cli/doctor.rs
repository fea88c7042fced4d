//! `vkllm doctor`: the machine, its drivers, and every kernel that a model would use; what fails is remembered and not
//! used again.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Stdio};
use std::time::{Duration, Instant};

use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use vkllm_runtime::{Avoid, Caps, DeviceKind};

use super::args::ModelArgs;
use super::{CHECK, Failure, load};
use crate::doctor::{Examination, examine};
use crate::repro::{DeviceRecord, hex, unhex};
use crate::selftest::SEED;

/// Time for the kernels' tests, on devices that are fast and on those that are not.
const BUDGET: Duration = Duration::from_secs(4);
const SLOW_BUDGET: Duration = Duration::from_secs(40);
/// Time for a driver to name its devices.
const DRIVER_LIMIT: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// Model file whose kernels are tested; without it the small model that ships with the program
    #[arg(short = 'm', long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// Seconds after which no further cases are begun [default: 4 on a GPU, 40 in software]
    #[arg(long, value_name = "SECONDS")]
    budget: Option<f64>,
    /// Test without writing down what fails, and without using what was written down
    #[arg(long)]
    forget: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    common: ModelArgs,
}

/// What was found on devices, by driver, device and shaders.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Memory {
    entries: Vec<Entry>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    /// [`Caps::uuid`] in hexadecimal.
    device: String,
    name: String,
    driver: String,
    shaders: String,
    avoid: Vec<String>,
}

fn file(folder: &Path) -> PathBuf {
    folder.join("doctor.json")
}

fn memory(folder: &Path) -> Memory {
    let text = std::fs::read(file(folder)).unwrap_or_default();
    // A damaged file is none.
    serde_json::from_slice(&text).unwrap_or_default()
}

/// Kernels that were found wrong with these shaders.
pub(super) fn remembered(folder: &Path) -> Vec<Avoid> {
    let entries = memory(folder).entries.into_iter().filter(|entry| entry.shaders == crate::SHADER_HASH);
    entries
        .filter_map(|entry| {
            Some(Avoid { uuid: unhex(&entry.device)?.try_into().ok()?, kernels: entry.avoid })
        })
        .collect()
}

fn remember(folder: &Path, caps: &Caps, avoid: &[String]) -> io::Result<()> {
    let mut memory = memory(folder);
    let device = hex(&caps.uuid);
    memory.entries.retain(|entry| entry.device != device);
    if !avoid.is_empty() {
        memory.entries.push(Entry {
            device,
            name: caps.name.clone(),
            driver: caps.driver.clone(),
            shaders: crate::SHADER_HASH.to_owned(),
            avoid: avoid.to_vec(),
        });
    }
    std::fs::create_dir_all(folder)?;
    let path = file(folder);
    let part = path.with_extension(format!("{}.part", std::process::id()));
    std::fs::write(&part, serde_json::to_vec_pretty(&memory).map_err(io::Error::other)?)?;
    std::fs::rename(&part, &path)
}

pub(super) fn run(args: &DoctorArgs) -> Result<(), Failure> {
    let machine = machine();
    let drivers = drivers();
    let model = load::file(args.model.as_deref())?.without_predictor();
    let device = load::open_fresh(&args.common.device)??;
    let caps = device.caps().clone();
    let mut options = load::options(&args.common, &model, &device)?;
    options.context = options.context.or(Some(512.min(model.config.context)));
    let budget = match args.budget {
        Some(seconds) => Duration::try_from_secs_f64(seconds).unwrap_or_default(),
        None if caps.kind == DeviceKind::Cpu || caps.kind == DeviceKind::Reference => SLOW_BUDGET,
        None => BUDGET,
    };
    let bar = if io::stderr().is_terminal() {
        let style = indicatif::ProgressStyle::with_template("{wide_bar} {msg}");
        let style = style.unwrap_or_else(|_| indicatif::ProgressStyle::default_bar());
        indicatif::ProgressBar::new(0).with_style(style)
    } else {
        indicatif::ProgressBar::hidden()
    };
    let found = examine(&device, &model, &options, SEED, budget, &mut |kernel, done, all| {
        bar.set_length(all as u64);
        bar.set_position(done as u64);
        bar.set_message(kernel.to_owned());
    })?;
    bar.finish_and_clear();
    let mut kept = None;
    if let Some(folder) = load::cache_dir().filter(|_| !args.forget && found.device_error.is_none()) {
        kept = Some(remember(&folder, &caps, &found.avoid).map(|()| file(&folder)));
    }
    let mut out = io::stdout().lock();
    if args.json {
        let object = json!({
            "machine": machine.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect::<Vec<_>>(),
            "drivers": drivers,
            "device": DeviceRecord::new(&caps),
            "kernels": kernels_json(&found),
            "avoid": found.avoid,
            "instead": found.instead,
            "no_way": found.no_way,
            "device_error": found.device_error.as_ref().map(ToString::to_string),
            "seconds": found.time.as_secs_f64(),
            "well": found.is_well(),
        });
        serde_json::to_writer_pretty(&mut out, &object)?;
        writeln!(out)?;
    } else {
        for (name, value) in &machine {
            writeln!(out, "{name}: {value}")?;
        }
        for driver in &drivers {
            writeln!(out, "driver {}: {}", text(&driver["file"]), text(&driver["result"]))?;
        }
        print(&caps, &found, &mut out)?;
        match kept {
            Some(Err(error)) => writeln!(out, "this could not be written down: {error}")?,
            Some(Ok(path)) if !found.avoid.is_empty() => writeln!(out, "written down in {}", path.display())?,
            _ => {}
        }
    }
    if let Some(error) = found.device_error {
        return Err(error.into());
    }
    load::no_messages(&device)?;
    match found.avoid.len() {
        0 => Ok(()),
        count => Err(Failure::Told(format!("{count} of {} kernels are wrong", found.kernels.len()), CHECK)),
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn print(caps: &Caps, found: &Examination, out: &mut dyn Write) -> io::Result<()> {
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    let (major, minor, patch) = caps.api;
    writeln!(out, "device: {} ({}), {}, Vulkan {major}.{minor}.{patch}", caps.name, caps.kind, caps.driver)?;
    for heap in &caps.heaps {
        let local = if heap.device_local { "of the device" } else { "of the host" };
        let seen = if heap.host_visible { ", the host sees it" } else { "" };
        writeln!(out, "memory: {:.1} GiB {local}{seen}", gib(heap.size))?;
    }
    let features: Vec<_> = caps.has.iter().map(|need| need.name()).collect();
    writeln!(out, "subgroups of {}; {}", caps.subgroup, features.join(" "))?;
    writeln!(
        out,
        "limits: bindings of {:.2} GiB at multiples of {}, allocations of {:.1} GiB, workgroups of {}, {} KiB shared",
        gib(caps.max_binding),
        caps.offset_alignment,
        gib(caps.max_allocation),
        caps.max_workgroup,
        caps.max_shared / 1024
    )?;
    let (ran, cases): (usize, usize) =
        found.kernels.iter().fold((0, 0), |(r, c), k| (r + k.ran, c + k.cases));
    let seconds = found.time.as_secs_f64();
    writeln!(out, "kernels: {} tested with {ran} of {cases} cases in {seconds:.1} s", found.kernels.len())?;
    for report in &found.kernels {
        for (case, fault) in &report.failed {
            writeln!(out, "WRONG {}: case \"{case}\": {fault}", report.kernel)?;
        }
    }
    if let Some(error) = &found.device_error {
        writeln!(out, "the device failed: {error}")?;
    }
    if !found.avoid.is_empty() {
        writeln!(out, "not to be used: {}", found.avoid.join(", "))?;
        match &found.no_way {
            Some(reason) => {
                writeln!(out, "there is no other way: {reason}; \"--device reference\" works, slowly")?
            }
            None => {
                let untested = |name: &&str| {
                    found.kernels.iter().any(|report| report.kernel == *name && report.ran == report.skipped)
                };
                let told = found.instead.iter().map(|name| match untested(name) {
                    true => format!("{name} (cannot be tested on this device)"),
                    false => format!("{name} (tested)"),
                });
                writeln!(out, "used instead: {}", told.collect::<Vec<_>>().join(", "))?;
            }
        }
    } else if found.device_error.is_none() {
        writeln!(out, "all is well")?;
    }
    Ok(())
}

fn kernels_json(found: &Examination) -> Vec<Value> {
    let one = |report: &crate::doctor::KernelReport| {
        let failed: Vec<_> =
            report.failed.iter().map(|(case, text)| json!({ "case": case, "fault": text })).collect();
        json!({
            "kernel": report.kernel,
            "op": report.op,
            "ran": report.ran,
            "skipped": report.skipped,
            "cases": report.cases,
            "seconds": report.time.as_secs_f64(),
            "failed": failed,
        })
    };
    found.kernels.iter().map(one).collect()
}

fn read(path: &Path) -> Option<String> {
    Some(std::fs::read_to_string(path).ok()?.trim().to_owned()).filter(|text| !text.is_empty())
}

/// What the operating system says about the machine's GPUs: nothing where it says nothing.
fn machine() -> Vec<(String, String)> {
    let mut all = vec![("system".to_owned(), format!("{} {}", std::env::consts::OS, std::env::consts::ARCH))];
    let mut add = |name: &str, path: &Path| all.extend(read(path).map(|value| (name.to_owned(), value)));
    add("kernel", Path::new("/proc/sys/kernel/osrelease"));
    add(
        "watchdog of amdgpu in ms, by kind of queue",
        Path::new("/sys/module/amdgpu/parameters/lockup_timeout"),
    );
    add("power profile of the platform", Path::new("/sys/firmware/acpi/platform_profile"));
    add("governor of the CPU", Path::new("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"));
    let mut cards =
        entries(Path::new("/sys/class/drm"), |name| name.starts_with("card") && !name.contains('-'));
    cards.sort();
    for card in cards {
        let name = card.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let device = card.join("device");
        add(&format!("{name} carve-out in bytes"), &device.join("mem_info_vram_total"));
        add(&format!("{name} GTT in bytes"), &device.join("mem_info_gtt_total"));
        add(&format!("{name} power level"), &device.join("power_dpm_force_performance_level"));
        let engines = entries(&card.join("engine"), |_| true);
        for engine in engines {
            let of = engine.file_name().unwrap_or_default().to_string_lossy().into_owned();
            add(&format!("{name} watchdog of {of} in ms"), &engine.join("preempt_timeout_ms"));
        }
    }
    let mut nodes = entries(Path::new("/dev/dri"), |name| name.starts_with("renderD"));
    nodes.push(PathBuf::from("/dev/kfd"));
    nodes.retain(|node| node.exists());
    nodes.sort();
    if nodes.is_empty() && cfg!(target_os = "linux") {
        all.push(("device nodes".into(), "none in /dev/dri: no GPU driver of the kernel is loaded".into()));
    }
    for node in nodes {
        let opened = std::fs::OpenOptions::new().read(true).write(true).open(&node);
        let text = match opened {
            Ok(_) => "can be opened".into(),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                "may not be opened by this user; add the user to the group that owns it, often render or video".into()
            }
            Err(error) => error.to_string(),
        };
        all.push((node.display().to_string(), text));
    }
    all
}

fn entries(folder: &Path, wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let Ok(all) = std::fs::read_dir(folder) else { return Vec::new() };
    all.flatten()
        .filter(|entry| wanted(&entry.file_name().to_string_lossy()))
        .map(|entry| entry.path())
        .collect()
}

/// Every driver file that the loader would find, and what comes of loading it alone.
fn drivers() -> Vec<Value> {
    let listed = ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"].iter().find_map(std::env::var_os);
    let mut files: Vec<PathBuf> = match listed {
        Some(list) => std::env::split_paths(&list).collect(),
        None => {
            let home =
                std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/share/vulkan/icd.d"));
            let folders = ["/etc/vulkan/icd.d", "/usr/local/share/vulkan/icd.d", "/usr/share/vulkan/icd.d"];
            let folders = folders.iter().map(PathBuf::from).chain(home);
            folders.flat_map(|folder| entries(&folder, |name| name.ends_with(".json"))).collect()
        }
    };
    files.sort();
    files.iter().map(|path| json!({ "file": path, "result": alone(path) })).collect()
}

fn alone(path: &Path) -> String {
    let Some(manifest) = read(path) else { return "the file cannot be read or is empty".into() };
    let library = match serde_json::from_str::<Value>(&manifest) {
        Ok(value) => value["ICD"]["library_path"].as_str().map(PathBuf::from),
        Err(error) => return format!("the file is no JSON: {error}"),
    };
    let Some(library) = library else { return "the file names no library".into() };
    if library.is_absolute() && !library.exists() {
        return format!("its library {} is not there", library.display());
    }
    devices_of(path).unwrap_or_else(|error| format!("it could not be tried: {error}"))
}

/// Names of the devices of one driver, from a child process that may crash or hang.
fn devices_of(path: &Path) -> io::Result<String> {
    let mut child = Process::new(std::env::current_exe()?)
        .args(["devices", "--json"])
        .env("VK_DRIVER_FILES", path)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let start = Instant::now();
    while child.try_wait()?.is_none() {
        if start.elapsed() > DRIVER_LIMIT {
            child.kill()?;
            child.wait()?;
            return Ok(format!("it hangs: no answer within {} s", DRIVER_LIMIT.as_secs()));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        let told = String::from_utf8_lossy(&output.stderr);
        let last = told.lines().next_back().unwrap_or_default();
        return Ok(match output.status.code() {
            Some(_) => last.strip_prefix("vkllm: ").unwrap_or(last).to_owned(),
            None => format!("it crashes: {}", output.status),
        });
    }
    let list: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let names: Vec<&str> =
        list.as_array().into_iter().flatten().map(|device| text(&device["name"])).collect();
    Ok(if names.is_empty() { "it has no device of Vulkan 1.3".into() } else { names.join(", ") })
}
