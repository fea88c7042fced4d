//! Results as people read them: a line for each test, where its time went, and what the device could do at most.

use std::io::Write;

use comfy_table::{CellAlignment, Table, presets};

use super::row::{Place, Row};
use crate::bench::{Bound, Ceilings, Summary};
use crate::cli::Failure;

/// Labels with less of the time than this are summed up.
const SMALL: f64 = 0.01;

fn table(header: &[&str], left: usize) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header);
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((if index == 0 { 0 } else { 1 }, 1));
        if index >= left {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

fn lines(table: &Table, out: &mut dyn Write) -> std::io::Result<()> {
    table.lines().try_for_each(|line| writeln!(out, "{}", line.trim_end()))
}

fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".into(), |value| format!("{value:.digits$}"))
}

fn percent(value: Option<f64>) -> String {
    value.map_or_else(|| "-".into(), |value| format!("{:.1} %", value * 100.0))
}

/// Bytes with a unit.
pub(super) fn bytes(count: f64) -> String {
    match count {
        c if c >= 1e9 => format!("{:.2} GB", c / 1e9),
        c if c >= 1e6 => format!("{:.1} MB", c / 1e6),
        c => format!("{:.1} kB", c / 1e3),
    }
}

/// Seconds with a unit.
pub(super) fn duration(seconds: f64) -> String {
    match seconds {
        s if s >= 1.0 => format!("{s:.2} s"),
        s if s >= 1e-3 => format!("{:.2} ms", s * 1e3),
        s => format!("{:.1} us", s * 1e6),
    }
}

/// The device, the machine and the ceilings.
pub(super) fn place(place: &Place, out: &mut dyn Write) -> Result<(), Failure> {
    let machine = &place.machine;
    writeln!(out, "device   {} ({})", place.device, place.driver)?;
    let now = machine.snapshot();
    let words = [
        machine.cpu.clone(),
        machine.kernel.as_ref().map(|kernel| format!("kernel {kernel}")),
        machine.firmware.as_ref().map(|firmware| format!("firmware {firmware}")),
        machine.carve_out.map(|b| format!("{} set aside for the GPU", bytes(b as f64))),
        now.governor.map(|governor| format!("governor {governor}")),
        now.profile.map(|profile| format!("profile {profile}")),
        now.supply.map(|supply| format!("on {supply}")),
        now.core_clock.map(|clock| format!("core {clock} MHz")),
        now.memory_clock.map(|clock| format!("memory {clock} MHz")),
        now.temperature.map(|celsius| format!("{celsius:.0} °C")),
    ];
    let words: Vec<String> = words.into_iter().flatten().collect();
    writeln!(out, "machine  {}", if words.is_empty() { "not known".into() } else { words.join(", ") })?;
    ceilings(&place.ceilings, out)
}

fn ceilings(c: &Ceilings, out: &mut dyn Write) -> Result<(), Failure> {
    for (index, rates) in c.memory.iter().enumerate() {
        let of = c.nominal.as_ref().filter(|_| index == 0).map(|(nominal, _)| rates.read / nominal);
        let of = of.map_or(String::new(), |share| format!(" ({:.0} % of nominal)", share * 100.0));
        writeln!(
            out,
            "{} {}: read {:.1}{of}, write {:.1}, copy {:.1} GB/s",
            if index == 0 { "memory  " } else { "        " },
            rates.name,
            rates.read / 1e9,
            rates.write / 1e9,
            rates.copy / 1e9,
        )?;
    }
    let host = c.host_read.map(|b| format!("host reads {:.1} GB/s", b / 1e9));
    let nominal = match &c.nominal {
        Some((b, who)) => format!("nominal {:.1} GB/s ({who})", b / 1e9),
        None => "nominal not known (--nominal tells)".into(),
    };
    let words: Vec<String> = host.into_iter().chain([nominal]).collect();
    writeln!(out, "         {}", words.join(", "))?;
    let rate = |name: &str, value: Option<f64>, unit: &str| {
        value.map(|value| format!("{name} {:.2} {unit}", value / 1e12))
    };
    let words = [
        rate("f32", c.f32, "TFLOP/s"),
        rate("f16", c.f16, "TFLOP/s"),
        rate("int8 dot", c.int8, "TOP/s"),
        c.launch.map(|launch| format!("a dispatch {}", duration(launch.as_secs_f64()))),
        (!c.by_device && !c.memory.is_empty()).then(|| "by the host's clock".to_owned()),
    ];
    let words: Vec<String> = words.into_iter().flatten().collect();
    if !words.is_empty() {
        writeln!(out, "compute  {}", words.join(", "))?;
    }
    Ok(())
}

