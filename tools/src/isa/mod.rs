//! Offline machine code: compiles every pipeline of the engine for GPUs that are not there, and holds registers, spills,
//! code size and the driver's own estimates against checked-in baselines.

mod baseline;
mod child;
mod devices;
mod report;
mod statistics;
#[cfg(test)]
mod tests;
mod wall;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::{Context as _, bail, ensure};

use baseline::{Baseline, Comparison};
use child::{Answer, Question};
use devices::{DEVICES, Device, Mesa};
use report::{Outcome, Row};

/// Compile every pipeline for real GPUs, without them, and compare registers, spills, code and estimates with baselines.
#[derive(Clone, clap::Args)]
pub(crate) struct IsaArgs {
    /// Device to compile for; all that the installed Mesa can simulate by default. May be repeated
    #[arg(long, value_name = "NAME")]
    device: Vec<String>,
    /// Only pipelines whose name contains this
    #[arg(long, value_name = "TEXT", default_value = "")]
    filter: String,
    /// Write what was found as the new baselines
    #[arg(long)]
    bless: bool,
    /// Print the machine code of the pipelines whose name contains this; for the 890M unless --device says otherwise
    #[arg(long, value_name = "KERNEL", conflicts_with_all = ["bless", "wall"])]
    show: Option<String>,
    /// Print what the machine code of the decode kernels allows on the 890M, against its memory
    #[arg(long, conflicts_with = "bless")]
    wall: bool,
    /// Compile with another specialisation value, to see what it would cost. May be repeated
    #[arg(long, value_name = "NAME=VALUE", conflicts_with = "bless", value_parser = setting)]
    set: Vec<(String, u32)>,
    /// Folder that holds another Mesa under usr/, complete with its C library or built for this system's
    #[arg(long, value_name = "DIR", default_value = "/")]
    mesa: PathBuf,
    /// Folder of the baselines
    #[arg(long, value_name = "DIR", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/isa"))]
    baselines: PathBuf,
    /// Devices compiled for at once
    #[arg(long, value_name = "N", default_value_t = 2)]
    jobs: usize,
    /// Answers one question on the device that the environment simulates
    #[arg(long, hide = true)]
    child: bool,
}

fn setting(text: &str) -> Result<(String, u32), String> {
    let (name, value) = text.split_once('=').ok_or("a setting is NAME=VALUE")?;
    let value = value.parse().map_err(|e| format!("{value} is no value of a constant: {e}"))?;
    Ok((name.to_owned(), value))
}

pub(crate) fn run(args: IsaArgs) -> anyhow::Result<()> {
    if args.child {
        return child::answer(&args.filter, args.show.is_some(), &args.set);
    }
    ensure!(args.jobs > 0, "--jobs is 0; allowed is 1 or more");
    if args.wall {
        return wall::print(&args);
    }
    let chosen = choose(&args)?;
    let question = Question {
        filter: args.show.as_ref().unwrap_or(&args.filter).clone(),
        texts: args.show.is_some(),
        set: args.set.clone(),
    };
    let named = !args.device.is_empty() || args.show.is_some();
    let answers = ask_all(&args, &chosen, &question)?;
    if args.show.is_some() {
        return show(&chosen, answers);
    }
    let empty = answers.iter().flatten().all(|answer| answer.pipelines.is_empty());
    ensure!(!empty || !answers.iter().any(Result::is_ok), "no pipeline's name contains {}", question.filter);
    let baselines = Baselines { folder: &args.baselines, versions: versions(&answers) };
    let mut rows = Vec::new();
    for (device, answer) in chosen.iter().zip(answers) {
        rows.push(Row { device: device.name, outcome: judge(&args, &baselines, device, answer, named)? });
    }
    report::print(&rows);
    let failed = rows.iter().filter(|row| row.outcome.failed()).count();
    ensure!(failed == 0, "{failed} of {} devices failed", rows.len());
    Ok(())
}

