//! The kernel suite: every kernel on a device, against its meaning and against properties that need no reference.
//!
//! A [`Case`] is data: the kernels it runs, a name, and a function that says whether a device computes it rightly.
//! `vkllm selftest` and the tests run the same list. Random inputs depend on the seed and on names alone, so one
//! case alone is what it is among all. Nothing here panics on what a device computes.

mod attention;
pub mod compare;
pub mod corpus;
mod experts;
mod halves;
mod heads;
mod job;
mod kv;
mod linear;
mod lookup;
mod probes;
mod random;
mod recurrent;
mod rows;
mod sampling;
mod streams;
mod truncation;
mod verify;
mod weights;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use vkllm_runtime::{Caps, Device, Error, Kernel, Recording};
use vkllm_shaders::select::Candidate;

pub use job::{GUARD, Job, Out, disturbed};
pub use random::Rng;

/// The seed unless another is given.
pub const SEED: u64 = 20_260_417;

/// Why a case did not pass.
#[derive(Debug)]
pub enum Fault {
    /// What differs, where, and how often.
    Wrong(String),
    /// What the device lacks or the case is not meant for.
    Skipped(String),
    /// The device was lost or hangs: no other case can be run on it.
    Device(Error),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Wrong(text) | Fault::Skipped(text) => f.write_str(text),
            Fault::Device(error) => error.fmt(f),
        }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        match error {
            Error::Lost { .. } | Error::Timeout { .. } => Fault::Device(error),
            // A kernel that the device refuses is a kernel that does not work.
            other => Fault::Wrong(other.to_string()),
        }
    }
}

/// Result of a check.
pub type Check<T = ()> = Result<T, Fault>;

/// Fails with a sentence unless a condition holds.
pub fn ensure(holds: bool, sentence: impl FnOnce() -> String) -> Check {
    if holds { Ok(()) } else { Err(Fault::Wrong(sentence())) }
}

/// Sees every recording before it runs, with what it reads in place.
pub type Observer = Arc<dyn Fn(&Device, &Recording) + Send + Sync>;

/// What cases run on: a device, for one thread at a time, the seed, and perhaps another code for one kernel.
#[derive(Clone)]
pub struct Bench {
    device: Device,
    seed: u64,
    substitute: Option<&'static Kernel>,
    observer: Option<Observer>,
}

impl Bench {
    pub fn new(device: Device, seed: u64) -> Self {
        Bench { device, seed, substitute: None, observer: None }
    }

    /// Runs `kernel` in place of the one of its name; its hash must differ.
    pub fn with_kernel(mut self, kernel: &'static Kernel) -> Self {
        self.substitute = Some(kernel);
        self
    }

    /// Shows every recording to `observer`.
    pub fn with_observer(mut self, observer: Observer) -> Self {
        self.observer = Some(observer);
        self
    }

    fn show(&self, recording: &Recording) {
        if let Some(observer) = &self.observer {
            observer(&self.device, recording);
        }
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Numbers that depend on the seed and on the label.
    pub fn rng(&self, label: &str) -> Rng {
        Rng::new(self.seed, label)
    }

    fn lanes(&self) -> u32 {
        self.device.caps().subgroup
    }

    fn kernel(&self, kernel: &'static Kernel) -> &'static Kernel {
        self.substitute.filter(|other| other.name == kernel.name).unwrap_or(kernel)
    }
}

/// One thing that is checked.
pub struct Case {
    kernels: Vec<&'static Kernel>,
    name: String,
    run: Box<dyn Fn(&Bench) -> Check + Send + Sync>,
}

impl Case {
    /// The operation under test.
    pub fn op(&self) -> &'static str {
        self.kernels[0].op
    }

    /// The kernel under test.
    pub fn kernel(&self) -> &'static Kernel {
        self.kernels[0]
    }

    /// Every kernel that runs, the one under test first.
    pub fn kernels(&self) -> &[&'static Kernel] {
        &self.kernels
    }

