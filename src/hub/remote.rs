//! What the server has, and downloads that go on where they broke off and are checked before they count.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};
use ureq::Agent;
use ureq::http::Response;

use super::cache::Cache;
use super::{HubError, HubOptions, HubProgress, Reference, choose, io, is_name};

/// Connections in a row that bring nothing, after which the download is given up.
const ATTEMPTS: usize = 4;
/// No byte for so long is a broken connection.
const SILENCE: Duration = Duration::from_secs(30);
const LONGEST_ANSWER: u64 = 32 << 20;
/// How much is read at once.
const CHUNK: usize = 1 << 18;

/// A file as the server lists it.
struct Listed {
    name: String,
    size: u64,
    /// SHA-256 of its content, in hexadecimal digits.
    sum: String,
}

fn agent(options: &HubOptions) -> Result<Agent, HubError> {
    let broken = |proxy: &str| HubError::Network {
        url: proxy.to_owned(),
        reason: "this is no proxy's address".into(),
    };
    let proxy = options
        .proxy
        .as_deref()
        .map(|proxy| ureq::Proxy::new(proxy).map_err(|_| broken(proxy)))
        .transpose()?;
    let config = Agent::config_builder()
        .proxy(proxy)
        .http_status_as_error(false)
        .timeout_connect(Some(SILENCE))
        .timeout_recv_response(Some(SILENCE))
        .timeout_per_read(Some(SILENCE))
        .user_agent(concat!("vkllm/", env!("CARGO_PKG_VERSION")))
        .build();
    Ok(config.into())
}

fn get(agent: &Agent, options: &HubOptions, url: &str, from: u64) -> Result<Response<ureq::Body>, HubError> {
    let mut request = agent.get(url);
    if let Some(token) = &options.token {
        request = request.header("Authorization", format!("Bearer {token}"));
    }
    if from > 0 {
        request = request.header("Range", format!("bytes={from}-"));
    }
    request.call().map_err(|error| HubError::Network { url: url.to_owned(), reason: error.to_string() })
}

/// Errors: what a status other than success means.
fn status(url: &str, status: u16) -> Result<(), HubError> {
    let advice = match status {
        200..=299 => return Ok(()),
        401 | 403 => "; the model may need a token (HF_TOKEN) or its licence to be accepted",
        404 => "; is the name right?",
        429 => "; too many requests, try again later",
        _ => "",
    };
    Err(HubError::Status { url: url.to_owned(), status, advice })
}

/// The newest commit and its files.
fn listing(
    agent: &Agent,
    options: &HubOptions,
    reference: &Reference,
) -> Result<(String, Vec<Listed>), HubError> {
    let Reference { org, repo, .. } = reference;
    let url = format!(
        "{}/api/models/{org}/{repo}/revision/main?blobs=true",
        options.endpoint.trim_end_matches('/')
    );
    let mut response = get(agent, options, &url, 0)?;
    status(&url, response.status().as_u16())?;
    let wrong = |reason: String| HubError::Answer { what: url.clone(), reason };
    let body = response.body_mut().with_config().limit(LONGEST_ANSWER).read_to_vec();
    let json: serde_json::Value = serde_json::from_slice(&body.map_err(|error| wrong(error.to_string()))?)
        .map_err(|error| wrong(error.to_string()))?;
    let commit =
        json["sha"].as_str().filter(|sha| is_name(sha)).ok_or_else(|| wrong("no commit is named".into()))?;
    let files = json["siblings"].as_array().into_iter().flatten().filter_map(|file| {
        let name = file["rfilename"].as_str()?;
        let sum = file["lfs"]["sha256"].as_str()?;
        let good =
            name.split('/').all(is_name) && sum.len() == 64 && sum.bytes().all(|b| b.is_ascii_hexdigit());
        let size = file["lfs"]["size"].as_u64().or(file["size"].as_u64())?;
        good.then(|| Listed { name: name.to_owned(), size, sum: sum.to_ascii_lowercase() })
    });
    Ok((commit.to_owned(), files.collect()))
}

pub(super) fn fetch(
    reference: &Reference,
    options: &HubOptions,
    cache: &Cache,
    progress: HubProgress<'_>,
) -> Result<PathBuf, HubError> {
    let agent = agent(options)?;
    let (commit, files) = listing(&agent, options, reference)?;
    let names: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
    let chosen = choose(reference, &names)?;
    let all: u64 = chosen.iter().map(|&at| files[at].size).sum();
    let (mut before, mut first) = (0, None);
    for &at in &chosen {
        let file = &files[at];
        let told = |there: u64, _: u64| progress(before + there, all);
        let path = fetch_one(&agent, reference, options, cache, &commit, file, &told)?;
        before += file.size;
        first.get_or_insert(path);
    }
    first.ok_or_else(|| HubError::NoFile { name: reference.to_string(), known: "no GGUF files".into() })
}

