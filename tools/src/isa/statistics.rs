//! The numbers drivers give about machine code, under one name each, and what a change of one means.

/// What a change means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    /// Values that did not fit in registers. None may be in a decode kernel, and no more than before elsewhere.
    Spill,
    /// More is worse.
    Cost,
    /// Less is worse.
    Gain,
}

/// One number.
#[derive(Debug)]
pub(super) struct Statistic {
    /// Name in baselines and reports.
    pub(super) name: &'static str,
    /// What drivers call it: RADV, NVK, Turnip, Honeykrisp.
    drivers: &'static [&'static str],
    pub(super) rule: Rule,
}

const fn of(name: &'static str, drivers: &'static [&'static str], rule: Rule) -> Statistic {
    Statistic { name, drivers, rule }
}

/// Every number that is kept, in the order of the baselines' columns.
pub(super) static STATISTICS: &[Statistic] = &[
    of("vgprs", &["VGPRs", "Number of GPRs", "Registers used", "GPRs"], Rule::Cost),
    of("sgprs", &["SGPRs"], Rule::Cost),
    of("vgpr_spills", &["Spilled VGPRs", "Spills to memory", "STP Count", "Spills"], Rule::Spill),
    of("sgpr_spills", &["Spilled SGPRs"], Rule::Spill),
    of("scratch", &["Scratch size", "SLM size", "LDP Count", "Scratch"], Rule::Spill),
    of("lds", &["LDS size"], Rule::Cost),
    of("code", &["Code size"], Rule::Cost),
    of("instructions", &["Instructions", "Instruction count", "Instruction Count"], Rule::Cost),
    of("latency", &["Latency", "Static cycle count"], Rule::Cost),
    of("inverse_throughput", &["Inverse Throughput"], Rule::Cost),
    of("occupancy", &["Subgroups per SIMD", "Max warps/SM", "Max Waves Per Core", "Threads"], Rule::Gain),
];

/// The number a driver's name stands for.
pub(super) fn find(driver: &str) -> Option<&'static Statistic> {
    STATISTICS.iter().find(|statistic| statistic.drivers.contains(&driver))
}

/// The number of a baseline's column.
pub(super) fn column(name: &str) -> Option<&'static Statistic> {
    STATISTICS.iter().find(|statistic| statistic.name == name)
}

impl Statistic {
    /// True when `now` is more than a tenth worse than `before`, or a spill more.
    pub(super) fn worse(&self, before: f64, now: f64) -> bool {
        match self.rule {
            Rule::Spill => now > before,
            Rule::Cost => now > before * 1.1,
            Rule::Gain => now < before * 0.9,
        }
    }

    /// True when `now` is more than a tenth better.
    pub(super) fn better(&self, before: f64, now: f64) -> bool {
        match self.rule {
            Rule::Spill => now < before,
            Rule::Cost => now < before * 0.9,
            Rule::Gain => now > before * 1.1,
        }
    }
}
