//! Runs a recording on the CPU: each dispatch is its kernel's meaning, in order. The other side of every comparison.

use std::cell::Cell;
use std::sync::Mutex;

use crate::buffer::{Memory, View};
use crate::call::{Call, Words};
use crate::error::Error;
use crate::memory::Storage;
use crate::recording::{Command, Dispatch, Grid, Recording};
use crate::vulkan::lock;

/// Fresh transients hold this: a NaN, so that a read before the first write shows.
const POISON: u32 = 0xffff_ffff;

/// A recording ready to run on the CPU.
pub(crate) struct Program {
    recording: Recording,
    transients: Vec<Mutex<Vec<u32>>>,
}

fn words_of<'a>(program: &'a Program, view: &'a View) -> Result<&'a Mutex<Vec<u32>>, Error> {
    match &view.memory {
        Memory::Transient(index) => Ok(&program.transients[*index as usize]),
        Memory::Buffer(buffer) => match &buffer.inner.storage {
            Storage::Host(words) => Ok(words),
            Storage::Vulkan(_) | Storage::Planned(_) => Err(Error::Recording {
                label: buffer.name().to_owned(),
                reason: "the buffer does not belong to the reference device, but the recording does".into(),
            }),
        },
    }
}

/// Runs `body` on the words of the views; views of one buffer see one another's writes.
fn with_words<R>(
    program: &Program,
    views: &[&View],
    body: impl FnOnce(&[Words<'_>]) -> R,
) -> Result<R, Error> {
    let mut distinct: Vec<&Mutex<Vec<u32>>> = Vec::new();
    let mut owner = Vec::with_capacity(views.len());
    for view in views {
        let words = words_of(program, view)?;
        let index = distinct.iter().position(|other| std::ptr::eq(*other, words));
        owner.push(index.unwrap_or(distinct.len()));
        if index.is_none() {
            distinct.push(words);
        }
    }
    let mut guards: Vec<_> = distinct.into_iter().map(lock).collect();
    let cells: Vec<&[Cell<u32>]> =
        guards.iter_mut().map(|words| Cell::from_mut(words.as_mut_slice()).as_slice_of_cells()).collect();
    let args: Vec<_> = views
        .iter()
        .zip(&owner)
        .map(|(view, &index)| {
            let start = (view.offset / 4) as usize;
            let end = ((view.offset + view.len).div_ceil(4)) as usize;
            Words::cells(&cells[index][start..end])
        })
        .collect();
    Ok(body(&args))
}

impl Program {
    pub(crate) fn new(recording: &Recording) -> Self {
        let transients = recording
            .transients
            .iter()
            .map(|t| Mutex::new(vec![POISON; t.size.div_ceil(4) as usize]))
            .collect();
        Program { recording: recording.clone(), transients }
    }

    pub(crate) fn run(&self) -> Result<(), Error> {
        for command in self.recording.commands() {
            match command {
                Command::Dispatch(dispatch) => self.call(dispatch)?,
                Command::Copy { src, dst, .. } => with_words(self, &[src, dst], |args| {
                    for index in 0..args[0].len() {
                        args[1].set_u32(index, args[0].u32(index));
                    }
                })?,
                Command::Fill { dst, word, .. } => with_words(self, &[dst], |args| {
                    for index in 0..args[0].len() {
                        args[0].set_u32(index, *word);
                    }
                })?,
            }
        }
        Ok(())
    }

    fn call(&self, dispatch: &Dispatch) -> Result<(), Error> {
        let grid = match &dispatch.grid {
            Grid::Fixed(grid) => *grid,
            Grid::Indirect(view) => {
                with_words(self, &[view], |args| [args[0].u32(0), args[0].u32(1), args[0].u32(2)])?
            }
        };
        if grid.contains(&0) {
            return Ok(());
        }
        let specs = dispatch.kernel.spec_values(&dispatch.specs, 8);
        let views: Vec<&View> = dispatch.views.iter().collect();
        with_words(self, &views, |args| {
            (dispatch.kernel.meaning)(&Call {
                kernel: dispatch.kernel,
                args,
                push: &dispatch.push,
                specs: &specs,
                grid,
            });
        })
    }
}