/// One file, in its place in the cache.
fn fetch_one(
    agent: &Agent,
    reference: &Reference,
    options: &HubOptions,
    cache: &Cache,
    commit: &str,
    file: &Listed,
    progress: HubProgress<'_>,
) -> Result<PathBuf, HubError> {
    let blob = cache.blob(&file.sum);
    if fs::metadata(&blob).is_ok_and(|found| found.len() == file.size) {
        return cache.link(commit, &file.name, &file.sum);
    }
    let folder = blob.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(io(folder))?;
    let part = folder.join(format!("{}.incomplete", file.sum));
    let Reference { org, repo, .. } = reference;
    let url =
        format!("{}/{org}/{repo}/resolve/{commit}/{}", options.endpoint.trim_end_matches('/'), file.name);
    download(agent, options, &url, file, &part, progress)?;
    let found = checksum(&part)?;
    if found != file.sum {
        // It would be wrong again.
        fs::remove_file(&part).map_err(io(&part))?;
        return Err(HubError::Checksum { name: file.name.clone(), found, allowed: file.sum.clone() });
    }
    fs::rename(&part, &blob).map_err(io(&blob))?;
    cache.link(commit, &file.name, &file.sum)
}

/// Fills `part` up to the file's size, from where it is.
fn download(
    agent: &Agent,
    options: &HubOptions,
    url: &str,
    file: &Listed,
    part: &Path,
    progress: HubProgress<'_>,
) -> Result<(), HubError> {
    let mut out = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(part)
        .map_err(io(part))?;
    let mut there = out.seek(SeekFrom::End(0)).map_err(io(part))?;
    let mut attempts = 0;
    while there != file.size {
        if there > file.size {
            there = 0;
        }
        let before = there;
        let error = match receive(agent, options, url, file.size, &mut out, part, &mut there, progress) {
            Ok(()) => HubError::Network { url: url.to_owned(), reason: "the connection ended early".into() },
            Err(error @ HubError::Network { .. }) => error,
            // A server that is busy may have time later.
            Err(error @ HubError::Status { status: 500..=599 | 429, .. }) => error,
            Err(error) => return Err(error),
        };
        attempts = if there > before { 0 } else { attempts + 1 };
        if there < file.size && attempts >= ATTEMPTS {
            return Err(error);
        }
    }
    out.set_len(there).and_then(|()| out.sync_all()).map_err(io(part))
}

/// One connection: writes what comes behind `there` and moves it on.
fn receive(
    agent: &Agent,
    options: &HubOptions,
    url: &str,
    size: u64,
    out: &mut File,
    part: &Path,
    there: &mut u64,
    progress: HubProgress<'_>,
) -> Result<(), HubError> {
    let mut response = get(agent, options, url, *there)?;
    status(url, response.status().as_u16())?;
    // Servers may ignore what was asked for and begin anew, or elsewhere.
    *there = match response.status().as_u16() {
        206 => {
            let range = response.headers().get("content-range").and_then(|value| value.to_str().ok());
            let begin =
                range.and_then(|range| range.strip_prefix("bytes ")?.split('-').next()?.parse::<u64>().ok());
            begin.filter(|begin| begin <= there).ok_or_else(|| HubError::Network {
                url: url.to_owned(),
                reason: format!(
                    "asked for bytes from {there}, the server sends {}",
                    range.unwrap_or("others")
                ),
            })?
        }
        _ => 0,
    };
    out.seek(SeekFrom::Start(*there)).map_err(io(part))?;
    let mut body = response.body_mut().as_reader();
    let mut chunk = vec![0; CHUNK];
    while *there < size {
        let count = body
            .read(&mut chunk)
            .map_err(|error| HubError::Network { url: url.to_owned(), reason: error.to_string() })?;
        if count == 0 {
            return Ok(());
        }
        // What comes behind the end is not the file's.
        let count = count.min((size - *there) as usize);
        out.write_all(&chunk[..count]).map_err(io(part))?;
        *there += count as u64;
        if !progress(*there, size) {
            return Err(HubError::Stopped);
        }
    }
    Ok(())
}

fn checksum(path: &Path) -> Result<String, HubError> {
    let mut file = File::open(path).map_err(io(path))?;
    let (mut hash, mut chunk) = (Sha256::new(), vec![0; CHUNK]);
    loop {
        match file.read(&mut chunk).map_err(io(path))? {
            0 => break,
            count => hash.update(&chunk[..count]),
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
