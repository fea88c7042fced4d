//! Which GPUs are simulated and how: the library that fakes the kernel's side, or the driver's own null device.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

/// A GPU to compile for.
#[derive(Debug)]
pub(crate) struct Device {
    /// Name on the command line and of its baselines.
    pub(crate) name: &'static str,
    /// Product or chip.
    pub(crate) title: &'static str,
    /// The driver also counts what was never in registers as spilled, so spills only fail when they grow.
    pub(crate) loose: bool,
    /// Ways to simulate it, best first; which of them work depends on the version of Mesa.
    pub(crate) ways: &'static [Way],
}

/// One way to simulate a GPU.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way {
    /// First part of the file name of the driver's manifest.
    pub(crate) driver: &'static str,
    /// Library to preload; `None` for the null device, which knows no memory and no kernel records.
    pub(crate) shim: Option<&'static str>,
    /// Variable that chooses the GPU, and its value.
    pub(crate) chosen: Option<(&'static str, &'static str)>,
}

const fn amd(id: &'static str) -> Way {
    Way {
        driver: "radeon_icd",
        shim: Some("libamdgpu_noop_drm_shim.so"),
        chosen: Some(("AMDGPU_GPU_ID", id)),
    }
}

/// RADV without any kernel interface; gone in Mesa 26.
const fn null(family: &'static str) -> Way {
    Way { driver: "radeon_icd", shim: None, chosen: Some(("RADV_FORCE_FAMILY", family)) }
}

const fn nvk(chipset: &'static str) -> Way {
    let shim = Some("libnouveau_noop_drm_shim.so");
    Way { driver: "nouveau_icd", shim, chosen: Some(("NOUVEAU_CHIPSET", chipset)) }
}

const fn turnip(id: &'static str) -> Way {
    Way {
        driver: "freedreno_icd",
        shim: Some("libfreedreno_noop_drm_shim.so"),
        chosen: Some(("FD_GPU_ID", id)),
    }
}

/// Its shim knows one chip, the M1.
const HONEYKRISP: Way = Way { driver: "asahi_icd", shim: Some("libasahi_noop_drm_shim.so"), chosen: None };

const fn device(name: &'static str, title: &'static str, ways: &'static [Way]) -> Device {
    Device { name, title, loose: false, ways }
}

/// All devices. Names of chips differ by version of Mesa.
pub(crate) static DEVICES: &[Device] = &[
    device("890m", "Radeon 890M, gfx1150", &[amd("gfx1150"), amd("strix1")]),
    device("8060s", "Radeon 8060S, gfx1151", &[null("gfx1151")]),
    device("780m", "Radeon 780M, gfx1103", &[amd("phoenix"), null("phoenix")]),
    device("rembrandt", "Radeon 680M, gfx1035", &[amd("rembrandt"), null("rembrandt")]),
    device("navi31", "Radeon RX 7900 XTX, gfx1100", &[amd("navi31")]),
    device("navi33", "Radeon RX 7600, gfx1102", &[amd("navi33"), null("navi33")]),
    device("navi21", "Radeon RX 6800 XT, gfx1030", &[amd("navi21")]),
    device("gfx1201", "Radeon RX 9070 XT, gfx1201", &[amd("gfx1201"), null("gfx1201")]),
    device("turing", "NVIDIA Turing, TU102", &[nvk("162")]),
    device("ada", "NVIDIA Ada, AD102", &[nvk("192")]),
    device("adreno740", "Adreno 740", &[turnip("740")]),
    // Honeykrisp keeps constant tables in scratch memory.
    Device { loose: true, ..device("m1", "Apple M1", &[HONEYKRISP]) },
];

/// Variables that would change what a driver compiles, or for what.
const FOREIGN: &[&str] = &[
    "LD_PRELOAD",
    "LD_LIBRARY_PATH",
    "VK_ICD_FILENAMES",
    "VK_INSTANCE_LAYERS",
    "RADV_FORCE_FAMILY",
    "RADV_DEBUG",
    "RADV_PERFTEST",
    "ACO_DEBUG",
    "NVK_DEBUG",
    "NAK_DEBUG",
    "TU_DEBUG",
    "IR3_SHADER_DEBUG",
    "ASAHI_MESA_DEBUG",
    "AMDGPU_GPU_ID",
    "NOUVEAU_CHIPSET",
    "FD_GPU_ID",
];

/// Where a Mesa lies.
pub(crate) struct Mesa {
    /// `/` for the system's own.
    root: PathBuf,
    /// Folders of libraries that exist.
    libraries: Vec<PathBuf>,
    /// The program loader of a root with a C library of its own.
    loader: Option<PathBuf>,
    /// Manifests that name drivers of another root by their whole paths.
    manifests: PathBuf,
}

