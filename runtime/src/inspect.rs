//! What a driver made of a kernel: statistics and texts of compiled pipelines, without running anything.

use std::sync::Arc;

use ash::vk;

use crate::caps::Caps;
use crate::device::DeviceOptions;
use crate::error::Error;
use crate::kernel::Kernel;
use crate::physical::text;
use crate::pipeline::{Pipeline, Pipelines};
use crate::vulkan::{Context, failed};

/// One piece of machine code that a driver made of a pipeline.
#[derive(Clone, Debug, PartialEq)]
pub struct Executable {
    /// The driver's name for it.
    pub name: String,
    /// Lanes of a subgroup it was compiled for.
    pub subgroup: u32,
    /// Name and value, in the driver's words and order.
    pub statistics: Vec<(String, f64)>,
    /// Name and text of each internal representation, the machine code last; empty unless asked for.
    pub texts: Vec<(String, String)>,
}

/// A device opened only to compile kernels and to read the result. It needs no memory and submits nothing, so it also
/// works on drivers without hardware that offer neither.
pub struct Inspector {
    pipelines: Pipelines,
    context: Arc<Context>,
}

impl Inspector {
    /// Opens a device. The reference device compiles nothing and is none here.
    ///
    /// Errors: as [`crate::Device::open`].
    pub fn open(options: &DeviceOptions) -> Result<Self, Error> {
        let context = Arc::new(Context::open(options, true)?);
        let pipelines = Pipelines::new(&context, options.cache_dir.as_deref(), &options.cache_key)?;
        Ok(Inspector { pipelines, context })
    }

    pub fn caps(&self) -> &Caps {
        &self.context.caps
    }

    /// Whether the driver tells anything about its pipelines; [`Inspector::compile`] is only a check where it does not.
    pub fn has_executables(&self) -> bool {
        self.context.executables.is_some()
    }

    /// Compiles a kernel exactly as a recording would, with specialisation values by name, and reads what the driver
    /// says about the result: nothing on a driver without `VK_KHR_pipeline_executable_properties`. `texts` asks for
    /// intermediate representations and disassembly too, which takes longer.
    ///
    /// Errors: a feature the device lacks, what the driver answers.
    pub fn compile(
        &self,
        kernel: &'static Kernel,
        specs: &[(&'static str, u32)],
        texts: bool,
    ) -> Result<Vec<Executable>, Error> {
        let values = kernel.spec_values(specs, self.context.caps.subgroup);
        let mut flags = vk::PipelineCreateFlags::empty();
        if self.has_executables() {
            flags |= vk::PipelineCreateFlags::CAPTURE_STATISTICS_KHR;
            if texts {
                flags |= vk::PipelineCreateFlags::CAPTURE_INTERNAL_REPRESENTATIONS_KHR;
            }
        }
        let pipeline = self.pipelines.create(kernel, &values, flags)?;
        self.executables(&pipeline, texts)
    }

    fn executables(&self, pipeline: &Pipeline, texts: bool) -> Result<Vec<Executable>, Error> {
        let Some(ext) = &self.context.executables else { return Ok(Vec::new()) };
        let info = vk::PipelineInfoKHR::default().pipeline(pipeline.handle);
        // SAFETY: the extension is enabled and the pipeline alive.
        let properties = unsafe { ext.get_pipeline_executable_properties(&info) }
            .map_err(failed("vkGetPipelineExecutablePropertiesKHR"))?;
        let mut all = Vec::with_capacity(properties.len());
        for (index, property) in properties.iter().enumerate() {
            let info = vk::PipelineExecutableInfoKHR::default()
                .pipeline(pipeline.handle)
                .executable_index(index as u32);
            // SAFETY: as above; the pipeline was made with CAPTURE_STATISTICS and has this executable.
            let statistics = unsafe { ext.get_pipeline_executable_statistics(&info) }
                .map_err(failed("vkGetPipelineExecutableStatisticsKHR"))?;
            all.push(Executable {
                name: text(&property.name),
                subgroup: property.subgroup_size,
                statistics: statistics.iter().map(|s| (text(&s.name), number(s))).collect(),
                texts: if texts { representations(ext, &info)? } else { Vec::new() },
            });
        }
        Ok(all)
    }
}

fn representations(
    ext: &ash::khr::pipeline_executable_properties::Device,
    info: &vk::PipelineExecutableInfoKHR<'_>,
) -> Result<Vec<(String, String)>, Error> {
    let call = "vkGetPipelineExecutableInternalRepresentationsKHR";
    // SAFETY: as in `executables`; the pipeline was made with CAPTURE_INTERNAL_REPRESENTATIONS. The first call tells
    // the sizes.
    let mut found =
        unsafe { ext.get_pipeline_executable_internal_representations(info) }.map_err(failed(call))?;
    let mut bytes: Vec<Vec<u8>> = found.iter().map(|r| vec![0; r.data_size]).collect();
    for (representation, bytes) in found.iter_mut().zip(&mut bytes) {
        representation.p_data = bytes.as_mut_ptr().cast();
    }
    let mut count = found.len() as u32;
    // SAFETY: `found` has `count` entries, each with room for `data_size` bytes in `bytes`, which outlives the call.
    let result = unsafe {
        (ext.fp().get_pipeline_executable_internal_representations_khr)(
            ext.device(),
            info,
            &mut count,
            found.as_mut_ptr(),
        )
    };
    result.result().map_err(failed(call))?;
    let texts = found.iter().zip(&bytes).take(count as usize);
    Ok(texts
        .filter(|(representation, _)| representation.is_text != 0)
        .map(|(representation, bytes)| {
            let written = representation.data_size.min(bytes.len());
            let end = bytes[..written].iter().position(|&byte| byte == 0).unwrap_or(written);
            (text(&representation.name), String::from_utf8_lossy(&bytes[..end]).into_owned())
        })
        .collect())
}

/// Whole numbers stay exact up to 2^53, far beyond any statistic.
fn number(statistic: &vk::PipelineExecutableStatisticKHR<'_>) -> f64 {
    use vk::PipelineExecutableStatisticFormatKHR as Format;
    let value = &statistic.value;
    // SAFETY: the format says which member the driver wrote.
    unsafe {
        match statistic.format {
            Format::BOOL32 => f64::from(value.b32),
            Format::INT64 => value.i64 as f64,
            Format::UINT64 => value.u64 as f64,
            _ => value.f64,
        }
    }
}
