//! Recordings whose dispatches run or do not run as the device decides: workgroup counts are read from memory, which a
//! kernel fills with them or with zeros.

use crate::buffer::View;
use crate::error::Error;
use crate::recording::{Command, Dispatch, Grid, Recording};

/// Bytes of the workgroup counts of a dispatch.
const COUNTS: u64 = 12;

/// The grids of a recording.
#[derive(Clone, Debug, Default)]
pub struct Grids {
    /// Index of the command after the last one that computes a grid; those before it run in any case.
    pub first: usize,
    /// Grids that the recording computes itself.
    pub computed: Vec<View>,
    /// Grids that were fixed when it was made, in order.
    pub fixed: Vec<[u32; 3]>,
}

impl Grids {
    /// Bytes of all counts: the computed ones, then the fixed ones.
    pub fn bytes(&self) -> u64 {
        (self.computed.len() + self.fixed.len()) as u64 * COUNTS
    }

    /// Where the fixed ones begin.
    pub fn fixed_at(&self) -> u64 {
        self.computed.len() as u64 * COUNTS
    }
}

impl Recording {
    /// The grids of the commands that can be left to the device.
    pub fn grids(&self) -> Grids {
        let mut computed: Vec<View> = Vec::new();
        for command in &self.commands {
            if let Command::Dispatch(Dispatch { grid: Grid::Indirect(view), .. }) = command
                && !computed.iter().any(|known| known == view)
            {
                computed.push(view.clone());
            }
        }
        let writes = |command: &Command| {
            let mut touched = command.accesses().into_iter();
            touched.any(|(view, _, writes)| writes && computed.iter().any(|grid| grid == view))
        };
        let first = self.commands.iter().rposition(writes).map_or(0, |last| last + 1);
        let fixed = |command: &Command| match command {
            Command::Dispatch(Dispatch { grid: Grid::Fixed(counts), .. }) => Some(*counts),
            _ => None,
        };
        let fixed = self.commands[first..].iter().filter_map(fixed).collect();
        Grids { first, computed, fixed }
    }

    /// Lets the dispatches after the computed grids read their workgroup counts from `args`; computed ones are written to
    /// `counts`. Both lie as in [`Grids::bytes`]; who fills `args` goes to [`Grids::first`] with [`Recording::insert`].
    ///
    /// Errors: [`Error::Recording`] for views of another size.
    pub fn regrid(&mut self, grids: &Grids, counts: &View, args: &View) -> Result<(), Error> {
        if counts.len != grids.bytes() || args.len != grids.bytes() {
            let reason = format!("{} bytes for {} bytes of grids", args.len.min(counts.len), grids.bytes());
            return Err(Error::Recording { label: self.name.clone(), reason });
        }
        let place = |view: &View| grids.computed.iter().position(|grid| grid == view);
        let mut next = grids.computed.len() as u64;
        for (index, command) in self.commands.iter_mut().enumerate() {
            let Command::Dispatch(dispatch) = command else { continue };
            for view in &mut dispatch.views {
                if let Some(at) = place(view) {
                    *view = counts.part(at as u64 * COUNTS, COUNTS);
                }
            }
            let at = match &dispatch.grid {
                Grid::Indirect(view) => place(view).map(|at| at as u64),
                Grid::Fixed(_) if index >= grids.first => {
                    next += 1;
                    Some(next - 1)
                }
                Grid::Fixed(_) => None,
            };
            if let Some(at) = at {
                dispatch.grid = Grid::Indirect(args.part(at * COUNTS, COUNTS));
            }
        }
        Ok(())
    }
}