impl Mesa {
    pub(crate) fn find(root: &Path) -> anyhow::Result<Mesa> {
        let root = root.canonicalize().with_context(|| format!("there is no folder {}", root.display()))?;
        let mut libraries = Vec::new();
        for folder in ["usr/lib", "usr/lib64", "usr/local/lib"] {
            let folder = root.join(folder);
            let inner = fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.path());
            libraries
                .extend(inner.filter(|path| path.is_dir() && path.to_string_lossy().ends_with("-linux-gnu")));
            libraries.extend(folder.is_dir().then_some(folder));
        }
        let foreign = root != Path::new("/");
        let loader = root.join("usr/lib64/ld-linux-x86-64.so.2");
        let loader = (foreign && loader.exists()).then_some(loader);
        let manifests = std::env::temp_dir().join(format!("vkllm-isa-{}", std::process::id()));
        if foreign {
            fs::create_dir_all(&manifests)
                .with_context(|| format!("cannot make the folder {}", manifests.display()))?;
        }
        Ok(Mesa { root, libraries, loader, manifests })
    }

    fn is_system(&self) -> bool {
        self.root == Path::new("/")
    }

    fn library(&self, name: &str) -> Option<PathBuf> {
        self.libraries.iter().map(|folder| folder.join(name)).find(|path| path.exists())
    }

    /// The manifest of a driver. One of another root names a library that the system's loader would not find, or
    /// would find in the system.
    fn manifest(&self, driver: &str) -> Option<PathBuf> {
        let found = ["usr/share", "usr/local/share", "etc"].iter().find_map(|folder| {
            let entries = fs::read_dir(self.root.join(folder).join("vulkan/icd.d")).ok()?;
            let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
            paths.sort();
            // The dot keeps drivers of 32-bit programs out: their names end in `.i686.json`.
            let machine = format!("{driver}.{}.json", std::env::consts::ARCH);
            let names = [format!("{driver}.json"), machine];
            paths.into_iter().find(|path| names.iter().any(|name| path.ends_with(name)))
        })?;
        if self.is_system() {
            return Some(found);
        }
        let json: serde_json::Value = serde_json::from_slice(&fs::read(&found).ok()?).ok()?;
        let icd = json.get("ICD")?;
        let library = Path::new(icd.get("library_path")?.as_str()?).file_name()?.to_str()?;
        let library = self.library(library)?;
        let version = icd.get("api_version").cloned().unwrap_or_else(|| "1.3.0".into());
        let own = serde_json::json!({
            "file_format_version": "1.0.0",
            "ICD": { "api_version": version, "library_path": library },
        });
        let path = self.manifests.join(format!("{driver}.json"));
        fs::write(&path, own.to_string()).ok()?;
        Some(path)
    }

    /// A command that runs this program with a device simulated in one of its ways.
    ///
    /// Errors: a sentence that says what is not installed.
    pub(crate) fn command(&self, way: &Way) -> Result<Command, String> {
        let program =
            std::env::current_exe().map_err(|error| format!("this program has no path: {error}"))?;
        let manifest =
            self.manifest(way.driver).ok_or_else(|| format!("the driver {} is not installed", way.driver))?;
        let shim = match way.shim {
            Some(name) => Some(self.library(name).ok_or_else(|| format!("{name} is not installed"))?),
            None => None,
        };
        let folders: Vec<PathBuf> =
            self.libraries.iter().flat_map(|folder| [folder.clone(), folder.join("llvm")]).collect();
        let folders = std::env::join_paths(folders).map_err(|error| error.to_string())?;
        let mut command = match &self.loader {
            Some(loader) => {
                let mut command = Command::new(loader);
                command.arg("--inhibit-cache").arg("--library-path").arg(&folders);
                if let Some(shim) = &shim {
                    command.arg("--preload").arg(shim);
                }
                command.arg(program);
                command
            }
            None => Command::new(program),
        };
        for variable in FOREIGN {
            command.env_remove(variable);
        }
        if self.loader.is_none() {
            if !self.is_system() {
                command.env("LD_LIBRARY_PATH", &folders);
            }
            if let Some(shim) = &shim {
                command.env("LD_PRELOAD", shim);
            }
        }
        if let Some((variable, value)) = way.chosen {
            command.env(variable, value);
        }
        command
            .env("VK_DRIVER_FILES", &manifest)
            .env("VK_ICD_FILENAMES", &manifest)
            .env("VK_LOADER_LAYERS_DISABLE", "~all~")
            // What was compiled before is not compiled now: a crash of the compiler would be missed.
            .env("MESA_SHADER_CACHE_DISABLE", "true");
        Ok(command)
    }
}

impl Drop for Mesa {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.manifests);
    }
}
