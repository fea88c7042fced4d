//! One dispatch with everything it reads: it can be run on a device inside guard bands, and by its kernel's meaning.

use std::cell::Cell;
use std::ops::Range;

use vkllm_runtime::{
    Call, CompileOptions, Device, Dispatch, Error, Grid, Kernel, Recording, Result, Usage, Words,
};

/// Words before and after every piece of memory: 64 KiB of a NaN, so that what is read from there shows.
const GUARD_WORDS: usize = 16384;
const GUARD: u32 = 0x7fc0_5eed;
/// Bindings start where they started modulo this, the largest alignment that any device asks for.
const ALIGNMENT: u64 = 256;

/// Memory that a dispatch is bound to.
#[derive(Clone, Debug, PartialEq)]
pub struct Piece {
    /// Name of the buffer or transient.
    pub name: String,
    /// Byte in its buffer, modulo 256.
    pub phase: u32,
    pub words: Vec<u32>,
}

/// What a binding sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arg {
    /// Index of the piece.
    pub piece: usize,
    /// First word in the piece.
    pub at: usize,
    /// Bytes.
    pub len: u64,
}

impl Arg {
    /// Words in the piece.
    pub fn range(&self) -> Range<usize> {
        self.at..self.at + self.len.div_ceil(4) as usize
    }
}

/// A dispatch without its program.
#[derive(Clone, Debug)]
pub struct Capsule {
    /// Where the work belongs, for example `blk.7.ffn_down`.
    pub label: String,
    pub kernel: &'static Kernel,
    /// Specialisation values in the kernel's order.
    pub specs: Vec<u32>,
    pub push: Vec<u8>,
    /// Workgroups; an indirect grid is resolved.
    pub grid: [u32; 3],
    pub pieces: Vec<Piece>,
    /// One per binding.
    pub args: Vec<Arg>,
}

/// The pieces after a run.
pub type State = Vec<Vec<u32>>;

/// What a run is about to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Make buffers and fill them.
    Memory,
    /// Make the pipeline and the command buffer.
    Compile,
    Run,
    ReadBack,
    Compare,
}

impl Stage {
    pub fn name(self) -> &'static str {
        match self {
            Stage::Memory => "memory",
            Stage::Compile => "compile",
            Stage::Run => "run",
            Stage::ReadBack => "read back",
            Stage::Compare => "compare",
        }
    }
}

/// What a run on a device gave.
#[derive(Debug)]
pub struct Ran {
    pub state: State,
    /// Words that changed though they may not: the piece's name and the word in it, which may lie before or behind.
    pub disturbed: Option<(String, i64)>,
}

