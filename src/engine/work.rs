//! What the commands of a step have to move and compute, counted from its recording: the bytes and operations that stand
//! behind a measured time. Counted is what must happen once; what a kernel loads twice is its own affair.

use vkllm_runtime::{Command, Dispatch, Grid, Recording, Usage};
use vkllm_shaders::ops;

use crate::cache::{BLOCK, KvLayout};

/// Bytes and operations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Bytes of the file's tensors that are read.
    pub weights: u64,
    /// Bytes of cached keys and values and of recurrent states, read and written.
    pub cache: u64,
    /// Bytes of everything else, read and written: activations, partial results, tables, records.
    pub activations: u64,
    /// Multiplications and additions of matrix products and attention.
    pub operations: u64,
}

impl Work {
    pub fn bytes(&self) -> u64 {
        self.weights + self.cache + self.activations
    }
}

impl std::ops::AddAssign for Work {
    fn add_assign(&mut self, other: Work) {
        self.weights += other.weights;
        self.cache += other.cache;
        self.activations += other.activations;
        self.operations += other.operations;
    }
}

/// What the rows of a step see of one conversation: consecutive positions, the first row's and their number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) first: u32,
    pub(super) rows: u32,
}

impl Seen {
    /// Rows `first..first + rows` of the step's rows.
    fn part(self, first: u32, rows: u32) -> Seen {
        let rows = rows.min(self.rows.saturating_sub(first));
        Seen { first: self.first + first, rows }
    }

    /// First position that a row sees through a window, 0 for none, and its own.
    fn span(self, row: u32, window: u32) -> (u64, u64) {
        let own = u64::from(self.first) + u64::from(row);
        let before = if window == 0 { own } else { own.min(u64::from(window) - 1) };
        (own - before, own)
    }

    /// Positions whose keys and values must be loaded.
    fn positions(self, window: u32) -> u64 {
        if self.rows == 0 { 0 } else { self.span(self.rows - 1, 0).1 + 1 - self.span(0, window).0 }
    }

    /// Pairs of a row and a position that it sees.
    fn pairs(self, window: u32) -> u64 {
        let seen = (0..self.rows).map(|row| self.span(row, window));
        seen.map(|(from, to)| to - from + 1).sum()
    }

    /// Pairs of a row and a chunk that it sees a part of.
    fn chunks(self, window: u32) -> u64 {
        let chunk = |position: u64| position / u64::from(BLOCK);
        let seen = (0..self.rows).map(|row| self.span(row, window));
        seen.map(|(from, to)| chunk(to) - chunk(from) + 1).sum()
    }
}

/// What a command does, with the part that depends on positions.
#[derive(Clone, Debug, Default)]
pub(super) struct CommandWork {
    fixed: Work,
    attention: Option<AttentionWork>,
}

#[derive(Clone, Copy, Debug)]
struct AttentionWork {
    /// Rows of the step that the command does.
    first: u32,
    rows: u32,
    /// Positions that a row sees; 0 for all.
    window: u32,
    /// Per position that must be loaded.
    cache: u64,
    /// Per pair of a row and a position.
    operations: u64,
    /// Per pair of a row and a chunk.
    part: u64,
}

impl CommandWork {
    pub(super) fn of(&self, seen: Seen) -> Work {
        let mut work = self.fixed;
        if let Some(a) = self.attention {
            let seen = seen.part(a.first, a.rows);
            work += Work {
                weights: 0,
                cache: seen.positions(a.window) * a.cache,
                activations: seen.chunks(a.window) * a.part,
                operations: seen.pairs(a.window) * a.operations,
            };
        }
        work
    }
}

/// The work of every command of a recording.
pub(super) fn count(recording: &Recording, layout: &KvLayout) -> Vec<CommandWork> {
    let mut counter = Counter { layout, scores: Turn::default(), combine: Turn::default() };
    recording.commands().iter().map(|command| counter.command(command)).collect()
}

/// The work of some commands of a recording whose rows are those of one conversation: the first one's position, and how many.
#[cfg(feature = "bench")]
pub(crate) fn work_of(
    recording: &Recording,
    layout: &KvLayout,
    commands: std::ops::Range<usize>,
    (first, rows): (u32, u32),
) -> Work {
    let mut sum = Work::default();
    count(recording, layout)[commands].iter().for_each(|work| sum += work.of(Seen { first, rows }));
    sum
}

