//! From arguments to an open device and a loaded model, with a progress bar where somebody watches.

use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};

use std::time::Duration;

use vkllm_runtime::{Device, DeviceOptions, Need, Selector, Simulated, Validation};

use super::args::{ActivationsArg, CacheArgs, ContextArg, DeviceArgs, ModelArgs, ValidateArg};
use super::{CHECK, Failure, doctor, input};
use crate::gguf::Gguf;
use crate::{Activations, KvType, LoadMode, Model, ModelFile, ModelOptions, Watch};

/// The model that ships with the program: stories260K, see assets/README.md.
const BUILT_IN: &[u8] = include_bytes!("../../assets/stories260k.q8_0.gguf");

/// Whether standard error may have colours.
pub(super) fn colours() -> bool {
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

pub(super) fn absolute(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute())
}

/// The user's own folder.
pub(super) fn home() -> Option<PathBuf> {
    absolute("HOME").or_else(|| absolute("USERPROFILE"))
}

/// Folder of the pipeline cache, as the XDG base directory specification has it.
pub(super) fn cache_dir() -> Option<PathBuf> {
    let base = absolute("XDG_CACHE_HOME")
        .or_else(|| absolute("LOCALAPPDATA"))
        .or_else(|| absolute("HOME").map(|home| home.join(".cache")))?;
    Some(base.join("vkllm"))
}

/// Folder of what is kept between runs but is no setting, as the same specification has it.
pub(super) fn state_dir() -> Option<PathBuf> {
    let base = absolute("XDG_STATE_HOME")
        .or_else(|| absolute("LOCALAPPDATA"))
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))?;
    Some(base.join("vkllm"))
}

pub(super) fn selector(name: Option<&str>) -> Selector {
    match name {
        None => Selector::Auto,
        Some("reference") => Selector::Reference,
        Some(name) => name.parse().map_or_else(|_| Selector::Name(name.to_owned()), Selector::Index),
    }
}

/// Opens the device that was asked for.
pub(super) fn device(args: &DeviceArgs) -> Result<Device, Failure> {
    Ok(open(args)??)
}

/// As [`device`], with the device's own errors apart from those of the arguments.
pub(super) fn open(args: &DeviceArgs) -> Result<Result<Device, vkllm_runtime::Error>, Failure> {
    let device = Device::open(&device_options(args)?);
    if let Ok(device) = &device
        && !device.caps().avoid.is_empty()
    {
        let (name, kernels) = (&device.caps().name, device.caps().avoid.join(", "));
        tracing::warn!("{name} computes {kernels} wrongly, as the doctor found; other kernels are used");
    }
    Ok(device)
}

/// As [`open`], as if no doctor had been there.
pub(super) fn open_fresh(args: &DeviceArgs) -> Result<Result<Device, vkllm_runtime::Error>, Failure> {
    Ok(Device::open(&DeviceOptions { avoid: Vec::new(), ..device_options(args)? }))
}

/// What was asked for of a device, without the kernels that the doctor found wrong on it.
pub(super) fn device_options(args: &DeviceArgs) -> Result<DeviceOptions, Failure> {
    let mut minus = Vec::new();
    if let Some(caps) = &args.caps {
        let list = caps.strip_prefix("minus:").ok_or_else(|| {
            input(format!(
                "--caps is \"{caps}\"; allowed is minus: and a list of features, for example minus:fp16"
            ))
        })?;
        for name in list.split(',') {
            let need = Need::ALL.iter().find(|need| need.name() == name).ok_or_else(|| {
                let known: Vec<_> = Need::ALL.iter().map(|need| need.name()).collect();
                input(format!("--caps names the feature \"{name}\"; known are {}", known.join(", ")))
            })?;
            minus.push(*need);
        }
    }
    let mut simulate = Vec::new();
    for name in &args.simulate {
        let kind = Simulated::ALL.iter().find(|kind| kind.name() == name).ok_or_else(|| {
            let known: Vec<_> = Simulated::ALL.iter().map(|kind| kind.name()).collect();
            input(format!("--simulate is \"{name}\"; allowed are {}", known.join(", ")))
        })?;
        simulate.push(*kind);
    }
    let validation = match args.validate {
        None => Validation::Off,
        Some(ValidateArg::Core) => Validation::Core,
        Some(ValidateArg::Sync) => Validation::Sync,
        Some(ValidateArg::Gpu) => Validation::Gpu,
    };
    Ok(DeviceOptions {
        selector: selector(args.device.as_deref()),
        validation,
        minus,
        simulate,
        subgroup: args.subgroup,
        capture: args.capture_friendly,
        slice: Some(Duration::from_millis(args.slice_ms.into())),
        cache_dir: cache_dir(),
        cache_key: crate::SHADER_HASH.to_owned(),
        avoid: cache_dir().map(|folder| doctor::remembered(&folder)).unwrap_or_default(),
        ..DeviceOptions::default()
    })
}

