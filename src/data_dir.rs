//! The data directory: one popbridge at a time, closed to others, with the keys made at the first
//! start.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{ErrorKind, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use anyhow::Context;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use secrecy::{ExposeSecret, SecretString};

use crate::store::MasterKey;

const MASTER_KEY_FILE: &str = "master-key";

/// A data directory that is ours until this is dropped.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: File,
}

/// Another popbridge uses the data directory.
#[derive(Debug, thiserror::Error)]
#[error("another popbridge uses the data directory {}; stop it, or set POPBRIDGE_DATA_DIR", .0.display())]
pub struct InUse(PathBuf);

impl DataDir {
    /// Opens the directory, making it first where there is none.
    ///
    /// # Errors
    /// When another popbridge uses it, or it cannot be made or written to.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .with_context(|| format!("cannot make the data directory {}", path.display()))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
        let lock = File::create(path.join("lock"))
            .with_context(|| format!("cannot write to the data directory {}", path.display()))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self {
                path: path.to_owned(),
                _lock: lock,
            }),
            Err(TryLockError::WouldBlock) => Err(InUse(path.to_owned()).into()),
            Err(TryLockError::Error(error)) => Err(error).context("cannot lock the data directory"),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The key that encrypts credentials, made at the first start.
    ///
    /// # Errors
    /// When the file cannot be read or written, or holds no key.
    pub fn master_key(&self) -> anyhow::Result<MasterKey> {
        self.kept_or_made(MASTER_KEY_FILE, MasterKey::generate)?;
        kept_master_key(&self.path)
    }

    /// The bootstrap API key, made at the first start.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn admin_key(&self) -> anyhow::Result<SecretString> {
        let make = || format!("pb_{}", URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>())).into();
        let (key, path) = self.kept_or_made("admin-key", make)?;
        tracing::info!(file = %path.display(), "the admin API key is in this file");
        Ok(key)
    }

    fn kept_or_made(
        &self,
        name: &str,
        make: impl FnOnce() -> SecretString,
    ) -> anyhow::Result<(SecretString, PathBuf)> {
        let path = self.path.join(name);
        match fs::read_to_string(&path) {
            Ok(text) => return Ok((text.trim().into(), path)),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
        }
        let secret = make();
        // Written aside and renamed: a key is there whole or not at all.
        let draft = self.path.join(format!("{name}.new"));
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&draft)
            .with_context(|| format!("cannot write {}", draft.display()))?;
        writeln!(file, "{}", secret.expose_secret())?;
        file.sync_all()?;
        fs::rename(&draft, &path)?;
        Ok((secret, path))
    }
}

/// The key that encrypts credentials in a data directory that another popbridge uses.
///
/// # Errors
/// When the file cannot be read, or holds no key.
pub fn kept_master_key(data_dir: &Path) -> anyhow::Result<MasterKey> {
    let path = data_dir.join(MASTER_KEY_FILE);
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    MasterKey::from_base64(&text.into()).with_context(|| format!("in {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_made_once_and_closed_to_others() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        let data_dir = DataDir::open(&path).unwrap();
        let key = data_dir.admin_key().unwrap();
        data_dir.master_key().unwrap();

        assert_eq!(
            data_dir.admin_key().unwrap().expose_secret(),
            key.expose_secret()
        );
        for name in ["admin-key", "master-key"] {
            let mode = fs::metadata(path.join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o700
        );
    }

    #[test]
    fn data_dir_serves_one_popbridge_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let first = DataDir::open(dir.path()).unwrap();
        let error = DataDir::open(dir.path()).unwrap_err();
        assert!(error.to_string().contains("another popbridge"), "{error}");
        drop(first);
        DataDir::open(dir.path()).unwrap();
    }
}
