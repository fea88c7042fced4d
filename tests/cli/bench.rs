//! `vkllm bench`: its columns, the bytes it counts, what it refuses, and comparisons.

use std::path::PathBuf;

use serde_json::{Value, json};
use vkllm::gguf::Gguf;

use super::{STORIES, scratch, vkllm};
use crate::harness;

/// Columns of llama-bench's SQL table as scripts/compare-llama-bench.py of llama.cpp names them (commit 05f3b204), in order.
const LLAMA_BENCH: &str = "build_commit build_number cpu_info gpu_info backends model_filename model_type model_size \
    model_n_params n_batch n_ubatch n_threads cpu_mask cpu_strict poll type_k type_v n_gpu_layers split_mode main_gpu \
    no_kv_offload flash_attn tensor_split tensor_buft_overrides use_mmap embeddings no_op_offload n_prompt n_gen n_depth \
    test_time avg_ns stddev_ns avg_ts stddev_ts";

fn names() -> Vec<&'static str> {
    LLAMA_BENCH.split_whitespace().collect()
}

/// Runs without ceilings, which take seconds and say nothing of the program.
fn bench(arguments: &[&str]) -> super::Said {
    vkllm(&[&["bench", "--no-ceilings", "-r", "2", "--no-warmup"], arguments].concat())
}

#[test]
fn json_has_the_columns_of_llama_bench_all_samples_and_every_label() {
    if harness::device().is_none() {
        return;
    }
    let all =
        bench(&["-m", STORIES, "-p", "20", "-n", "6", "--rows", "1-3", "--sessions", "1,3", "-o", "json"])
            .json();
    let rows = all.as_array().expect("a list");
    let tests: Vec<_> = rows.iter().map(|row| row["vk_test"].as_str().expect("a name")).collect();
    assert_eq!(tests, ["pp20", "tg6", "rows1", "rows2", "rows3", "sessions1", "sessions3"]);
    for row in rows {
        for name in names() {
            assert!(row.get(name).is_some(), "{name} is missing");
        }
        assert_eq!(row["samples_ns"].as_array().map(Vec::len), Some(2));
        assert_eq!(row["samples_ts"].as_array().map(Vec::len), Some(2));
        assert!(row["avg_ts"].as_f64() > Some(0.0), "{row}");
        // A device that executes nothing has no times.
        let Some(a) = row.get("attribution") else { continue };
        let ns = |name: &str| a[name].as_u64().expect("nanoseconds");
        let labels: u64 =
            a["labels"].as_array().expect("labels").iter().map(|l| l["ns"].as_u64().unwrap()).sum();
        assert_eq!(labels, ns("labels_ns"));
        assert!(labels <= ns("device_ns") + 1000 && ns("device_ns") <= ns("wall_ns"), "{a}");
    }
}

#[test]
fn bytes_of_a_token_are_those_of_the_file_and_the_cache() {
    if harness::device().is_none() {
        return;
    }
    let tokens = 6;
    let all =
        bench(&["-m", STORIES, "-n", "6", "-d", "3", "-o", "json", "-ctk", "f16", "-ctv", "f32"]).json();
    if all[0].get("attribution").is_none() {
        return harness::skip("the device tells no times");
    }
    // Counted from the file: every tensor once, but of the embedding one row where another matrix is the output.
    let file = Gguf::open(STORIES.as_ref()).expect("the model");
    let bytes = |name: &str| file.tensor(name).map_or(0, |info| info.bytes);
    let embedding = file.tensor("token_embd.weight").expect("an embedding");
    let row = embedding.bytes / embedding.dims[1];
    let rest: u64 =
        file.tensors().iter().filter(|info| info.name != "rope_freqs.weight").map(|info| info.bytes).sum();
    let output = if bytes("output.weight") > 0 { 0 } else { embedding.bytes };
    let weights = rest - embedding.bytes + row + output;
    assert_eq!(all[0]["bw_weight_bytes"].as_f64(), Some(weights as f64));
    // Two bytes for an element of a key, four for one of a value; a token at position p writes one and loads p + 1.
    let layers = file.tensors().iter().filter(|info| info.name.ends_with("attn_k.weight")).count() as u64;
    let kv = file.tensor("blk.0.attn_k.weight").expect("keys").dims[1];
    let positions: u64 = (3..3 + tokens).map(|position| position + 2).sum();
    let cache = layers * kv * (2 + 4) * positions;
    assert_eq!(all[0]["bw_cache_bytes"].as_f64(), Some(cache as f64 / tokens as f64));
    // Two operations for each weight of a product, and for each element of a visible key or value.
    let matrices = |info: &&vkllm::gguf::TensorInfo| info.dims.len() > 1 && info.dims[1] > 1;
    let products: u64 = file.tensors().iter().filter(matrices).map(|info| info.elements()).sum();
    let unused = if output == 0 { embedding.elements() } else { 0 };
    let heads = file.tensor("blk.0.attn_q.weight").expect("queries").dims[1];
    let seen: u64 = (3..3 + tokens).map(|position| position + 1).sum();
    let operations = tokens * 2 * (products - unused) + layers * 2 * 2 * heads * seen;
    assert_eq!(all[0]["bw_operations"].as_f64(), Some(operations as f64 / tokens as f64));
}

