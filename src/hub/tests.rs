//! A server that misbehaves in every way that was seen, and the two stores.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use sha2::{Digest, Sha256};

use super::*;

/// What the server does to the next request for the file.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Manner {
    Good,
    /// Ends the connection after so many bytes.
    Drop(usize),
    /// Answers a request for a part with the whole.
    Whole,
    /// Sends another part than it was asked for, and says so.
    Elsewhere,
    /// Sends other bytes.
    Wrong,
    /// Sends more than the file has.
    Long,
    Status(u16),
}

struct Server {
    endpoint: String,
    /// One for each request of the file; then all are good.
    manners: Arc<Mutex<Vec<Manner>>>,
    /// First bytes that were asked for, and tokens.
    seen: Arc<Mutex<Vec<(u64, Option<String>)>>>,
}

fn content() -> Vec<u8> {
    (0..300_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

fn sum(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn answer(mut stream: TcpStream, manners: &Mutex<Vec<Manner>>, seen: &Mutex<Vec<(u64, Option<String>)>>) {
    let mut lines = BufReader::new(stream.try_clone().expect("a socket")).lines();
    let Some(Ok(first)) = lines.next() else { return };
    let mut headers = HashMap::new();
    for line in lines.map_while(Result::ok).take_while(|line| !line.is_empty()) {
        if let Some((key, value)) = line.split_once(": ") {
            headers.insert(key.to_ascii_lowercase(), value.to_owned());
        }
    }
    let path = first.split(' ').nth(1).unwrap_or_default();
    let token = headers.get("authorization").cloned();
    let all = content();
    let mut reply = |head: &str, body: &[u8], say: usize| {
        let head = format!("HTTP/1.1 {head}\r\nContent-Length: {say}\r\nConnection: close\r\n\r\n");
        let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
    };
    if path.starts_with("/api/models/org/repo/") {
        let file = |name: &str| {
            serde_json::json!({
                "rfilename": name, "size": all.len(), "lfs": {"sha256": sum(&all), "size": all.len()}
            })
        };
        let body = serde_json::json!({
            "sha": "0123456789abcdef",
            "siblings": [file("a-Q8_0.gguf"), file("a-Q4_K_M.gguf"), file("a-Q2_K-00001-of-00002.gguf"), file("a-Q2_K-00002-of-00002.gguf"), file("mmproj-Q4_K_M.gguf"), file("../../evil.gguf"),
                {"rfilename": "README.md", "size": 5}],
        });
        let body = body.to_string();
        return reply("200 OK", body.as_bytes(), body.len());
    }
    if !path.starts_with("/org/repo/resolve/0123456789abcdef/a-Q") {
        return reply("404 Not Found", b"", 0);
    }
    let from =
        headers.get("range").and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    seen.lock().expect("unpoisoned").push((from.unwrap_or(0) as u64, token));
    let manner = {
        let mut manners = manners.lock().expect("unpoisoned");
        if manners.is_empty() { Manner::Good } else { manners.remove(0) }
    };
    let at = from.unwrap_or(0);
    let partial = |at: usize| {
        format!("206 Partial Content\r\nContent-Range: bytes {at}-{}/{}", all.len() - 1, all.len())
    };
    let head = if from.is_some() { partial(at) } else { "200 OK".to_owned() };
    match manner {
        Manner::Good => reply(&head, &all[at..], all.len() - at),
        Manner::Drop(bytes) => reply(&head, &all[at..(at + bytes).min(all.len())], all.len() - at),
        Manner::Whole => reply("200 OK", &all, all.len()),
        Manner::Elsewhere => reply(&partial(at + 7), &all[at + 7..], all.len() - at - 7),
        Manner::Wrong => {
            let wrong: Vec<u8> = all[at..].iter().map(|byte| byte ^ 1).collect();
            reply(&head, &wrong, wrong.len());
        }
        Manner::Long => {
            let long = [&all[at..], b"more"].concat();
            reply(&head, &long, long.len());
        }
        Manner::Status(status) => reply(&format!("{status} No"), b"", 0),
    }
}

fn serve(manners: &[Manner]) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
    let manners = Arc::new(Mutex::new(manners.to_vec()));
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (theirs, also) = (Arc::clone(&manners), Arc::clone(&seen));
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            answer(stream, &theirs, &also);
        }
    });
    Server { endpoint, manners, seen }
}

fn options(server: &Server, folder: &Path) -> HubOptions {
    HubOptions {
        endpoint: server.endpoint.clone(),
        token: Some("secret".into()),
        cache: folder.to_owned(),
        offline: false,
        proxy: None,
    }
}

fn reference(text: &str) -> Reference {
    Reference::parse(text).expect("a reference")
}

const ANY: HubProgress<'static> = &|_, _| true;

