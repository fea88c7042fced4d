//! A conversation outside of its session: forked, restored, written to a file and read again.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use super::speculation::Speculation;
use super::{Session, Span};
use crate::engine::{HASH_SEED, Model, hash};
use crate::error::{Error, Result};
use crate::sample::SamplerOptions;

const MAGIC: &[u8; 8] = b"vkllmSNP";
const VERSION: u32 = 2;
/// Magic, version, fingerprint, and the lengths of layout, tokens, computed, state and spans; then the fingerprint and the
/// lengths of layout, computed and state of the draft model.
const HEAD: usize = 8 + 4 + 8 + 4 + 8 + 8 + 8 + 8 + 8 + 4 + 8 + 8;

/// A conversation: its tokens and what was computed for them.
#[derive(Clone, PartialEq)]
pub struct Snapshot {
    fingerprint: u64,
    /// What the bytes of the state mean.
    layout: String,
    tokens: Vec<u32>,
    computed: usize,
    /// How they were computed, to compute them again when a device is lost.
    spans: Vec<Span>,
    state: Vec<u8>,
    /// What a draft model computed.
    draft: Option<Drafted>,
}

/// A draft model's part.
#[derive(Clone, PartialEq)]
struct Drafted {
    fingerprint: u64,
    /// Never empty.
    layout: String,
    computed: usize,
    state: Vec<u8>,
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bytes = self.state.len();
        f.debug_struct("Snapshot").field("tokens", &self.tokens.len()).field("bytes", &bytes).finish()
    }
}

