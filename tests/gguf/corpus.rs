//! The malformed files of the parser's part of the corpus (header, strings and keys, arrays, alignment and tensor
//! table), each with the error it must give or the statement that it must be accepted.

use super::build::*;

pub(crate) enum Expect {
    Accept,
    /// The error's kind, and texts its message must have.
    Refuse(&'static str, Vec<String>),
}

pub(crate) struct Case {
    /// Numbers in the corpus and a few words.
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) expect: Expect,
}

/// The numbers of a case: those that its name begins with, "39-41 …" or "8, 10 …".
pub(crate) fn numbers(name: &str) -> Vec<u32> {
    let mut all = Vec::new();
    for word in name.split(' ') {
        let (first, last) =
            word.trim_end_matches(',').split_once('-').unwrap_or((word.trim_end_matches(','), ""));
        let first: u32 = first.parse().unwrap_or_else(|_| panic!("the name {name:?} begins with no number"));
        all.extend(first..=last.parse().unwrap_or(first));
        if !word.ends_with(',') {
            break;
        }
    }
    all
}

struct Corpus(Vec<Case>);

impl Corpus {
    fn accept(&mut self, name: &str, build: Build) {
        self.0.push(Case { name: name.into(), bytes: build.finish(), expect: Expect::Accept });
    }

    fn refuse(&mut self, name: &str, build: Build, kind: &'static str, parts: &[&str]) {
        self.raw(name, build.finish(), kind, parts);
    }

    fn raw(&mut self, name: &str, bytes: Vec<u8>, kind: &'static str, parts: &[&str]) {
        let parts = parts.iter().map(|part| (*part).to_owned()).collect();
        self.0.push(Case { name: name.into(), bytes, expect: Expect::Refuse(kind, parts) });
    }
}

/// A valid file with one key and one tensor; its tensor table begins at byte 24 + 37.
fn small() -> Build {
    Build::new().text("general.architecture", b"l").tensor("t", &[8], 0, &[0; 32])
}

/// A key whose length field is `length` and whose bytes are `bytes`.
fn long_key(length: u64, bytes: &[u8]) -> Build {
    Build::new().raw_key(&[&length.to_le_bytes(), bytes])
}

/// A string value of declared length `length`, with `bytes` present.
fn long_value(length: u64, bytes: &[u8]) -> Build {
    Build::new().key("s", STRING, &[&length.to_le_bytes()[..], bytes].concat())
}

/// A tensor record whose type and offset are fine and whose rank field is `rank`.
fn rank(rank: u32, dims: &[u64]) -> Build {
    let dims: Vec<u8> = dims.iter().flat_map(|dim| dim.to_le_bytes()).collect();
    Build::new()
        .raw_tensor(&[&string(b"t"), &rank.to_le_bytes(), &dims, &0u32.to_le_bytes(), &0u64.to_le_bytes()])
        .data(&[0; 64])
}

fn shape(dims: &[u64], ggml_type: u32) -> Build {
    Build::new().tensor_at(b"t", dims, ggml_type, 0).data(&[0; 4096])
}

pub(crate) fn cases() -> Vec<Case> {
    let mut corpus = Corpus(Vec::new());
    header(&mut corpus);
    strings_and_keys(&mut corpus);
    arrays(&mut corpus);
    alignment(&mut corpus);
    tensors(&mut corpus);
    corpus.0
}