/// Fails when the validation layers had something to say.
pub(super) fn no_messages(device: &Device) -> Result<(), Failure> {
    let messages = device.take_messages();
    match messages.first() {
        None => Ok(()),
        Some(first) => {
            let count = messages.len();
            let sentence = format!(
                "the validation layers gave {count} messages; the first, {}: {}",
                first.id, first.text
            );
            Err(Failure::Told(sentence, CHECK))
        }
    }
}

fn kv_type(option: &str, name: Option<&str>) -> Result<Option<KvType>, Failure> {
    name.map(|name| {
        KvType::parse(name).ok_or_else(|| {
            let known = KvType::ALL.map(KvType::name).join(", ");
            input(format!("{option} is \"{name}\"; allowed are {known}"))
        })
    })
    .transpose()
}

/// Types of cached keys and values from arguments.
pub(super) fn cache_types(args: &CacheArgs) -> Result<[Option<KvType>; 2], Failure> {
    Ok([
        kv_type("--cache-type-k", args.cache_type_k.as_deref())?,
        kv_type("--cache-type-v", args.cache_type_v.as_deref())?,
    ])
}

/// Model options from arguments. `auto` asks the device how much fits.
pub(super) fn options(args: &ModelArgs, file: &ModelFile, device: &Device) -> Result<ModelOptions, Failure> {
    let [k_type, v_type] = cache_types(&args.cache)?;
    let weights = LoadMode::parse(&args.weights).ok_or_else(|| {
        let known: Vec<_> = LoadMode::ALL.iter().map(|mode| mode.name()).collect();
        input(format!("--weights is \"{}\"; allowed are {}", args.weights, known.join(", ")))
    })?;
    let mut options = ModelOptions {
        context: match args.ctx_size {
            Some(ContextArg::Tokens(tokens)) => Some(tokens),
            Some(ContextArg::Auto) | None => None,
        },
        batch: args.ubatch_size,
        sessions: 1,
        activations: match args.activations {
            ActivationsArg::Float => Activations::Float,
            ActivationsArg::Int8 => Activations::Int8,
            ActivationsArg::Half => Activations::Half,
            ActivationsArg::Auto => Activations::Auto,
        },
        k_type,
        v_type,
        weights,
        ..ModelOptions::default()
    };
    if args.ctx_size == Some(ContextArg::Auto) {
        options.context = Some(file.largest_context(device, &options)?);
    }
    Ok(options)
}

/// Reads a model that was named, or the built-in model, without loading its tensors.
pub(super) fn file(path: Option<&Path>) -> Result<ModelFile, Failure> {
    let gguf = match path {
        Some(path) => Gguf::open(&super::fetch::resolve(path)?)?,
        None => Gguf::from_bytes(BUILT_IN.to_vec(), "the built-in model")?,
    };
    Ok(ModelFile::new(gguf)?)
}

/// Loads a model with a progress bar on a terminal.
pub(super) fn model(device: &Device, file: &ModelFile, options: &ModelOptions) -> Result<Model, Failure> {
    let bar = if io::stderr().is_terminal() {
        indicatif::ProgressBar::new(0).with_style(
            indicatif::ProgressStyle::with_template(
                "loading {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {msg}",
            )
            .unwrap_or_else(|_| indicatif::ProgressStyle::default_bar()),
        )
    } else {
        indicatif::ProgressBar::hidden()
    };
    let weights = |done: u64, total: u64| {
        bar.set_length(total);
        bar.set_position(done);
        true
    };
    let pipelines = |done: usize, total: usize| bar.set_message(format!("{done}/{total} pipelines"));
    let watch = Watch { weights: &weights, pipelines: &pipelines };
    let model = Model::load_watched(device, file, options, &watch);
    bar.finish_and_clear();
    Ok(model?)
}

/// Text from an option, a file or standard input.
pub(super) fn text(prompt: Option<&str>, file: Option<&Path>) -> Result<Option<String>, Failure> {
    if let Some(prompt) = prompt {
        return Ok(Some(prompt.to_owned()));
    }
    let (bytes, name) = match file {
        Some(path) => {
            let bytes = std::fs::read(path).map_err(|e| input(format!("{}: {e}", path.display())))?;
            (bytes, path.display().to_string())
        }
        None if io::stdin().is_terminal() => return Ok(None),
        None => {
            let mut bytes = Vec::new();
            io::stdin().read_to_end(&mut bytes).map_err(|e| input(format!("standard input: {e}")))?;
            (bytes, "standard input".to_owned())
        }
    };
    String::from_utf8(bytes).map(Some).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        input(format!("{name}: byte {at} is not UTF-8; prompts are UTF-8 text"))
    })
}
