//! `vkllm bench compare`: two result files, test by test. Reads our json and jsonl, and llama-bench's.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Value, json};

use super::args::{CompareArgs, Percent};
use crate::bench::{Comparison, Verdict};
use crate::cli::{CHECK, Failure, input};

/// What makes a test the same test.
const TESTS: &[&str] = &[
    "n_prompt",
    "n_gen",
    "n_depth",
    "vk_rows",
    "spec_methods",
    "spec_length",
    "spec_task",
    "op_name",
    "op_params",
];
/// Settings: they tell tests of one file apart where they vary in it, else they are a part of the surroundings.
const SETTINGS: &[&str] = &["model_filename", "type_k", "type_v", "n_ubatch", "vk_activations", "vk_weights"];
/// Surroundings whose differences are pointed out.
const SURROUNDINGS: &[&str] = &[
    "gpu_info",
    "backend_name",
    "vk_driver",
    "cpu_info",
    "vk_kernel",
    "vk_firmware",
    "build_commit",
    "vk_shaders",
    "backends",
    "n_threads",
    "vk_governor",
    "vk_profile",
    "vk_supply",
    "vk_carve_out",
];

/// Reads the rows of a file.
fn read(path: &Path) -> Result<Vec<Value>, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string());
    let rows = text.and_then(|text| parse(&text));
    rows.map_err(|reason| input(format!("{}: {reason}", path.display())))
}

/// Reads rows that give a rate.
fn parse(text: &str) -> Result<Vec<Value>, String> {
    let rows: Vec<Value> = if text.trim_start().starts_with('[') {
        serde_json::from_str(text).map_err(|error| format!("not a list of results: {error}"))?
    } else {
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        lines
            .map(|(number, line)| {
                let row = serde_json::from_str(line);
                row.map_err(|error| format!("line {}: not a result: {error}", number + 1))
            })
            .collect::<Result<_, String>>()?
    };
    if rows.iter().all(|row| rates(row).is_empty()) {
        return Err("holds no result with avg_ts or samples_ts; allowed are json and jsonl".into());
    }
    Ok(rows)
}

