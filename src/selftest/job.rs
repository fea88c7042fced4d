//! One dispatch to check: arguments as words, run on the device inside guard bands or by its kernel's meaning.

use std::ops::Range;

use bytemuck::Pod;
use vkllm_runtime::{Call, CompileOptions, Dispatch, Grid, Kernel, Recording, Usage, View, Words};
use vkllm_shaders::select::Candidate;

use super::{Bench, Check, Fault, ensure};

/// Words around every argument: a NaN, so that what is read from there shows.
pub const GUARD: u32 = 0x7fc0_5eed;
/// What outputs hold before they are written, a NaN as well.
pub const POISON: u32 = 0x7fc0_dead;
const GUARD_WORDS: usize = 64;

#[derive(Clone)]
enum Arg {
    Words(Vec<u32>),
    /// The same bytes as another argument.
    Same(usize),
}

/// A dispatch with its arguments.
#[derive(Clone)]
pub struct Job {
    pub kernel: &'static Kernel,
    pub specs: Vec<(&'static str, u32)>,
    pub grid: [u32; 3],
    push: Vec<u8>,
    args: Vec<Option<Arg>>,
}

/// The arguments after a run.
pub struct Out {
    kernel: &'static Kernel,
    args: Vec<Vec<u32>>,
}

impl Out {
    pub fn words(&self, name: &str) -> &[u32] {
        &self.args[index_of(self.kernel, name)]
    }