impl Snapshot {
    /// The conversation's tokens.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    fn bytes(&self) -> Vec<u8> {
        let none = Drafted { fingerprint: 0, layout: String::new(), computed: 0, state: Vec::new() };
        let draft = self.draft.as_ref().unwrap_or(&none);
        let mut out = Vec::with_capacity(HEAD + self.tokens.len() * 4 + self.state.len() + draft.state.len());
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&self.fingerprint.to_le_bytes());
        out.extend_from_slice(&(self.layout.len() as u32).to_le_bytes());
        for count in [self.tokens.len(), self.computed, self.state.len(), self.spans.len()] {
            out.extend_from_slice(&(count as u64).to_le_bytes());
        }
        out.extend_from_slice(&draft.fingerprint.to_le_bytes());
        out.extend_from_slice(&(draft.layout.len() as u32).to_le_bytes());
        for count in [draft.computed, draft.state.len()] {
            out.extend_from_slice(&(count as u64).to_le_bytes());
        }
        out.extend_from_slice(self.layout.as_bytes());
        out.extend(self.tokens.iter().flat_map(|token| token.to_le_bytes()));
        out.extend(self.spans.iter().flat_map(|span| span.word().to_le_bytes()));
        out.extend_from_slice(&self.state);
        out.extend_from_slice(draft.layout.as_bytes());
        out.extend_from_slice(&draft.state);
        let sum = hash(&out, HASH_SEED);
        out.extend_from_slice(&sum.to_le_bytes());
        out
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let word =
            |at: usize| -> Option<u64> { Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?)) };
        let half =
            |at: usize| -> Option<u32> { Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?)) };
        if bytes.get(..8) != Some(MAGIC) {
            return Err("it is no snapshot of vkllm".into());
        }
        match half(8) {
            Some(VERSION) => {}
            found => {
                return Err(format!("its version is {}; allowed is {VERSION}", found.unwrap_or_default()));
            }
        }
        let cut = || format!("it has {} bytes and ends too early", bytes.len());
        let fingerprint = word(12).ok_or_else(cut)?;
        let layout = half(20).ok_or_else(cut)? as usize;
        let count = |at: usize| word(at).and_then(|count| usize::try_from(count).ok()).ok_or_else(cut);
        let (tokens, computed, state, spans) = (count(24)?, count(32)?, count(40)?, count(48)?);
        let (draft_fingerprint, draft_layout) =
            (word(56).ok_or_else(cut)?, half(64).ok_or_else(cut)? as usize);
        let (draft_computed, draft_state) = (count(68)?, count(76)?);
        let length = tokens
            .checked_mul(4)
            .and_then(|t| t.checked_add(layout)?.checked_add(state)?.checked_add(HEAD + 8))
            .and_then(|bytes| bytes.checked_add(spans.checked_mul(8)?)?.checked_add(draft_layout))
            .and_then(|bytes| bytes.checked_add(draft_state));
        if length != Some(bytes.len()) {
            let wanted = length.map_or("more".into(), |length| length.to_string());
            return Err(format!("it has {} bytes, its header says {wanted}", bytes.len()));
        }
        let (body, sum) = bytes.split_at(bytes.len() - 8);
        if sum != hash(body, HASH_SEED).to_le_bytes() {
            return Err("its checksum does not match: it was damaged".into());
        }
        let most = computed.max(draft_computed);
        if most > tokens {
            return Err(format!("{most} positions were computed of {tokens} tokens"));
        }
        let (text, rest) = body[HEAD..].split_at(layout);
        let (ids, rest) = rest.split_at(tokens * 4);
        let (spans, rest) = rest.split_at(spans * 8);
        let (state, rest) = rest.split_at(state);
        let (draft_text, draft_state) = rest.split_at(draft_layout);
        let text_of =
            |bytes: &[u8]| String::from_utf8(bytes.to_vec()).map_err(|_| "its layout is no text".to_owned());
        let draft = Drafted {
            fingerprint: draft_fingerprint,
            layout: text_of(draft_text)?,
            computed: draft_computed,
            state: draft_state.to_vec(),
        };
        let spans: Vec<Span> =
            spans.as_chunks().0.iter().map(|word| Span::of(u64::from_le_bytes(*word))).collect();
        if !spans.is_sorted_by(|a, b| a.end < b.end) || spans.last().map_or(0, |span| span.end) != computed {
            return Err(format!("its spans do not end at {computed}, the number of positions"));
        }
        Ok(Snapshot {
            fingerprint,
            layout: text_of(text)?,
            tokens: ids.chunks_exact(4).map(|id| u32::from_le_bytes([id[0], id[1], id[2], id[3]])).collect(),
            computed,
            spans,
            state: state.to_vec(),
            draft: (draft_layout > 0).then_some(draft),
        })
    }

    /// Writes a file. Whatever happens meanwhile, the file is afterwards the old one or the new one, whole.
    ///
    /// Errors: [`Error::Io`].
    pub fn write(&self, path: &Path) -> Result<()> {
        let failed = |what, source| Error::Io { path: path.to_owned(), what, source };
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let name =
            path.file_name().ok_or_else(|| failed("it names no file", io::ErrorKind::InvalidInput.into()))?;
        let mut part = name.to_owned();
        part.push(format!(".{}.part", std::process::id()));
        let part = folder.join(part);
        let write = || -> io::Result<()> {
            let mut file = File::create(&part)?;
            file.write_all(&self.bytes())?;
            file.sync_all()?;
            fs::rename(&part, path)?;
            // The new name is on the disk when the folder is. Not every system opens folders.
            File::open(folder).map_or(Ok(()), |folder| folder.sync_all().or(Ok(())))
        };
        write().map_err(|source| {
            let _ = fs::remove_file(&part);
            failed("the snapshot cannot be written", source)
        })
    }

    /// Reads a file.
    ///
    /// Errors: [`Error::Io`], [`Error::Snapshot`] for a file that is damaged, of another version or none.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).map_err(|source| Error::Io {
            path: path.to_owned(),
            what: "the snapshot cannot be read",
            source,
        })?;
        Snapshot::parse(&bytes).map_err(|reason| Error::Snapshot { path: path.to_owned(), reason })
    }
}

impl Session {
    /// The conversation as it is, apart from the session. A generation from it is bit for bit what the session's own would
    /// be, on the same device with the same options.
    ///
    /// Errors: the device's.
    pub fn snapshot(&self) -> Result<Snapshot> {
        let fingerprint = self.model.fingerprint()?;
        let draft = self.speculation.as_ref().map(|speculation| drafted(speculation, self.tokens.len()));
        let draft = draft.transpose()?.flatten();
        let engine = self.model.engine();
        if engine.epoch() != self.epoch {
            return Err(Error::Argument {
                what: "the session's place".into(),
                found: "one on a device that was lost".into(),
                allowed: "one on a device that is well; `recover` finds one".into(),
            });
        }
        Ok(Snapshot {
            fingerprint,
            layout: engine.state_layout(),
            tokens: self.tokens.clone(),
            computed: self.computed,
            spans: self.spans_to(self.computed),
            state: engine.save(self.slot, self.computed as u32)?,
            draft,
        })
    }

