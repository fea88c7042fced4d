//! Baselines: one table of numbers per version of Mesa and device, as tab-separated text, and what has changed since.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, bail, ensure};

use super::child::Answer;
use super::statistics::{self, Rule, STATISTICS, Statistic};

/// Numbers by statistic, in the order of [`STATISTICS`].
pub(crate) type Numbers = BTreeMap<usize, f64>;

/// Numbers of all pipelines of a device.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Baseline {
    /// What it was compiled for and by: one line, the same on every machine.
    pub(crate) about: String,
    pub(crate) pipelines: BTreeMap<String, Numbers>,
}

/// Place of a statistic in [`STATISTICS`].
fn index_of(statistic: &'static Statistic) -> usize {
    STATISTICS.iter().position(|other| std::ptr::eq(other, statistic)).unwrap_or(0)
}

/// The numbers that are kept of what a driver said. A driver's second executable adds to the first.
fn numbers(statistics: &[(String, f64)]) -> Numbers {
    let mut numbers = Numbers::new();
    for (name, value) in statistics {
        if let Some(statistic) = statistics::find(name) {
            *numbers.entry(index_of(statistic)).or_default() += value;
        }
    }
    numbers
}

impl Baseline {
    /// What was found, on top of what is `kept` of an older baseline. Pipelines that were not compiled have no numbers.
    pub(super) fn of(about: String, answer: &Answer, kept: Option<Baseline>) -> Baseline {
        let mut pipelines = kept.map(|kept| kept.pipelines).unwrap_or_default();
        for (name, pipeline) in answer.pipelines.iter().filter(|(_, pipeline)| pipeline.error.is_none()) {
            pipelines.insert(name.clone(), numbers(&pipeline.statistics));
        }
        Baseline { about, pipelines }
    }

    /// Reads a file; `None` when there is none.
    pub(super) fn read(path: &Path) -> anyhow::Result<Option<Baseline>> {
        match fs::read_to_string(path) {
            Ok(text) => Ok(Some(Baseline::parse(&text).with_context(|| format!("in {}", path.display()))?)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    pub(super) fn write(&self, path: &Path) -> anyhow::Result<()> {
        let folder = path.parent().context("a baseline has a folder")?;
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        fs::write(path, self.to_text()).with_context(|| format!("cannot write {}", path.display()))
    }

    pub(super) fn parse(text: &str) -> anyhow::Result<Baseline> {
        let mut lines = text.lines();
        let about =
            lines.next().and_then(|line| line.strip_prefix("# ")).context("the first line is no \"# …\"")?;
        let header = lines.next().context("there is no line of columns")?;
        let mut columns = Vec::new();
        for name in header.split('\t').skip(1) {
            let known = statistics::column(name).with_context(|| format!("the column {name} is unknown"))?;
            columns.push(index_of(known));
        }
        let mut pipelines = BTreeMap::new();
        for line in lines {
            let mut cells = line.split('\t');
            let name = cells.next().unwrap_or_default();
            let cells: Vec<&str> = cells.collect();
            let (found, allowed) = (cells.len(), columns.len());
            ensure!(found == allowed, "{name} has {found} numbers; there are {allowed} columns");
            let mut numbers = Numbers::new();
            for (column, cell) in columns.iter().zip(cells) {
                let Ok(value) = cell.parse() else { bail!("{cell} of {name} is no number") };
                numbers.insert(*column, value);
            }
            pipelines.insert(name.to_owned(), numbers);
        }
        Ok(Baseline { about: about.to_owned(), pipelines })
    }

    pub(super) fn to_text(&self) -> String {
        let has = |index: &usize| self.pipelines.values().any(|numbers| numbers.contains_key(index));
        let columns: Vec<usize> = (0..STATISTICS.len()).filter(has).collect();
        let mut text = format!("# {}\npipeline", self.about);
        for &column in &columns {
            text += &format!("\t{}", STATISTICS[column].name);
        }
        for (name, numbers) in &self.pipelines {
            text += &format!("\n{name}");
            for column in &columns {
                text += &format!("\t{}", numbers.get(column).copied().unwrap_or(0.0));
            }
        }
        text + "\n"
    }
}

/// Something that makes a device fail.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Finding {
    pub(crate) pipeline: String,
    pub(crate) fault: Fault,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Fault {
    /// It was not compiled.
    Error(String),
    /// A decode kernel does not fit in the registers.
    Spill { statistic: &'static str, value: f64 },
    /// More than a tenth worse than the baseline, which a new one may accept.
    Worse { statistic: &'static str, before: f64, now: f64 },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.pipeline)?;
        match &self.fault {
            Fault::Error(error) => f.write_str(error),
            Fault::Spill { statistic, value } => {
                write!(f, "{statistic} {value}; a decode kernel may have none")
            }
            Fault::Worse { statistic, before, now } => write!(f, "{statistic} {before} → {now}"),
        }
    }
}

/// A device's pipelines against its baseline.
#[derive(Clone, Debug, Default)]
pub(crate) struct Comparison {
    pub(crate) pipelines: usize,
    /// Failures, in the order of the pipelines.
    pub(crate) findings: Vec<Finding>,
    /// Pipelines with a number more than a tenth better than before.
    pub(crate) better: usize,
    /// Pipelines that the baseline lacks.
    pub(crate) new: usize,
    /// Pipelines of the baseline that are not there any more.
    pub(crate) gone: usize,
    pub(crate) has_baseline: bool,
}

impl Comparison {
    /// `whole`: all pipelines were asked for, so those that are missing are gone. `loose`: decode kernels may spill.
    pub(super) fn new(before: Option<&Baseline>, answer: &Answer, whole: bool, loose: bool) -> Comparison {
        let mut c = Comparison {
            pipelines: answer.pipelines.len(),
            has_baseline: before.is_some(),
            ..Comparison::default()
        };
        for (name, pipeline) in &answer.pipelines {
            let mut finding = |fault| c.findings.push(Finding { pipeline: name.clone(), fault });
            if let Some(error) = &pipeline.error {
                finding(Fault::Error(error.clone()));
                continue;
            }
            let now = numbers(&pipeline.statistics);
            for (&index, &value) in now.iter().filter(|_| pipeline.decode && !loose) {
                let statistic = &STATISTICS[index];
                if statistic.rule == Rule::Spill && value > 0.0 {
                    finding(Fault::Spill { statistic: statistic.name, value });
                }
            }
            let Some(before) = before else { continue };
            let Some(before) = before.pipelines.get(name) else {
                c.new += 1;
                continue;
            };
            let mut better = false;
            for (&index, &value) in &now {
                let statistic = &STATISTICS[index];
                let Some(&old) = before.get(&index) else { continue };
                if statistic.worse(old, value) {
                    finding(Fault::Worse { statistic: statistic.name, before: old, now: value });
                }
                better |= statistic.better(old, value);
            }
            c.better += usize::from(better);
        }
        if let Some(before) = before.filter(|_| whole) {
            c.gone = before.pipelines.keys().filter(|name| !answer.pipelines.contains_key(*name)).count();
        }
        c
    }
}
