//! The GGUF reader: the corpus of malformed files, every prefix of a valid one, flipped bits, the typed getters,
//! what is not a regular file, and the real files that stand beside the checkout.

pub(crate) mod build;
mod child;
mod corpus;
mod heap;
mod models;
pub(crate) mod tiny;

use build::*;
use corpus::Expect;
use std::path::{Path, PathBuf};
use vkllm::gguf::{Gguf, GgufError, Value, escaped, ggml_type};

fn open(bytes: &[u8]) -> Result<Gguf, GgufError> {
    Gguf::from_bytes(bytes.to_vec(), "bad\u{1b}[31m.gguf")
}

/// The name of the error's variant.
fn kind(error: &GgufError) -> String {
    format!("{error:?}").chars().take_while(|c| c.is_alphanumeric()).collect()
}

/// Looks at everything a file offers, and checks what is promised of it.
fn visit(gguf: &Gguf) {
    let mut bytes = 0;
    for (key, value) in gguf.metadata().iter() {
        assert!(gguf.metadata().contains(key));
        bytes += match value {
            Value::Strings(array) => array.iter().map(<[u8]>::len).sum(),
            Value::Numbers(array) => array.iter().count(),
            Value::String(text) => text.len(),
            other => other.type_name().len(),
        };
        let _ = gguf.metadata().u32(key).map_err(|error| error.to_string());
        let _ = gguf.metadata().f32s(key).map_err(|error| error.to_string());
        let _ = gguf.metadata().i32s(key).map_err(|error| error.to_string());
        let _ = gguf.metadata().bools(key).map_err(|error| error.to_string());
        let _ = gguf.metadata().str(key).map_err(|error| error.to_string());
        let _ = gguf.metadata().strings(key).map_err(|error| error.to_string());
    }
    assert!(bytes <= gguf.file_len() as usize * 2);
    let mut ends = Vec::new();
    for tensor in gguf.tensors() {
        let measure = ggml_type(tensor.ggml_type).expect("a type in use");
        assert_eq!(tensor.bytes, tensor.elements() / measure.block * measure.bytes, "{tensor:?}");
        assert!(
            tensor.bytes > 0
                && tensor.offset % u64::from(gguf.alignment())
                    == gguf.data_offset() % u64::from(gguf.alignment())
        );
        assert!(tensor.offset >= gguf.data_offset() && tensor.offset + tensor.bytes <= gguf.file_len());
        assert_eq!(gguf.tensor_bytes(tensor).len() as u64, tensor.bytes);
        assert_eq!(gguf.tensor(&tensor.name), Some(tensor));
        ends.push((tensor.offset, tensor.offset + tensor.bytes));
    }
    ends.sort_unstable();
    assert!(ends.windows(2).all(|pair| pair[0].1 <= pair[1].0));
}

