//! The cache of the Hugging Face hub: `models--org--repo` with `blobs`, `snapshots/COMMIT/FILE` and `refs/main`.

use std::fs;
use std::path::{Path, PathBuf};

use super::{HubError, HubOptions, Reference, choose, io};

pub(super) struct Cache {
    folder: PathBuf,
}

impl Cache {
    pub(super) fn new(options: &HubOptions, reference: &Reference) -> Self {
        Cache { folder: options.cache.join(format!("models--{}--{}", reference.org, reference.repo)) }
    }

    /// Where a file's content lies, named by its checksum.
    pub(super) fn blob(&self, sum: &str) -> PathBuf {
        self.folder.join("blobs").join(sum)
    }

    pub(super) fn file(&self, commit: &str, name: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit).join(name)
    }

    /// Gives a blob its name in a commit, and the commit its place as the newest.
    pub(super) fn link(&self, commit: &str, name: &str, sum: &str) -> Result<PathBuf, HubError> {
        let file = self.file(commit, name);
        let folder = file.parent().unwrap_or(&self.folder);
        fs::create_dir_all(folder).map_err(io(folder))?;
        if !file.exists() {
            // A link whose blob is gone.
            let _ = fs::remove_file(&file);
            let up = "../".repeat(2 + name.matches('/').count());
            link(&PathBuf::from(format!("{up}blobs/{sum}")), &self.blob(sum), &file).map_err(io(&file))?;
        }
        let refs = self.folder.join("refs");
        fs::create_dir_all(&refs).map_err(io(&refs))?;
        let main = refs.join("main");
        fs::write(&main, commit).map_err(io(&main))?;
        Ok(file)
    }

    /// A file that is there, without asking anybody.
    pub(super) fn find(&self, reference: &Reference) -> Result<PathBuf, HubError> {
        let missing = || HubError::NotThere { name: reference.to_string(), place: self.folder.clone() };
        let commit = fs::read_to_string(self.folder.join("refs/main")).map_err(|_| missing())?;
        let root = self.folder.join("snapshots").join(commit.trim());
        let mut names = Vec::new();
        list(&root, &root, &mut names);
        names.sort();
        let files: Vec<&str> = names.iter().map(String::as_str).collect();
        match choose(reference, &files) {
            Ok(chosen) => Ok(root.join(files[chosen[0]])),
            Err(HubError::NoFile { .. }) if files.is_empty() => Err(missing()),
            Err(error) => Err(error),
        }
    }
}

/// Names of the files of a folder whose content is there, folders within joined by `/`.
fn list(root: &Path, folder: &Path, names: &mut Vec<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            list(root, &path, names);
        } else if path.exists()
            && let Ok(name) = path.strip_prefix(root)
        {
            names.push(name.to_string_lossy().replace('\\', "/"));
        }
    }
}

#[cfg(unix)]
fn link(target: &Path, _: &Path, file: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(target, file)
}

/// Not everybody may make symbolic links there.
#[cfg(not(unix))]
fn link(_: &Path, blob: &Path, file: &Path) -> std::io::Result<()> {
    fs::hard_link(blob, file).or_else(|_| fs::copy(blob, file).map(|_| ()))
}
