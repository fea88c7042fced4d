//! Models by name: a local Ollama store, and the cache of the Hugging Face hub.

use std::fs;
use std::path::Path;

use super::{STORIES, Said, command, vkllm};

fn tokenize(model: &str, variables: &[(&str, &Path)]) -> Said {
    let mut command = command(&["tokenize", "-m", model, "-p", "Once upon a time", "--json"]);
    for name in ["HF_TOKEN", "HF_HOME", "HTTPS_PROXY", "https_proxy"] {
        command.env_remove(name);
    }
    command.envs(variables.iter().copied());
    Said::of(command.output().expect("the program starts"))
}

fn put(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    fs::write(path, bytes).expect("a file");
}

#[test]
fn models_have_names() {
    let want = vkllm(&["tokenize", "-m", STORIES, "-p", "Once upon a time", "--json"]).json();
    let model = fs::read(STORIES).expect("the built-in model");
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    let manifest =
        br#"{"layers": [{"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:12ab"}]}"#;
    put(&root.join("manifests/registry.ollama.ai/library/stories/latest"), manifest);
    put(&root.join("blobs/sha256-12ab"), &model);
    let store = [("OLLAMA_MODELS", root)];
    assert_eq!(tokenize("ollama:stories", &store).json(), want);
    tokenize("ollama:novels", &store).refuses(2, &["novels is not in"]);

    put(&root.join("models--org--stories/refs/main"), b"abc");
    put(&root.join("models--org--stories/snapshots/abc/stories-Q8_0.gguf"), &model);
    let offline = [("HF_HUB_CACHE", root), ("HF_HUB_OFFLINE", Path::new("1"))];
    assert_eq!(tokenize("org/stories", &offline).json(), want);
    assert_eq!(tokenize("org/stories:q8_0", &offline).json(), want);
    tokenize("org/stories:Q2_K", &offline).refuses(2, &["stories-Q8_0.gguf"]);
    tokenize("org/novels", &offline).refuses(2, &["models--org--novels"]);
    let alone = [("HF_HUB_CACHE", root), ("HF_ENDPOINT", Path::new("http://127.0.0.1:1"))];
    tokenize("org/novels", &alone).refuses(2, &["127.0.0.1:1"]);
    tokenize("no/such.gguf", &alone).refuses(2, &["no/such.gguf"]);
}
