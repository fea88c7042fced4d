//! The corpus beyond the parser: files that are GGUF and no model, vocabularies and templates that cannot be, and files
//! that are right in everything but the numbers in their tensors.

use super::build::*;
use super::corpus::{Case, Expect};
use super::tiny::{Data, TOKENS, Tiny, VOCAB, WIDTH, f32s};
use vkllm_shaders::formats::FORMATS;

struct Corpus(Vec<Case>);

impl Corpus {
    fn accept(&mut self, name: &str, tiny: Tiny) {
        self.0.push(Case { name: name.into(), bytes: tiny.build().finish(), expect: Expect::Accept });
    }

    /// `parts` are the key or tensor, what was found and what is allowed.
    fn refuse(&mut self, name: &str, tiny: Tiny, kind: &'static str, parts: &[&str]) {
        let parts = parts.iter().map(|part| (*part).to_owned()).collect();
        let expect = Expect::Refuse(kind, parts);
        self.0.push(Case { name: name.into(), bytes: tiny.build().finish(), expect });
    }
}

/// Cases 68 to 88, which the parser accepts; those to accept give a token.
pub(crate) fn cases() -> Vec<Case> {
    let mut corpus = Corpus(Vec::new());
    hyper_parameters(&mut corpus);
    sizes(&mut corpus);
    tensors(&mut corpus);
    vocabularies(&mut corpus);
    merges_and_pieces(&mut corpus);
    templates(&mut corpus);
    corpus.0
}

fn hyper_parameters(c: &mut Corpus) {
    for key in [
        "general.architecture",
        "llama.block_count",
        "llama.embedding_length",
        "llama.feed_forward_length",
        "llama.attention.head_count",
        "llama.attention.layer_norm_rms_epsilon",
    ] {
        let quoted = format!("`{key}`");
        c.refuse(&format!("68 no {key}"), Tiny::new().without(key), "MissingKey", &[&quoted, "found no key"]);
    }
    for key in ["tokens", "scores"] {
        let key = format!("tokenizer.ggml.{key}");
        c.refuse(&format!("68 no {key}"), Tiny::new().without(&key), "MissingKey", &[&key, "is missing"]);
    }
    for key in [
        "general.name",
        "llama.context_length",
        "llama.attention.head_count_kv",
        "tokenizer.ggml.token_type",
        "tokenizer.chat_template",
        "tokenizer.ggml.bos_token_id",
    ] {
        let tiny = Tiny::new().without(key);
        match key {
            // As many key heads as query heads: the shapes say otherwise.
            "llama.attention.head_count_kv" => {
                c.refuse(
                    "68 no head_count_kv",
                    tiny,
                    "Tensor",
                    &["blk.0.attn_k.weight", "[32, 16]", "[32, 32]"],
                );
            }
            _ => c.accept(&format!("68 no {key}"), tiny),
        }
    }
    c.accept("68 no tokenizer", Tiny::new().without("tokenizer.ggml.model"));
    let architecture = |name: &str| Tiny::new().text("general.architecture", name);
    const ARCHITECTURE: &str = "general.architecture";
    c.refuse("69 unknown", architecture("gpt9"), "Value", &[ARCHITECTURE, "\"gpt9\"", "one of ", "llama"]);
    let long = architecture(&"x".repeat(1 << 20));
    c.refuse("69 of 1 MiB", long, "Value", &[ARCHITECTURE, "… (1048576 bytes)", "llama"]);
    c.refuse("69 a format string", architecture("%s%n"), "Value", &[ARCHITECTURE, "\"%s%n\""]);
    c.refuse("69 escapes", architecture("\x1b[2J"), "Value", &[ARCHITECTURE, "\"\\u{1b}[2J\""]);
    for (count, kind, parts) in [
        (0, "Value", ["llama.block_count", "found 0", "1 to 1024"]),
        (2, "MissingTensor", ["`blk.1.", "found no tensor", "a file that has it"]),
        (513, "Value", ["llama.block_count", "found 513", "the 11 tensors"]),
        (1025, "Value", ["llama.block_count", "found 1025", "1 to 1024"]),
        (u32::MAX, "Value", ["llama.block_count", "found 4294967295", "1 to 1024"]),
    ] {
        c.refuse(&format!("70 {count} blocks"), Tiny::new().u32("llama.block_count", count), kind, &parts);
    }
    let (heads, kv) = ("llama.attention.head_count", "llama.attention.head_count_kv");
    for (key, value, says) in [
        (heads, 0, "1 to 1024"),
        (heads, u32::MAX, "1 to 1024"),
        (heads, 3, "a multiple of the 2"),
        (kv, 0, "1 to 4"),
        (kv, 3, "a multiple of the 3"),
        (kv, 5, "1 to 4"),
        (kv, u32::MAX, "1 to 4"),
    ] {
        let found = format!("found {}", if (key, value) == (kv, 3) { 4 } else { value });
        c.refuse(&format!("71 {key} {value}"), Tiny::new().u32(key, value), "Value", &[heads, &found, says]);
    }
    for (value, kind, parts) in [
        (0, "Value", ["llama.embedding_length", "found 0", "1 to 1048576"]),
        (1 << 31, "Value", ["llama.embedding_length", "found 2147483648", "1 to 1048576"]),
        (33, "Model", ["llama.attention.key_length", "width 33", "4 heads"]),
        (64, "Tensor", ["token_embd.weight", "[32, 16]", "[64, 16]"]),
    ] {
        c.refuse(
            &format!("72 width {value}"),
            Tiny::new().u32("llama.embedding_length", value),
            kind,
            &parts,
        );
    }
    for (key, value, kind, says) in [
        ("attention.key_length", 7, "Value", "8 to 256"),
        ("attention.key_length", 12, "Value", "a multiple of 8"),
        ("attention.key_length", 264, "Value", "8 to 256"),
        ("attention.key_length", u32::MAX, "Value", "8 to 256"),
        ("attention.key_length", 16, "Tensor", "blk.0.attn_q.weight"),
        ("attention.value_length", 0, "Value", "8 to 256"),
        ("attention.value_length", 16, "Tensor", "blk.0.attn_v.weight"),
        ("rope.dimension_count", 0, "Value", "2 to 8"),
        ("rope.dimension_count", 5, "Value", "a multiple of 2"),
        ("rope.dimension_count", 10, "Value", "2 to 8"),
    ] {
        let tiny = Tiny::new().u32(&format!("llama.{key}"), value);
        c.refuse(&format!("73 {key} {value}"), tiny, kind, &["found ", says]);
    }
    numbers(c);
}

