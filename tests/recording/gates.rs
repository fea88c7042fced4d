//! Work that runs or does not run as the device decides, with grids that were fixed and grids that it computes itself.

use vkllm_runtime::{CompileOptions, Device, Dispatch, Grid, Recording, Usage, View};
use vkllm_shaders::ops::{gate, step_grid};

use super::{lookup, quiet, reference, rows, validated};

fn dispatch<P: bytemuck::Pod>(
    label: &str,
    kernel: &'static vkllm_runtime::Kernel,
    views: Vec<View>,
    push: &P,
) -> Dispatch {
    let push = bytemuck::bytes_of(push).to_vec();
    Dispatch {
        label: label.into(),
        kernel,
        views,
        push,
        specs: vec![("WG", 64)],
        grid: Grid::Fixed([1, 1, 1]),
    }
}

/// Twice eight rows copied, by a fixed and by a computed grid, when the draft's probability allows it.
fn copied(device: &Device, ln_p: f32) -> Vec<f32> {
    let buffer = |name, bytes, usage| device.buffer(name, bytes, usage).expect("a buffer");
    let x = buffer("x", 256, Usage::Shared);
    let words: Vec<f32> = (0..64).map(|i| i as f32 + 0.5).collect();
    x.write(0, bytemuck::cast_slice(&words)).expect("written");
    let out = buffer("out", 512, Usage::Readback);
    let drafts = buffer("drafts", 32, Usage::Shared);
    let draft = [1, 0, 0, 0, 7, ln_p.to_bits(), 0, 0];
    drafts.write(0, bytemuck::cast_slice(&draft)).expect("written");
    let order = rows(device, 0..8);

    let mut clear = Recording::new("clear");
    clear.fill("out", out.whole(), 0).expect("it fits");
    let mut r = Recording::new("gated");
    let grid = r.transient("grid", 12);
    let push = step_grid::Push { row_count: 1, tiles: 1, n_kv: 8, chunks_max: 1, ..Default::default() };
    let args = step_grid::Args { rows: order.part(0, 32), args: grid.clone() };
    r.dispatch(dispatch("grid", step_grid::CANDIDATES[0].kernel, args.views(), &push)).expect("it fits");
    lookup(&mut r, "fixed", &x.whole(), &order, &out.view(0, 256), None);
    lookup(&mut r, "computed", &x.whole(), &order, &out.view(256, 256), Some(&grid));

    let grids = r.grids();
    assert_eq!((grids.first, grids.computed.len(), grids.fixed.as_slice()), (1, 1, &[[1, 8, 1]][..]));
    let counts = buffer("counts", grids.bytes(), Usage::Shared);
    let args = buffer("args", grids.bytes(), Usage::Shared);
    counts.write(grids.fixed_at(), bytemuck::cast_slice(&grids.fixed)).expect("written");
    r.regrid(&grids, &counts.whole(), &args.whole()).expect("they fit");
    let words = (grids.bytes() / 4) as u32;
    let push = gate::Push { words, drafted: 1, ln_p_min: -1.0, ..Default::default() };
    let views = gate::Args { drafts: drafts.whole(), counts: counts.whole(), args: args.whole() }.views();
    r.insert(grids.first, dispatch("gate", gate::CANDIDATES[0].kernel, views, &push)).expect("it fits");
    let gated = r.commands().iter().filter(|command| match command {
        vkllm_runtime::Command::Dispatch(dispatch) => matches!(dispatch.grid, Grid::Indirect(_)),
        _ => false,
    });
    assert_eq!(gated.count(), 2);

    let [clear, gated] =
        [clear, r].map(|r| device.compile(&r, &CompileOptions::default()).expect("it compiles"));
    device.submit(&[&clear, &gated]).expect("submitted").wait().expect("finished");
    let mut read = vec![0f32; 128];
    out.read(0, bytemuck::cast_slice_mut(&mut read)).expect("read");
    read
}

#[test]
fn what_follows_an_unsure_draft_does_not_run() {
    let all: Vec<f32> = (0..128).map(|i| (i % 64) as f32 + 0.5).collect();
    let host = reference();
    assert_eq!((copied(&host, -0.5), copied(&host, -1.5)), (all.clone(), vec![0.0; 128]));
    let Some((device, _turn)) = validated() else { return };
    assert_eq!((copied(device, -0.5), copied(device, -1.5)), (all, vec![0.0; 128]));
    quiet(device);
}
