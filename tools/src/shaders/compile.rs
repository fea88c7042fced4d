//! Compiles one module twice: with names, for reflection, and as it ships.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, anyhow};

use super::plan::Module;

/// The two forms of a module, as SPIR-V words.
pub(crate) struct Compiled {
    /// Unoptimised, with the names of everything.
    pub(crate) named: Vec<u32>,
    /// What the crate embeds.
    pub(crate) shipped: Vec<u32>,
    /// How WGSL code uses its buffers, (reads, writes), since WGSL has no write-only declaration.
    pub(crate) used: BTreeMap<String, (bool, bool)>,
    pub(crate) warnings: String,
}

/// Compiles GLSL with shaderc and WGSL with naga.
pub(crate) fn compile(glsl: &shaderc::Compiler, shaders: &Path, module: &Module) -> Result<Compiled> {
    let texts = module.texts(shaders)?;
    let (path, text) = texts.first().context("a module has no source")?;
    compile_text(glsl, shaders, module, path, text)
}

/// Compiles a text that stands for the module's file.
pub(crate) fn compile_text(
    glsl: &shaderc::Compiler,
    shaders: &Path,
    module: &Module,
    path: &str,
    text: &str,
) -> Result<Compiled> {
    if module.is_wgsl() { compile_wgsl(path, text) } else { compile_glsl(glsl, shaders, module, path, text) }
}

fn compile_glsl(
    compiler: &shaderc::Compiler,
    shaders: &Path,
    module: &Module,
    path: &str,
    text: &str,
) -> Result<Compiled> {
    let once = |level| {
        let mut options = shaderc::CompileOptions::new()?;
        options.set_target_env(shaderc::TargetEnv::Vulkan, shaderc::EnvVersion::Vulkan1_3 as u32);
        options.set_target_spirv(shaderc::SpirvVersion::V1_6);
        options.set_optimization_level(level);
        options.set_include_callback(|name, _, _, _| {
            let (resolved_name, content) =
                module.include(shaders, name).map_err(|error| format!("{path} {error}"))?;
            Ok(shaderc::ResolvedInclude { resolved_name, content })
        });
        for define in module.defines() {
            options.add_macro_definition(&define, Some("1"));
        }
        compiler.compile_into_spirv(text, shaderc::ShaderKind::Compute, path, "main", Some(&options))
    };
    let named = once(shaderc::OptimizationLevel::Zero)?;
    let shipped = if is_safe(module) {
        nameless(named.as_binary())
    } else {
        once(shaderc::OptimizationLevel::Performance)?.as_binary().to_vec()
    };
    Ok(Compiled {
        named: named.as_binary().to_vec(),
        shipped,
        used: BTreeMap::new(),
        warnings: named.get_warning_messages(),
    })
}

/// Whether it is shipped as it was before the optimiser.
fn is_safe(module: &Module) -> bool {
    module.axes.iter().any(|(axis, value)| axis == "WAY" && value == "safe")
}

/// A module without names and remarks on its source.
fn nameless(module: &[u32]) -> Vec<u32> {
    const HEADER: usize = 5;
    // OpSourceContinued to OpLine.
    let says = |word: u32| (2..=8).contains(&(word & 0xffff));
    let (mut out, mut at) = (module[..HEADER].to_vec(), HEADER);
    while let Some(&word) = module.get(at) {
        let end = at + (word >> 16).max(1) as usize;
        if !says(word) {
            out.extend(&module[at..end.min(module.len())]);
        }
        at = end;
    }
    out
}

fn compile_wgsl(path: &str, text: &str) -> Result<Compiled> {
    use naga::back::spv::{Options, WriterFlags, ZeroInitializeWorkgroupMemoryMode, write_vec};
    use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};
    use naga::valid::{Capabilities, GlobalUse, ValidationFlags, Validator};

    let module = naga::front::wgsl::parse_str(text)
        .map_err(|error| anyhow!(error.emit_to_string_with_path(text, path)))?;
    let info = Validator::new(ValidationFlags::all(), Capabilities::all())
        .validate(&module)
        .map_err(|error| anyhow!(error.emit_to_string_with_path(text, path)))?;
    let main = module.entry_points.iter().position(|entry| entry.name == "main");
    let main = main.with_context(|| format!("{path}: has no entry point main"))?;
    let uses = info.get_entry_point(main);
    let mut used = BTreeMap::new();
    for (handle, variable) in module.global_variables.iter() {
        if let Some(name) = &variable.name {
            let usage = uses[handle];
            let atomic = usage.contains(GlobalUse::ATOMIC);
            let pair =
                (atomic || usage.contains(GlobalUse::READ), atomic || usage.contains(GlobalUse::WRITE));
            used.insert(name.clone(), pair);
        }
    }
    // The checks would only repeat what the kernels guarantee, and cost half of a matvec's instructions.
    let policy = BoundsCheckPolicy::Unchecked;
    let emit = |flags| {
        let options = Options {
            lang_version: (1, 6),
            flags,
            bounds_check_policies: BoundsCheckPolicies {
                index: policy,
                buffer: policy,
                image_load: policy,
                binding_array: policy,
            },
            zero_initialize_workgroup_memory: ZeroInitializeWorkgroupMemoryMode::None,
            force_loop_bounding: false,
            use_storage_input_output_16: false,
            emit_int_div_checks: false,
            ..Options::default()
        };
        write_vec(&module, &info, &options, None).with_context(|| format!("{path}: naga cannot write it"))
    };
    Ok(Compiled {
        named: emit(WriterFlags::DEBUG)?,
        shipped: emit(WriterFlags::empty())?,
        used,
        warnings: String::new(),
    })
}
