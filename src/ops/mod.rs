//! One function per operation: it checks shapes, chooses a kernel and appends a dispatch to the recording.

mod attention;
mod experts;
mod hidden;
mod linear;
mod recurrent;
mod rows;
mod sample;
mod streams;
mod verify;

pub use attention::{
    AttentionShape, AttentionTile, HeadNorms, HeadsArgs, Stored, attention, attention_tiles, heads,
};
pub use experts::{Gating, Router, Routing, SharedExpert, experts_sum, route, route_heads};
pub use hidden::{hidden_get, hidden_put};
pub use linear::{LinearArgs, Stack, linear, linear_experts, linear_heads, takes_int8};
pub use recurrent::{ConvArgs, RecurrenceArgs, Rule, conv, recurrence};
pub use rows::{
    Activation, Norm, embed, embed_into, forms_of, forms_of_rows, gate_by, gather, glu, join, norm, norm_add,
    norm_groups, norm_onto, soft_cap, spread,
};
pub use sample::{Choice, Draw, HISTORY_RING, MOST_BIASES, Purpose, SampleViews, note_history, sample};
pub use streams::{Streams, add, altup_correct, altup_predict, rescale, sparsify};
pub use verify::{AcceptViews, Gate, RECORD, accept, gate, verify_rows};

use std::cell::OnceCell;

use vkllm_runtime::{Caps, Dispatch, Grid, Recording, View};
use vkllm_shaders::select::{Candidate, Wanted, select};

use crate::error::{Error, Result};

/// Bytes of an int8 block of 32 activations.
const Q8_BLOCK: u64 = 48;

/// How activations enter matrix products.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Activations {
    /// f32 operands.
    Float,
    /// int8 in blocks of 32 where the weights are quantised.
    Int8,
    /// Prompts in f16 where the device multiplies matrices of it in a subgroup; otherwise as [`Activations::Auto`].
    Half,
    /// int8 where the device has integer dot products; prompts in f16 where a GPU multiplies matrices of it.
    #[default]
    Auto,
}

/// Which family of kernels computes a step; decided by the prompt or the decoder, never by neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Path {
    /// Decode and verification: a row's bits do not depend on how many rows there are.
    Rows,
    /// Prompts.
    Prefill,
}

/// Which forms of its result a producer writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forms {
    pub float: bool,
    pub int8: bool,
}

impl Forms {
    /// Both together.
    pub fn and(self, other: Forms) -> Forms {
        Forms { float: self.float || other.float, int8: self.int8 || other.int8 }
    }

    /// Value of the specialisation constant `OUT`.
    fn code(self) -> u32 {
        u32::from(self.float) | u32::from(self.int8) << 1
    }
}

/// Rows of activations, `[count, width]`, in the forms that were written.
#[derive(Clone, Debug)]
pub struct Rows {
    pub width: u32,
    pub float: Option<View>,
    pub int8: Option<View>,
    /// f16, made of f32 where a product of matrices wants it.
    half: OnceCell<View>,
}

impl Rows {
    pub fn new(width: u32, float: Option<View>, int8: Option<View>) -> Self {
        Rows { width, float, int8, half: OnceCell::new() }
    }

    /// The same values in rows of another width.
    pub fn shaped(self, width: u32) -> Self {
        Rows::new(width, self.float, self.int8)
    }
}

/// A recording in the making, with what every operation needs to know.
pub struct Recorder<'a> {
    pub recording: Recording,
    pub caps: &'a Caps,
    /// Rows of the step.
    pub rows: u32,
    pub path: Path,
    pub activations: Activations,
    /// The step leaves committed states as they are: what it adds is for the steps right after it.
    pub provisional: bool,
    prefix: String,
    unused: Option<View>,
}

impl<'a> Recorder<'a> {
    pub fn new(name: String, caps: &'a Caps, rows: u32, path: Path, activations: Activations) -> Self {
        let recording = Recording::new(name);
        let (prefix, provisional) = (String::new(), false);
        Recorder { recording, caps, rows, path, activations, provisional, prefix, unused: None }
    }

