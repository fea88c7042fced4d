//! A recording: ordered work on views, as plain data. It can be printed, compared, run on the reference device or
//! compiled to a command buffer; nothing in it changes from one submission to the next.

use crate::buffer::{Buffer, Memory, View};
use crate::caps::Caps;
use crate::error::Error;
use crate::kernel::Kernel;
use crate::place::{Lifetime, place};

/// Largest push block, the minimum every Vulkan device offers.
const MAX_PUSH: usize = 128;

/// Number of workgroups of a dispatch.
#[derive(Clone, Debug)]
pub enum Grid {
    Fixed([u32; 3]),
    /// Three u32 read by the device when it reaches the dispatch.
    Indirect(View),
}

/// One kernel on its arguments.
#[derive(Clone, Debug)]
pub struct Dispatch {
    /// Where the work belongs, for example `blk.7.ffn_down`.
    pub label: String,
    pub kernel: &'static Kernel,
    /// One view per binding, in binding order.
    pub views: Vec<View>,
    /// The push block; `<name>_at` fields are filled in when the recording is compiled.
    pub push: Vec<u8>,
    /// Specialisation values by name; names the kernel does not declare are ignored, absent ones take its default.
    pub specs: Vec<(&'static str, u32)>,
    pub grid: Grid,
}

/// One piece of work.
#[derive(Clone, Debug)]
pub enum Command {
    Dispatch(Dispatch),
    /// Copies all bytes of `src` to the equally long `dst`.
    Copy {
        label: String,
        src: View,
        dst: View,
    },
    /// Fills a view with one word.
    Fill {
        label: String,
        dst: View,
        word: u32,
    },
}

impl Command {
    pub fn label(&self) -> &str {
        match self {
            Command::Dispatch(dispatch) => &dispatch.label,
            Command::Copy { label, .. } | Command::Fill { label, .. } => label,
        }
    }

    /// Views with how they are touched: (view, reads, writes).
    pub fn accesses(&self) -> Vec<(&View, bool, bool)> {
        match self {
            Command::Dispatch(dispatch) => {
                let bound = dispatch.kernel.bindings.iter().zip(&dispatch.views);
                let mut all: Vec<_> =
                    bound.map(|(b, view)| (view, b.access.reads(), b.access.writes())).collect();
                if let Grid::Indirect(view) = &dispatch.grid {
                    all.push((view, true, false));
                }
                all
            }
            Command::Copy { src, dst, .. } => vec![(src, true, false), (dst, false, true)],
            Command::Fill { dst, .. } => vec![(dst, false, true)],
        }
    }
}

/// A transient buffer: lives from the first to the last command that names it.
#[derive(Clone, Debug)]
pub(crate) struct Transient {
    pub(crate) name: String,
    pub(crate) size: u64,
}

/// Ordered work.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    pub name: String,
    pub(crate) transients: Vec<Transient>,
    pub(crate) commands: Vec<Command>,
}

impl Recording {
    pub fn new(name: impl Into<String>) -> Self {
        Recording { name: name.into(), ..Self::default() }
    }

    /// A buffer that holds nothing before its first and nothing after its last use. Size in bytes.
    pub fn transient(&mut self, name: impl Into<String>, size: u64) -> View {
        let index = self.transients.len() as u32;
        let size = size.max(4).next_multiple_of(4);
        self.transients.push(Transient { name: name.into(), size });
        View { memory: Memory::Transient(index), offset: 0, len: size }
    }

    /// Appends a dispatch after checking that it fits its kernel.
    ///
    /// Errors: [`Error::Recording`] naming the label and what does not fit.
    pub fn dispatch(&mut self, mut dispatch: Dispatch) -> Result<(), Error> {
        if let Err(reason) = self.check(&dispatch) {
            let label = format!("{} ({})", dispatch.label, dispatch.kernel.name);
            return Err(Error::Recording { label, reason });
        }
        if matches!(dispatch.grid, Grid::Fixed(grid) if grid.contains(&0)) {
            return Ok(());
        }
        dispatch.push.resize(dispatch.kernel.push_size as usize, 0);
        self.commands.push(Command::Dispatch(dispatch));
        Ok(())
    }

    /// Puts a dispatch before the command at `index`, or at the end.
    ///
    /// Errors: as [`Recording::dispatch`].
    pub fn insert(&mut self, index: usize, dispatch: Dispatch) -> Result<(), Error> {
        let count = self.commands.len();
        self.dispatch(dispatch)?;
        let appended = self.commands.len() > count;
        self.commands[index.min(count)..].rotate_right(usize::from(appended));
        Ok(())
    }