/// Rates, of which more is better: tokens per second, or runs per second of an operation.
fn rates(row: &Value) -> Vec<f64> {
    let list = |name: &str| -> Vec<f64> {
        row[name].as_array().into_iter().flatten().filter_map(Value::as_f64).collect()
    };
    let samples = list("samples_ts");
    if !samples.is_empty() {
        return samples;
    }
    row["avg_ts"].as_f64().or_else(|| row["time_us"].as_f64().map(|us| 1e6 / us)).into_iter().collect()
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A column; of a file's path the name alone.
fn column(row: &Value, name: &str) -> String {
    let all = text(&row[name]);
    match name {
        "model_filename" => {
            Path::new(&all).file_name().map_or(all.clone(), |f| f.to_string_lossy().into_owned())
        }
        // llama-bench knows no such tests.
        "vk_rows" if all == "0" => String::new(),
        _ => all,
    }
}

fn varies(rows: &[Value], name: &str) -> bool {
    rows.iter().any(|row| column(row, name) != column(&rows[0], name))
}

/// The name of a test.
fn name(row: &Value, key: &[&'static str]) -> String {
    if let Some(op) = row["op_name"].as_str() {
        return format!("{op} {}", text(&row["op_params"]));
    }
    let count = |name: &str| row[name].as_u64().unwrap_or(0);
    let mut words: Vec<String> = key
        .iter()
        .filter(|column| SETTINGS.contains(column))
        .map(|name| column(row, name))
        .filter(|word| !word.is_empty())
        .collect();
    let test = match (count("n_prompt"), count("n_gen"), count("vk_rows")) {
        _ if row["vk_test"].is_string() => text(&row["vk_test"]),
        (0, 0, rows) => format!("rows{rows}"),
        (p, 0, _) => format!("pp{p}"),
        (0, n, _) => format!("tg{n}"),
        (p, n, _) => format!("pp{p}+tg{n}"),
    };
    let depth = count("n_depth");
    let deep = depth > 0 && !test.contains('@');
    words.push(if deep { format!("{test} @ d{depth}") } else { test });
    words.join(" ")
}

/// A test that both files have.
pub(super) struct Pair {
    name: String,
    comparison: Option<Comparison>,
}

/// Two files held against each other.
pub(super) struct Compared {
    pairs: Vec<Pair>,
    /// Tests of one file alone: which file, and their names.
    lone: [Vec<String>; 2],
    /// Column and its values in both.
    differs: Vec<(&'static str, String, String)>,
}

/// Compares the rows of two files.
pub(super) fn compared(a: &[Value], b: &[Value]) -> Compared {
    let mut key: Vec<&'static str> = TESTS.to_vec();
    key.extend(SETTINGS.iter().filter(|name| varies(a, name) || varies(b, name)));
    let identity = |row: &Value| -> Vec<String> { key.iter().map(|name| column(row, name)).collect() };
    // In the order of the first file.
    let mut order: Vec<(Vec<String>, String)> = Vec::new();
    let mut sides: [BTreeMap<Vec<String>, Vec<f64>>; 2] = [BTreeMap::new(), BTreeMap::new()];
    for (side, rows) in [a, b].into_iter().enumerate() {
        for row in rows {
            let id = identity(row);
            if !order.iter().any(|(other, _)| *other == id) {
                order.push((id.clone(), name(row, &key)));
            }
            sides[side].entry(id).or_default().extend(rates(row));
        }
    }
    let mut found = Compared { pairs: Vec::new(), lone: [Vec::new(), Vec::new()], differs: Vec::new() };
    for (id, name) in order {
        match (sides[0].get(&id), sides[1].get(&id)) {
            (Some(a), Some(b)) => found.pairs.push(Pair { name, comparison: Comparison::of(a, b) }),
            (Some(_), None) => found.lone[0].push(name),
            _ => found.lone[1].push(name),
        }
    }
    let values = |rows: &[Value], name: &str| -> String {
        let mut all: Vec<String> =
            rows.iter().map(|row| column(row, name)).filter(|v| !v.is_empty()).collect();
        all.sort();
        all.dedup();
        all.join(", ")
    };
    for name in SURROUNDINGS.iter().chain(SETTINGS.iter().filter(|name| !key.contains(name))) {
        let (first, second) = (values(a, name), values(b, name));
        if first != second && !first.is_empty() && !second.is_empty() {
            found.differs.push((name, first, second));
        }
    }
    found
}

fn words(verdict: Verdict) -> String {
    match verdict {
        Verdict::Faster => "faster".into(),
        Verdict::Slower => "slower".into(),
        Verdict::NoneAbove(above) => format!("no difference above {:.1} %", above * 100.0),
        Verdict::Unknown => "too few samples".into(),
    }
}

fn signed(share: f64) -> String {
    format!("{:+.1} %", share * 100.0)
}

impl Compared {
    fn json(&self) -> Value {
        let pairs: Vec<Value> = self
            .pairs
            .iter()
            .map(|pair| match &pair.comparison {
                None => json!({ "test": pair.name, "verdict": "too few samples" }),
                Some(c) => json!({
                    "test": pair.name,
                    "median_a": c.a.median,
                    "median_b": c.b.median,
                    "samples_a": c.a.count,
                    "samples_b": c.b.count,
                    "change": c.change,
                    "low": c.low,
                    "high": c.high,
                    "verdict": words(c.verdict()),
                }),
            })
            .collect();
        let differs: Vec<Value> =
            self.differs.iter().map(|(name, a, b)| json!({ "column": name, "a": a, "b": b })).collect();
        json!({ "tests": pairs, "only_a": self.lone[0], "only_b": self.lone[1], "differs": differs })
    }

    fn print(&self, out: &mut dyn Write) -> Result<(), Failure> {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(["test", "A", "B", "n", "change", "99 % interval", "verdict"]);
        for pair in &self.pairs {
            let Some(c) = &pair.comparison else {
                table.add_row([pair.name.as_str(), "", "", "", "", "", "too few samples"]);
                continue;
            };
            table.add_row([
                pair.name.clone(),
                format!("{:.2}", c.a.median),
                format!("{:.2}", c.b.median),
                format!("{}, {}", c.a.count, c.b.count),
                signed(c.change),
                format!("{} to {}", signed(c.low), signed(c.high)),
                words(c.verdict()),
            ]);
        }
        for column in table.column_iter_mut().skip(1).take(4) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table.lines().try_for_each(|line| writeln!(out, "{}", line.trim_end()))?;
        for (which, names) in ["A", "B"].iter().zip(&self.lone).filter(|(_, names)| !names.is_empty()) {
            writeln!(out, "only in {which}: {}", names.join(", "))?;
        }
        for (name, a, b) in &self.differs {
            writeln!(out, "! {name} differs: {a} / {b}")?;
        }
        Ok(())
    }

    /// Prints, and fails when a test is slower than allowed.
    pub(super) fn conclude(&self, as_json: bool, fail_above: Option<Percent>) -> Result<(), Failure> {
        let mut out = io::BufWriter::new(io::stdout().lock());
        if as_json {
            serde_json::to_writer_pretty(&mut out, &self.json())?;
            writeln!(out)?;
        } else {
            self.print(&mut out)?;
        }
        out.flush()?;
        if self.pairs.is_empty() {
            return Err(input("the two have no test in common"));
        }
        let Some(Percent(allowed)) = fail_above else { return Ok(()) };
        let slower: Vec<&str> = self
            .pairs
            .iter()
            .filter(|pair| {
                pair.comparison.is_some_and(|c| c.verdict() == Verdict::Slower && -c.change > allowed)
            })
            .map(|pair| pair.name.as_str())
            .collect();
        if slower.is_empty() {
            return Ok(());
        }
        let sentence = format!("slower by more than {:.1} %: {}", allowed * 100.0, slower.join(", "));
        Err(Failure::Told(sentence, CHECK))
    }
}

/// Two files' texts, read, compared and printed to nowhere.
#[cfg(fuzzing)]
pub fn compare_texts(a: &str, b: &str) {
    if let (Ok(a), Ok(b)) = (parse(a), parse(b)) {
        let compared = compared(&a, &b);
        let _ = (compared.json(), compared.print(&mut io::sink()));
    }
}

pub(super) fn run(args: &CompareArgs) -> Result<(), Failure> {
    compared(&read(&args.a)?, &read(&args.b)?).conclude(args.json, args.fail_above)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours(test: &str, n_gen: u64, driver: &str, rates: &[f64]) -> Value {
        json!({
            "vk_test": test, "n_prompt": 0, "n_gen": n_gen, "n_depth": 0, "vk_rows": 0, "type_k": "f16",
            "model_filename": "/a/m.gguf", "vk_driver": driver, "samples_ts": rates,
        })
    }

    #[test]
    fn tests_are_matched_by_what_they_are_and_surroundings_are_pointed_out() {
        let rates = [10.0, 10.1, 9.9, 10.0, 10.05];
        let slow: Vec<f64> = rates.iter().map(|rate| rate * 0.9).collect();
        let a = [ours("tg8", 8, "25.0", &rates), ours("tg16", 16, "25.0", &rates)];
        let b = [ours("tg8", 8, "26.2", &slow), ours("tg32", 32, "26.2", &rates)];
        let found = compared(&a, &b);
        assert_eq!(found.pairs.len(), 1);
        assert_eq!(found.pairs[0].comparison.unwrap().verdict(), Verdict::Slower);
        assert_eq!(found.lone, [["tg16".to_owned()], ["tg32".to_owned()]]);
        assert_eq!(found.differs, [("vk_driver", "25.0".to_owned(), "26.2".to_owned())]);
    }

    #[test]
    fn results_of_llama_bench_are_read() {
        let theirs = json!({
            "n_prompt": 0, "n_gen": 8, "n_depth": 0, "type_k": "f16", "model_filename": "m.gguf",
            "avg_ts": 10.0, "stddev_ts": 0.1, "samples_ts": [9.9, 10.0, 10.0, 10.1],
        });
        let found = compared(&[theirs], &[ours("tg8", 8, "26.2", &[10.0, 10.1, 10.0, 9.9])]);
        assert!(matches!(found.pairs[0].comparison.unwrap().verdict(), Verdict::NoneAbove(_)));
        assert!(found.differs.is_empty(), "{:?}", found.differs);
    }

    #[test]
    fn settings_tell_tests_of_one_file_apart() {
        let with = |kind: &str, rate: f64| {
            let mut row = ours("tg8", 8, "", &[rate; 4]);
            row["type_k"] = json!(kind);
            row
        };
        let a = [with("f16", 10.0), with("q8_0", 20.0)];
        let found = compared(&a, &a);
        assert_eq!(found.pairs.len(), 2);
        assert_eq!(found.pairs[1].name, "q8_0 tg8");
        // Where a file has one of them each, it is a difference of surroundings.
        let found = compared(&a[..1], &a[1..]);
        assert_eq!((found.pairs.len(), found.differs[0].0), (1, "type_k"));
    }
}