/// Attention of many rows is several dispatches, one after the other in each layer.
#[derive(Default)]
struct Turn {
    label: String,
    next: u32,
}

impl Turn {
    fn first(&mut self, label: &str, rows: u32) -> u32 {
        if self.label != label {
            *self = Turn { label: label.to_owned(), next: 0 };
        }
        let first = self.next;
        self.next += rows;
        first
    }
}

struct Counter<'a> {
    layout: &'a KvLayout,
    scores: Turn,
    combine: Turn,
}

fn push<P: bytemuck::Pod>(dispatch: &Dispatch) -> P {
    bytemuck::pod_read_unaligned(&dispatch.push[..size_of::<P>()])
}

impl Counter<'_> {
    fn command(&mut self, command: &Command) -> CommandWork {
        match command {
            Command::Dispatch(dispatch) => self.dispatch(dispatch),
            Command::Copy { src, .. } => fixed(Work { activations: 2 * src.len, ..Work::default() }),
            Command::Fill { dst, .. } => fixed(Work { activations: dst.len, ..Work::default() }),
        }
    }

    fn dispatch(&mut self, dispatch: &Dispatch) -> CommandWork {
        let layout = self.layout;
        match dispatch.kernel.op {
            "embed" => {
                let push = push::<ops::embed::Push>(dispatch);
                // A row is found in one of the table's windows; the first stands for all.
                let rows = if push.first == 0 { u64::from(push.rows) } else { 0 };
                fixed(Work {
                    weights: rows * u64::from(push.row_bytes),
                    activations: rows * u64::from(push.k) * 4,
                    ..Work::default()
                })
            }
            "linear" => {
                let push = push::<ops::linear::Push>(dispatch);
                if push.expert_count > 0 {
                    return fixed(experts(dispatch, &push));
                }
                let operations = 2 * u64::from(push.k) * u64::from(push.n) * u64::from(push.rows);
                fixed(Work { operations, ..whole_views(dispatch, &[]) })
            }
            "gather" => {
                let push = push::<ops::gather::Push>(dispatch);
                let activations = u64::from(push.count) * u64::from(push.k) * 8;
                fixed(Work { activations, ..Work::default() })
            }
            // Of the rings only the rows of the step.
            "hidden_put" | "hidden_get" => {
                let mut work = whole_views(dispatch, &["hidden"]);
                work.activations += moved(dispatch);
                fixed(work)
            }
            "heads" => {
                let push = push::<ops::heads::Push>(dispatch);
                let rows = u64::from(push.row_count);
                let skipped = ["rope", "q_scale", "block_table", "k_cache", "v_cache"];
                let mut work = whole_views(dispatch, &skipped);
                work.cache = rows * layout.position_bytes();
                work.activations += rows * u64::from(spec(dispatch, "ROT")) * 4;
                fixed(work)
            }
            "attention" => {
                let push = push::<ops::attention::Push>(dispatch);
                let heads = u64::from(push.n_head);
                let size = u64::from(layout.head) + u64::from(layout.head_v);
                CommandWork {
                    fixed: whole_views(dispatch, &["k_cache", "v_cache", "block_table", "part"]),
                    attention: Some(AttentionWork {
                        first: self.scores.first(&dispatch.label, push.row_count),
                        rows: push.row_count,
                        window: push.window,
                        cache: layout.position_bytes(),
                        operations: 2 * heads * size,
                        part: heads * (u64::from(layout.head_v) + 2) * 4,
                    }),
                }
            }
            "attention_combine" => {
                let push = push::<ops::attention_combine::Push>(dispatch);
                CommandWork {
                    fixed: whole_views(dispatch, &["part"]),
                    attention: Some(AttentionWork {
                        first: self.combine.first(&dispatch.label, push.row_count),
                        rows: push.row_count,
                        window: push.window,
                        cache: 0,
                        operations: 0,
                        part: u64::from(push.n_head) * (u64::from(layout.head_v) + 2) * 4,
                    }),
                }
            }
            "conv" => {
                let push = push::<ops::conv::Push>(dispatch);
                let floats = u64::from(push.row_count - push.first_row) * u64::from(push.width);
                let on = |name| u64::from(spec(dispatch, name));
                let mut work = whole_views(dispatch, &["x", "rows", "inputs", "y"]);
                // Earlier rows are counted where they were rows of this step.
                work.activations += floats * 8 * (on("COMPUTE") + on("KEEP"));
                work.operations = 2 * floats * on("TAPS") * on("COMPUTE");
                fixed(work)
            }
            // The state is read once and, but for steps that are taken back, written once, whatever the number of rows.
            "recurrence" => {
                let push = push::<ops::recurrence::Push>(dispatch);
                let size = u64::from(4 * spec(dispatch, "QUADS") * spec(dispatch, "LANES"));
                let (rows, inner) =
                    (u64::from(push.row_count), u64::from(push.heads) * u64::from(push.columns));
                let commit = spec(dispatch, "COMMIT");
                let mut work = whole_views(dispatch, &["state", "marks", "terms"]);
                work.cache = inner * (size + 1) * 4 * (1 + u64::from(commit > 0));
                if commit != 2 {
                    let keys = u64::from(push.key_heads) * size;
                    work.activations += rows * (keys + inner + u64::from(push.heads)) * 4;
                }
                work.operations = rows * inner * size * 6;
                fixed(work)
            }
            // These look at few of the logits they are given.
            "sample" | "sample_penalize" => fixed(whole_views(dispatch, &["logits"])),
            _ => fixed(whole_views(dispatch, &[])),
        }
    }
}