    /// Appends a copy.
    pub fn copy(&mut self, label: impl Into<String>, src: View, dst: View) -> Result<(), Error> {
        let label = label.into();
        let fits = src.len == dst.len && [&src, &dst].iter().all(|v| v.offset % 4 == 0 && v.len % 4 == 0);
        if !fits || !self.inside(&src) || !self.inside(&dst) || read_only(&dst) {
            let reason = format!("cannot copy {} bytes to {} bytes", src.len, dst.len);
            return Err(Error::Recording { label, reason });
        }
        self.commands.push(Command::Copy { label, src, dst });
        Ok(())
    }

    /// Appends a fill.
    pub fn fill(&mut self, label: impl Into<String>, dst: View, word: u32) -> Result<(), Error> {
        let label = label.into();
        if !(dst.offset | dst.len).is_multiple_of(4) || !self.inside(&dst) || read_only(&dst) {
            let reason = format!("cannot fill bytes {}..+{}", dst.offset, dst.len);
            return Err(Error::Recording { label, reason });
        }
        self.commands.push(Command::Fill { label, dst, word });
        Ok(())
    }

    pub fn commands(&self) -> &[Command] {
        &self.commands
    }

    /// Where the transients lie in their arena, and its bytes.
    pub(crate) fn placed(&self, caps: &Caps) -> (Vec<u64>, u64) {
        let mut lives: Vec<Option<Lifetime>> = vec![None; self.transients.len()];
        for (at, command) in self.commands.iter().enumerate() {
            for (view, _, _) in command.accesses() {
                if let Memory::Transient(index) = view.memory {
                    let index = index as usize;
                    let size = self.transients[index].size;
                    lives[index].get_or_insert(Lifetime { size, first: at, last: at }).last = at;
                }
            }
        }
        let (offsets, size) = place(&lives, caps.offset_alignment.max(256));
        (offsets, size.next_multiple_of(4))
    }

    /// Bytes that the transients take together on a device.
    pub fn arena_bytes(&self, caps: &Caps) -> u64 {
        self.placed(caps).1
    }

    fn memory_name<'a>(&'a self, view: &'a View) -> &'a str {
        match &view.memory {
            Memory::Buffer(buffer) => buffer.name(),
            Memory::Transient(index) => self.transients.get(*index as usize).map_or("nothing", |t| &t.name),
        }
    }

    fn inside(&self, view: &View) -> bool {
        let size = match &view.memory {
            Memory::Buffer(buffer) => buffer.size(),
            Memory::Transient(index) => self.transients.get(*index as usize).map_or(0, |t| t.size),
        };
        view.len > 0 && view.offset.checked_add(view.len).is_some_and(|end| end.next_multiple_of(4) <= size)
    }

    fn check(&self, dispatch: &Dispatch) -> Result<(), String> {
        let kernel = dispatch.kernel;
        if dispatch.views.len() != kernel.bindings.len() {
            return Err(format!("{} views for {} bindings", dispatch.views.len(), kernel.bindings.len()));
        }
        if dispatch.push.len() > kernel.push_size as usize || dispatch.push.len() > MAX_PUSH {
            return Err(format!("{} push bytes, {} declared", dispatch.push.len(), kernel.push_size));
        }
        for (binding, view) in kernel.bindings.iter().zip(&dispatch.views) {
            let name = binding.name;
            if !self.inside(view) {
                let (offset, len) = (view.offset, view.len);
                let of = self.memory_name(view);
                return Err(format!("view {name}, bytes {offset}..+{len} of {of}, is empty or leaves it"));
            }
            if binding.access.writes() && read_only(view) {
                return Err(format!("view {name} would be written, but its memory is only lent"));
            }
            if view.offset % u64::from(binding.stride.max(4)) != 0 {
                let stride = binding.stride;
                return Err(format!(
                    "view {name} starts at byte {}, not a multiple of {stride}",
                    view.offset
                ));
            }
        }
        if let Grid::Indirect(view) = &dispatch.grid
            && (!self.inside(view) || view.len < 12 || !view.offset.is_multiple_of(4))
        {
            return Err("the indirect grid needs three words inside its buffer".into());
        }
        Ok(())
    }
}

fn read_only(view: &View) -> bool {
    view.buffer().is_some_and(Buffer::is_read_only)
}