    /// Kernel and property, unique in the list; letters, digits, spaces and `._-/` alone.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs it.
    pub fn run(&self, bench: &Bench) -> Check {
        (self.run)(bench)
    }
}

/// All cases for a device with these capabilities. What it cannot run is in the list and skips with a reason.
pub fn cases(caps: &Caps) -> Vec<Case> {
    let mut list = List { caps, cases: Vec::new(), names: BTreeSet::new() };
    lookup::list(&mut list);
    rows::list(&mut list);
    halves::list(&mut list);
    heads::list(&mut list);
    experts::list(&mut list);
    recurrent::list(&mut list);
    attention::list(&mut list);
    kv::list(&mut list);
    linear::list(&mut list);
    sampling::list(&mut list);
    streams::list(&mut list);
    truncation::list(&mut list);
    verify::list(&mut list);
    probes::list(&mut list);
    list.cases
}

/// The list in the making.
struct List<'a> {
    caps: &'a Caps,
    cases: Vec<Case>,
    names: BTreeSet<String>,
}

impl List<'_> {
    /// Appends a case. A name that is there already gets a number.
    fn add(
        &mut self,
        kernels: &[&'static Kernel],
        property: impl fmt::Display,
        run: impl Fn(&Bench) -> Check + Send + Sync + 'static,
    ) {
        let plain = |c: char| if c.is_ascii_alphanumeric() || "._-/".contains(c) { c } else { ' ' };
        let text: String = property.to_string().chars().map(plain).collect();
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let base = format!("{} {words}", kernels[0].name);
        let mut name = base.clone();
        let mut number = 2;
        while !self.names.insert(name.clone()) {
            name = format!("{base} /{number}");
            number += 1;
        }
        self.cases.push(Case { kernels: kernels.to_vec(), name, run: Box::new(run) });
    }

    /// Appends a case that says why a candidate cannot be tested, once per candidate.
    fn skip(&mut self, candidate: &'static Candidate, reason: String) {
        let spec: Vec<_> = candidate.spec.iter().map(|(name, value)| format!("{name} {value}")).collect();
        let name = format!("{} not here {}", candidate.kernel.name, spec.join(" "));
        if !self.names.contains(name.trim_end()) {
            let property = format!("not here {}", spec.join(" "));
            self.add(&[candidate.kernel], property, move |_| Err(Fault::Skipped(reason.clone())));
        }
    }

    /// Why a candidate cannot run here, if so.
    fn lacks(&self, candidate: &Candidate) -> Option<String> {
        let needs = candidate.kernel.needs.iter().filter(|need| !self.caps.has(**need));
        let names: Vec<_> = needs.map(|need| need.name()).collect();
        if candidate.workgroup() > self.caps.max_workgroup {
            let (has, allowed) = (candidate.workgroup(), self.caps.max_workgroup);
            return Some(format!("has workgroups of {has}, the device allows {allowed}"));
        }
        (!names.is_empty()).then(|| format!("needs {}, which the device lacks", names.join(", ")))
    }

    /// Whether a candidate is meant for the device's subgroup size.
    fn meant(&self, candidate: &Candidate) -> bool {
        (candidate.subgroup.0..=candidate.subgroup.1).contains(&self.caps.subgroup)
    }

    /// The candidates that run here and are meant for it; the others become skips.
    fn usable(&mut self, candidates: &'static [Candidate]) -> Vec<&'static Candidate> {
        let mut usable = Vec::new();
        for candidate in candidates {
            let (low, high) = candidate.subgroup;
            if let Some(reason) = self.lacks(candidate) {
                self.skip(candidate, reason);
            } else if !self.meant(candidate) {
                let lanes = self.caps.subgroup;
                self.skip(
                    candidate,
                    format!("is meant for subgroups of {low} to {high}, the device has {lanes}"),
                );
            } else {
                usable.push(candidate);
            }
        }
        usable
    }
}
