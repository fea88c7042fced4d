//! Models of a local Ollama store: manifests name blobs, one of which is the GGUF file.

use std::fs;
use std::path::{Path, PathBuf};

use super::{HubError, io, is_name};

/// The file of a model such as `llama3.2`, `llama3.2:1b`, `user/model:tag` or `host/user/model:tag` in a store
/// (`…/.ollama/models`).
///
/// Errors: no such model, or a manifest that names no model file.
pub fn ollama(name: &str, store: &Path) -> Result<PathBuf, HubError> {
    let (path, tag) = match name.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => (path, tag),
        _ => (name, "latest"),
    };
    let parts: Vec<&str> = path.split('/').collect();
    let full = match parts[..] {
        [model] => ["registry.ollama.ai", "library", model],
        [user, model] => ["registry.ollama.ai", user, model],
        [host, user, model] => [host, user, model],
        _ => return Err(HubError::NotThere { name: name.to_owned(), place: store.to_owned() }),
    };
    if !full.iter().chain([&tag]).all(|part| is_name(part)) {
        return Err(HubError::NotThere { name: name.to_owned(), place: store.to_owned() });
    }
    let manifest = full.iter().fold(store.join("manifests"), |path, part| path.join(part)).join(tag);
    let text = match fs::read(&manifest) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(HubError::NotThere { name: name.to_owned(), place: store.to_owned() });
        }
        read => read.map_err(io(&manifest))?,
    };
    let wrong = |reason: String| HubError::Answer { what: manifest.display().to_string(), reason };
    let json: serde_json::Value = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
    let layers = json["layers"].as_array().into_iter().flatten();
    let mut models = layers.filter(|layer| layer["mediaType"] == "application/vnd.ollama.image.model");
    let digest = models.next().and_then(|layer| layer["digest"].as_str());
    let digest = digest.ok_or_else(|| wrong("it names no model file".into()))?;
    let blob = digest.replacen(':', "-", 1);
    if !is_name(&blob) {
        return Err(wrong(format!("{digest:?} is no digest")));
    }
    let blob = store.join("blobs").join(blob);
    if blob.is_file() { Ok(blob) } else { Err(HubError::NotThere { name: name.to_owned(), place: blob }) }
}