#[test]
fn csv_and_sql_begin_with_the_columns_of_llama_bench() {
    if harness::device().is_none() {
        return;
    }
    let arguments = ["-m", STORIES, "-n", "2", "--no-labels", "-o"];
    let csv = bench(&[&arguments[..], &["csv"]].concat());
    let header = csv.succeeds().out.lines().next().unwrap_or_default().to_owned();
    assert!(header.starts_with(&names().join(",")), "{header}");
    assert_eq!(csv.out.lines().count(), 2);
    let sql = bench(&[&arguments[..], &["sql"]].concat());
    let fields: Vec<&str> =
        sql.succeeds().out.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(fields[..names().len()], names(), "{}", sql.out);
    assert!(sql.out.starts_with("CREATE TABLE IF NOT EXISTS llama_bench ("), "{}", sql.out);
    assert_eq!(sql.out.matches("INSERT INTO llama_bench").count(), 1);
}

#[test]
fn impossible_combinations_are_refused_before_anything_runs() {
    if harness::device().is_none() {
        return;
    }
    bench(&["-m", STORIES, "-n", "4", "-d", "0,100000"]).refuses(2, &["tg4 @ d100000", "context"]);
    bench(&["-m", STORIES, "--rows", "0-2"]).refuses(2, &["rows", "1 to 65"]);
    bench(&["-m", STORIES, "--rows", "70"]).refuses(2, &["70", "1 to 65"]);
    bench(&["-m", STORIES, "--pg", "5"]).refuses(2, &["--pg", "512,128"]);
    bench(&["-m", STORIES, "-ctk", "q9"]).refuses(2, &["--cache-type-k", "q8_0"]);
    vkllm(&["bench", "-m", STORIES, "-r", "0"]).refuses(2, &["--repetitions"]);
    bench(&["-m", "/nowhere.gguf"]).refuses(2, &["/nowhere.gguf"]);
    bench(&["--device", "reference"]).refuses(2, &["reference"]);
    bench(&["-n", "4-1"]).refuses_usage(&["1-8"]);
}

fn results(name: &str, factor: f64) -> PathBuf {
    let path = scratch().join(name);
    // Ten samples with a deviation of 1 %.
    let rates: Vec<f64> =
        (0..10).map(|i| factor * (100.0 + [0.3, -1.4, 1.1, -0.4, 0.9][i % 5] - 0.1 * i as f64)).collect();
    let row: Value = json!({
        "vk_test": "tg128", "n_prompt": 0, "n_gen": 128, "n_depth": 0, "model_filename": "m.gguf",
        "vk_driver": name, "samples_ts": rates,
    });
    std::fs::write(&path, json!([row]).to_string()).expect("a file in the target folder");
    path
}

#[test]
fn compare_sees_five_percent_and_not_nothing() {
    let (plain, slow) = (results("plain.json", 1.0), results("slow.json", 0.95));
    let (plain, slow) = (plain.to_str().expect("UTF-8"), slow.to_str().expect("UTF-8"));
    let same = vkllm(&["bench", "compare", plain, plain, "--fail-above", "0%"]);
    assert!(same.succeeds().out.contains("no difference above"), "{same:?}");
    let slower = vkllm(&["bench", "compare", plain, slow, "--fail-above", "3%"]);
    assert_eq!(slower.code, Some(1), "{slower:?}");
    assert!(slower.out.contains("-5.0 %") && slower.out.contains("vk_driver differs"), "{slower:?}");
    assert!(slower.err.contains("slower by more than 3.0 %: tg128"), "{slower:?}");
    let faster = vkllm(&["bench", "compare", slow, plain, "--fail-above", "3%", "--json"]).json();
    assert_eq!(faster["tests"][0]["verdict"], "faster");
    // Allowed is what was allowed.
    vkllm(&["bench", "compare", plain, slow, "--fail-above", "6%"]).succeeds();
    let nothing = scratch().join("nothing.json");
    std::fs::write(&nothing, "[]").expect("a file in the target folder");
    vkllm(&["bench", "compare", plain, nothing.to_str().expect("UTF-8")]).refuses(2, &["no result"]);
}

/// Columns of llama.cpp's table `test_backend_ops`, from the same script.
const TEST_BACKEND_OPS: &str = "test_time build_commit backend_name op_name op_params test_mode supported passed \
    error_message time_us flops bandwidth_gb_s memory_kb n_runs";