#[test]
fn references_are_read() {
    let some = |text: &str| Reference::parse(text).map(|r| (r.org, r.repo, r.wanted));
    let is = |org: &str, repo: &str, wanted: Option<&str>| {
        Some((org.to_owned(), repo.to_owned(), wanted.map(str::to_owned)))
    };
    assert_eq!(some("Qwen/Qwen3-0.6B-GGUF"), is("Qwen", "Qwen3-0.6B-GGUF", None));
    assert_eq!(some("a/b:Q8_0"), is("a", "b", Some("Q8_0")));
    assert_eq!(some("a/b:x/y.gguf"), is("a", "b", Some("x/y.gguf")));
    for none in ["a", "a/b/c", "../b", "a/..", "a/b:../x", "/a", "a/", "a/b:", "a b/c"] {
        assert_eq!(some(none), None, "{none}");
    }
}

#[test]
fn files_are_chosen() {
    let pick =
        |text: &str, files: &[&str]| choose(&reference(text), files).map(|all| files[all[0]].to_owned());
    let files = ["x-IQ4_K_M.gguf", "x-Q4_K_M.gguf", "x-q8_0.gguf", "mmproj-x-Q8_0.gguf", "README.md"];
    assert_eq!(pick("a/b", &files).unwrap(), "x-Q4_K_M.gguf");
    assert_eq!(pick("a/b:Q8_0", &files).unwrap(), "x-q8_0.gguf");
    assert_eq!(pick("a/b:x-IQ4_K_M.gguf", &files).unwrap(), "x-IQ4_K_M.gguf");
    assert_eq!(pick("a/b", &["only.gguf"]).unwrap(), "only.gguf");
    assert!(pick("a/b:Q2_K", &files).unwrap_err().to_string().contains("x-Q4_K_M.gguf, x-q8_0.gguf"));
    assert!(pick("a/b", &["README.md"]).unwrap_err().to_string().contains("no GGUF files"));
    let parts = ["x-Q4_K_M-00001-of-00002.gguf", "x-Q4_K_M-00002-of-00002.gguf"];
    let all = |text: &str, files: &[&str]| choose(&reference(text), files).expect("they are there").len();
    assert_eq!((pick("a/b", &parts).unwrap(), all("a/b:Q4_K_M", &parts)), (parts[0].to_owned(), 2));
    assert_eq!(pick("a/b:x-Q4_K_M-00002-of-00002.gguf", &parts).unwrap(), parts[0]);
    let whole = [&parts[..], &["y-Q4_K_M.gguf"]].concat();
    assert_eq!(pick("a/b", &whole).unwrap(), "y-Q4_K_M.gguf");
    let only = parts.map(|name| name.replace("Q4_K_M", "F16"));
    assert_eq!(all("a/b", &[only[1].as_str(), only[0].as_str()]), 2);
    let missing = pick("a/b:Q4_K_M", &parts[1..]).unwrap_err().to_string();
    assert!(missing.contains("in 2 parts, of which x-Q4_K_M-00001-of-00002.gguf is not there"), "{missing}");
}

#[test]
fn downloads_survive_bad_servers() {
    use Manner::{Drop, Elsewhere, Good, Long, Status, Whole};
    for (manners, begins) in [
        (&[Good][..], &[0][..]),
        (&[Drop(100_000), Drop(0), Drop(1), Good], &[0, 100_000, 100_000, 100_001]),
        (&[Drop(100_000), Whole], &[0, 100_000]),
        (&[Drop(100_000), Elsewhere, Good], &[0, 100_000, 100_000]),
        (&[Drop(1000), Status(503), Status(429), Good], &[0, 1000, 1000, 1000]),
        (&[Drop(200_000), Whole, Good], &[0, 200_000]),
        (&[Long], &[0]),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        let server = serve(manners);
        let path = fetch(&reference("org/repo"), &options(&server, folder.path()), ANY)
            .unwrap_or_else(|error| panic!("{manners:?}: {error}"));
        assert_eq!(fs::read(&path).expect("the file"), content(), "{manners:?}");
        let seen = server.seen.lock().expect("unpoisoned").clone();
        assert_eq!(seen.iter().map(|seen| seen.0).collect::<Vec<_>>(), begins, "{manners:?}");
        assert!(seen.iter().all(|seen| seen.1.as_deref() == Some("Bearer secret")));
        let repo = folder.path().join("models--org--repo");
        assert!(path.starts_with(repo.join("snapshots/0123456789abcdef")) && path.ends_with("a-Q4_K_M.gguf"));
        assert_eq!(fs::read_to_string(repo.join("refs/main")).expect("a ref"), "0123456789abcdef");
        let blobs: Vec<_> = fs::read_dir(repo.join("blobs")).expect("blobs").flatten().collect();
        assert_eq!((blobs.len(), blobs[0].file_name().to_string_lossy().into_owned()), (1, sum(&content())));
        // The second time nothing is downloaded; parts lie beside each other; another file with the same content is another name.
        fetch(&reference("org/repo:Q8_0"), &options(&server, folder.path()), ANY).expect("there");
        let parts = fetch(&reference("org/repo:Q2_K"), &options(&server, folder.path()), ANY).expect("there");
        assert!(parts.ends_with("a-Q2_K-00001-of-00002.gguf"));
        assert!(parts.with_file_name("a-Q2_K-00002-of-00002.gguf").exists());
        assert_eq!(server.seen.lock().expect("unpoisoned").len(), begins.len());
    }
}