fn header(c: &mut Corpus) {
    c.raw("1 empty file", Vec::new(), "NotGguf", &["byte 0", "an empty file"]);
    let whole = small().finish();
    for length in 1..24 {
        let at =
            [0, 4, 8, 16][usize::from(length >= 4) + usize::from(length >= 8) + usize::from(length >= 16)];
        let part = ["magic", "version", "tensor count", "key count"]
            [[0, 4, 8, 16].iter().position(|a| *a == at).unwrap()];
        let name = format!("2 {length} bytes");
        c.raw(&name, whole[..length].to_vec(), "Truncated", &[&format!("byte {at}"), part]);
    }
    c.raw("2 three other bytes", b"abc".to_vec(), "NotGguf", &["byte 0", "`abc`"]);
    let zeros = [0u8; 64];
    for (start, says) in [
        (&b"lmgg"[..], "GGML"),
        (b"GGML", "GGML"),
        (b"GGJT", "GGJT"),
        (b"tjgg", "GGJT"),
        (b"fmgg", "GGMF"),
        (b"algg", "GGLA"),
        (b"PK\x03\x04", "zip"),
        (b"\x40\0\0\0\0\0\0\0{\"__metadata__\"", "safetensors"),
        (b"<!DOCTYPE html><html>", "HTML"),
        (b"\n <HTML><head><title>404", "HTML"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (b"{\"error\": \"not found\"}", "JSON"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"\xfd7zXZ\0", "xz"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
        (b"\x80\x02\x8a", "pickle"),
        (b"\x1b[2J", "`\\u{1b}[2J`"),
        (b"gguf", "`gguf`"),
    ] {
        c.raw(&format!("3 {says}"), [start, &zeros].concat(), "NotGguf", &["byte 0", says]);
    }
    c.raw("3 magic reversed", [&b"FUGG"[..], &zeros].concat(), "BigEndian", &["byte 0", "big-endian"]);
    for (name, version, hint) in [
        ("4 version 0", 0, "never existed"),
        ("5 version 1", 1, "32-bit lengths"),
        ("6 version 4", 4, "newer"),
        ("6 version 2^31-1", 0x7fff_ffff, "newer"),
    ] {
        let build = Build { version, ..small() };
        let found = format!("GGUF version {version}");
        c.refuse(name, build, "Version", &["byte 4", &found, hint, "versions 2 and 3"]);
    }
    c.accept("6 version 2", Build { version: 2, ..small() });
    let build = Build { version: 3u32.swap_bytes(), ..small() };
    c.refuse("7 big-endian", build, "BigEndian", &["byte 4", "big-endian"]);
    for count in [1 << 63, u64::MAX, 1 << 40] {
        let found = format!("found {count}");
        let build = Build { tensor_count: Some(count), ..Build::new() };
        let parts = ["byte 8", "tensor count", &found, "1048576"];
        c.refuse(&format!("8, 10 {count} tensors"), build, "TooMany", &parts);
        let build = Build { key_count: Some(count), ..Build::new() };
        let parts = ["byte 16", "key count", &found, "65536"];
        c.refuse(&format!("9 {count} keys"), build, "TooMany", &parts);
    }
    let build = Build { tensor_count: Some(1 << 20), ..Build::new() };
    c.refuse("10 2^20 tensors in 24 bytes", build, "Truncated", &["byte 24", "34603008", "0 more"]);
    let build = Build { key_count: Some(1_000_000_000), ..Build::new().data(&[7; 60_000]) };
    c.refuse("11 10^9 keys", build, "TooMany", &["byte 16", "key count", "1000000000", "65536"]);
    let build = Build { key_count: Some(2), ..small() };
    c.refuse("12 one key too few, tensors", build, "", &[]);
    let build = Build { key_count: Some(2), ..Build::new().text("general.architecture", b"l") };
    c.refuse("12 one key too few", build, "Truncated", &["byte 65", "key number 1", "only 0 more"]);
    for extra in [Build::new(), small()] {
        let build = extra.u32("x.block_count", 7).text("x.name", b"y").text("x.z", b"y").tensor(
            "u",
            &[8],
            0,
            &[0; 32],
        );
        let build = Build { key_count: Some(build.keys.0 - 1), ..build };
        c.refuse("13 one key too many", build, "", &[]);
    }
    let build = Build { key_count: Some(0), ..Build::new().u32("x", 1).tensor("u", &[8], 0, &[0; 32]) };
    c.refuse("13 a u32 as a tensor", build, "", &["tensor `x`"]);
}

fn strings_and_keys(c: &mut Corpus) {
    for length in [u64::MAX, 1 << 63, i64::MAX as u64, 65_536, 70_000] {
        let name = format!("15, 18 key of {length} bytes");
        let build = long_key(length, &[b'k'; 80_000][..if length < 80_000 { 80_000 } else { 40 }]);
        let found = format!("found {length}");
        c.refuse(&name, build, "TooMany", &["byte 24", "key number 0", &found, "65535"]);
    }
    c.accept("18 key of 65535 bytes", Build::new().u32(&"k".repeat(65_535), 1));
    c.refuse(
        "16 key one byte longer",
        long_key(10, b"123456789"),
        "Truncated",
        &["byte 32", "only 9", "10 or more"],
    );
    c.refuse("17 empty key", Build::new().u32("", 1).data(&[0]), "Text", &["byte 32", "empty name"]);
    let build = Build::new().raw_key(&[&string(b"a\xff\xfeb"), &U32.to_le_bytes(), &[0; 4]]);
    c.refuse("19 key not UTF-8", build, "Text", &["byte 32", "key number 0", "a\\xff\\xfeb", "UTF-8"]);
    let build = Build::new().u32("a\0\x1b[31m\u{9b}2J", 1);
    c.refuse(
        "20 control characters",
        build,
        "Text",
        &["byte 32", "`a\\u{0}\\u{1b}[31m\\u{9b}2J`", "control"],
    );
    let build = Build::new().u32("twice", 1).u32("x", 1).u32("twice", 1);
    c.refuse("21 duplicate key", build, "Duplicate", &["byte 62", "key `twice`", "byte 24", "once"]);
    let build = Build::new().u32("twice", 1).text("twice", b"1");
    c.refuse("22 duplicate of another type", build, "Duplicate", &["key `twice`"]);
    c.refuse(
        "23 value of 2^64-1 bytes",
        long_value(u64::MAX, b"0123"),
        "Truncated",
        &["byte 45", "key `s`", "only 4"],
    );
    c.refuse(
        "23 value one byte longer",
        long_value(5, b"0123"),
        "Truncated",
        &["byte 45", "only 4", "5 or more"],
    );
    c.refuse("24 value of 1 GiB", long_value(1 << 30, b"0123"), "Truncated", &["key `s`", "1073741824"]);
    for kind in [13, 255, u32::MAX, 0x8000_0000] {
        let found = format!("unknown id {kind}");
        let build = Build::new().key("v", kind, &[0; 16]);
        c.refuse(
            &format!("25 value type {kind}"),
            build,
            "Type",
            &["byte 33", "key `v`", &found, "0 (u8) to 12"],
        );
    }
    for value in [2, 0xff] {
        let found = format!("a bool of {value}");
        let build = Build::new().key("b", BOOL, &[value]);
        c.refuse(&format!("26 bool {value}"), build, "Value", &["byte 37", "key `b`", &found, "0 or 1"]);
    }
    let build = Build::new().array("b", BOOL, 3, &[0, 1, 9]);
    c.refuse("26 bool 9 in an array", build, "Value", &["byte 51", "a bool of 9"]);
    c.accept("27 token not UTF-8", Build::new().strings("tokenizer.ggml.tokens", &[b"\xff", b"a"]));
    let build = Build::new().text("general.architecture", b"ll\xffma");
    c.refuse(
        "27 architecture not UTF-8",
        build,
        "Text",
        &["byte 56", "`general.architecture`", "ll\\xffma", "byte 2"],
    );
    let build = Build::new().u32("general.architecture", 1);
    c.refuse("27 architecture a number", build, "Type", &["byte 56", "found u32", "allowed is string"]);
}

fn arrays(c: &mut Corpus) {
    for depth in [1, 2, 10_000] {
        let level = [&ARRAY.to_le_bytes()[..], &1u64.to_le_bytes()].concat();
        let build = Build::new().key("n", ARRAY, &level.repeat(depth));
        c.refuse(
            &format!("28 arrays nested {depth} deep"),
            build,
            "Type",
            &["byte 37", "key `n`", "array of arrays"],
        );
    }
    for (element, count) in [(13, u64::MAX), (13, 0), (77, 1 << 62)] {
        let build = Build::new().array("r", element, count, &[0; 8]);
        let found = format!("element type with the unknown id {element}");
        c.refuse(&format!("29 {count} of type {element}"), build, "Type", &["byte 37", "key `r`", &found]);
    }
    for (name, element, count) in [
        ("30 2^64-1 u8", U8, u64::MAX),
        ("31 2^61 u64", U64, 1 << 61),
        ("31 2^61+1 u64", U64, (1 << 61) + 1),
        ("31 2^62+1 u32", U32, (1 << 62) + 1),
        ("31 2^63 u16", U16, 1 << 63),
        ("32 2^32 strings", STRING, 1 << 32),
        ("32 2^61 strings", STRING, 1 << 61),
        ("32 2^64-1 strings", STRING, u64::MAX),
        ("34 nine of eight bytes", U8, 9),
        ("34 in the middle of an element", U32, 3),
    ] {
        let payload = if count > 9 { vec![0; 1000] } else { vec![0; if element == U8 { 8 } else { 10 }] };
        let left = format!("only {} more", payload.len());
        c.refuse(
            name,
            Build::new().array("r", element, count, &payload),
            "Truncated",
            &["byte 49", "key `r`", &left],
        );
    }
    let build =
        Build::new().array("r", STRING, 2, &[string(b"a"), vec![5, 0, 0, 0, 0, 0, 0, 0, b'b']].concat());
    c.refuse("34 in the middle of a string", build, "Truncated", &["byte 66", "only 1 more", "5 or more"]);
    let build = Build::new().array("r", STRING, 2, &[string(b"12345678"), vec![5, 0, 0]].concat());
    c.refuse("34 in the middle of a length", build, "Truncated", &["byte 65", "only 3 more", "8 or more"]);
    c.accept("33 empty strings", Build::new().array("r", STRING, 7_000, &[0; 56_000]));
    c.accept("35 no tokens", Build::new().strings("tokenizer.ggml.tokens", &[]));
}

fn alignment(c: &mut Corpus) {
    const KEY: &str = "general.alignment";
    for value in [0, 1, 3, 4, 24, 48, 1 << 21, 1 << 30, 1 << 31, u32::MAX] {
        let found = format!("found {value},");
        let parts = ["byte 53", "key `general.alignment`", &found, "power of two from 8 to 1048576"];
        c.refuse(&format!("39-41 alignment {value}"), Build::new().u32(KEY, value), "Value", &parts);
    }
    for value in [8, 64, 1 << 20] {
        let build = Build { alignment: value as usize, ..Build::new().u32(KEY, value) };
        c.accept(&format!("41 alignment {value}"), build.tensor("t", &[8], 0, &[0; 32]));
    }
    for (kind, name, value) in [
        (I32, "i32", vec![32, 0, 0, 0]),
        (U64, "u64", vec![32, 0, 0, 0, 0, 0, 0, 0]),
        (STRING, "string", string(b"32")),
    ] {
        let build = Build::new().key(KEY, kind, &value);
        let found = format!("found {name}");
        c.refuse(&format!("42 alignment of type {name}"), build, "Type", &["byte 53", KEY, &found, "a u32"]);
    }
    let build = Build::new().u32(KEY, 32).u32(KEY, 64);
    c.refuse("43 duplicate alignment", build, "Duplicate", &[KEY, "byte 24"]);
}

fn tensors(c: &mut Corpus) {
    for length in [64, 65, 1 << 63, u64::MAX] {
        let build = Build::new().raw_tensor(&[&u64::to_le_bytes(length), &[b'n'; 200]]);
        let found = format!("found {length}");
        c.refuse(
            &format!("44 name of {length} bytes"),
            build,
            "TooMany",
            &["byte 24", "tensor number 0", &found, "63"],
        );
    }
    c.accept("44 name of 63 bytes", Build::new().tensor(&"n".repeat(63), &[8], 0, &[0; 32]));
    c.refuse("45 empty name", Build::new().tensor("", &[8], 0, &[0; 32]), "Text", &["byte 32", "empty name"]);
    c.refuse(
        "45 NUL in a name",
        Build::new().tensor("a\0b", &[8], 0, &[0; 32]),
        "Text",
        &["byte 32", "`a\\u{0}b`"],
    );
    let build = Build::new().tensor_at(b"\xc3(", &[8], 0, 0).data(&[0; 32]);
    c.refuse("45 name not UTF-8", build, "Text", &["byte 32", "`\\xc3(`"]);
    let build = Build::new().tensor("same", &[8], 0, &[0; 32]).tensor("same", &[8], 0, &[0; 32]);
    c.refuse("46 duplicate name", build, "Duplicate", &["byte 60", "tensor `same`", "byte 24"]);
    for (count, dims) in [(0, &[][..]), (5, &[1, 1, 1, 1, 1][..]), (u32::MAX, &[1; 8][..])] {
        let found = format!("{count} dimensions");
        c.refuse(
            &format!("47, 48 rank {count}"),
            rank(count, dims),
            "Tensor",
            &["byte 33", "`t`", &found, "1 to 4"],
        );
    }
    for i in 0..4 {
        let mut dims = [2; 4];
        let at = format!("byte {}", 37 + 8 * i);
        dims[i] = 0;
        let found = format!("0 as dimension {i}");
        c.refuse(
            &format!("49 dimension {i} is 0"),
            shape(&dims, 0),
            "Tensor",
            &[&at, "`t`", &found, "1 to 2^63"],
        );
        for huge in [1 << 63, u64::MAX] {
            dims[i] = huge;
            let found = format!("{huge} as dimension {i}");
            c.refuse(
                &format!("50 dimension {i} is {huge}"),
                shape(&dims, 0),
                "Tensor",
                &[&at, "`t`", &found],
            );
        }
    }
    let most = i64::MAX as u64;
    for dims in [
        vec![1 << 32, 1 << 32],
        vec![most, 2, 1, 1],
        vec![(1 << 42) + 1, 1 << 42],
        vec![1 << 32, 1 << 31],
        vec![1 << 16, 1 << 16, 1 << 16, (1 << 16) + 1],
        vec![most, most, most, most],
    ] {
        let name = format!("51 shape {dims:?}");
        let found = format!("the shape {dims:?}");
        c.refuse(&name, shape(&dims, 0), "Tensor", &["byte 37", "`t`", &found, "fewer than 2^63 elements"]);
    }
    for (name, dims, ggml_type) in [
        ("52 2^62 f32", vec![1 << 62], 0),
        ("52 2^61 f32", vec![1 << 31, 1 << 30], 0),
        ("52 2^60 f64", vec![1 << 60], 28),
        ("53 padding beyond 2^63", vec![most - 7], 24),
    ] {
        c.refuse(name, shape(&dims, ggml_type), "Tensor", &["byte 37", "`t`", "fewer than 2^63 bytes"]);
    }
    let mut build = Build::new();
    for i in 0..5u8 {
        build = build.tensor_at(&[b'a' + i], &[1 << 62], 24, u64::from(i) << 62);
    }
    c.refuse(
        "54 sizes that add up to 2^64",
        build.data(&[0; 64]),
        "Tensor",
        &["byte 24", "tensor `a`", "within"],
    );
    for (id, says) in [
        (4, "removed type 4 (Q4_2)"),
        (5, "removed type 5"),
        (31, "removed type 31"),
        (32, "removed type 32"),
        (33, "removed type 33"),
        (36, "removed type 36"),
        (37, "removed type 37"),
        (38, "removed type 38 (IQ4_NL_8_8)"),
        (43, "unknown type 43"),
        (1000, "unknown type 1000"),
        (u32::MAX, "unknown type 4294967295"),
    ] {
        c.refuse(
            &format!("55 {says}"),
            shape(&[256], id),
            "Tensor",
            &["byte 45", "tensor `t`", says, "0 (F32) to 42"],
        );
    }
    c.refuse(
        "56 row of 255 Q4_K",
        shape(&[255], 12),
        "Tensor",
        &["byte 37", "255 elements of type Q4_K", "256"],
    );
    c.refuse(
        "56 row of 16 Q8_0",
        shape(&[16, 2], 8),
        "Tensor",
        &["byte 37", "16 elements of type Q8_0", "32"],
    );
    c.accept("57 a type no kernel has", shape(&[4], 27));
    for offset in [1, 16, 33] {
        let build = Build::new().tensor_at(b"t", &[8], 0, offset).data(&[0; 4096]);
        let found = format!("the data offset {offset},");
        c.refuse(
            &format!("58 offset {offset}"),
            build,
            "Tensor",
            &["byte 49", "`t`", &found, "alignment 32"],
        );
    }
    let name = "59, 60 last";
    let base =
        |offset, length: usize| Build::new().tensor_at(b"last", &[8], 0, offset).data(&vec![0; length]);
    c.accept(name, base(32, 64));
    let parts = ["byte 24", "tensor `last`", "32 bytes at offset 64", "within the 128 bytes"];
    c.refuse("59 offset is the file's size", base(64, 64), "Tensor", &parts);
    c.refuse("60 one byte beyond", base(32, 63), "Tensor", &["tensor `last`", "within the 127 bytes"]);
    for offset in [u64::MAX - 31, u64::MAX - 63, 1 << 63] {
        let found = format!("at offset {offset}");
        c.refuse(
            &format!("61 offset {offset}"),
            base(offset, 64),
            "Tensor",
            &["byte 24", "tensor `last`", &found],
        );
    }
    c.refuse("61 offset 2^64-1", base(u64::MAX, 64), "Tensor", &["tensor `last`", "18446744073709551615"]);
    for (first, second) in [(0, 0), (0, 32), (32, 0)] {
        let build = Build::new().tensor_at(b"one", &[16], 0, first).tensor_at(b"two", &[16], 0, second);
        let later = if second >= first { "tensor `two`" } else { "tensor `one`" };
        let name = format!("62 overlap at {first} and {second}");
        c.refuse(&name, build.data(&[0; 128]), "Tensor", &["byte", later, "overlap"]);
    }
    let build = Build::new().tensor_at(b"one", &[8], 0, 64).tensor_at(b"two", &[8], 0, 0).data(&[0; 96]);
    c.accept("63 gap, and an order of its own", build);
    let build = Build::new().tensor_at(b"t", &[8], 0, 0);
    c.refuse("64 no data", build, "Tensor", &["byte 24", "tensor `t`", "within the 57 bytes"]);
    c.accept("64 no tensors, no data", Build::new().u32("x", 1));
    let whole = sample(4_000);
    let bytes = whole.finish();
    let tensors = 5;
    let data_at = whole.head_len().next_multiple_of(32);
    for (tensor, end) in [(0, 136), (1, 160 + 20), (2, 192 + 288), (3, 480 + 48)] {
        for cut in [data_at + end - 1, data_at + end, data_at + end + 1] {
            let name = format!("65 cut at byte {cut}, tensor {tensor} of {tensors}");
            c.raw(&name, bytes[..cut].to_vec(), "Tensor", &["tensor `", "cut short"]);
        }
    }
    c.raw(
        "65 cut by one byte",
        bytes[..bytes.len() - 1].to_vec(),
        "Tensor",
        &["tensor `output.weight`", "cut short"],
    );
    c.accept("66 garbage at the end", small().data(b"garbage behind the last tensor"));
}
