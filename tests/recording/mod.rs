//! Recordings on a real driver under the synchronisation layer: placement, inferred barriers, and what happens to
//! work that outlives what it was made of.

mod barriers;
mod gates;
mod lifetime;
mod outside;
mod random;
mod slices;
mod steps;

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use vkllm_runtime::{
    Device, DeviceOptions, Dispatch, Error, Grid, Message, Recording, Selector, Usage, Validation, View,
};
use vkllm_shaders::ops;
use vkllm_shaders::records::StepRow;

use crate::harness;

pub fn options() -> DeviceOptions {
    DeviceOptions { validation: Validation::Sync, ..DeviceOptions::default() }
}

/// One device under the layers, for one test at a time: its messages belong to the test that holds it.
pub fn validated() -> Option<(&'static Device, MutexGuard<'static, ()>)> {
    static DEVICE: OnceLock<Option<Device>> = OnceLock::new();
    static TURN: Mutex<()> = Mutex::new(());
    harness::device()?;
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let device = DEVICE.get_or_init(|| match Device::open(&options()) {
        Ok(device) => {
            quiet(&device);
            Some(device)
        }
        Err(Error::Incapable { .. }) => None,
        Err(error) => panic!("{error}"),
    });
    match device {
        Some(device) => {
            // A test that failed may have left some.
            drop(device.take_messages());
            Some((device, turn))
        }
        None => {
            harness::skip("the validation layers are not installed");
            None
        }
    }
}

pub fn reference() -> Device {
    let options = DeviceOptions { selector: Selector::Reference, ..DeviceOptions::default() };
    Device::open(&options).expect("the reference device is always there")
}

/// Ids of messages that are known not to be our mistakes.
pub fn allowed() -> BTreeSet<&'static str> {
    let list = include_str!("../data/validation-allowed.txt").lines();
    list.filter(|line| !line.starts_with('#')).filter_map(|line| line.split_whitespace().next()).collect()
}

/// Messages beyond the allowed list.
pub fn unexpected(messages: Vec<Message>) -> Vec<Message> {
    let allowed = allowed();
    messages.into_iter().filter(|message| !allowed.contains(message.id.as_str())).collect()
}

#[track_caller]
pub fn quiet(device: &Device) {
    let messages = unexpected(device.take_messages());
    assert!(
        messages.is_empty(),
        "{} messages, the first: {}: {}",
        messages.len(),
        messages[0].id,
        messages[0].text
    );
}

/// Words of a row that `lookup` copies.
pub const ROW: u64 = 8;

/// Appends `y[i] = x[i-th of rows]`, in f32 rows of eight words. Its shader is GLSL: the oldest layers in use do not
/// follow the two-step addressing of WGSL's stores, so that they miss what those write.
pub fn lookup(recording: &mut Recording, label: &str, x: &View, rows: &View, y: &View, grid: Option<&View>) {
    lookup_among(recording, label, (x, (x.len / 4 / ROW) as u32), rows, y, grid);
}

/// As `lookup`, with the number of rows that the kernel believes `x` to have.
pub fn lookup_among(
    recording: &mut Recording,
    label: &str,
    (x, among): (&View, u32),
    rows: &View,
    y: &View,
    grid: Option<&View>,
) {
    let candidate =
        ops::embed::CANDIDATES.iter().find(|c| c.kernel.axis("FORMAT") == "f32").expect("an f32 kernel");
    let count = (y.len / 4 / ROW) as u32;
    let push = ops::embed::Push {
        k: ROW as u32,
        row_bytes: ROW as u32 * 4,
        count: among,
        rows: count,
        scale: 1.0,
        ..Default::default()
    };
    recording
        .dispatch(Dispatch {
            label: label.to_owned(),
            kernel: candidate.kernel,
            views: ops::embed::Args { weights: x.clone(), rows: rows.clone(), y: y.clone() }.views(),
            push: bytemuck::bytes_of(&push).to_vec(),
            specs: candidate.spec.to_vec(),
            grid: grid.map_or(Grid::Fixed([1, count, 1]), |view| Grid::Indirect(view.clone())),
        })
        .expect("it fits the kernel");
}

/// Rows for `lookup`, in this order.
pub fn rows(device: &Device, order: impl Iterator<Item = u32>) -> View {
    let rows: Vec<StepRow> = order.map(|token| StepRow { token, ..Default::default() }).collect();
    let bytes: &[u8] = bytemuck::cast_slice(&rows);
    let buffer = device.buffer("rows", bytes.len() as u64, Usage::Shared).expect("a buffer");
    buffer.write(0, bytes).expect("written");
    buffer.whole()
}