#[test]
fn what_cannot_be_got_is_said_and_not_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    let blobs = folder.path().join("models--org--repo/blobs");
    let fails = |manners: &[Manner], text: &str| {
        let server = serve(manners);
        let error = fetch(&reference(text), &options(&server, folder.path()), ANY).expect_err("it fails");
        (error.to_string(), server.seen.lock().expect("unpoisoned").len())
    };
    let (sentence, count) = fails(&[Manner::Wrong], "org/repo");
    assert!(sentence.contains(&sum(&content())) && count == 1, "{sentence}");
    assert_eq!(fs::read_dir(&blobs).expect("a folder").count(), 0, "wrong bytes are not kept");
    let (sentence, count) = fails(&[Manner::Drop(0); 9], "org/repo");
    assert!(count == 4, "{sentence}, {count}");
    let (sentence, count) = fails(&[Manner::Status(403)], "org/repo");
    assert!(sentence.contains("403") && sentence.contains("HF_TOKEN") && count == 1, "{sentence}");
    let (sentence, _) = fails(&[], "org/other");
    assert!(sentence.contains("404"), "{sentence}");
    let (sentence, _) = fails(&[], "org/repo:Q5_K");
    assert!(sentence.contains("a-Q8_0.gguf, a-Q4_K_M.gguf") && !sentence.contains("evil"), "{sentence}");
    // Stopped and gone on with.
    let server = serve(&[]);
    let stopped =
        fetch(&reference("org/repo"), &options(&server, folder.path()), &|there, _| there < 100_000);
    assert!(matches!(stopped, Err(HubError::Stopped)));
    fetch(&reference("org/repo"), &options(&server, folder.path()), ANY).expect("the rest");
    let seen = server.seen.lock().expect("unpoisoned").clone();
    assert!(seen.len() == 2 && seen[1].0 >= 100_000, "{seen:?}");
    assert!(server.manners.lock().expect("unpoisoned").is_empty());
}

#[test]
fn without_a_connection_the_cache_serves() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = serve(&[]);
    let good = options(&server, folder.path());
    let offline = HubOptions { offline: true, endpoint: "http://127.0.0.1:1".into(), ..good.clone() };
    let missing = fetch(&reference("org/repo"), &offline, ANY).expect_err("nothing is there");
    assert!(missing.to_string().contains("models--org--repo"), "{missing}");
    let path = fetch(&reference("org/repo"), &good, ANY).expect("downloaded");
    assert_eq!(fetch(&reference("org/repo:Q4_K_M"), &offline, ANY).expect("there"), path);
    assert!(matches!(fetch(&reference("org/repo:Q8_0"), &offline, ANY), Err(HubError::NoFile { .. })));
    let unplugged = HubOptions { offline: false, ..offline };
    assert_eq!(fetch(&reference("org/repo"), &unplugged, ANY).expect("there"), path);
    assert!(!format!("{good:?}").contains("secret"), "tokens are not shown");
}

#[test]
fn an_ollama_store_is_read() {
    let store = tempfile::tempdir().expect("a folder");
    let put = |name: &str, text: &str| {
        let path = store.path().join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, text).expect("a file");
    };
    let manifest = |digest: &str| {
        format!(
            "{{\"layers\": [{{\"mediaType\": \"application/vnd.ollama.image.license\", \"digest\": \"sha256:1\"}}, \
             {{\"mediaType\": \"application/vnd.ollama.image.model\", \"digest\": \"{digest}\"}}]}}"
        )
    };
    put("manifests/registry.ollama.ai/library/llama3.2/1b", &manifest("sha256:abc"));
    put("manifests/registry.ollama.ai/user/mine/latest", &manifest("sha256:abc"));
    put("manifests/hf.co/user/theirs/Q8_0", &manifest("sha256:gone"));
    put("manifests/registry.ollama.ai/library/evil/latest", &manifest("sha256:/../../../etc/passwd"));
    put("blobs/sha256-abc", "GGUF");
    for name in ["llama3.2:1b", "user/mine", "user/mine:latest", "registry.ollama.ai/user/mine:latest"] {
        let path = ollama(name, store.path()).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(fs::read_to_string(path).expect("a file"), "GGUF");
    }
    for name in ["llama3.2", "hf.co/user/theirs:Q8_0", "evil", "../x", "a/b/c/d", ""] {
        assert!(ollama(name, store.path()).is_err(), "{name}");
    }
}
