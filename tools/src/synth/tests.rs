//! Shapes, sizes and bytes of synthetic models.

use super::models::{Plan, by_name, plan};
use super::*;

fn plan_of(name: &str, kind: &str, layers: u32) -> Plan {
    plan(by_name(name).unwrap(), &Mix::by_name(kind).unwrap(), layers)
}

/// Elements of all matrices, in millions.
fn parameters(name: &str) -> f64 {
    let model = by_name(name).unwrap();
    let elements: u64 = plan(model, &Mix::by_name("f16").unwrap(), model.layers)
        .tensors
        .iter()
        .map(|tensor| tensor.dims.iter().product::<u64>())
        .sum();
    elements as f64 / 1e6
}

fn shape<'a>(plan: &'a Plan, name: &str) -> (&'a [u64], u32) {
    let tensor = plan.tensors.iter().find(|tensor| tensor.name == name);
    tensor.map_or((&[], u32::MAX), |tensor| (&tensor.dims, tensor.ggml_type()))
}

#[test]
fn parameter_counts_are_those_of_the_models() {
    // In millions: published totals; for the hybrids the text model plus its multi-token-prediction block.
    for (name, published) in [
        ("qwen3-0.6b", 596.0),
        ("qwen3-4b", 4022.0),
        ("qwen3-8b", 8191.0),
        ("llama-3.2-1b", 1236.0),
        ("llama-3.1-8b", 8030.0),
        ("qwen2.5-7b", 7616.0),
        ("qwen3-30b-a3b", 30532.0),
        ("gpt-oss-20b", 20915.0),
        ("qwen3.5-0.8b", 773.0),
        ("qwen3.6-35b-a3b", 35507.0),
    ] {
        let counted = parameters(name);
        assert!(
            (counted / published - 1.0).abs() < 0.002,
            "{name}: {counted:.1} million, expected {published}"
        );
    }
}

#[test]
fn shapes_and_types_are_those_of_real_files() {
    let plan = plan_of("qwen3-0.6b", "q4_k_m", 28);
    assert_eq!(plan.tensors.len(), 2 + 28 * 11);
    assert_eq!(shape(&plan, "token_embd.weight"), (&[1024, 151_936][..], 14));
    assert_eq!(shape(&plan, "output.weight").1, u32::MAX, "tied");
    assert_eq!(shape(&plan, "blk.0.attn_q.weight"), (&[1024, 2048][..], 12));
    assert_eq!(shape(&plan, "blk.0.attn_v.weight"), (&[1024, 1024][..], 14));
    assert_eq!(shape(&plan, "blk.3.ffn_down.weight"), (&[3072, 1024][..], 12));
    assert_eq!(shape(&plan, "blk.27.attn_k_norm.weight"), (&[128][..], 0));

    let plan = plan_of("gpt-oss-20b", "mxfp4", 2);
    assert_eq!(shape(&plan, "blk.1.ffn_down_exps.weight"), (&[2880, 2880, 32][..], 39));
    assert_eq!(shape(&plan, "blk.1.attn_q.weight"), (&[2880, 4096][..], 8));
    assert_eq!(shape(&plan, "blk.1.attn_sinks.weight"), (&[64][..], 0));

    let plan = plan_of("qwen3.6-35b-a3b", "q8_0", 4);
    assert_eq!(shape(&plan, "blk.0.attn_qkv.weight").0, [2048, 8192]);
    assert_eq!(shape(&plan, "blk.3.attn_q.weight").0, [2048, 8192]);
    assert_eq!(shape(&plan, "blk.3.ssm_a").1, u32::MAX);
    assert_eq!(shape(&plan, "blk.4.nextn.eh_proj.weight").0, [4096, 2048]);
    assert_eq!(shape(&plan, "blk.0.ffn_gate_inp_shexp.weight"), (&[2048][..], 0));
}

#[test]
fn frequency_factors_are_llamas() {
    // Ends of the published factors of Llama 3.1 (8) and 3.2 (32): high frequencies kept, low ones slowed.
    assert_eq!(models::rope_factor(0, 128, 5e5, 8.0), 1.0);
    assert_eq!(models::rope_factor(63, 128, 5e5, 8.0), 8.0);
    assert_eq!(models::rope_factor(31, 64, 5e5, 32.0), 32.0);
    let between = models::rope_factor(30, 128, 5e5, 8.0);
    assert!(between > 1.0 && between < 8.0, "{between}");
}

#[test]
fn bytes_are_a_gguf() {
    let plan = plan_of("qwen3-0.6b", "q8_0", 1);
    let mut file = Vec::new();
    let written = stream(&mut file, &plan, 1).unwrap();
    assert_eq!(written, file.len() as u64);
    assert_eq!(&file[..8], b"GGUF\x03\0\0\0");
    assert_eq!(file[8..16], (plan.tensors.len() as u64).to_le_bytes());
    let header = gguf::header(&plan.metadata, &plan.tensors);
    assert_eq!(header.len() % 32, 0);
    assert_eq!(file[..header.len()], header);
    let weights: u64 = plan.tensors.iter().map(|tensor| gguf::padded(tensor.bytes())).sum();
    assert_eq!(written, header.len() as u64 + weights);
    assert_eq!(plan.tensors[0].bytes(), 1024 * 151_936 / 32 * 34);
    // The norm behind the embedding is near one.
    let norm = header.len() + gguf::padded(plan.tensors[0].bytes()) as usize;
    let value = f32::from_le_bytes(file[norm..norm + 4].try_into().unwrap());
    assert!((0.9..=1.1).contains(&value), "{value}");

    let mut again = Vec::new();
    stream(&mut again, &plan, 1).unwrap();
    assert!(file == again, "the same seed gives the same file");
    again.clear();
    stream(&mut again, &plan, 2).unwrap();
    assert!(file != again, "another seed gives another file");
}

#[test]
fn files_are_not_overwritten_or_left_half_written() {
    let folder = std::env::temp_dir().join(format!("vkllm-synth-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let output = folder.join("model.gguf");
    let args = |like: &str, force: bool| SynthArgs {
        like: like.into(),
        kind: "q4_0".into(),
        output: output.clone(),
        layers: Some(1),
        seed: 0,
        force,
    };
    fs::write(&output, "mine").unwrap();
    let error = run(args("qwen3-0.6b", false)).unwrap_err().to_string();
    assert!(error.contains("exists") && fs::read(&output).unwrap() == b"mine", "{error}");
    run(args("qwen3-0.6b", true)).unwrap();
    assert!(fs::metadata(&output).unwrap().len() > 80_000_000);
    assert!(run(args("qwen9", true)).unwrap_err().to_string().contains("qwen3-0.6b"));

    // A folder where the file should be: the rename fails and the partial file goes.
    fs::remove_file(&output).unwrap();
    fs::create_dir(&output).unwrap();
    let error = run(args("qwen3-0.6b", true)).unwrap_err().to_string();
    assert!(error.contains("model.gguf"), "{error}");
    assert!(!folder.join("model.gguf.part").exists());
    fs::remove_dir_all(&folder).unwrap();
}