/// Numbers of other types, and none.
fn numbers(c: &mut Corpus) {
    let eps = "llama.attention.layer_norm_rms_epsilon";
    for (key, kind, bytes, error, says) in [
        (
            "llama.block_count",
            ARRAY,
            [&U32.to_le_bytes()[..], &1u64.to_le_bytes(), &[1, 0, 0, 0]].concat(),
            "Type",
            "array of 1 u32",
        ),
        ("llama.block_count", F32, 1f32.to_le_bytes().to_vec(), "Type", "found f32"),
        ("llama.block_count", I64, (-1i64).to_le_bytes().to_vec(), "Value", "found -1"),
        ("llama.block_count", U64, (1u64 << 32).to_le_bytes().to_vec(), "Value", "found 4294967296"),
        ("tokenizer.ggml.tokens", U32, vec![0; 4], "Type", "found u32"),
        (eps, U32, vec![1, 0, 0, 0], "Type", "found u32"),
        (eps, F32, f32::NAN.to_le_bytes().to_vec(), "Value", "found NaN"),
        (eps, F32, f32::INFINITY.to_le_bytes().to_vec(), "Value", "found inf"),
        (eps, F32, (-1f32).to_le_bytes().to_vec(), "Value", "found -1"),
        ("llama.rope.freq_base", F32, f32::NAN.to_le_bytes().to_vec(), "Value", "found NaN"),
        ("llama.rope.freq_base", F32, (-1e4f32).to_le_bytes().to_vec(), "Value", "found -10000"),
        ("llama.rope.freq_base", F32, 0f32.to_le_bytes().to_vec(), "Value", "found 0"),
    ] {
        let tiny = Tiny::new().key(key, kind, &bytes);
        let name = if says.starts_with("array") || key.ends_with("tokens") {
            "36"
        } else if kind == F32 {
            "38"
        } else {
            "37"
        };
        c.refuse(&format!("{name} {key} {says}"), tiny, error, &[key, "byte ", says, "allowed is "]);
    }
    for (kind, bytes) in [(U8, vec![1]), (U16, vec![1, 0]), (I64, 1i64.to_le_bytes().to_vec())] {
        c.accept(
            &format!("37 block_count of type {kind}"),
            Tiny::new().key("llama.block_count", kind, &bytes),
        );
    }
}

