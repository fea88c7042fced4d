//! The machine a measurement was made on, as far as Linux tells: what does not change, and what does. Elsewhere, and where a
//! file is absent or not ours to read, a value is absent.

use std::fs;
use std::path::{Path, PathBuf};

use vkllm_runtime::{Caps, DeviceKind};

/// What stays.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Machine {
    pub cpu: Option<String>,
    pub threads: usize,
    /// Version of the operating system's kernel.
    pub kernel: Option<String>,
    /// Version of the card's firmware.
    pub firmware: Option<String>,
    /// Bytes of memory set aside for the GPU, and of system memory that it may use besides.
    pub carve_out: Option<u64>,
    pub shared: Option<u64>,
    /// Bytes of the largest cache before the device's memory: the card's where its driver tells, else the CPU's.
    pub cache: Option<u64>,
    /// Bytes per second that the device's memory has on paper, and who says so.
    pub nominal: Option<(f64, &'static str)>,
    /// Where changing values are read.
    sources: Sources,
}

/// Files of changing values.
#[derive(Clone, Debug, Default, PartialEq)]
struct Sources {
    root: PathBuf,
    /// The GPU's folder and its sensors'.
    card: Option<PathBuf>,
    sensors: Option<PathBuf>,
    /// The processor package's energy counter.
    package: Option<PathBuf>,
}

/// What changes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    pub governor: Option<String>,
    pub profile: Option<String>,
    /// `ac` or `battery`.
    pub supply: Option<String>,
    /// MHz of the first CPU, of the GPU's core and of its memory.
    pub cpu_clock: Option<u64>,
    pub core_clock: Option<u64>,
    pub memory_clock: Option<u64>,
    /// Degrees Celsius of the GPU, or the processor where it has none of its own.
    pub temperature: Option<f64>,
    /// Watts.
    pub power: Option<f64>,
    /// Joules the processor package has used so far; the counter wraps around.
    pub package_energy: Option<f64>,
    /// Joules at which the counter begins anew.
    pub package_wrap: Option<f64>,
    /// How often the processor slowed down because it was hot.
    pub throttled: Option<u64>,
}