#[test]
fn every_malformed_file_gives_the_error_it_should() {
    let cases = corpus::cases();
    let mut wrong = Vec::new();
    for case in &cases {
        let result = open(&case.bytes);
        match (&case.expect, &result) {
            (Expect::Accept, Ok(gguf)) => visit(gguf),
            (Expect::Accept, Err(error)) => wrong.push(format!("{}: refused: {error}", case.name)),
            (Expect::Refuse(..), Ok(_)) => wrong.push(format!("{}: accepted", case.name)),
            (Expect::Refuse(expected, parts), Err(error)) => {
                let text = error.to_string();
                let always = ["`bad\\u{1b}[31m.gguf`", "byte ", "found ", "allowed "].map(String::from);
                for part in parts.iter().chain(&always).filter(|part| !text.contains(part.as_str())) {
                    wrong.push(format!("{}: no {part:?} in: {text}", case.name));
                }
                if !expected.is_empty() && kind(error) != *expected {
                    wrong.push(format!("{}: {} instead of {expected}: {text}", case.name, kind(error)));
                }
                if text.chars().any(char::is_control) || text.len() > 1_000 {
                    wrong.push(format!("{}: not fit to print: {text:?}", case.name));
                }
            }
        }
    }
    println!("{} files", cases.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_prefix_is_refused_until_the_last_tensor_is_whole() {
    let whole = sample(20_000);
    let bytes = whole.finish();
    assert!((19_000..=21_000).contains(&bytes.len()));
    let head = whole.head_len();
    for length in 0..bytes.len() {
        let error = open(&bytes[..length]).map(|_| ()).expect_err("a prefix is not a file");
        let expected = match length {
            0 => "NotGguf",
            _ if length < head => "Truncated",
            _ => "Tensor",
        };
        assert_eq!(kind(&error), expected, "{length} bytes: {error}");
    }
    visit(&open(&bytes).expect("the whole file"));
}

/// Steele and Lea's SplitMix64, so that a seed means the same everywhere.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[test]
fn flipped_bits_are_refused_or_harmless() {
    const SEED: u64 = 0x6767_7566;
    let whole = sample(4_000);
    let bytes = whole.finish();
    let mut state = SEED;
    let mut accepted = 0;
    for n in 0..20_000 {
        let bit = random(&mut state) as usize % (whole.head_len() * 8);
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        match open(&flipped) {
            Ok(gguf) => {
                visit(&gguf);
                accepted += 1;
            }
            Err(error) => {
                let text = error.to_string();
                assert!(
                    text.contains("byte ") && !text.chars().any(char::is_control),
                    "flip {n}, bit {bit}: {text}"
                );
            }
        }
    }
    println!("seed {SEED:#x}: 20000 single-bit flips, {accepted} still files");
    assert!((1..20_000).contains(&accepted));
}

#[test]
fn many_flips_and_random_tails_are_refused_or_harmless() {
    const SEED: u64 = 0x7461_696c;
    let whole = sample(2_000);
    let bytes = whole.finish();
    let mut state = SEED;
    for _ in 0..5_000 {
        let mut changed = bytes.clone();
        let from = random(&mut state) as usize % whole.head_len();
        let length = random(&mut state) as usize % 24;
        for byte in changed[from..].iter_mut().take(length) {
            *byte = random(&mut state) as u8;
        }
        if let Ok(gguf) = open(&changed) {
            visit(&gguf);
        }
    }
    println!("seed {SEED:#x}: 5000 overwritten stretches");
}

#[test]
fn integers_of_any_width_are_taken_in_range() {
    let gguf = open(&sample(2_000).finish()).expect("a valid file");
    let m = gguf.metadata();
    assert_eq!(m.u32("a.u8").unwrap(), Some(200));
    assert_eq!(m.u32("a.u16").unwrap(), Some(60_000));
    assert_eq!(m.u32("a.i64").unwrap(), Some(7));
    assert_eq!(m.u64("a.u64").unwrap(), Some(1 << 40));
    assert_eq!(m.i32("a.i32").unwrap(), Some(-70_000));
    assert_eq!(m.i32("a.i8").unwrap(), Some(-128));
    assert_eq!(m.f32("a.f32").unwrap(), Some(1e-5));
    assert_eq!(m.f32("a.f64").unwrap(), Some(2.5));
    assert_eq!(m.bool("a.bool").unwrap(), Some(true));
    assert_eq!(m.str("general.name").unwrap(), Some("Größe"));
    assert_eq!(m.bools("a.bools").unwrap(), Some(vec![true, false, true]));
    assert_eq!(m.u32s("a.u8s").unwrap(), Some(vec![1, 2, 255]));
    assert_eq!(m.u32s("a.empty").unwrap(), Some(vec![]));
    assert!(m.strings("a.empty").unwrap().is_some_and(|array| array.is_empty()));
    assert_eq!(m.require_i32s("tokenizer.ggml.token_type").unwrap()[8], 1);
    assert_eq!(m.require_f32s("tokenizer.ggml.scores").unwrap()[3], -3.0);
    assert_eq!(m.u32("absent").unwrap(), None);
    assert!(m.is_array("a.u8s") && !m.is_array("a.u8") && !m.is_array("absent"));
    let tokens = m.require_strings("tokenizer.ggml.tokens").unwrap();
    assert_eq!(
        (tokens.len(), &tokens[7], tokens.get(40), tokens.get(42)),
        (42, "▁token7".as_bytes(), Some(&b"\xff\xfe not UTF-8"[..]), None)
    );
    assert_eq!(tokens.iter().last(), Some(&b""[..]));
    let shown = |key| m.get(key).map(|value| value.to_string()).unwrap_or_default();
    assert_eq!(
        (shown("a.i8"), shown("a.u8s"), shown("a.empty")),
        ("-128".into(), "[1, 2, 255]".into(), "[]".into())
    );
    assert!(shown("tokenizer.ggml.tokens").ends_with("\"▁token7\", … 42 in all]"));
    let keys: Vec<&str> = m.iter().map(|(key, _)| key).collect();
    assert_eq!((keys.len(), keys[0], keys[18]), (19, "general.architecture", "a.empty"));
    let at = tokens.offset(7).unwrap() as usize;
    assert!(sample(2_000).finish()[at..].starts_with("▁token7".as_bytes()));
}

#[test]
fn wrong_values_name_key_offset_found_and_allowed() {
    let build = Build::new()
        .f32("nan", f32::NAN)
        .f32("inf", f32::INFINITY)
        .key("huge", F64, &1e300f64.to_le_bytes())
        .array("infs", F32, 2, &[1f32.to_le_bytes(), f32::NEG_INFINITY.to_le_bytes()].concat())
        .key("minus", I32, &(-1i32).to_le_bytes())
        .array("minuses", I64, 2, &[3i64.to_le_bytes(), (-3i64).to_le_bytes()].concat())
        .text("bytes", b"a\xff\x1b")
        .strings("list", &[b"a"]);
    let bytes = build.finish();
    let gguf = open(&bytes).expect("a valid file");
    let m = gguf.metadata();
    let text = |error: GgufError, expected: &str, parts: &[&str]| {
        let text = error.to_string();
        assert_eq!(kind(&error), expected, "{text}");
        for part in parts.iter().chain(&["`bad\\u{1b}[31m.gguf`", "byte ", "found ", "allowed "]) {
            assert!(text.contains(part), "no {part:?} in: {text}");
        }
    };
    text(m.f32("nan").unwrap_err(), "Value", &["key `nan`", "byte 39", "found NaN", "a finite number"]);
    text(m.f32("inf").unwrap_err(), "Value", &["key `inf`", "found inf"]);
    text(m.f32("huge").unwrap_err(), "Value", &["key `huge`", "found inf"]);
    text(m.f32s("infs").unwrap_err(), "Value", &["key `infs`", "-inf at index 1"]);
    assert_eq!(m.f32_any("inf").unwrap(), Some(f32::INFINITY));
    assert_eq!(m.f32s_any("infs").unwrap().unwrap().len(), 2);
    text(m.u32("minus").unwrap_err(), "Value", &["key `minus`", "found -1", "0 to 4294967295"]);
    text(m.u64("minus").unwrap_err(), "Value", &["key `minus`", "found -1"]);
    text(m.u32s("minuses").unwrap_err(), "Value", &["key `minuses`", "-3 at index 1"]);
    text(m.u32("nan").unwrap_err(), "Type", &["found f32", "integer"]);
    text(m.f32("minus").unwrap_err(), "Type", &["found i32", "f32 or f64"]);
    text(m.bool("minus").unwrap_err(), "Type", &["found i32", "bool"]);
    text(m.str("minus").unwrap_err(), "Type", &["found i32", "string"]);
    text(m.u32("list").unwrap_err(), "Type", &["found array of 1 string"]);
    text(m.u32s("list").unwrap_err(), "Type", &["found array of 1 string", "array of integers"]);
    text(m.u32s("minus").unwrap_err(), "Type", &["found i32", "array of integers"]);
    text(m.u32s("infs").unwrap_err(), "Type", &["found array of 2 f32", "array of integers"]);
    text(m.f32s("minuses").unwrap_err(), "Type", &["array of 2 i64", "array of f32"]);
    text(m.bools("minuses").unwrap_err(), "Type", &["array of 2 i64", "array of bool"]);
    text(m.strings("minuses").unwrap_err(), "Type", &["array of 2 i64", "array of string"]);
    text(m.str("bytes").unwrap_err(), "Text", &["key `bytes`", "`a\\xff\\u{1b}`", "UTF-8"]);
    assert_eq!(m.bytes("bytes").unwrap(), Some(&b"a\xff\x1b"[..]));
    let missing = m.require_u32("llama.block_count").unwrap_err();
    assert_eq!(kind(&missing), "MissingKey");
    assert!(missing.to_string().contains("`llama.block_count`") && missing.to_string().contains("bad"));
    assert!(gguf.require_tensor("x\n").unwrap_err().to_string().contains("`x\\n`"));
    text(m.refuse("minus", 5, "an even number"), "Value", &["key `minus`", "found 5", "an even number"]);
}

#[test]
fn printing_is_safe_and_bounded() {
    assert_eq!(escaped(b"blk.0.\xe2\x96\x81"), "blk.0.▁");
    assert_eq!(escaped("\r\n\t\u{202e}\u{feff}".as_bytes()), "\\r\\n\\t\\u{202e}\\u{feff}");
    let long = escaped(&vec![b'a'; 1 << 20]);
    assert!(long.len() < 200 && long.ends_with("… (1048576 bytes)"), "{long}");
    let bad = escaped(&[0xff; 5_000]);
    assert!(bad.len() < 600 * 4 && !bad.contains('\u{fffd}'), "{bad}");
    // A character across the edge of the window that is looked at stays whole.
    for shift in 0..4 {
        let text = format!("{}{}", "x".repeat(shift), "🙂".repeat(119 - shift));
        assert_eq!(escaped(text.as_bytes()), text);
    }
    assert_eq!(escaped(b"ab\xf0\x9f"), "ab\\xf0\\x9f");
}

#[test]
fn the_same_bytes_come_through_map_handle_and_memory() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("a.gguf");
    let bytes = sample(20_000).finish();
    std::fs::write(&path, &bytes).expect("a file");
    let mapped = Gguf::open(&path).expect("a valid file");
    let owned = open(&bytes).expect("a valid file");
    assert_eq!((mapped.path(), mapped.version(), mapped.alignment()), (path.as_path(), 3, 32));
    assert_eq!((mapped.file_len(), mapped.data_offset() % 32), (bytes.len() as u64, 0));
    assert!(mapped.file().is_some() && owned.file().is_none());
    assert_eq!(mapped.tensors(), owned.tensors());
    visit(&mapped);
    for tensor in mapped.tensors() {
        for gguf in [&mapped, &owned] {
            let mut read = vec![0; tensor.bytes as usize];
            gguf.read_at(tensor.offset, &mut read).expect("all of the tensor");
            assert_eq!(read, gguf.tensor_bytes(tensor));
            assert_eq!(read, bytes[tensor.offset as usize..][..read.len()]);
        }
    }
    for gguf in [&mapped, &owned] {
        for (offset, left) in [(bytes.len() as u64 - 3, 3), (u64::MAX, 0), (1 << 62, 0)] {
            let error = gguf.read_at(offset, &mut [0; 4]).unwrap_err();
            assert!(matches!(kind(&error).as_str(), "Truncated" | "Read"), "{error}");
            if let GgufError::Truncated { left: found, .. } = error {
                assert_eq!(found, left);
            }
        }
    }
}

/// Case 67: the file loses its end while weights are read.
#[test]
fn a_file_cut_short_after_opening_is_an_error() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("cut.gguf");
    let bytes = sample(20_000).finish();
    std::fs::write(&path, &bytes).expect("a file");
    let gguf = Gguf::open(&path).expect("a valid file");
    let last = gguf.require_tensor("output.weight").expect("the tensor").clone();
    let writer = std::fs::OpenOptions::new().write(true).open(&path).expect("the file");
    writer.set_len(last.offset + 100).expect("a shorter file");
    let error = gguf.read_at(last.offset, &mut vec![0; last.bytes as usize]).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, GgufError::Truncated { left: 100, .. }), "{text}");
    assert!(text.contains(&format!("byte {}", last.offset)) && text.contains("100 more"), "{text}");
}