fn sizes(c: &mut Corpus) {
    let tiny = Tiny::new().u32("llama.context_length", 0);
    c.refuse("74 context 0", tiny, "Value", &["llama.context_length", "found 0", "1 to 4294967295"]);
    c.accept("74 context 2^32-1", Tiny::new().u32("llama.context_length", u32::MAX));
    for (key, value, says) in [
        ("expert_count", 1 << 31, "1 to 512"),
        ("expert_count", 513, "1 to 512"),
        ("expert_used_count", 5, "1 to 4"),
        ("expert_used_count", 0, "1 to 4"),
        ("expert_group_count", 3, "a divisor of 4 experts"),
    ] {
        let mut tiny = Tiny::experts().u32(&format!("llama.{key}"), value);
        if key == "expert_group_count" {
            tiny = tiny.u32("llama.expert_group_used_count", 1);
        }
        let found = format!("found {value}");
        c.refuse(&format!("75 {key} {value}"), tiny, "Value", &[key, &found, says]);
    }
    let none = Tiny::experts().u32("llama.expert_count", 0);
    c.refuse("75 no experts but their tensors", none, "MissingTensor", &["blk.0.ffn_", "found no tensor"]);
    c.accept("75 experts", Tiny::experts());
    let per_layer = |key: &str, values: &[i32]| Tiny::new().i32s(&format!("llama.{key}"), values);
    for key in ["feed_forward_length", "attention.head_count", "attention.head_count_kv"] {
        for values in [&[][..], &[0], &[4, 4]] {
            let name = format!("75 {key} per layer, {} values", values.len());
            c.refuse(&name, per_layer(key, values), "Type", &[key, "array of ", "allowed is "]);
        }
    }
    let window = "llama.attention.sliding_window";
    for value in [0, 1, 1 << 30] {
        c.accept(&format!("76 window {value}"), Tiny::new().u32(window, value));
    }
    c.refuse("76 window -1", Tiny::new().i32(window, -1), "Value", &[window, "found -1", "0 to 4294967295"]);
    let vocab = Tiny::new().u32("llama.vocab_size", 17);
    c.refuse(
        "77 vocab_size",
        vocab,
        "Value",
        &["llama.vocab_size", "found 17", "16, the rows of token_embd"],
    );
    let more = |count: u64| {
        let tiny = Tiny::new().tensor("token_embd.weight", f32s(&[WIDTH, count]));
        tiny.f32s("tokenizer.ggml.scores", &[0.0; VOCAB as usize])
    };
    let parts = ["tokenizer.ggml.tokens", "16 entries", "15"];
    c.refuse("77 more tokens than rows", more(15), "Model", &parts);
    c.accept("77 more rows than tokens", more(17));
}

fn tensors(c: &mut Corpus) {
    let whole = Tiny::experts().tensor("output.weight", f32s(&[WIDTH, VOCAB]));
    let dense = Tiny::new();
    for (name, data) in
        whole.tensors.iter().chain(dense.tensors.iter().filter(|(name, _)| name.contains("ffn")))
    {
        let from = if whole.tensors.iter().any(|(known, _)| known == name) { &whole } else { &dense };
        let quoted = format!("tensor `{name}`");
        let mut dims = data.dims.clone();
        for at in 0..dims.len() {
            dims[at] *= 2;
            // The embedding's rows are the vocabulary, its tokens fewer.
            if (name.as_str(), at) != ("token_embd.weight", 1) {
                let tiny = from.clone().tensor(name, f32s(&dims));
                let shape = format!("found the shape {dims:?}, allowed is ");
                c.refuse(&format!("78 {name} {dims:?}"), tiny, "Tensor", &[&quoted, "byte ", &shape]);
            }
            dims[at] /= 2;
        }
        let mut more = dims.clone();
        more.push(2);
        let kind = "Tensor";
        c.refuse(
            &format!("78 {name} twice"),
            from.clone().tensor(name, f32s(&more)),
            kind,
            &[&quoted, "shape"],
        );
        if name != "output.weight" {
            // Without a gate, `up` is both of them one behind the other.
            let quoted = format!("`{name}`");
            let (kind, parts) = match name.as_str() {
                "blk.0.ffn_gate.weight" => ("Tensor", ["`blk.0.ffn_up.weight`", "allowed is [32, 128]"]),
                _ => ("MissingTensor", [&*quoted, "found no tensor"]),
            };
            c.refuse(&format!("79 no {name}"), from.clone().lacking(name), kind, &parts);
        }
        if dims.len() == 1 {
            let half = Data { dims, ggml_type: 1, bytes: vec![0; data.bytes.len() / 2] };
            let parts = [&quoted, "byte ", "the type F16", "allowed is F32"];
            c.refuse(&format!("78 {name} of F16"), from.clone().tensor(name, half), "Tensor", &parts);
        }
    }
    let typed = Data { dims: vec![WIDTH, WIDTH], ggml_type: 24, bytes: vec![0; (WIDTH * WIDTH) as usize] };
    let parts = ["blk.0.attn_q.weight", "type I8", "supported are ", "Q4_K"];
    c.refuse("57 a type without kernels", Tiny::new().tensor("blk.0.attn_q.weight", typed), "Model", &parts);
    c.accept("79 a tensor that nobody wants", Tiny::new().tensor("blk.0.extra\u{202e}.weight", f32s(&[3])));
    c.accept("80 an output of its own", Tiny::new().tensor("output.weight", f32s(&[WIDTH, VOCAB])));
    c.accept("80 biases", Tiny::new().tensor("blk.0.attn_q.bias", f32s(&[WIDTH])));
    let wrong = Tiny::new().tensor("blk.0.attn_q.bias", f32s(&[WIDTH - 1]));
    c.refuse("80 a bias of another length", wrong, "Tensor", &["blk.0.attn_q.bias", "[31]", "[32, 1]"]);
    let wrong = Tiny::new().tensor("output.weight", f32s(&[VOCAB, WIDTH]));
    c.refuse("80 an output turned round", wrong, "Tensor", &["output.weight", "[16, 32]", "[32, 16]"]);
}

