//! The types of cached keys and values: `heads` quantises as the types say, `attention` reads every element of them.

use vkllm_runtime::{DeviceKind, Words};
use vkllm_shaders::ops::{attention_combine, heads as heads_op};
use vkllm_shaders::reference::kv::{KV_FORMATS, KvCode, KvFormat};
use vkllm_shaders::select::Candidate;

use super::attention::{Extent, NAN, Row, Scene, Shape, Way, as_bits, kinds, pairs, row, rows, subjects};
use super::compare::{bits, values};
use super::job::POISON;
use super::{Bench, Check, List, Rng, ensure, heads};

const BLOCK: usize = 128;
const F32: u32 = 0;
/// Types by their codes.
const TYPES: std::ops::Range<u32> = 0..KV_FORMATS.len() as u32;

/// Every type alone on both sides, and mixed pairs of all families.
fn type_pairs() -> Vec<(u32, u32)> {
    let sides = TYPES.map(|kind| (kind, F32)).chain(TYPES.map(|kind| (F32, kind)));
    sides
        .chain(TYPES.map(|kind| (kind, kind)))
        .chain([(3, 7), (1, 3), (3, 1), (8, 4), (5, 2), (6, 1)])
        .collect()
}

fn shape(types: (u32, u32)) -> Shape {
    Shape { heads: 4, kv: 2, size: 64, types }
}

fn type_name(kind: u32) -> &'static str {
    KV_FORMATS[kind as usize].name
}

pub fn list(list: &mut List<'_>) {
    for candidate in list.usable(heads_op::CANDIDATES) {
        let plain = heads::PLAIN;
        for shape in [
            heads::Shape { pairing: 0, ..plain },
            heads::Shape { pairing: 1, size: 96, rot: 64, norm: 1, ..plain },
            heads::Shape { pairing: 2, size: 128, rot: 128, norm: 1, ..plain },
            heads::Shape { pairing: 2, size: 256, rot: 64, kv: 1, heads: 2, ..plain },
        ] {
            for kind in 2..TYPES.end {
                let shape = heads::Shape { types: (kind, kind), ..shape };
                let property = format!("quantises what f32 would store {}", heads::name(&shape));
                list.add(&[candidate.kernel], property, move |bench| quantised(bench, candidate, &shape));
            }
        }
    }
    let combiners = list.usable(attention_combine::CANDIDATES);
    for (candidate, extent) in subjects(list) {
        let kernel = &[candidate.kernel];
        if let Extent::Like(main) = extent {
            // Types differ in their loads alone, which do not depend on pairs.
            let types = if list.meant(candidate) { TYPES } else { 1..2 };
            for kind in types {
                let property = format!(
                    "pairs {} have the bits of {} {}",
                    pairs(candidate),
                    pairs(main),
                    type_name(kind)
                );
                list.add(kernel, property, move |bench| same_bits(bench, candidate, main, kind));
            }
            continue;
        }
        let all = matches!(extent, Extent::All);
        for types in type_pairs().into_iter().filter(|types| all || types.0 == types.1) {
            list.add(kernel, format!("whole numbers are exact {}", kinds(types)), move |bench| {
                whole_numbers(bench, candidate, types)
            });
        }
        for kind in TYPES {
            for &size in if all { &[64, 96][..] } else { &[64] } {
                for position in [0, 77, 127] {
                    let property = format!("one-hot size {size} position {position} {}", type_name(kind));
                    list.add(kernel, property, move |bench| one_hot(bench, candidate, kind, size, position));
                }
            }
        }
        for &combiner in combiners.iter().filter(|combiner| combiner.rank >= 10) {
            if all {
                bounds(list, (candidate, combiner));
            }
            rows_and_cells(list, (candidate, combiner));
        }
    }
}

fn bounds(list: &mut List<'_>, way: Way) {
    for kind in 2..TYPES.end {
        for size in [128, [96, 256][kind as usize % 2]] {
            let shape = Shape { size, ..shape((kind, kind)) };
            let property = format!("bound size {size} {}", type_name(kind));
            list.add(&[way.0.kernel, way.1.kernel], property, move |bench| {
                Scene::new(&mut bench.rng(&format!("{shape:?}")), shape, 300, &rows()).check(bench, way)
            });
        }
    }
}

/// What stands beside a row and in cells that it does not see.
fn rows_and_cells(list: &mut List<'_>, way: Way) {
    let kernels = &[way.0.kernel, way.1.kernel];
    for kind in TYPES {
        for count in 1..16 {
            list.add(kernels, format!("{count} rows and 16 {}", type_name(kind)), move |bench| {
                first_rows(bench, way, kind, count)
            });
        }
        list.add(kernels, format!("unseen cells change nothing {}", type_name(kind)), move |bench| {
            let scene = Scene::new(&mut bench.rng("unseen"), shape((kind, kind)), 300, &rows());
            let clean = Scene { unseen: 0, ..scene.clone() }.run(bench, way)?;
            for unseen in [NAN, 0x7c00_7c00] {
                let other = Scene { unseen, ..scene.clone() }.run(bench, way)?;
                bits(&format!("unseen cells {unseen:#x}"), &as_bits(&other), &as_bits(&clean))?;
            }
            Ok(())
        });
    }
    for kind in [0, 2] {
        list.add(kernels, format!("what others see changes nothing {}", type_name(kind)), move |bench| {
            seen_by_others(bench, way, kind)
        });
    }
}