fn text(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

fn number(path: &Path) -> Option<u64> {
    text(path)?.parse().ok()
}

/// Folders of a folder, by name.
fn folders(path: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> =
        fs::read_dir(path).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect();
    all.sort();
    all
}

fn hex(path: &Path) -> Option<u32> {
    u32::from_str_radix(text(path)?.trim_start_matches("0x"), 16).ok()
}

/// The clock in use in a list as amdgpu has it, `1: 1000Mhz *`.
fn current_clock(list: &str) -> Option<u64> {
    let line = list.lines().find(|line| line.trim_end().ends_with('*'))?;
    let digits: String = line.split_once(':')?.1.trim().chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

/// The highest clock of such a list.
#[cfg(target_os = "linux")]
fn highest_clock(list: &str) -> Option<u64> {
    let clock = |line: &str| {
        let digits: String =
            line.split_once(':')?.1.trim().chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok()
    };
    list.lines().filter_map(clock).max()
}

/// What a card's driver says of its memory: bytes per second on paper, and bytes of the largest cache before it.
#[cfg(target_os = "linux")]
fn card_memory(root: &Path, card: &Path) -> (Option<f64>, Option<u64>) {
    let nodes = folders(&card.join("drm"));
    let names = nodes.iter().filter_map(|path| path.file_name()?.to_str());
    let Some(name) = names.into_iter().find(|name| name.starts_with("renderD")) else { return (None, None) };
    let dpm = text(&card.join("pp_dpm_mclk")).and_then(|list| highest_clock(&list));
    let answer = super::amdgpu::memory(&root.join("dev/dri").join(name));
    answer.map_or((None, None), |record| {
        let memory = super::amdgpu::read(&record, dpm);
        (memory.nominal, memory.cache)
    })
}

#[cfg(not(target_os = "linux"))]
fn card_memory(_: &Path, _: &Path) -> (Option<f64>, Option<u64>) {
    (None, None)
}

/// A size as Linux writes those of caches, `32768K`.
fn size(text: &str) -> Option<u64> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let factor = match unit {
        "" => 1,
        "K" => 1 << 10,
        "M" => 1 << 20,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// Bytes per second of a memory module from its DMI record of type 17; `None` for an empty slot.
fn module(record: &[u8]) -> Option<f64> {
    let word = |at: usize| Some(u16::from_le_bytes([*record.get(at)?, *record.get(at + 1)?]));
    if record.first() != Some(&17) || word(0x0c)? == 0 {
        return None;
    }
    // Data width without bits for correction; the configured speed, else what the module could do.
    let width = word(0x0a).filter(|width| (1..=1024).contains(width))?;
    let long = usize::from(*record.get(1)?);
    let configured = (long > 0x21).then(|| word(0x20)).flatten().filter(|speed| (1..0xffff).contains(speed));
    let speed = configured.or_else(|| word(0x15).filter(|speed| (1..0xffff).contains(speed)))?;
    Some(f64::from(width) / 8.0 * f64::from(speed) * 1e6)
}

impl Machine {
    /// Reads the machine of a device.
    pub fn of(caps: &Caps) -> Self {
        Machine::under(Path::new("/"), caps)
    }

    /// As [`Machine::of`], with the system's files below another folder.
    pub fn under(root: &Path, caps: &Caps) -> Self {
        let gpu = !matches!(caps.kind, DeviceKind::Cpu | DeviceKind::Reference);
        let card =
            folders(&root.join("sys/class/drm")).into_iter().map(|card| card.join("device")).find(|card| {
                let is = |file, id| hex(&card.join(file)) == Some(id);
                gpu && is("vendor", caps.vendor_id) && is("device", caps.device_id)
            });
        let hwmon = |card: &PathBuf| folders(&card.join("hwmon")).into_iter().next();
        let processor = |path: &PathBuf| {
            matches!(text(&path.join("name")).as_deref(), Some("k10temp" | "coretemp" | "zenpower"))
        };
        let sensors = card
            .as_ref()
            .and_then(hwmon)
            .or_else(|| folders(&root.join("sys/class/hwmon")).into_iter().find(processor));
        let rapl = root.join("sys/class/powercap/intel-rapl:0");
        let cpuinfo = text(&root.join("proc/cpuinfo")).unwrap_or_default();
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
        let caches = folders(&root.join("sys/devices/system/cpu/cpu0/cache"));
        let entries = folders(&root.join("sys/firmware/dmi/entries"));
        let modules = entries
            .iter()
            .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("17-")))
            .filter_map(|path| module(&fs::read(path.join("raw")).ok()?));
        let modules: f64 = modules.sum();
        // A card with memory of its own does not use the modules'.
        let modules = (modules > 0.0 && caps.kind != DeviceKind::Discrete).then_some(modules);
        let (own, own_cache) = card.as_ref().map_or((None, None), |card| card_memory(root, card));
        let nominal = own.map(|own| (own, "the card's driver"));
        let of_card = |file: &str| number(&card.as_ref()?.join(file));
        Machine {
            cpu: model.map(|(_, name)| name.trim().to_owned()),
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: text(&root.join("proc/sys/kernel/osrelease")),
            firmware: card.as_ref().and_then(|card| text(&card.join("vbios_version"))),
            carve_out: of_card("mem_info_vram_total"),
            shared: of_card("mem_info_gtt_total"),
            cache: own_cache
                .or_else(|| caches.iter().filter_map(|cache| size(&text(&cache.join("size"))?)).max()),
            nominal: nominal.or(modules.map(|modules| (modules, "the memory modules"))),
            sources: Sources {
                root: root.to_owned(),
                package: rapl.join("energy_uj").exists().then_some(rapl),
                card,
                sensors,
            },
        }
    }

    /// Reads what changes.
    pub fn snapshot(&self) -> Snapshot {
        let Sources { root, card, sensors, package } = &self.sources;
        let cpu = root.join("sys/devices/system/cpu/cpu0");
        let clock = |file: &str| current_clock(&text(&card.as_ref()?.join(file))?);
        let sensor = |file: &str| number(&sensors.as_ref()?.join(file));
        let energy = |file: &str| Some(number(&package.as_ref()?.join(file))? as f64 / 1e6);
        let supplies = folders(&root.join("sys/class/power_supply"));
        let mains = supplies.iter().filter(|supply| text(&supply.join("type")).as_deref() == Some("Mains"));
        let online: Vec<u64> = mains.filter_map(|supply| number(&supply.join("online"))).collect();
        let supply = if online.contains(&1) { "ac" } else { "battery" };
        Snapshot {
            governor: text(&cpu.join("cpufreq/scaling_governor")),
            profile: text(&root.join("sys/firmware/acpi/platform_profile")),
            supply: (!online.is_empty()).then(|| supply.to_owned()),
            cpu_clock: number(&cpu.join("cpufreq/scaling_cur_freq")).map(|khz| khz / 1000),
            core_clock: clock("pp_dpm_sclk"),
            memory_clock: clock("pp_dpm_mclk"),
            temperature: sensor("temp1_input").map(|milli| milli as f64 / 1e3),
            power: sensor("power1_average")
                .or_else(|| sensor("power1_input"))
                .map(|micro| micro as f64 / 1e6),
            package_energy: energy("energy_uj"),
            package_wrap: energy("max_energy_range_uj"),
            throttled: number(&cpu.join("thermal_throttle/package_throttle_count")),
        }
    }
}

impl Snapshot {
    /// Joules between two snapshots `seconds` apart, and how they are known.
    pub fn energy_until(&self, later: &Snapshot, seconds: f64) -> Option<(f64, &'static str)> {
        if let (Some(before), Some(after)) = (self.package_energy, later.package_energy) {
            let wrapped = if after < before { later.package_wrap? } else { 0.0 };
            return Some((after - before + wrapped, "rapl package"));
        }
        let power = (self.power? + later.power?) / 2.0;
        Some((power * seconds, "hwmon power before and after"))
    }

    /// Whether the processor slowed down for heat in between.
    pub fn throttled_until(&self, later: &Snapshot) -> bool {
        matches!((self.throttled, later.throttled), (Some(before), Some(after)) if after > before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, files: &[(&str, &str)]) {
        for (name, text) in files {
            let path = root.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    }

    fn apu() -> Caps {
        let reference = vkllm_runtime::Device::open(&vkllm_runtime::DeviceOptions {
            selector: vkllm_runtime::Selector::Reference,
            ..Default::default()
        });
        let caps = reference.unwrap().caps().clone();
        Caps { kind: DeviceKind::Integrated, vendor_id: 0x1002, device_id: 0x150e, ..caps }
    }

    #[test]
    fn an_apu_tells_its_state() {
        let root = tempfile::tempdir().unwrap();
        let card = "sys/class/drm/card1/device/";
        let of = |file: &str| format!("{card}{file}");
        write(
            root.path(),
            &[
                ("proc/cpuinfo", "processor\t: 0\nmodel name\t: AMD Ryzen AI 9 HX 370\n"),
                ("proc/sys/kernel/osrelease", "6.12.1\n"),
                ("sys/class/drm/card0/device/vendor", "0x10de\n"),
                (&of("vendor"), "0x1002\n"),
                (&of("device"), "0x150e\n"),
                (&of("vbios_version"), "113-STRIX-001\n"),
                (&of("mem_info_vram_total"), "536870912\n"),
                (&of("pp_dpm_sclk"), "0: 600Mhz\n1: 2900Mhz *\n"),
                (&of("pp_dpm_mclk"), "0: 1000Mhz *\n1: 2000Mhz\n"),
                (&of("hwmon/hwmon3/temp1_input"), "61000\n"),
                (&of("hwmon/hwmon3/power1_input"), "28500000\n"),
                ("sys/devices/system/cpu/cpu0/cache/index3/size", "24576K\n"),
                ("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "powersave\n"),
                ("sys/firmware/acpi/platform_profile", "balanced\n"),
                ("sys/class/power_supply/AC/type", "Mains\n"),
                ("sys/class/power_supply/AC/online", "0\n"),
            ],
        );
        let machine = Machine::under(root.path(), &apu());
        assert_eq!(machine.cpu.as_deref(), Some("AMD Ryzen AI 9 HX 370"));
        assert_eq!(machine.firmware.as_deref(), Some("113-STRIX-001"));
        assert_eq!(
            (machine.carve_out, machine.cache, machine.nominal),
            (Some(1 << 29), Some(24 << 20), None)
        );
        let now = machine.snapshot();
        assert_eq!((now.core_clock, now.memory_clock), (Some(2900), Some(1000)));
        assert_eq!((now.temperature, now.power), (Some(61.0), Some(28.5)));
        assert_eq!((now.supply.as_deref(), now.profile.as_deref()), (Some("battery"), Some("balanced")));
        assert_eq!(now.energy_until(&now, 2.0), Some((57.0, "hwmon power before and after")));
    }

    #[test]
    fn a_machine_that_tells_nothing_is_no_error() {
        let root = tempfile::tempdir().unwrap();
        let machine = Machine::under(root.path(), &apu());
        assert_eq!((&machine.cpu, machine.nominal), (&None, None));
        assert_eq!(machine.snapshot(), Snapshot::default());
        assert_eq!(Snapshot::default().energy_until(&Snapshot::default(), 1.0), None);
    }

    #[test]
    fn counters_wrap_around() {
        let at = |joules| Snapshot {
            package_energy: Some(joules),
            package_wrap: Some(1000.0),
            throttled: Some(joules as u64),
            ..Snapshot::default()
        };
        assert_eq!(at(990.0).energy_until(&at(10.0), 1.0), Some((20.0, "rapl package")));
        assert!(at(1.0).throttled_until(&at(2.0)) && !at(2.0).throttled_until(&at(2.0)));
    }

    #[test]
    fn modules_are_the_memory_of_those_who_share_it() {
        let root = tempfile::tempdir().unwrap();
        for slot in 0..4 {
            let folder = root.path().join(format!("sys/firmware/dmi/entries/17-{slot}"));
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("raw"), module_record()).unwrap();
        }
        let nominal = |kind| Machine::under(root.path(), &Caps { kind, ..apu() }).nominal;
        assert_eq!(nominal(DeviceKind::Integrated), Some((120e9, "the memory modules")));
        assert_eq!(nominal(DeviceKind::Cpu), Some((120e9, "the memory modules")));
        assert_eq!(nominal(DeviceKind::Discrete), None);
    }

    /// A DMI record of 32 bits of LPDDR5X-7500.
    fn module_record() -> Vec<u8> {
        let mut record = vec![0u8; 0x54];
        (record[0], record[1]) = (17, 0x54);
        record[0x0a] = 32;
        record[0x0c..0x0e].copy_from_slice(&8192u16.to_le_bytes());
        record[0x15..0x17].copy_from_slice(&8533u16.to_le_bytes());
        record[0x20..0x22].copy_from_slice(&7500u16.to_le_bytes());
        record
    }

    #[test]
    fn modules_of_memory_are_added_up() {
        let mut record = module_record();
        // Four of these make the 120 GB/s of a Radeon 890M.
        assert_eq!(module(&record), Some(30e9));
        record[0x20..0x22].copy_from_slice(&0u16.to_le_bytes());
        assert_eq!(module(&record), Some(4.0 * 8533e6));
        record[0x0c..0x0e].copy_from_slice(&0u16.to_le_bytes());
        assert_eq!(module(&record), None);
        assert_eq!(module(&[17, 2]), None);
        assert_eq!((size("32768K"), size("1M"), size("x")), (Some(32 << 20), Some(1 << 20), None));
        assert_eq!(current_clock("0: 96Mhz\n"), None);
        #[cfg(target_os = "linux")]
        assert_eq!(highest_clock("0: 1000Mhz *\n1: 1875Mhz\n2: 937Mhz\n"), Some(1875));
    }
}