fn vocabularies(c: &mut Corpus) {
    for name in ["bos", "eos", "unknown", "padding", "eot", "eom"] {
        let key = format!("tokenizer.ggml.{name}_token_id");
        for id in [VOCAB as u32, u32::MAX] {
            let found = format!("{id}, but ids go from 0 to 15");
            c.refuse(&format!("81 {name} {id}"), Tiny::new().u32(&key, id), "IdOutOfRange", &[&key, &found]);
        }
        c.refuse(&format!("81 {name} -1"), Tiny::new().i32(&key, -1), "Value", &[&key, "found -1", "0 to "]);
    }
    // The usual ids lie beyond this vocabulary of one token.
    let one = Tiny::new()
        .without("tokenizer.ggml.bos_token_id")
        .without("tokenizer.ggml.eos_token_id")
        .strings("tokenizer.ggml.tokens", &[b"a"])
        .f32s("tokenizer.ggml.scores", &[0.0])
        .i32s("tokenizer.ggml.token_type", &[1]);
    c.accept("81 usual ids that are not there", one);
    let (scores, types) = ("tokenizer.ggml.scores", "tokenizer.ggml.token_type");
    for count in [0, 15, 17] {
        let found = format!("{count} entries");
        let parts = |key| [key, &*found, "`tokenizer.ggml.tokens` has 16"];
        c.refuse(
            &format!("82 {count} scores"),
            Tiny::new().f32s(scores, &vec![0.0; count]),
            "WrongLength",
            &parts(scores),
        );
        c.refuse(
            &format!("82 {count} types"),
            Tiny::new().i32s(types, &vec![1; count]),
            "WrongLength",
            &parts(types),
        );
    }
    c.refuse(
        "82 scores of i32",
        Tiny::new().i32s(scores, &[0; 16]),
        "Type",
        &[scores, "array of 16 i32", "f32"],
    );
    c.refuse(
        "82 types of f32",
        Tiny::new().f32s(types, &[0.0; 16]),
        "Type",
        &[types, "array of 16 f32", "integers"],
    );
    c.refuse("82 a type that is no array", Tiny::new().u32(types, 1), "Type", &[types, "found u32"]);
    c.refuse(
        "82 merges of i32",
        Tiny::bpe().i32s("tokenizer.ggml.merges", &[1]),
        "Type",
        &["merges", "array of 1 i32"],
    );
    let empty = Tiny::new().strings("tokenizer.ggml.tokens", &[]);
    c.refuse("35, 77 no tokens", empty, "TokenCount", &["tokenizer.ggml.tokens", "0 entries", "1 to "]);
    for model in ["bert", "t5", "plamo2", "rwkv", "", "\x1b]0;"] {
        let shown = model.escape_debug().to_string();
        let tiny = Tiny::new().text("tokenizer.ggml.model", model);
        c.refuse(
            &format!("86 model {shown}"),
            tiny,
            "UnknownModel",
            &["tokenizer.ggml.model", &shown, "llama, gpt2"],
        );
    }
    for pre in ["brand-new", "", "\x1b[2J"] {
        let shown = pre.escape_debug().to_string();
        let tiny = Tiny::bpe().text("tokenizer.ggml.pre", pre);
        c.refuse(&format!("86 pre {shown}"), tiny, "UnknownPre", &["tokenizer.ggml.pre", &shown, "qwen2"]);
    }
    c.accept("86 a pre-tokenizer that is known", Tiny::bpe());
}