/// Heads of whole numbers that a type holds exactly: levels of its codes, the outermost among them.
fn whole(rng: &mut Rng, format: &KvFormat, count: usize) -> Vec<f32> {
    let KvCode::Block { level, .. } = format.code else { return rng.ints(count, -64, 64) };
    let codes = if format.fifth { 32 } else { 16 };
    let mut one = |e: usize| match (format.bits, e % 32) {
        (8, 5) => 127.0,
        (8, _) => rng.int(-127, 127) as f32,
        (_, 5) => level(0),
        (_, 9) => level(codes - 1),
        _ => level(rng.int(0, i32::from(codes) - 1) as u8),
    };
    (0..count).map(&mut one).collect()
}

fn whole_numbers(bench: &Bench, candidate: &'static Candidate, types: (u32, u32)) -> Check {
    let one = |position| Row { session: 0, position, begin: position };
    let seen = [row(127), row(63), row(0), row(255), one(0), one(77), one(127), one(128), one(255)];
    let mut rng = bench.rng(&format!("whole {types:?}"));
    let mut scene = Scene::new(&mut rng, shape(types), 256, &seen);
    scene.scale = 0.125;
    scene.k = whole(&mut rng, &KV_FORMATS[types.0 as usize], scene.k.len());
    scene.v = whole(&mut rng, &KV_FORMATS[types.1 as usize], scene.v.len());
    // Rows that see many keys weigh them alike; those that see one have a score that is a whole number of eighths.
    let width = scene.shape.heads * scene.shape.size;
    scene.q = rng.ints(seen.len() * width, -8, 8);
    scene.q[..4 * width].fill(0.0);
    let job = scene.parts_job(bench, candidate);
    values(&"parts", job.on(bench)?.words("part"), job.meaning(bench).words("part"))
}

/// Kernels that differ in their pairs have the same parts, in steps whose rows share blocks and in steps whose rows do
/// not.
fn same_bits(bench: &Bench, one: &'static Candidate, other: &'static Candidate, kind: u32) -> Check {
    for heads in [2, 6] {
        let shape = Shape { heads, kv: 2, size: 64, types: (kind, kind) };
        let scene = Scene::new(&mut bench.rng(&format!("pairs {shape:?}")), shape, 300, &rows());
        let run = |candidate| scene.parts_job(bench, candidate).on(bench);
        bits(&format!("{heads} heads"), run(one)?.words("part"), run(other)?.words("part"))?;
    }
    Ok(())
}

/// A query per element of a head against a single key: the score is the element, the result the value.
fn one_hot(bench: &Bench, candidate: &'static Candidate, kind: u32, size: usize, position: usize) -> Check {
    let heads = 8;
    let seen = vec![Row { session: 0, position, begin: position }; size / heads];
    let shape = Shape { heads, kv: 1, size, types: (kind, kind) };
    let mut scene = Scene::new(&mut bench.rng(&format!("one-hot {shape:?}")), shape, 128, &seen);
    scene.scale = 1.0;
    scene.q = (0..size * size).map(|i| if i / size == i % size { 1.0 } else { 0.0 }).collect();
    let job = scene.parts_job(bench, candidate);
    values(&"parts", job.on(bench)?.words("part"), job.meaning(bench).words("part"))
}

/// The first rows of sixteen, together and then each alone, have the bits they have among all.
fn first_rows(bench: &Bench, way: Way, kind: u32, count: usize) -> Check {
    let shape = shape((kind, kind));
    let rows: Vec<Row> = (120..136).map(row).collect();
    let scene = Scene::new(&mut bench.rng(&format!("rows {kind}")), shape, 136, &rows);
    let width = shape.heads * shape.size;
    let all = scene.run(bench, way)?;
    let cut = |from: usize, count: usize| Scene {
        rows: rows[from..from + count].to_vec(),
        q: scene.q[from * width..][..count * width].to_vec(),
        ..scene.clone()
    };
    let some = cut(0, count).run(bench, way)?;
    bits(&"the first rows", &as_bits(&some), &as_bits(&all[..count * width]))?;
    let alone = cut(count, 1).run(bench, way)?;
    bits(&"the next row alone", &as_bits(&alone), &as_bits(&all[count * width..][..width]))
}

/// Keys and values that are no numbers, before a row's window and after its position, in cells that its neighbours see.
fn seen_by_others(bench: &Bench, way: Way, kind: u32) -> Check {
    let own = Row { session: 0, position: 100, begin: 20 };
    let rows = [row(127), own, row(19)];
    let mut scene = Scene::new(&mut bench.rng("others"), shape((kind, kind)), 128, &rows);
    let clean = scene.run(bench, way)?;
    let (positions, size) = (scene.positions, scene.shape.size);
    for (i, (k, v)) in scene.k.iter_mut().zip(&mut scene.v).enumerate() {
        if !(own.begin..=own.position).contains(&(i / size % positions)) {
            (*k, *v) = (f32::NAN, f32::INFINITY);
        }
    }
    let width = scene.shape.heads * size;
    let got = scene.run(bench, way)?;
    let differs = as_bits(&got[..width]) != as_bits(&clean[..width]);
    ensure(differs, || "the row that sees them is as it was".into())?;
    bits(&"a row beside it", &as_bits(&got[width..2 * width]), &as_bits(&clean[width..2 * width]))
}

