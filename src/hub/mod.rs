//! Models by name: from the Hugging Face hub through the cache that its own tools share, and from a local Ollama store.
//!
//! Nothing here reads the environment; who calls says where the cache is, which server is asked and with which token.

mod cache;
mod ollama;
mod remote;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use crate::gguf::parts_of;

pub use ollama::ollama;

/// Where models come from and where they are kept.
#[derive(Clone)]
pub struct HubOptions {
    /// The server, `https://huggingface.co` or one that speaks like it.
    pub endpoint: String,
    /// Sent to the server alone, never to where it redirects.
    pub token: Option<String>,
    /// The cache's folder, `…/huggingface/hub`.
    pub cache: PathBuf,
    /// Ask nobody; take what is in the cache.
    pub offline: bool,
    /// A proxy's address.
    pub proxy: Option<String>,
}

impl std::fmt::Debug for HubOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let token = self.token.as_ref().map(|_| "…");
        f.debug_struct("HubOptions")
            .field("endpoint", &self.endpoint)
            .field("token", &token)
            .field("cache", &self.cache)
            .field("offline", &self.offline)
            .finish_non_exhaustive()
    }
}

/// A model of the hub: `org/repo`, `org/repo:QUANT` or `org/repo:FILE.gguf`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    pub org: String,
    pub repo: String,
    /// A type of quantisation or the name of a file; by default Q4_K_M, or the only file there is.
    pub wanted: Option<String>,
}

/// Letters of names on the hub and in Ollama's store. Nothing that leads out of a folder.
fn is_name(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !text.is_empty() && text.len() <= 128 && text.chars().all(allowed) && !text.starts_with('.')
}

impl Reference {
    /// Reads a reference; `None` for text that is none.
    pub fn parse(text: &str) -> Option<Self> {
        let (path, wanted) = match text.split_once(':') {
            Some((path, wanted)) => (path, Some(wanted.to_owned())),
            None => (text, None),
        };
        let (org, repo) = path.split_once('/')?;
        let file = |name: &String| name.split('/').all(is_name);
        (is_name(org) && is_name(repo) && wanted.as_ref().is_none_or(file)).then(|| Reference {
            org: org.to_owned(),
            repo: repo.to_owned(),
            wanted,
        })
    }
}

impl std::fmt::Display for Reference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Reference { org, repo, wanted } = self;
        write!(f, "{org}/{repo}{}", wanted.as_ref().map_or(String::new(), |wanted| format!(":{wanted}")))
    }
}

/// Why a model could not be got.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    /// The server could not be reached, or the connection broke again and again.
    #[error("{url}: {reason}")]
    Network { url: String, reason: String },
    #[error("{url}: the server answers {status}{advice}")]
    Status { url: String, status: u16, advice: &'static str },
    #[error("{name}: {found} was received; its checksum should be {allowed}")]
    Checksum { name: String, found: String, allowed: String },
    #[error("{name} has no such file; there are {known}")]
    NoFile { name: String, known: String },
    #[error("{name} is in {parts} parts, of which {missing} is not there")]
    Split { name: String, parts: usize, missing: String },
    #[error("{name} is not in {place}")]
    NotThere { name: String, place: PathBuf },
    #[error("{what}: {reason}")]
    Answer { what: String, reason: String },
    #[error("stopped")]
    Stopped,
}

fn io(path: &Path) -> impl Fn(std::io::Error) -> HubError + '_ {
    move |source| HubError::Io { path: path.to_owned(), source }
}

/// Told (bytes there, bytes in all); false stops. What came stays for the next time.
pub type HubProgress<'a> = &'a dyn Fn(u64, u64) -> bool;

/// The file of a model, downloaded if it is not in the cache; of a model in several parts the first, with the others beside it.
///
/// Errors: every [`HubError`]; a file whose checksum is wrong is not kept.
pub fn fetch(
    reference: &Reference,
    options: &HubOptions,
    progress: HubProgress<'_>,
) -> Result<PathBuf, HubError> {
    let cache = cache::Cache::new(options, reference);
    if options.offline {
        return cache.find(reference);
    }
    match remote::fetch(reference, options, &cache, progress) {
        // Whoever has the model need not have a connection.
        Err(error @ HubError::Network { .. }) => cache
            .find(reference)
            .inspect(|path| {
                tracing::warn!(%error, path = %path.display(), "using what is in the cache");
            })
            .map_err(|_| error),
        done => done,
    }
}

/// Chooses a file by what was wanted, and with it the other parts of a model in several.
fn choose(reference: &Reference, files: &[&str]) -> Result<Vec<usize>, HubError> {
    let one = choose_one(reference, files)?;
    let Some((_, names)) = parts_of(files[one]) else { return Ok(vec![one]) };
    let place = |name: &String| {
        files.iter().position(|file| file == name).ok_or_else(|| HubError::Split {
            name: reference.to_string(),
            parts: names.len(),
            missing: name.clone(),
        })
    };
    names.iter().map(place).collect()
}

/// Files of the model that a file belongs to.
fn parts(name: &str) -> usize {
    parts_of(name).map_or(1, |(_, names)| names.len())
}

/// Chooses a file: by its name, else by a type of quantisation, else Q4_K_M or the only one.
fn choose_one(reference: &Reference, files: &[&str]) -> Result<usize, HubError> {
    let models: Vec<usize> = (0..files.len())
        .filter(|&i| files[i].ends_with(".gguf") && !files[i].to_ascii_lowercase().contains("mmproj"))
        .collect();
    let none = || {
        let known: Vec<&str> = models.iter().map(|&i| files[i]).collect();
        let known = if known.is_empty() { "no GGUF files".to_owned() } else { known.join(", ") };
        HubError::NoFile { name: reference.to_string(), known }
    };
    if let Some(exact) = models.iter().find(|&&i| reference.wanted.as_deref() == Some(files[i])) {
        return Ok(*exact);
    }
    let of_type = |kind: &str| -> Vec<usize> {
        let kind = kind.to_ascii_lowercase();
        let is = |name: &str| {
            let name = name.to_ascii_lowercase();
            name.match_indices(&kind).any(|(at, _)| {
                let alone = |c: Option<char>| c.is_none_or(|c| !c.is_ascii_alphanumeric() && c != '_');
                alone(name[..at].chars().next_back()) && alone(name[at + kind.len()..].chars().next())
            })
        };
        models.iter().copied().filter(|&i| is(files[i])).collect()
    };
    let found = match &reference.wanted {
        Some(kind) => of_type(kind),
        None if models.first().is_some_and(|&first| parts(files[first]) == models.len()) => models.clone(),
        None => of_type("Q4_K_M"),
    };
    // What is whole is found before what is in parts.
    let whole = found.iter().find(|&&file| parts_of(files[file]).is_none());
    whole.or(found.first()).copied().ok_or_else(none)
}