fn merges_and_pieces(c: &mut Corpus) {
    const MERGES: &str = "tokenizer.ggml.merges";
    for (merge, says) in [
        (&b"ab"[..], "it has no space"),
        (b"", "it has no space"),
        (b"z a", "its first part is not a token"),
        (b"a z", "its second part is not a token"),
        (b"b a", "together they are not a token"),
        (b"a \x1b", "a \\u{1b}"),
    ] {
        let name = format!("83 merge {}", String::from_utf8_lossy(merge).escape_debug());
        let tiny = Tiny::bpe().strings(MERGES, &[b"a b", merge]);
        if merge.contains(&0x1b) {
            // Not of the byte alphabet: no text is spelled so.
            c.accept(&name, tiny);
        } else {
            c.refuse(&name, tiny, "Merge", &[MERGES, "entry 1", says]);
        }
    }
    let many = vec![&b"a b"[..]; 1_000_000];
    c.accept("83 a million merges", Tiny::bpe().strings(MERGES, &many));
    let with = |at: usize, token: &[u8]| {
        let mut tokens = TOKENS;
        tokens[at] = token;
        Tiny::new().strings("tokenizer.ggml.tokens", &tokens)
    };
    c.accept("84 a token twice", with(8, b"a"));
    c.accept("84 an empty token", with(8, b""));
    c.accept("84 a token of 1 MiB", with(8, &vec![b'x'; 1 << 20]));
    c.accept("27, 84 a token that is not UTF-8", with(8, b"\xff\xfe"));
    for text in ["<0x-1>", "<0xZZ>", "<0x100>", "<0x>", "x"] {
        let mut types = [1; VOCAB as usize];
        types[8] = 6;
        let tiny = with(8, text.as_bytes()).i32s("tokenizer.ggml.token_type", &types);
        c.refuse(&format!("84 byte {text}"), tiny, "ByteToken", &["token 8", text, "<0x00> to <0xFF>"]);
    }
    c.accept("84 bytes that are no tokens", with(8, b"<0x-1>"));
    // No vocabulary that is read uses a map of characters, so what is in one does not matter.
    for map in [&[][..], &[1], &[1, 2, 3], &[0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]] {
        let payload = [&U8.to_le_bytes()[..], &(map.len() as u64).to_le_bytes(), map].concat();
        let key = "tokenizer.ggml.precompiled_charsmap";
        c.accept(&format!("85 a map of {} bytes", map.len()), Tiny::new().key(key, ARRAY, &payload));
        let tiny = Tiny::new().key(key, ARRAY, &payload).text("tokenizer.ggml.model", "t5");
        c.refuse(&format!("85 a map of {} bytes for t5", map.len()), tiny, "UnknownModel", &["t5"]);
    }
}