fn choose(args: &IsaArgs) -> anyhow::Result<Vec<&'static Device>> {
    if args.device.is_empty() {
        let all = DEVICES.iter().filter(|device| args.show.is_none() || device.name == "890m");
        return Ok(all.collect());
    }
    args.device
        .iter()
        .map(|name| {
            let known = || DEVICES.iter().map(|d| d.name).collect::<Vec<_>>().join(", ");
            DEVICES
                .iter()
                .find(|device| device.name == *name)
                .with_context(|| format!("there is no device {name}; known are {}", known()))
        })
        .collect()
}

/// Asks each device in a process of its own, `jobs` at a time; answers come in the order of the devices.
fn ask_all(
    args: &IsaArgs,
    chosen: &[&'static Device],
    question: &Question,
) -> anyhow::Result<Vec<Result<Answer, String>>> {
    let mesa = Mesa::find(&args.mesa)?;
    let next = Mutex::new(0..chosen.len());
    let answers = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..args.jobs.min(chosen.len()) {
            scope.spawn(|| {
                loop {
                    let taken = next.lock().ok().and_then(|mut next| next.next());
                    let Some(index) = taken else { break };
                    let answer = child::ask(&mesa, chosen[index], question);
                    if let Ok(mut answers) = answers.lock() {
                        answers.insert(index, answer);
                    }
                }
            });
        }
    });
    let answers = answers.into_inner().unwrap_or_default();
    ensure!(answers.len() == chosen.len(), "a thread that asked a device panicked");
    Ok(answers.into_values().collect())
}

fn show(chosen: &[&'static Device], answers: Vec<Result<Answer, String>>) -> anyhow::Result<()> {
    for (device, answer) in chosen.iter().zip(answers) {
        let answer = answer.map_err(|why| anyhow::anyhow!("{}: {why}", device.name))?;
        ensure!(!answer.pipelines.is_empty(), "{}: no pipeline has that name", device.name);
        for (name, pipeline) in &answer.pipelines {
            println!("── {name} on {} ({}, Mesa {})", device.name, device.title, answer.version);
            if let Some(error) = &pipeline.error {
                bail!("{name}: {error}");
            }
            let known: Vec<String> =
                pipeline.statistics.iter().map(|(name, value)| format!("{name} {value}")).collect();
            println!("{}", known.join(", "));
            // The last representation is the machine code; the others are the driver's own languages.
            match pipeline.texts.last() {
                Some((_, text)) => println!("{}", text.trim_end()),
                None => println!("(this driver gives no machine code)"),
            }
        }
    }
    Ok(())
}

/// Versions of Mesa that answered.
fn versions(answers: &[Result<Answer, String>]) -> Vec<String> {
    let mut versions: Vec<String> = answers.iter().flatten().map(|answer| answer.version.clone()).collect();
    versions.sort();
    versions.dedup();
    versions
}

struct Baselines<'a> {
    folder: &'a Path,
    versions: Vec<String>,
}

impl Baselines<'_> {
    fn file(&self, version: &str, device: &Device) -> PathBuf {
        self.folder.join(version).join(format!("{}.tsv", device.name))
    }

    /// The version of Mesa in use that has simulated the device before, according to the baselines.
    fn expected(&self, device: &Device) -> Option<&str> {
        self.versions.iter().map(String::as_str).find(|version| self.file(version, device).exists())
    }
}

fn judge(
    args: &IsaArgs,
    baselines: &Baselines<'_>,
    device: &Device,
    answer: Result<Answer, String>,
    named: bool,
) -> anyhow::Result<Outcome> {
    let answer = match answer {
        Ok(answer) => answer,
        Err(why) if named => return Ok(Outcome::Missing(why)),
        Err(why) => {
            return Ok(match baselines.expected(device) {
                Some(version) => Outcome::Missing(format!("{why}; Mesa {version} has a baseline for it")),
                None => Outcome::Skipped(why),
            });
        }
    };
    let path = baselines.file(&answer.version, device);
    let before = Baseline::read(&path)?;
    let whole = args.filter.is_empty() && args.set.is_empty();
    let comparison = Comparison::new(before.as_ref(), &answer, whole, device.loose);
    if args.bless {
        let kept = before.filter(|_| !args.filter.is_empty());
        let about = format!("{}; Mesa {}", device.title, answer.version);
        Baseline::of(about, &answer, kept).write(&path)?;
    }
    Ok(Outcome::Compared { version: answer.version, blessed: args.bless, comparison })
}
