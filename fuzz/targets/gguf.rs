//! A model file: parsed, looked at, read as a model with its vocabulary and template. Whatever is refused is refused with a
//! text that is fit to print.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vkllm::ModelFile;
use vkllm::chat::ChatTemplate;
use vkllm::gguf::{Gguf, Value};

fn printable(error: impl std::fmt::Display) {
    let text = error.to_string();
    assert!(!text.chars().any(char::is_control) && text.len() < 4_000, "{text:?}");
}

fn look(gguf: &Gguf) {
    for (key, value) in gguf.metadata().iter() {
        let _ = value.to_string();
        match value {
            Value::Strings(array) => assert_eq!(array.iter().count(), array.len()),
            Value::Numbers(array) => assert_eq!(array.iter().count(), array.len()),
            _ => {}
        }
        let metadata = gguf.metadata();
        let _ = metadata.u32(key).map_err(printable);
        let _ = metadata.f32s(key).map_err(printable);
        let _ = metadata.i32s(key).map_err(printable);
        let _ = metadata.bools(key).map_err(printable);
        let _ = metadata.str(key).map_err(printable);
    }
    let mut ends: Vec<_> = gguf.tensors().iter().map(|t| (t.offset, t.offset + t.bytes)).collect();
    ends.sort_unstable();
    assert!(ends.windows(2).all(|pair| pair[0].1 <= pair[1].0));
    assert!(ends.iter().all(|&(start, end)| start >= gguf.data_offset() && end <= gguf.file_len()));
    for tensor in gguf.tensors() {
        assert_eq!(gguf.tensor_bytes(tensor).len() as u64, tensor.bytes);
    }
}

fuzz_target!(|data: &[u8]| {
    let gguf = match Gguf::from_bytes(data.to_vec(), "fuzz.gguf") {
        Ok(gguf) => gguf,
        Err(error) => return printable(error),
    };
    look(&gguf);
    match ModelFile::new(gguf) {
        Err(error) => printable(error),
        Ok(file) => match file.vocabulary() {
            Err(error) => printable(error),
            Ok(vocabulary) => {
                let _ = ChatTemplate::from_gguf(&file.gguf, None, vocabulary.as_ref());
            }
        },
    }
});