/// Case 14: only regular files are opened, and a pipe does not block.
#[test]
fn what_is_not_a_regular_file_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let refused = |path: &Path, says: &str| {
        let error = Gguf::open(path).map(|_| ()).expect_err("not a file");
        let text = error.to_string();
        assert!(text.contains(says) && text.contains("found ") && text.contains("allowed "), "{text}");
        text
    };
    refused(folder.path(), "a directory");
    refused(&folder.path().join("no such\nfile"), "no such\\nfile");
    #[cfg(unix)]
    {
        let socket = folder.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
        refused(&socket, "a socket");
        let pipe = folder.path().join("pipe");
        if std::process::Command::new("mkfifo").arg(&pipe).status().is_ok_and(|status| status.success()) {
            refused(&pipe, "a pipe");
            let link = folder.path().join("link");
            std::os::unix::fs::symlink(&pipe, &link).expect("a link");
            refused(&link, "a pipe");
        }
        refused(Path::new("/dev/zero"), "a character device");
    }
    #[cfg(target_os = "linux")]
    refused(Path::new("/proc/self/mem"), "an empty file");
}

/// All GGUF files in a folder beside the checkout.
fn beside(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared").join(folder);
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "gguf"))
        .collect();
    files.sort();
    files
}

#[test]
fn real_files_open() {
    let mut skipped = 0;
    for (folder, with_tensors) in [("golden", true), ("models", true), ("tokenizers", false)] {
        let files = beside(folder);
        if files.is_empty() {
            println!("skipped: no GGUF files in ../shared/{folder}");
            skipped += 1;
        }
        for path in &files {
            let gguf = Gguf::open(path).unwrap_or_else(|error| panic!("{error}"));
            visit(&gguf);
            gguf.metadata().require_str("general.architecture").unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(!gguf.tensors().is_empty(), with_tensors, "{}", path.display());
        }
        println!("{folder}: {} files open", files.len());
    }
    println!("{skipped} skipped");
}