fn templates(c: &mut Corpus) {
    const KEY: &str = "tokenizer.chat_template";
    let template = |source: &str| Tiny::new().text(KEY, source);
    let large = template(&"x".repeat(10 << 20));
    c.refuse("87 a template of 10 MiB", large, "TooLarge", &["10485760 bytes", "allowed are 1048576"]);
    let parentheses = format!("{{{{ {}1{} }}}}", "(".repeat(10_000), ")".repeat(10_000));
    c.refuse("87 nested parentheses", template(&parentheses), "Template", &["cannot be read", "line 1"]);
    let ifs = format!("{}x{}", "{% if true %}".repeat(10_000), "{% endif %}".repeat(10_000));
    c.refuse("87 nested ifs", template(&ifs), "Template", &["cannot be read", "line 1"]);
    let lists = format!("{{{{ {}1{} }}}}", "[".repeat(10_000), "]".repeat(10_000));
    c.refuse("87 nested lists", template(&lists), "Template", &["cannot be read", "line 1"]);
    let macros = "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}";
    c.refuse("87 a macro that calls itself", template(macros), "Render", &["recursion"]);
    let range = "{% for i in range(10**9) %}{% endfor %}";
    c.refuse("87 a range of 10^9", template(range), "Render", &["range"]);
    let loops = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}";
    c.refuse("87 loops", template(loops), "Limit", &["instructions"]);
    let output = "{% for i in range(99999) %}{{ '0123456789abcdef' * 99 }}{% endfor %}";
    c.refuse("87 output", template(output), "Limit", &["bytes of output"]);
    for (name, source) in [
        ("class", "{{ ''.__class__.__mro__[1].__subclasses__() }}"),
        ("lipsum", "{{ lipsum.__globals__['os'].popen('id').read() }}"),
        ("cycler", "{{ cycler.__init__.__globals__.os }}"),
        ("include", "{% include '/etc/passwd' %}"),
        ("import", "{% import '/etc/passwd' as x %}"),
        ("repeat", "{{ 'a' * 999999999999 }}"),
    ] {
        c.refuse(&format!("87 {name}"), template(source), "Render", &["fails"]);
    }
    let tiny = Tiny::new().key(KEY, STRING, &string(b"{{ \xff }}"));
    c.refuse("87 not UTF-8", tiny, "Text", &[KEY, "UTF-8"]);
    c.refuse("87 a number", Tiny::new().u32(KEY, 1), "Type", &[KEY, "found u32"]);
    for count in [2, 65_535] {
        let tiny = Tiny::new().key("split.count", U16, &u16::to_le_bytes(count));
        let tiny =
            tiny.key("split.no", U16, &u16::to_le_bytes(7)).text("general.name", "../../x-00008-of-00002");
        let words = [&format!("found part 8 of {count}")[..], &format!("NAME-00001-of-{count:05}.gguf")];
        c.refuse(&format!("88 one of {count} parts"), tiny, "Split", &words);
    }
    c.accept("88 the only part", Tiny::new().key("split.count", U16, &[1, 0]));
    c.refuse(
        "88 parts of a wrong type",
        Tiny::new().text("split.count", "2"),
        "Type",
        &["split.count", "string"],
    );
}

/// The attacks of data: a name, the file, and whether every logit must be a number. What is not a number is an error of
/// its own or none at all.
pub(crate) fn attacks() -> Vec<Case> {
    let mut all = Vec::new();
    let mut add = |name: String, tiny: Tiny| {
        all.push(Case { name, bytes: tiny.build().finish(), expect: Expect::Accept });
    };
    for format in FORMATS {
        let block = format.block as u64;
        let width = if block > WIDTH { 256 } else { WIDTH };
        for (attack, what, word) in [
            ("D1", "NaN", 0xffff_u16),
            ("D1", "NaN", 0x7fc0),
            ("D1", "infinity", 0x7c00),
            ("D1", "-infinity", 0xfc00),
            ("D4", "largest", 0x7bff),
            ("D4", "subnormal", 0x0001),
        ] {
            let bytes = VOCAB * width / block * format.bytes as u64;
            let data = word.to_le_bytes().into_iter().cycle().take(bytes as usize).collect();
            let data = Data { dims: vec![width, VOCAB], ggml_type: format.ggml_type, bytes: data };
            let name = format!("{attack} {what} {word:04x} {}", format.label);
            add(name, Tiny::wide(width).tensor("token_embd.weight", data));
        }
    }
    for (what, word) in [("NaN", f32::NAN), ("infinity", f32::INFINITY), ("-infinity", f32::NEG_INFINITY)] {
        let fill = |dims: &[u64]| {
            let count = dims.iter().product::<u64>() as usize;
            Data { dims: dims.to_vec(), ggml_type: 0, bytes: word.to_le_bytes().repeat(count) }
        };
        let experts = Tiny::experts();
        add(
            format!("D2 router {what}"),
            experts.clone().tensor("blk.0.ffn_gate_inp.weight", fill(&[WIDTH, 4])),
        );
        for (name, data) in experts.tensors.clone() {
            add(format!("D2 {name} {what}"), experts.clone().tensor(&name, fill(&data.dims)));
        }
        add(format!("D3 logits {what}"), Tiny::new().tensor("output.weight", fill(&[WIDTH, VOCAB])));
        add(format!("D3 norm {what}"), Tiny::new().tensor("output_norm.weight", fill(&[WIDTH])));
    }
    all
}