#[test]
fn kernels_are_measured_without_a_model_in_the_columns_of_test_backend_ops() {
    if harness::device().is_none() {
        return;
    }
    let kernels =
        ["--kernels", "linear:format=q4_k,f16:k=256:n=64:rows=1-2", "--kernels", "greedy:n=1000", "-o"];
    let all = bench(&[&kernels[..], &["json"]].concat()).json();
    let rows = all.as_array().expect("a list");
    assert_eq!(rows.len(), 5, "{all}");
    for row in rows {
        TEST_BACKEND_OPS
            .split_whitespace()
            .for_each(|name| assert!(row.get(name).is_some(), "{name} is missing"));
    }
    assert_eq!(rows[0]["op_params"], "format=q4_k,k=256,n=64,rows=1");
    // 144 bytes for 256 weights.
    assert_eq!(rows[0]["bw_weight_bytes"].as_u64(), Some(64 * 144));
    let csv = bench(&[&kernels[..], &["csv"]].concat());
    let header = TEST_BACKEND_OPS.split_whitespace().collect::<Vec<_>>().join(",");
    assert!(csv.succeeds().out.starts_with(&header), "{csv:?}");
    bench(&["--kernels", "linear:k=100"]).refuses(2, &["k of linear", "256"]);
    bench(&["--kernels", "nothing"]).refuses(2, &["nothing", "linear"]);
    bench(&["--kernels", "linear:format=q9"]).refuses(2, &["q9", "q4_k"]);
}

#[test]
fn texts_with_drafts_are_held_against_plain_ones() {
    if harness::device().is_none() {
        return;
    }
    let (trace, plot) = (scratch().join("trace.json"), scratch().join("plot.svg"));
    let [trace, plot] = [&trace, &plot].map(|path| path.to_str().expect("UTF-8"));
    let spec =
        ["-m", STORIES, "--spec", "ngram-cache", "--draft-max", "2,auto", "--task", "story", "-n", "12"];
    let all = bench(&[&spec[..], &["-o", "json", "--trace", trace, "--plot", plot]].concat()).json();
    let rows = all.as_array().expect("a list");
    let tests: Vec<_> = rows.iter().map(|row| row["vk_test"].as_str().expect("a name")).collect();
    assert_eq!(tests, ["text12/story", "spec12/k=2/story", "spec12/k=auto/story"]);
    assert_eq!(rows[0]["spec_speed_up"], 1.0);
    // Three texts, each without the token that its prompt's step draws.
    let numbers = |row: &Value, name: &str| -> Vec<f64> {
        row[name].as_array().expect("samples").iter().filter_map(Value::as_f64).collect()
    };
    for row in rows {
        let (rates, times) = (numbers(row, "samples_ts"), numbers(row, "samples_ns"));
        assert!(!rates.is_empty() && rates.len() == times.len(), "{row}");
        let tokens = rates.iter().zip(&times).map(|(rate, time)| rate * time / 1e9);
        assert!(tokens.into_iter().all(|tokens| (tokens - 33.0).abs() < 0.5), "{row}");
    }
    assert!(rows[1]["spec"]["num_spec_steps"].as_u64().is_some(), "{all}");
    let svg = std::fs::read_to_string(plot).expect("a picture");
    assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
    let mut reader = quick_xml::Reader::from_str(&svg);
    while reader.read_event().expect("well-formed") != quick_xml::events::Event::Eof {}
    if rows[0].get("attribution").is_some() {
        let text = std::fs::read_to_string(trace).expect("a trace");
        let events: Value = serde_json::from_str(&text).expect("JSON");
        let events = events["traceEvents"].as_array().expect("events");
        let named = |name: &str| events.iter().filter(|event| event["name"] == name).count();
        assert!(named("output") > 10 && named("step") > 10, "{} events", events.len());
    }
    bench(&["-m", STORIES, "--task", "story"]).refuses(2, &["--task"]);
    bench(&["-m", STORIES, "--spec", "ngram-cache", "--task", "poem"]).refuses(2, &["poem", "story"]);
    bench(&["-m", STORIES, "--spec", "ngram-cache", "--draft-max", "100"]).refuses(2, &["100", "0 to 64"]);
    bench(&["-m", STORIES, "--plot", "x.png"]).refuses(2, &["x.png", ".svg"]);
}

#[test]
fn starts_are_measured_with_and_without_a_cache() {
    if harness::device().is_none() {
        return;
    }
    let all = bench(&["-m", STORIES, "--startup", "-o", "json"]).json();
    let caches: Vec<_> = all.as_array().expect("a list").iter().map(|row| row["cache"].clone()).collect();
    assert_eq!(caches, ["cold", "warm"]);
    assert!(
        all[0]["first_token_ms"].as_f64() > Some(0.0) && all[0]["total_ms"].as_f64() > Some(0.0),
        "{all}"
    );
}

#[test]
fn a_soak_lasts_as_long_as_it_should() {
    if harness::device().is_none() {
        return;
    }
    let all = bench(&["-m", STORIES, "-n", "2", "--soak", "0.02", "--no-labels", "-o", "json"]).json();
    let ns: f64 = all[0]["samples_ns"].as_array().expect("samples").iter().filter_map(Value::as_f64).sum();
    assert!(ns > 0.5e9 && all.as_array().map(Vec::len) == Some(1), "{all}");
}