impl Capsule {
    /// The words of an argument in a state.
    pub fn words<'a>(&self, state: &'a State, name: &str) -> &'a [u32] {
        match self.arg(name) {
            Some(arg) => &state[arg.piece][arg.range()],
            None => &[],
        }
    }

    /// The argument bound as `name`.
    pub fn arg(&self, name: &str) -> Option<&Arg> {
        self.kernel
            .bindings
            .iter()
            .zip(&self.args)
            .find(|(binding, _)| binding.name == name)
            .map(|(_, arg)| arg)
    }

    /// A specialisation value.
    pub fn spec(&self, name: &str) -> Option<u32> {
        self.kernel.specs.iter().zip(&self.specs).find(|(spec, _)| spec.name == name).map(|(_, value)| *value)
    }

    /// The pieces before a run.
    pub fn before(&self) -> State {
        self.pieces.iter().map(|piece| piece.words.clone()).collect()
    }

    /// Bytes of all pieces.
    pub fn bytes(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.words.len() as u64 * 4).sum()
    }

    /// Words of a piece that the dispatch may write.
    pub fn writable(&self, piece: usize) -> Vec<Range<usize>> {
        let bound = self.kernel.bindings.iter().zip(&self.args);
        bound
            .filter(|(binding, arg)| arg.piece == piece && binding.access.writes())
            .map(|(_, arg)| arg.range())
            .collect()
    }

    /// What the kernel means: the pieces afterwards.
    ///
    /// Panics when pieces, grid or push values are not those of a recorded dispatch.
    pub fn meaning(&self) -> State {
        let mut state = self.before();
        let cells: Vec<&[Cell<u32>]> =
            state.iter_mut().map(|words| Cell::from_mut(words.as_mut_slice()).as_slice_of_cells()).collect();
        let args: Vec<_> = self.args.iter().map(|arg| Words::cells(&cells[arg.piece][arg.range()])).collect();
        self.call(&args);
        state
    }

    /// Which words the meaning looks at, and which it writes: [`READ`](vkllm_runtime::READ) and [`WRITTEN`](vkllm_runtime::WRITTEN) for every word of every piece.
    ///
    /// Panics as [`Capsule::meaning`].
    pub fn touched(&self) -> Vec<Vec<u8>> {
        let mut state = self.before();
        let mut marks: Vec<Vec<u8>> = state.iter().map(|words| vec![0; words.len()]).collect();
        let cells: Vec<&[Cell<u32>]> =
            state.iter_mut().map(|words| Cell::from_mut(words.as_mut_slice()).as_slice_of_cells()).collect();
        let seen: Vec<&[Cell<u8>]> =
            marks.iter_mut().map(|marks| Cell::from_mut(marks.as_mut_slice()).as_slice_of_cells()).collect();
        let args: Vec<_> = self
            .args
            .iter()
            .map(|arg| Words::watched(&cells[arg.piece][arg.range()], &seen[arg.piece][arg.range()]))
            .collect();
        self.call(&args);
        marks
    }

    fn call(&self, args: &[Words<'_>]) {
        (self.kernel.meaning)(&Call {
            kernel: self.kernel,
            args,
            push: &self.push,
            specs: &self.specs,
            grid: self.grid,
        });
    }

    /// Runs it on a device, every piece in a buffer of its own between guards.
    ///
    /// Errors: what the device cannot do or hold, its loss.
    pub fn run(&self, device: &Device) -> Result<Ran> {
        self.run_watched(device, &mut |_| {})
    }

    /// As [`Capsule::run`]; `stage` is told what is about to be done.
    ///
    /// Errors: as [`Capsule::run`].
    pub fn run_watched(&self, device: &Device, stage: &mut dyn FnMut(Stage)) -> Result<Ran> {
        stage(Stage::Memory);
        let mut buffers = Vec::with_capacity(self.pieces.len());
        let start = |piece: &Piece| GUARD_WORDS + piece.phase as usize / 4;
        for piece in &self.pieces {
            let total = start(piece) + piece.words.len() + GUARD_WORDS;
            let buffer = device.buffer(&piece.name, total as u64 * 4, Usage::Shared)?;
            let mut words = vec![GUARD; total];
            words[start(piece)..][..piece.words.len()].copy_from_slice(&piece.words);
            device.write(&buffer, 0, bytemuck::cast_slice(&words))?;
            buffers.push(buffer);
        }
        let views = self.args.iter().map(|arg| {
            let first = start(&self.pieces[arg.piece]) + arg.at;
            buffers[arg.piece].view(first as u64 * 4, arg.len)
        });
        let mut recording = Recording::new(self.label.as_str());
        recording.dispatch(Dispatch {
            label: self.label.clone(),
            kernel: self.kernel,
            views: views.collect(),
            push: self.push.clone(),
            specs: self
                .kernel
                .specs
                .iter()
                .zip(&self.specs)
                .map(|(spec, value)| (spec.name, *value))
                .collect(),
            grid: Grid::Fixed(self.grid),
        })?;
        stage(Stage::Compile);
        let compiled = device.compile(&recording, &CompileOptions::default())?;
        stage(Stage::Run);
        device.submit(&[&compiled])?.wait()?;
        stage(Stage::ReadBack);
        let mut ran = Ran { state: Vec::with_capacity(buffers.len()), disturbed: None };
        for (index, (piece, buffer)) in self.pieces.iter().zip(&buffers).enumerate() {
            let first = start(piece);
            let mut words = vec![0u32; (buffer.size() / 4) as usize];
            device.read(buffer, 0, bytemuck::cast_slice_mut(&mut words))?;
            let writable = self.writable(index);
            let len = piece.words.len();
            let outside = |word: usize| match word.checked_sub(first) {
                Some(at) if at < len => {
                    words[word] != piece.words[at] && writable.iter().all(|range| !range.contains(&at))
                }
                _ => words[word] != GUARD,
            };
            if let Some(word) = (0..words.len()).find(|&word| outside(word)) {
                ran.disturbed.get_or_insert((piece.name.clone(), word as i64 - first as i64));
            }
            ran.state.push(words[first..first + len].to_vec());
        }
        Ok(ran)
    }

    /// Checks that a capsule which did not come from a recording holds together.
    ///
    /// Errors: a sentence with what does not fit.
    pub fn check(&self) -> std::result::Result<(), String> {
        let kernel = self.kernel;
        if self.args.len() != kernel.bindings.len() {
            return Err(format!("{} arguments for {} bindings", self.args.len(), kernel.bindings.len()));
        }
        if self.specs.len() != kernel.specs.len() {
            return Err(format!(
                "{} values for {} specialisation constants",
                self.specs.len(),
                kernel.specs.len()
            ));
        }
        if self.push.len() != kernel.push_size as usize {
            return Err(format!("{} push bytes, {} declared", self.push.len(), kernel.push_size));
        }
        for (binding, arg) in kernel.bindings.iter().zip(&self.args) {
            let name = binding.name;
            let piece =
                self.pieces.get(arg.piece).ok_or_else(|| format!("{name} is in piece {}", arg.piece))?;
            let words = usize::try_from(arg.len.div_ceil(4)).unwrap_or(usize::MAX);
            if arg.len == 0 || arg.at.checked_add(words).is_none_or(|end| end > piece.words.len()) {
                return Err(format!("{name} is empty or leaves its piece of {} words", piece.words.len()));
            }
        }
        match self.pieces.iter().find(|piece| u64::from(piece.phase) >= ALIGNMENT || piece.phase % 4 != 0) {
            Some(piece) => Err(format!("piece {} starts at byte {} of 256", piece.name, piece.phase)),
            None => Ok(()),
        }
    }
}

/// The phase of a byte offset.
pub(super) fn phase(offset: u64) -> u32 {
    (offset % ALIGNMENT) as u32
}

/// An error that names a command.
pub(super) fn refused(label: &str, reason: impl Into<String>) -> Error {
    Error::Recording { label: label.to_owned(), reason: reason.into() }
}