/// Blocks that quantisers stumble over, over and over: zeros, equal values, ties between extremes in either order, ties
/// between codes, values beyond any f16, tiny ones; else random.
fn awkward(rng: &mut Rng, count: usize) -> Vec<f32> {
    let mut out = rng.normals(count);
    for (block, x) in out.chunks_mut(32).enumerate() {
        let steps = [127.0, 31.0, 15.0, 16.0, 8.0];
        match block % 13 {
            0 => x.fill(0.0),
            1 => x.fill(-1.5),
            2 => (x[3], x[20]) = (9.0, -9.0),
            3 => (x[3], x[20]) = (-9.0, 9.0),
            4 => (x[8], x[7]) = (-9.0, 9.0),
            5..10 => {
                let step = steps[block % 5];
                x.iter_mut().for_each(|x| *x = rng.int(-2 * step as i32, 2 * step as i32) as f32 * 0.5);
                (x[0], x[31]) = (-step, step);
            }
            10 => x.iter_mut().for_each(|x| *x *= 6e4),
            11 => x.iter_mut().for_each(|x| *x *= 1e12),
            _ => x.iter_mut().for_each(|x| *x *= 1e-7),
        }
    }
    out
}

/// A pool of f32 as a pool of another type: cells that were written are stored by the meaning.
fn stored(words: &[u32], format: &KvFormat, size: usize) -> Vec<u32> {
    let tile = BLOCK * format.row_words(size);
    let mut out = vec![POISON; words.len() / (BLOCK * size) * tile];
    for (cell, head) in words.chunks_exact(size).enumerate() {
        if head[0] != POISON {
            let head: Vec<f32> = head.iter().map(|word| f32::from_bits(*word)).collect();
            format.store(Words::new(&mut out), cell / BLOCK * tile, cell % BLOCK, &head);
        }
    }
    out
}

/// What the device would have stored as f32, quantised by the meaning, is what it stores.
fn quantised(bench: &Bench, candidate: &'static Candidate, shape: &heads::Shape) -> Check {
    let mut rng = bench.rng(&format!("quantised {shape:?}"));
    let mut inputs = heads::Inputs::new(&mut rng, shape, &[0, 1, 127, 128, 299]);
    inputs.k = awkward(&mut rng, inputs.k.len());
    inputs.v = awkward(&mut rng, inputs.v.len());
    let plain = heads::Shape { types: (F32, F32), ..*shape };
    let float = heads::job(bench, candidate, &plain, &inputs).on(bench)?;
    let got = heads::job(bench, candidate, shape, &inputs).on(bench)?;
    let format = &KV_FORMATS[shape.types.0 as usize];
    for pool in ["k_cache", "v_cache"] {
        let want = stored(float.words(pool), format, shape.size);
        if bench.device().caps().kind == DeviceKind::Cpu || format.block == 1 {
            bits(&pool, got.words(pool), &want)?;
        } else {
            near(pool, got.words(pool), &want, format, shape.size)?;
        }
    }
    bits(&"q", got.words("q"), float.words("q"))
}

/// Vulkan allows quotients to be off by 2.5 units, which CPUs do not use: elsewhere a value between two codes may go to
/// either. No element may be off by more than two of the type's widest steps.
fn near(pool: &str, got: &[u32], want: &[u32], format: &KvFormat, size: usize) -> Check {
    let written = |words: &[u32]| words.iter().map(|word| u32::from(*word == POISON)).collect::<Vec<_>>();
    bits(&format!("which words of {pool} are written"), &written(got), &written(want))?;
    let tile = BLOCK * format.row_words(size);
    let elements = |words: &[u32]| -> Vec<f32> {
        let mut words = words.to_vec();
        let cells = words.len() / format.row_words(size);
        let pool = Words::new(&mut words);
        let cell = |c: usize| (0..size).map(move |e| format.load(pool, c / BLOCK * tile, c % BLOCK, size, e));
        (0..cells).flat_map(cell).collect()
    };
    // The widest step of iq4_nl is that of its uppermost levels.
    let steps = match (format.bits, format.fifth) {
        (8, _) => 127.0,
        (_, true) => 15.0,
        _ => 113.0 / 24.0,
    };
    for (block, (got, want)) in elements(got).chunks(32).zip(elements(want).chunks(32)).enumerate() {
        let far = want.iter().fold(0.0f32, |far, x| far.max(x.abs()));
        for (got, want) in got.iter().zip(want) {
            let near = (got - want).abs() <= far * 2.0 / steps || got.to_bits() == want.to_bits();
            ensure(near, || format!("{pool}: block {block}: {got} instead of {want}"))?;
        }
    }
    Ok(())
}
