//! `vkllm bench`: its columns, the bytes it counts, what it refuses, and comparisons.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::Stdio;

use serde_json::{Value, json};
use vkllm::gguf::Gguf;

use super::{STORIES, command, scratch, vkllm};
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
    // Two heads of 32 elements of keys and values in f16 for 141 positions; a norm of two rows of two forms.
    let others = [
        "attention:heads=4:kv=2:head=32:depth=139:rows=2",
        "rope:heads=4:kv=2:head=32:type=f16,f32",
        "experts:format=q8_0:k=64:n=32:experts=8:used=2:rows=1,4",
        "norm:k=96:rows=2",
        "glu:k=64",
        "quantize:k=64",
        "embed:k=256:n=100",
        "sample:n=2000",
    ];
    let arguments: Vec<&str> =
        others.iter().flat_map(|spec| ["--kernels", spec]).chain(["-o", "json"]).collect();
    let all = bench(&arguments).json();
    let rows = all.as_array().expect("a list");
    assert_eq!(rows.len(), 10, "{all}");
    let of = |op: &str| rows.iter().find(|row| row["op_name"] == op).expect("it is measured");
    assert_eq!(of("attention")["op_params"], "type=f16,heads=4,kv=2,head=32,depth=139,rows=2");
    assert!(of("attention")["memory_kb"].as_u64() >= Some(141 * 2 * 2 * 32 * 2 / 1024), "{all}");
    // Of a row the experts it uses.
    assert_eq!(of("experts")["bw_weight_bytes"].as_u64(), Some(2 * 32 * 68), "{all}");
    assert!(of("rope")["vk_kernels"].as_str().is_some_and(|names| names.starts_with("heads.")), "{all}");
    let csv = bench(&[&kernels[..], &["csv"]].concat());
    let header = TEST_BACKEND_OPS.split_whitespace().collect::<Vec<_>>().join(",");
    assert!(csv.succeeds().out.starts_with(&header), "{csv:?}");
    bench(&["--kernels", "linear:k=100"]).refuses(2, &["k of linear", "256"]);
    bench(&["--kernels", "nothing"]).refuses(2, &["nothing", "linear"]);
    bench(&["--kernels", "linear:format=q9"]).refuses(2, &["q9", "q4_k"]);
    bench(&["--kernels", "norm:n=3"]).refuses(2, &["norm", "k=, rows="]);
    bench(&["--kernels", "attention:heads=3:kv=2"]).refuses(2, &["heads of attention", "multiples of kv"]);
    bench(&["--kernels", "rope:type=q8_0:head=40"]).refuses(2, &["40", "q8_0"]);
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
    bench(&["-m", STORIES, "--plot", "x.gif"]).refuses(2, &["x.gif", ".svg", ".png"]);
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

#[test]
fn pictures_are_drawn_as_pixels_too() {
    if harness::device().is_none() {
        return;
    }
    let plot = scratch().join("plot.png");
    let _ = std::fs::remove_file(&plot);
    let path = plot.to_str().expect("UTF-8");
    let tests = ["-m", STORIES, "-n", "4", "-d", "0,8", "--rows", "1,2", "-o", "jsonl", "--plot", path];
    let said = bench(&tests);
    if said.code == Some(2) && said.err.contains("no fonts") {
        return harness::skip("the system has no fonts");
    }
    said.succeeds();
    let bytes = std::fs::read(plot).expect("a picture");
    let word = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    assert_eq!(&bytes[..8], b"\x89PNG\r\n\x1a\n");
    // Twice the drawing's width, and at least two diagrams high.
    assert!(word(16) == 1440 && word(20) > 1000, "{} by {}", word(16), word(20));
}

/// A model of the references beside the project.
fn shared(name: &str) -> Option<String> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/models").join(name);
    path.is_file().then(|| path.to_string_lossy().into_owned())
}

