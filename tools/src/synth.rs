//! `cargo xtask synth`: GGUF files with the shapes, keys and tensor names of real models and random weights, so that
//! speed and memory can be measured without downloads.

mod gguf;
mod models;
mod types;

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, bail};
use vkllm_shaders::formats::Format;

use models::{Fill, Tensor};
use types::Mix;

/// Write a model with the shapes of a real one and random weights.
#[derive(clap::Args)]
pub(crate) struct SynthArgs {
    /// Model whose shapes to take; an unknown name lists the known ones.
    #[arg(long, value_name = "NAME")]
    like: String,
    /// Tensor type of the matrices, or a mix: q4_k_m, mxfp4 (experts only, when there are experts).
    #[arg(long = "type", value_name = "TYPE", default_value = "q4_k_m")]
    kind: String,
    /// File to write.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Write only this many layers (a multi-token-prediction block not counted).
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    layers: Option<u32>,
    /// Seed of the weights.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Replace an existing file.
    #[arg(long)]
    force: bool,
}

/// Runs the task.
pub(crate) fn run(args: SynthArgs) -> anyhow::Result<()> {
    let Some(model) = models::by_name(&args.like) else {
        let names: Vec<&str> = models::MODELS.iter().map(|model| model.name).collect();
        bail!("no model is named {:?}; known are {}", args.like, names.join(", "));
    };
    let mix = Mix::by_name(&args.kind)?;
    let plan = models::plan(model, &mix, args.layers.unwrap_or(model.layers));
    if args.output.exists() && !args.force {
        bail!("{} exists; --force replaces it", args.output.display());
    }
    let started = Instant::now();
    let bytes = write(&args.output, &plan, args.seed)?;
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "{}: {} tensors, {:.1} MB in {seconds:.1} s",
        args.output.display(),
        plan.tensors.len(),
        bytes as f64 / 1e6
    );
    for note in &plan.notes {
        println!("{note}");
    }
    Ok(())
}

/// Writes the file under a temporary name and moves it into place, so that a failure leaves nothing behind.
fn write(path: &Path, plan: &models::Plan, seed: u64) -> anyhow::Result<u64> {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let file = File::create(&part).with_context(|| format!("cannot create {}", part.display()))?;
    let written = stream(file, plan, seed).and_then(|bytes| fs::rename(&part, path).map(|()| bytes));
    written.map_err(|error| {
        let kept = fs::remove_file(&part).is_err();
        let note =
            if kept { format!(" (and {} could not be removed)", part.display()) } else { String::new() };
        anyhow::Error::new(error).context(format!("cannot write {}{note}", path.display()))
    })
}

/// Writes header and weights; returns the number of bytes.
fn stream(mut out: impl Write, plan: &models::Plan, seed: u64) -> io::Result<u64> {
    let header = gguf::header(&plan.metadata, &plan.tensors);
    let total = header.len() as u64 + plan.tensors.iter().map(|t| gguf::padded(t.bytes())).sum::<u64>();
    out.write_all(&header)?;
    let mut random = Random(seed);
    let mut pools = HashMap::new();
    let mut done = header.len() as u64;
    let terminal = io::stderr().is_terminal();
    let mut shown = Instant::now();
    for tensor in &plan.tensors {
        match tensor.fill {
            Fill::Blocks(format) => {
                let pool = pools.entry(format.name).or_insert_with(|| pool(format, &mut random));
                blocks(&mut out, format.bytes, pool, tensor.bytes(), &mut random)?;
            }
            fill => out.write_all(&floats(tensor, fill, &mut random))?,
        }
        let gap = gguf::padded(tensor.bytes()) - tensor.bytes();
        out.write_all(&[0; gguf::ALIGNMENT as usize][..gap as usize])?;
        done += gguf::padded(tensor.bytes());
        if terminal && shown.elapsed().as_millis() > 200 {
            eprint!("\r{:3} % of {:.1} MB", done * 100 / total, total as f64 / 1e6);
            shown = Instant::now();
        }
    }
    out.flush()?;
    if terminal {
        eprint!("\r                              \r");
    }
    Ok(done)
}

/// A few megabytes of random blocks.
fn pool(format: &Format, random: &mut Random) -> Vec<u8> {
    let mut pool = vec![0; (4 << 20) / format.bytes * format.bytes];
    format.sample_row(&mut || random.word(), &mut pool);
    pool
}

/// Writes `bytes` of blocks: runs of the pool that start anywhere in it. Sampling every block would take ten times
/// as long and measure nothing more.
fn blocks(
    out: &mut impl Write,
    block: usize,
    pool: &[u8],
    bytes: u64,
    random: &mut Random,
) -> io::Result<()> {
    let mut left = bytes;
    while left > 0 {
        let start = random.below(pool.len() / block) * block;
        let run = left.min((pool.len() - start) as u64);
        out.write_all(&pool[start..start + run as usize])?;
        left -= run;
    }
    Ok(())
}

/// The values of a small F32 tensor.
fn floats(tensor: &Tensor, fill: Fill, random: &mut Random) -> Vec<u8> {
    let count: u64 = tensor.dims.iter().product();
    let value = |index: u64, random: &mut Random| match fill {
        Fill::Blocks(_) => 0.0,
        Fill::Around { mean, spread } => mean + spread * (2.0 * random.unit() - 1.0),
        // -exp(A_log), A_log drawn from 0 to ln 16 as the recurrent layers are initialised.
        Fill::Decay => -(random.unit() * 16f32.ln()).exp(),
        Fill::RopeFactors { factor, base } => models::rope_factor(index, 2 * count, base, factor),
    };
    (0..count).flat_map(|index| value(index, random).to_le_bytes()).collect()
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn word(&mut self) -> u32 {
        (self.next() >> 32) as u32
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// From 0 to below 1.
    fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 24) as f32
    }
}

#[cfg(test)]
mod tests;