    pub fn floats(&self, name: &str) -> Vec<f32> {
        self.words(name).iter().map(|word| f32::from_bits(*word)).collect()
    }
}

fn index_of(kernel: &Kernel, name: &str) -> usize {
    let index = kernel.bindings.iter().position(|binding| binding.name == name);
    index.unwrap_or_else(|| panic!("{} has no argument {name}", kernel.name))
}

pub fn to_words(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Bytes as words; the last word is filled up with ones.
pub fn bytes_to_words(bytes: &[u8]) -> Vec<u32> {
    let word = |four: &[u8]| {
        let mut word = [0xff; 4];
        word[..four.len()].copy_from_slice(four);
        u32::from_le_bytes(word)
    };
    bytes.chunks(4).map(word).collect()
}

/// The first word that changed outside the ranges that may.
pub fn disturbed(before: &[u32], after: &[u32], writable: &[Range<usize>]) -> Option<usize> {
    (0..before.len())
        .find(|word| before[*word] != after[*word] && writable.iter().all(|range| !range.contains(word)))
}

impl Job {
    /// Values in `specs` win over those of the candidate's row.
    pub fn new<P: Pod>(
        candidate: &'static Candidate,
        specs: &[(&'static str, u32)],
        push: &P,
        grid: [u32; 3],
    ) -> Self {
        let specs = specs.iter().chain(candidate.spec).copied().collect();
        let args = vec![None; candidate.kernel.bindings.len()];
        Job { kernel: candidate.kernel, specs, grid, push: bytemuck::bytes_of(push).to_vec(), args }
    }

    pub fn words(mut self, name: &str, words: Vec<u32>) -> Self {
        self.args[index_of(self.kernel, name)] = Some(Arg::Words(words));
        self
    }

    pub fn floats(self, name: &str, values: &[f32]) -> Self {
        self.words(name, to_words(values))
    }

    /// Poisoned words.
    pub fn output(self, name: &str, len: usize) -> Self {
        self.words(name, vec![POISON; len.max(1)])
    }

    /// Binds `name` to the bytes of `other`.
    pub fn same(mut self, name: &str, other: &str) -> Self {
        self.args[index_of(self.kernel, name)] = Some(Arg::Same(index_of(self.kernel, other)));
        self
    }

    fn arg(&self, index: usize) -> &Arg {
        let name = self.kernel.bindings[index].name;
        self.args[index].as_ref().unwrap_or_else(|| panic!("{} misses {name}", self.kernel.name))
    }

    fn owner(&self, index: usize) -> usize {
        match self.arg(index) {
            Arg::Words(_) => index,
            Arg::Same(other) => *other,
        }
    }

    fn own(&self, index: usize) -> &[u32] {
        match self.arg(index) {
            Arg::Words(words) => words,
            Arg::Same(other) => self.own(*other),
        }
    }

    /// First word of each argument in the one buffer that holds them all, and the buffer's words. Every argument
    /// starts a different number of strides past an aligned place, with guards on both sides.
    fn layout(&self) -> (Vec<usize>, usize) {
        let count = self.args.len();
        let mut at = vec![0; count];
        let mut end = 0;
        for (index, place) in at.iter_mut().enumerate() {
            if self.owner(index) == index {
                let sharing = (0..count).filter(|&other| self.owner(other) == index);
                let stride =
                    sharing.map(|other| self.kernel.bindings[other].stride).max().unwrap_or(4).max(4);
                *place = (end + GUARD_WORDS).next_multiple_of(64) + stride as usize / 4 * (1 + index % 3);
                end = *place + self.own(index).len();
            }
        }
        (0..count).for_each(|index| at[index] = at[self.owner(index)]);
        (at, end + GUARD_WORDS)
    }

    /// Runs on the device. Whatever may not be written must be as it was, guards included.
    ///
    /// Panics when an argument is missing or has another name: a case that does not fit its kernel is a bug.
    pub fn on(&self, bench: &Bench) -> Check<Out> {
        self.on_poison(bench, GUARD)
    }

    /// As [`Job::on`], with `guard` around arguments and wherever outputs are poisoned.
    pub fn on_poison(&self, bench: &Bench, guard: u32) -> Check<Out> {
        let device = bench.device();
        let name = self.kernel.name;
        let (at, len) = self.layout();
        let count = self.args.len();
        let mut before = vec![guard; len];
        for index in 0..count {
            let words = self.own(index);
            let place = &mut before[at[index]..][..words.len()];
            // Another guard is another poison.
            if guard == GUARD || words.iter().any(|word| *word != POISON) {
                place.copy_from_slice(words);
            }
        }
        let buffer = device.buffer(name, 4 * len as u64, Usage::Readback)?;
        buffer.write(0, bytemuck::cast_slice(&before))?;
        let view =
            |index: usize| -> View { buffer.view(4 * at[index] as u64, 4 * self.own(index).len() as u64) };
        let mut recording = Recording::new(name);
        recording.dispatch(Dispatch {
            label: name.to_owned(),
            kernel: bench.kernel(self.kernel),
            views: (0..count).map(view).collect(),
            push: self.push.clone(),
            specs: self.specs.clone(),
            grid: Grid::Fixed(self.grid),
        })?;
        bench.show(&recording);
        let compiled = device.compile(&recording, &CompileOptions::default())?;
        device.submit(&[&compiled])?.wait()?;
        let messages = device.take_messages();
        ensure(messages.is_empty(), || format!("{name}: the validation layers say {messages:?}"))?;
        let mut after = vec![0u32; len];
        buffer.read(0, bytemuck::cast_slice_mut(&mut after))?;
        let cut = |index: usize| after[at[index]..][..self.own(index).len()].to_vec();
        let args = (0..count).map(cut).collect();
        let writable: Vec<_> = (0..count)
            .filter(|&index| self.kernel.bindings[index].access.writes())
            .map(|index| at[index]..at[index] + self.own(index).len())
            .collect();
        if let Some(word) = disturbed(&before, &after, &writable) {
            let near = (0..count).rev().find(|&index| at[index] <= word + GUARD_WORDS).unwrap_or(0);
            let (argument, place) = (self.kernel.bindings[near].name, word as i64 - at[near] as i64);
            let specs = &self.specs;
            return Err(Fault::Wrong(format!(
                "{name} changed word {place} of or around {argument}, which it may not ({specs:?})"
            )));
        }
        Ok(Out { kernel: self.kernel, args })
    }

    /// What the kernel means.
    pub fn meaning(&self, bench: &Bench) -> Out {
        let mut store: Vec<Vec<u32>> = (0..self.args.len()).map(|index| self.own(index).to_vec()).collect();
        let specs: Vec<u32> = self
            .kernel
            .specs
            .iter()
            .map(|spec| {
                let given = self.specs.iter().find(|(name, _)| *name == spec.name).map(|(_, value)| *value);
                given.unwrap_or(if spec.name == "SG" { bench.lanes() } else { spec.default })
            })
            .collect();
        let owned: Vec<Words<'_>> = store.iter_mut().map(|words| Words::new(words)).collect();
        let args: Vec<Words<'_>> = (0..owned.len()).map(|index| owned[self.owner(index)]).collect();
        let (kernel, grid) = (self.kernel, self.grid);
        (kernel.meaning)(&Call { kernel, args: &args, push: &self.push, specs: &specs, grid });
        let read = |words: &Words<'_>| (0..words.len()).map(|i| words.u32(i)).collect();
        Out { kernel, args: args.iter().map(read).collect() }
    }
}