    /// Makes this session's conversation that of a snapshot. Sampler and drafters stay this session's. A draft model's part
    /// comes back with the same draft model; another computes its own.
    ///
    /// Errors: [`Error::Argument`] for a snapshot of another model, cache or context. The session is then empty or as it was.
    pub fn restore(&mut self, snapshot: &Snapshot) -> Result<()> {
        let differs = |what: &str, found: String, allowed: String| Error::Argument {
            what: what.into(),
            found,
            allowed,
        };
        let (ours, theirs) = (self.model.fingerprint()?, snapshot.fingerprint);
        if ours != theirs {
            return Err(differs(
                "the snapshot's model",
                format!("{theirs:016x}"),
                format!("{ours:016x}, this one"),
            ));
        }
        let layout = self.model.engine().state_layout();
        if layout != snapshot.layout {
            return Err(differs("the snapshot's cache", snapshot.layout.clone(), layout));
        }
        let room = self.model.context() as usize;
        if snapshot.tokens.len() > room + 1 {
            return Err(Error::PromptTooLong { found: snapshot.tokens.len(), allowed: room });
        }
        let vocab = self.model.config().vocab;
        if let Some(&found) = snapshot.tokens.iter().find(|&&token| token >= vocab) {
            return Err(Error::NoSuchToken { found, allowed: vocab });
        }
        self.resettle()?;
        self.clear();
        let computed = snapshot.computed as u32;
        self.model.engine().load(self.slot, &snapshot.tokens, computed, &snapshot.state)?;
        self.tokens = snapshot.tokens.clone();
        self.computed = snapshot.computed;
        self.spans.clone_from(&snapshot.spans);
        match (&mut self.speculation, &snapshot.draft) {
            (Some(speculation), Some(draft)) => restore_draft(speculation, draft, &self.tokens),
            _ => Ok(()),
        }
    }

    /// Another session of the same model that goes on from here, with a sampler of its own. It does not draft until it is
    /// told to. Sessions that share a long beginning compute it once.
    ///
    /// Errors: no free place in the model, sampler options out of range.
    pub fn fork(&self, sampler: SamplerOptions) -> Result<Session> {
        let mut other = Session::new(&self.model, sampler)?;
        other.restore(&self.snapshot()?)?;
        Ok(other)
    }
}

/// What the draft model of a session of so many tokens computed; `None` without one, or where its device was lost.
fn drafted(speculation: &Speculation, tokens: usize) -> Result<Option<Drafted>> {
    let Some((model, slot)) = speculation.draft() else { return Ok(None) };
    let fingerprint = model.fingerprint()?;
    let engine = model.engine();
    let computed = speculation.draft_computed().min(tokens);
    if !speculation.is_settled(&engine) {
        return Ok(None);
    }
    let (layout, state) = (engine.state_layout(), engine.save(slot, computed as u32)?);
    Ok(Some(Drafted { fingerprint, layout, computed, state }))
}

fn restore_draft(speculation: &mut Speculation, saved: &Drafted, tokens: &[u32]) -> Result<()> {
    let Some((model, slot)) = speculation.draft() else { return Ok(()) };
    if model.fingerprint()? != saved.fingerprint || model.engine().state_layout() != saved.layout {
        return Ok(());
    }
    model.engine().load(slot, tokens, saved.computed as u32, &saved.state)?;
    speculation.draft_restored(saved.computed);
    Ok(())
}

/// Handles are shared between threads, sessions move between them.
const _: () = {
    const fn shared<T: Clone + Send + Sync>() {}
    const fn moved<T: Send>() {}
    shared::<Model>();
    shared::<super::CancelToken>();
    moved::<Session>();
    moved::<Snapshot>();
};

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot() -> Snapshot {
        Snapshot {
            fingerprint: 7,
            layout: "a layout".into(),
            tokens: vec![1, 2, 3],
            computed: 2,
            spans: vec![Span::of(3), Span::of(4)],
            state: vec![9; 40],
            draft: Some(Drafted {
                fingerprint: 8,
                layout: "another".into(),
                computed: 1,
                state: vec![7; 12],
            }),
        }
    }

    #[test]
    fn damage_is_seen() {
        let bytes = snapshot().bytes();
        assert_eq!(Snapshot::parse(&bytes), Ok(snapshot()));
        let alone = Snapshot { draft: None, ..snapshot() };
        assert_eq!(Snapshot::parse(&alone.bytes()), Ok(alone));
        for cut in 0..bytes.len() {
            assert!(Snapshot::parse(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        for at in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[at / 8] ^= 1 << (at % 8);
            assert!(Snapshot::parse(&damaged).is_err(), "bit {at}");
        }
    }

    #[test]
    fn files_are_replaced_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("chat.snapshot");
        fs::write(&path, "something old").unwrap();
        assert!(Snapshot::read(&path).unwrap_err().to_string().ends_with("it is no snapshot of vkllm"));
        snapshot().write(&path).unwrap();
        assert_eq!(Snapshot::read(&path).unwrap(), snapshot());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left over");
        assert!(snapshot().write(&folder.path().join("no/such/folder")).is_err());
    }
}