/// One line for each test.
pub(super) fn tests(rows: &[Row], out: &mut dyn Write) -> Result<(), Failure> {
    let Some(first) = rows.first() else { return Ok(()) };
    writeln!(out)?;
    let energy = rows.iter().any(|row| row.energy().is_some());
    let spec = rows.iter().any(|row| row.spec.is_some());
    let varied = |of: fn(&Row) -> String| rows.iter().any(|row| of(row) != of(first));
    let settings: [(&str, fn(&Row) -> String); 4] = [
        ("ubatch", |row| row.loaded.ubatch.to_string()),
        ("act", |row| row.loaded.activations.to_owned()),
        ("ctk", |row| row.loaded.k_type.to_owned()),
        ("ctv", |row| row.loaded.v_type.to_owned()),
    ];
    let settings: Vec<_> = settings.into_iter().filter(|(_, of)| varied(*of)).collect();
    let mut header = vec!["model", "test"];
    header.extend(settings.iter().map(|(name, _)| *name));
    let left = header.len();
    header.extend(["tokens/s", "median", "min-max", "n", "MB/token", "GB/s", "of read"]);
    if energy {
        header.push("J/token");
    }
    if spec {
        header.extend(["accepted", "length", "speed-up"]);
    }
    let mut all = table(&header, left);
    for row in rows {
        let s = Summary::of(&row.rates());
        let size = row.attribution.as_ref().map(|a| a.work.bytes() as f64 / a.tokens as f64);
        let bandwidth = size.zip(s).map(|(size, s)| size * s.median);
        let read = row.place.ceilings.read();
        let mut cells = vec![row.loaded.kind.clone(), row.test.clone()];
        cells.extend(settings.iter().map(|(_, of)| of(row)));
        cells.extend([
            s.map_or("-".into(), |s| format!("{:.2} ± {:.2}", s.mean, s.deviation)),
            number(s.map(|s| s.median), 2),
            s.map_or("-".into(), |s| format!("{:.2}-{:.2}", s.least, s.most)),
            row.samples.len().to_string(),
            number(size.map(|size| size / 1e6), 2),
            number(bandwidth.map(|b| b / 1e9), 2),
            percent(bandwidth.zip(read).map(|(b, read)| b / read)),
        ]);
        if energy {
            cells.push(number(row.energy().map(|(joules, _)| joules), 3));
        }
        if spec {
            let of = |value: fn(&super::row::Spec) -> Option<f64>| row.spec.as_ref().and_then(value);
            cells.push(percent(of(|s| s.length.is_none_or(|k| k > 0).then_some(s.acceptance))));
            cells.push(number(of(|s| Some(s.mean_length)), 2));
            cells.push(number(of(|s| s.speed_up), 2));
        }
        all.add_row(cells);
    }
    lines(&all, out)?;
    for row in rows.iter().filter(|row| !row.marks().is_empty()) {
        writeln!(out, "! {}: {}", row.test, row.marks().join(", "))?;
    }
    let how = rows.iter().find_map(|row| Some(row.energy()?.1));
    if let Some(how) = how {
        writeln!(out, "energy is that of the whole package: {how}")?;
    }
    rows_against_one(rows, out)
}

/// What a verification of n rows costs, in steps of one row.
fn rows_against_one(rows: &[Row], out: &mut dyn Write) -> Result<(), Failure> {
    let step = |row: &Row| Some(f64::from(row.rows) / Summary::of(&row.rates())?.median);
    for one in rows.iter().filter(|row| row.rows == 1) {
        let same = |row: &&Row| {
            row.rows > 1 && row.n_depth == one.n_depth && std::rc::Rc::ptr_eq(&row.loaded, &one.loaded)
        };
        let costs: Vec<String> = rows
            .iter()
            .filter(same)
            .filter_map(|row| Some(format!("{} {:.2}", row.rows, step(row)? / step(one)?)))
            .collect();
        if !costs.is_empty() {
            let depth = if one.n_depth > 0 { format!(" @ d{}", one.n_depth) } else { String::new() };
            writeln!(out, "a step of n rows{depth} over a step of one: {}", costs.join(", "))?;
        }
    }
    Ok(())
}

