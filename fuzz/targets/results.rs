//! Two files of results: read and compared.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: (&str, &str)| vkllm::cli::compare_texts(data.0, data.1));