    /// Sets what labels begin with, for example `blk.3`.
    pub fn scope(&mut self, prefix: impl Into<String>) {
        self.prefix = prefix.into();
    }

    /// What is recorded on another path than the step's.
    pub fn on_path<T>(&mut self, path: Path, record: impl FnOnce(&mut Self) -> T) -> T {
        let own = std::mem::replace(&mut self.path, path);
        let recorded = record(self);
        self.path = own;
        recorded
    }

    fn label(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_owned() } else { format!("{}.{name}", self.prefix) }
    }

    /// An f32 transient of `rows` × `width`.
    pub fn floats(&mut self, name: &str, rows: u32, width: u32) -> View {
        let name = self.label(name);
        self.recording.transient(name, u64::from(rows) * u64::from(width) * 4)
    }

    /// Transients for the forms of `rows` × `width` activations.
    fn forms(&mut self, name: &str, rows: u32, width: u32, forms: Forms) -> Rows {
        let float = forms.float.then(|| self.floats(name, rows, width));
        let int8 = forms.int8.then(|| {
            let label = format!("{} int8", self.label(name));
            self.recording.transient(label, u64::from(rows) * u64::from(width / 32) * Q8_BLOCK)
        });
        Rows::new(width, float, int8)
    }

    /// Bound where a kernel's output is switched off.
    fn unused(&mut self) -> View {
        let recording = &mut self.recording;
        self.unused.get_or_insert_with(|| recording.transient("unused", 256)).clone()
    }

    fn form_views(&mut self, rows: &Rows) -> (View, View) {
        let float = rows.float.clone().unwrap_or_else(|| self.unused());
        let int8 = rows.int8.clone().unwrap_or_else(|| self.unused());
        (float, int8)
    }

    /// Workgroups of one subgroup for blocks of 32 elements; up to 8 lanes share a block.
    fn groups_of_blocks(&self, blocks: u32) -> u32 {
        let lanes = self.caps.subgroup;
        (blocks * lanes.min(8)).div_ceil(lanes).min(self.caps.max_groups[0])
    }

    fn select(
        &self,
        op: &str,
        candidates: &'static [Candidate],
        wanted: Want<'_>,
    ) -> Result<&'static Candidate> {
        let caps = self.caps;
        let has = |need| caps.has(need);
        let wanted = Wanted {
            axes: wanted.axes,
            rows: wanted.rows,
            subgroup: caps.subgroup,
            class: wanted.class,
            max_workgroup: caps.max_workgroup,
            has: &has,
            avoid: &caps.avoid,
        };
        select(candidates, &wanted).map_err(|refusals| Error::NoKernel {
            op: op.to_owned(),
            reasons: refusals.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
        })
    }

    /// Appends a dispatch of an operation that has one kernel for all shapes.
    fn simple<P: bytemuck::Pod>(&mut self, label: &str, call: Simple<'_, P>) -> Result<()> {
        let want = Want { axes: call.axes, rows: self.rows, class: None };
        let candidate = self.select(label, call.candidates, want)?;
        let specs = call.specs.iter().copied().chain(candidate.spec.iter().copied()).collect();
        self.append(label, candidate, specs, call.views, &call.push, call.grid)
    }

    fn append<P: bytemuck::Pod>(
        &mut self,
        label: &str,
        candidate: &'static Candidate,
        specs: Vec<(&'static str, u32)>,
        views: Vec<View>,
        push: &P,
        grid: Grid,
    ) -> Result<()> {
        let push = bytemuck::bytes_of(push).to_vec();
        let label = self.label(label);
        let dispatch = Dispatch { label, kernel: candidate.kernel, views, push, specs, grid };
        Ok(self.recording.dispatch(dispatch)?)
    }
}

struct Want<'a> {
    axes: &'a [(&'a str, &'a str)],
    rows: u32,
    class: Option<&'a str>,
}

struct Simple<'a, P> {
    candidates: &'static [Candidate],
    axes: &'a [(&'a str, &'a str)],
    specs: &'a [(&'static str, u32)],
    views: Vec<View>,
    push: P,
    grid: Grid,
}