/// Where the time of a test went.
pub(super) fn labels(row: &Row, out: &mut dyn Write) -> Result<(), Failure> {
    let Some(a) = &row.attribution else {
        return Ok(writeln!(out, "\n{}: the device tells no times of single commands", row.test)?);
    };
    let c = &row.place.ceilings;
    let tokens = a.tokens as f64;
    let wall = a.wall.as_secs_f64();
    let plain = Summary::of(&row.rates())
        .map_or(String::new(), |s| format!(" ({} without)", duration(1.0 / s.median)));
    writeln!(
        out,
        "\n{}, one run with every command measured: {}{plain} per token, of which labels {:.1} %, idle {:.1} %",
        row.test,
        duration(wall / tokens),
        a.labels().as_secs_f64() / wall * 100.0,
        a.idle().as_secs_f64() / wall * 100.0,
    )?;
    let mut all = table(
        &[
            "label",
            "bound by",
            "kernel",
            "each",
            "per token",
            "share",
            "weights",
            "cache",
            "other",
            "GB/s",
            "of read",
            "GOP/s",
        ],
        3,
    );
    let (mut rest, mut count) = (0, 0);
    for part in &a.parts {
        let (total, work) = (&part.total, &part.total.work);
        let seconds = total.nanoseconds as f64 / 1e9;
        if seconds < SMALL * wall {
            rest += total.nanoseconds;
            count += 1;
            continue;
        }
        let amount = |amount: u64| if amount == 0 { String::new() } else { bytes(amount as f64 / tokens) };
        let share = part.share_of_ceiling(c);
        all.add_row([
            part.label.clone(),
            if part.is_cached(c) { "cache".into() } else { part.bound(c).name().into() },
            total.kernel.to_owned(),
            duration(seconds / total.dispatches.max(1) as f64),
            duration(seconds / tokens),
            percent(Some(seconds / wall)),
            amount(work.weights),
            amount(work.cache),
            amount(work.activations),
            number(part.bandwidth().map(|b| b / 1e9), 2),
            percent(share),
            number(part.arithmetic().map(|ops| ops / 1e9), 1),
        ]);
    }
    lines(&all, out)?;
    if count > 0 {
        let seconds = rest as f64 / 1e9;
        writeln!(
            out,
            "{count} more labels: {}, {}",
            duration(seconds / tokens),
            percent(Some(seconds / wall))
        )?;
    }
    let work = a.work;
    writeln!(
        out,
        "a token reads {} of weights, {} of cache and moves {} besides: {:.2} GB/s{}",
        bytes(work.weights as f64 / tokens),
        bytes(work.cache as f64 / tokens),
        bytes(work.activations as f64 / tokens),
        a.bandwidth() / 1e9,
        c.read().map_or(String::new(), |read| {
            let words =
                [Some((read, "measured")), c.nominal.as_ref().map(|(nominal, _)| (*nominal, "nominal"))];
            let words: Vec<String> = words
                .into_iter()
                .flatten()
                .map(|(ceiling, which)| {
                    format!(
                        "{:.1} % of the {which} {:.1} GB/s",
                        a.bandwidth() / ceiling * 100.0,
                        ceiling / 1e9
                    )
                })
                .collect();
            format!(", {}", words.join(", "))
        }),
    )?;
    let over: Vec<&str> = a
        .parts
        .iter()
        .filter(|part| part.share_of_ceiling(c).is_some_and(|share| share > 1.0) && !part.is_cached(c))
        .filter(|part| part.bound(c) == Bound::Bandwidth)
        .map(|part| part.label.as_str())
        .collect();
    if !over.is_empty() {
        writeln!(
            out,
            "! more than the read ceiling, and no cache is known that explains it: {}",
            over.join(", ")
        )?;
    }
    Ok(())
}