/// A specialisation constant that the dispatch gives, else 0.
fn spec(dispatch: &Dispatch, name: &str) -> u32 {
    dispatch.specs.iter().find(|(other, _)| *other == name).map_or(0, |(_, value)| *value)
}

/// Bytes of the rows that are copied to or from a ring of hidden rows.
fn moved(dispatch: &Dispatch) -> u64 {
    let (k, rows) = if dispatch.kernel.op == "hidden_put" {
        let push = push::<ops::hidden_put::Push>(dispatch);
        (push.k, push.row_count)
    } else {
        let push = push::<ops::hidden_get::Push>(dispatch);
        (push.k, push.row_count)
    };
    u64::from(k) * u64::from(rows) * 4
}

fn fixed(fixed: Work) -> CommandWork {
    CommandWork { fixed, attention: None }
}

/// Products with stacks of matrices: each expert that is used is read once, of one row exactly those of its tiles. Of more
/// rows as many are counted as there may be.
fn experts(dispatch: &Dispatch, push: &ops::linear::Push) -> Work {
    let [_, tiles, stacks] = match &dispatch.grid {
        Grid::Fixed(grid) => *grid,
        Grid::Indirect(_) => [1; 3],
    };
    let used = u64::from(tiles.min(push.expert_count) * stacks);
    let output =
        dispatch.kernel.bindings.iter().zip(&dispatch.views).find(|(binding, _)| binding.name == "y");
    // Each output of an assignment is one product of k elements.
    let outputs = output.map_or(0, |(_, view)| view.len / 4);
    Work {
        weights: used * u64::from(push.expert_bytes),
        operations: 2 * u64::from(push.k) * outputs,
        ..whole_views(dispatch, &["weights"])
    }
}

/// Every view from end to end, but for some; a view that stands in for an absent argument counts once.
fn whole_views(dispatch: &Dispatch, skipped: &[&str]) -> Work {
    let mut work = Work::default();
    let bound: Vec<_> = dispatch.kernel.bindings.iter().zip(&dispatch.views).collect();
    for (index, (binding, view)) in bound.iter().enumerate() {
        let again =
            bound[..index].iter().any(|(before, other)| view == other && before.access == binding.access);
        if again || skipped.contains(&binding.name) {
            continue;
        }
        let times = u64::from(binding.access.reads()) + u64::from(binding.access.writes());
        if view.buffer().is_some_and(|buffer| buffer.usage() == Usage::Constant) {
            work.weights += view.len;
        } else {
            work.activations += times * view.len;
        }
    }
    work
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_and_chunks_are_counted_by_hand() {
        let three = Seen { first: 300, rows: 3 };
        assert_eq!((three.positions(0), three.pairs(0), three.chunks(0)), (303, 301 + 302 + 303, 9));
        // Rows 300 to 302 see 100 positions each, from 201 on.
        assert_eq!((three.positions(100), three.pairs(100), three.chunks(100)), (102, 300, 6));
        assert_eq!((three.part(1, 9), three.part(3, 1).positions(0)), (Seen { first: 301, rows: 2 }, 0));
        let first = Seen { first: 0, rows: 1 };
        assert_eq!((first.positions(4), first.pairs(4), first.chunks(4)), (1, 1, 1));
    }
}
