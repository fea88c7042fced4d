//! The memory of a recording on the host, moved on command by command by what the commands mean.

use std::collections::HashMap;
use std::ops::Range;

use vkllm_runtime::{Buffer, Command, Device, Dispatch, Grid, Memory, Recording, Result, Usage, View};

use super::capsule::{Arg, Capsule, Piece, State, phase, refused};

/// Fresh transients hold this NaN, so that a read before the first write shows.
const POISON: u32 = 0xffff_ffff;

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Place {
    Buffer(usize),
    Transient(u32),
}

fn place(view: &View) -> Place {
    match &view.memory {
        Memory::Buffer(buffer) => Place::Buffer(buffer.key()),
        Memory::Transient(index) => Place::Transient(*index),
    }
}

/// Words that a view touches.
fn words(view: &View) -> Range<usize> {
    (view.offset / 4) as usize..(view.offset + view.len).div_ceil(4) as usize
}

/// Buffers as they were when the first command that names them was met. Constant ones are read from the device each time:
/// they may be larger than the host's memory.
pub(super) struct Shadow<'a> {
    device: &'a Device,
    names: HashMap<Place, String>,
    memory: HashMap<Place, Vec<u32>>,
}

impl<'a> Shadow<'a> {
    pub(super) fn new(device: &'a Device, recording: &Recording) -> Result<Self> {
        let mut shadow = Shadow { device, names: HashMap::new(), memory: HashMap::new() };
        for (view, _, _) in recording.commands().iter().flat_map(Command::accesses) {
            shadow.meet(view)?;
        }
        Ok(shadow)
    }

    fn meet(&mut self, view: &View) -> Result<()> {
        let place = place(view);
        match &view.memory {
            Memory::Buffer(buffer) => {
                self.names.entry(place).or_insert_with(|| buffer.name().to_owned());
                if buffer.usage() != Usage::Constant && !self.memory.contains_key(&place) {
                    self.memory.insert(place, read(self.device, buffer, 0..(buffer.size() / 4) as usize)?);
                }
            }
            Memory::Transient(index) => {
                self.names.entry(place).or_insert_with(|| format!("transient {index}"));
                let memory = self.memory.entry(place).or_default();
                if memory.len() < words(view).end {
                    memory.resize(words(view).end, POISON);
                }
            }
        }
        Ok(())
    }

    fn load(&self, view: &View, range: Range<usize>) -> Result<Vec<u32>> {
        match (self.memory.get(&place(view)), view.buffer()) {
            (Some(memory), _) => Ok(memory[range].to_vec()),
            (None, Some(buffer)) => read(self.device, buffer, range),
            (None, None) => Err(refused("a transient", "it is not in the recording")),
        }
    }

    /// A dispatch with what it would read now.
    pub(super) fn capsule(&self, dispatch: &Dispatch) -> Result<Capsule> {
        let mut spans: Vec<(Place, Range<usize>)> = Vec::new();
        for view in &dispatch.views {
            let (place, mut range) = (place(view), words(view));
            // Views that share bytes share a piece; merging may bring others together.
            spans.retain(|(other, span)| {
                let joined = *other == place && span.start < range.end && range.start < span.end;
                if joined {
                    range = range.start.min(span.start)..range.end.max(span.end);
                }
                !joined
            });
            spans.push((place, range));
        }
        let mut pieces = Vec::with_capacity(spans.len());
        for (place, span) in &spans {
            let view = dispatch.views.iter().find(|view| self::place(view) == *place);
            let words = view.map_or_else(|| Ok(Vec::new()), |view| self.load(view, span.clone()))?;
            let name = self.names.get(place).cloned().unwrap_or_default();
            pieces.push(Piece { name, phase: phase(span.start as u64 * 4), words });
        }
        let args = dispatch.views.iter().map(|view| {
            let range = words(view);
            let of = spans.iter().position(|(other, span)| {
                *other == place(view) && span.start <= range.start && range.end <= span.end
            });
            let piece = of.unwrap_or(0);
            Arg { piece, at: range.start - spans[piece].1.start, len: view.len }
        });
        let grid = match &dispatch.grid {
            Grid::Fixed(grid) => *grid,
            Grid::Indirect(view) => {
                let start = words(view).start;
                let three = self.load(view, start..start + 3)?;
                [three[0], three[1], three[2]]
            }
        };
        let kernel = dispatch.kernel;
        Ok(Capsule {
            label: dispatch.label.clone(),
            kernel,
            specs: kernel.spec_values(&dispatch.specs, self.device.caps().subgroup),
            push: dispatch.push.clone(),
            grid,
            args: args.collect(),
            pieces,
        })
    }

    /// Takes over what a dispatch wrote.
    pub(super) fn store(&mut self, dispatch: &Dispatch, capsule: &Capsule, state: &State) {
        for ((binding, view), arg) in dispatch.kernel.bindings.iter().zip(&dispatch.views).zip(&capsule.args)
        {
            if let Some(memory) = self.memory.get_mut(&place(view)).filter(|_| binding.access.writes()) {
                memory[words(view)].copy_from_slice(&state[arg.piece][arg.range()]);
            }
        }
    }

    /// Runs a command that is no dispatch.
    pub(super) fn transfer(&mut self, command: &Command) -> Result<()> {
        match command {
            Command::Dispatch(_) => {}
            Command::Copy { src, dst, .. } => {
                let from = self.load(src, words(src))?;
                if let Some(memory) = self.memory.get_mut(&place(dst)) {
                    memory[words(dst)].copy_from_slice(&from);
                }
            }
            Command::Fill { dst, word, .. } => {
                if let Some(memory) = self.memory.get_mut(&place(dst)) {
                    memory[words(dst)].fill(*word);
                }
            }
        }
        Ok(())
    }
}

fn read(device: &Device, buffer: &Buffer, range: Range<usize>) -> Result<Vec<u32>> {
    let mut words = vec![0u32; range.len()];
    device.read(buffer, range.start as u64 * 4, bytemuck::cast_slice_mut(&mut words))?;
    Ok(words)
}