#[test]
fn a_model_that_drafts_is_measured_end_to_end() {
    let (Some(target), Some(draft)) = (shared("tiny-target.q8_0.gguf"), shared("tiny-draft.q8_0.gguf"))
    else {
        return harness::skip("../shared/models is not there");
    };
    if harness::device().is_none() {
        return;
    }
    let trace = scratch().join("draft-trace.json");
    let path = trace.to_str().expect("UTF-8");
    let all = bench(&[
        "-m",
        &target,
        "-md",
        &draft,
        "--draft-max",
        "3",
        "--task",
        "story",
        "-n",
        "10",
        "-o",
        "json",
        "--trace",
        path,
    ])
    .json();
    let tests: Vec<_> = all.as_array().expect("a list").iter().map(|row| row["vk_test"].clone()).collect();
    assert_eq!(tests, ["text10/story", "spec10/k=3/story"]);
    let spec = &all[1];
    assert_eq!(
        (spec["spec_length"].as_u64(), spec["spec_task"].as_str()),
        (Some(3), Some("story")),
        "{spec}"
    );
    assert!(
        spec["spec_mean_length"].as_f64() >= Some(1.0) && spec["spec_speed_up"].as_f64() > Some(0.0),
        "{spec}"
    );
    if spec.get("attribution").is_some() {
        let events: Value = serde_json::from_slice(&std::fs::read(trace).expect("a trace")).expect("JSON");
        let of = |track: u64| {
            let all = events["traceEvents"].as_array().expect("events").iter();
            all.filter(|event| event["ph"] == "X" && event["tid"] == track).count()
        };
        // Host, target and draft.
        assert!(of(1) > 0 && of(2) > 0 && of(3) > 0, "{} {} {}", of(1), of(2), of(3));
    }
}

#[test]
fn two_settings_run_in_turns() {
    if harness::device().is_none() {
        return;
    }
    let ab = |settings: [&str; 2], more: &[&str]| {
        let [a, b] = settings;
        vkllm(&[&["bench", "ab", "--a", a, "--b", b, "-r", "2", "--json", "--"], more].concat())
    };
    let tests = ["-m", STORIES, "-n", "4", "--no-warmup"];
    let found = ab(["VKLLM_TEST_AB=1", "-ctk f32"], &tests).json();
    let test = &found["tests"][0];
    assert_eq!(
        (test["test"].as_str(), test["samples_a"].as_u64(), test["samples_b"].as_u64()),
        (Some("tg4"), Some(2), Some(2))
    );
    assert_eq!(found["differs"][0], json!({ "column": "type_k", "a": "f16", "b": "f32" }), "{found}");
    // What cannot be typed is known before anything runs, what cannot run ends it with the run's own code.
    ab(["", "--rowz 1"], &tests).refuses(2, &["--rowz", "setting"]);
    ab(["", "word"], &tests).refuses(2, &["--b", "NAME=VALUE"]);
    let failed = ab(["-ctk q9", ""], &tests);
    assert!(
        failed.code == Some(2) && failed.err.contains("q9") && failed.err.contains("failed"),
        "{failed:?}"
    );
}

#[cfg(unix)]
#[test]
fn ctrl_c_prints_what_was_measured_so_far() {
    if harness::device().is_none() {
        return;
    }
    let mut child = command(&[
        "bench",
        "--verbose",
        "-m",
        STORIES,
        "-n",
        "2,3",
        "-r",
        "100000",
        "--no-ceilings",
        "--no-labels",
        "-o",
        "jsonl",
    ])
    .stdout(Stdio::piped())
    .stderr(Stdio::piped())
    .spawn()
    .expect("the program starts");
    let mut stdout = child.stdout.take().expect("piped");
    let out = std::thread::spawn(move || {
        let mut text = String::new();
        stdout.read_to_string(&mut text).map(|_| text)
    });
    let mut stderr = BufReader::new(child.stderr.take().expect("piped"));
    let mut line = String::new();
    while !line.contains("measured") {
        line.clear();
        assert!(stderr.read_line(&mut line).expect("UTF-8") > 0, "it ended before it measured anything");
    }
    let sent = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(sent.expect("kill is there").success());
    let mut rest = String::new();
    stderr.read_to_string(&mut rest).expect("UTF-8");
    let text = out.join().expect("no panic").expect("UTF-8");
    assert_eq!(child.wait().expect("it ends").code(), Some(130), "{rest}");
    assert!(!rest.contains("panicked"), "{rest}");
    let rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("a row")).collect();
    assert_eq!(rows.len(), 1, "{text}");
    assert!(rows[0]["vk_test"] == "tg2" && rows[0]["avg_ts"].as_f64() > Some(0.0), "{text}");
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    if harness::device().is_none() {
        return;
    }
    let arguments = ["bench", "--no-ceilings", "-r", "1", "--kernels", "greedy:n=1000", "-o", "json"];
    let mut child =
        command(&arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    drop(child.stdout.take());
    let ended = child.wait_with_output().expect("it ends");
    let err = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success() && err.is_empty(), "{err}");
}
