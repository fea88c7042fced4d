//! From what `-m` names to a file: a path, a model of the hub, or one of a local Ollama store.

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use super::{Failure, input, load};
use crate::hub::{HubError, HubOptions, Reference, fetch, ollama};

impl From<HubError> for Failure {
    fn from(error: HubError) -> Self {
        input(error.to_string())
    }
}

/// A variable that says something.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
}

fn is_on(name: &str) -> bool {
    variable(name)
        .is_some_and(|value| matches!(value.to_ascii_lowercase().as_str(), "1" | "true" | "yes" | "on"))
}

/// The folders and variables that the hub's own tools use.
fn options() -> Result<HubOptions, Failure> {
    let home = variable("HF_HOME")
        .map(PathBuf::from)
        .or_else(|| load::absolute("XDG_CACHE_HOME").map(|cache| cache.join("huggingface")))
        .or_else(|| load::home().map(|home| home.join(".cache/huggingface")))
        .ok_or_else(|| input("there is no home folder to keep models in; HF_HOME names another"))?;
    let kept = || std::fs::read_to_string(home.join("token")).ok().map(|token| token.trim().to_owned());
    Ok(HubOptions {
        endpoint: variable("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into()),
        token: variable("HF_TOKEN").or_else(kept).filter(|token| !token.is_empty()),
        cache: variable("HF_HUB_CACHE").map_or_else(|| home.join("hub"), PathBuf::from),
        offline: is_on("HF_HUB_OFFLINE"),
        proxy: variable("HTTPS_PROXY").or_else(|| variable("https_proxy")),
    })
}

/// The file that was named. What exists as a path is a path.
pub(super) fn resolve(model: &Path) -> Result<PathBuf, Failure> {
    let Some(text) = model.to_str().filter(|_| !model.exists()) else { return Ok(model.to_owned()) };
    if let Some(name) = text.strip_prefix("ollama:") {
        let store = variable("OLLAMA_MODELS")
            .map(PathBuf::from)
            .or_else(|| load::home().map(|home| home.join(".ollama/models")))
            .ok_or_else(|| {
                input("there is no home folder with Ollama's models; OLLAMA_MODELS names another")
            })?;
        return Ok(ollama(name, &store)?);
    }
    // A path that ends like a file is a file that is missing.
    let Some(reference) = Reference::parse(text).filter(|_| !text.ends_with(".gguf") || text.contains(':'))
    else {
        return Ok(model.to_owned());
    };
    let bar = if io::stderr().is_terminal() {
        let style = "downloading {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
        let style = indicatif::ProgressStyle::with_template(style);
        indicatif::ProgressBar::new(0)
            .with_style(style.unwrap_or_else(|_| indicatif::ProgressStyle::default_bar()))
    } else {
        indicatif::ProgressBar::hidden()
    };
    let progress = |there: u64, all: u64| {
        bar.set_length(all);
        bar.set_position(there);
        true
    };
    let found = fetch(&reference, &options()?, &progress);
    bar.finish_and_clear();
    Ok(found?)
}
