//! Where models come from: a name that is known, a path, or an address.

mod download;

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use lomusai_core::{Error, Result};
use lomusai_wire::codes;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::oneshot;

use super::convert;

/// A model that `local:NAME` knows.
#[derive(Clone, Debug, Deserialize)]
#[non_exhaustive]
#[serde(deny_unknown_fields)]
pub struct Known {
    /// Its name.
    pub name: String,
    /// What it is, in a sentence.
    pub about: String,
    /// The file's name in the store.
    pub file: String,
    /// The file's size. 0 for one that is converted here.
    pub bytes: u64,
    /// The file's sha256, in hexadecimal. Empty for one that is converted here.
    pub sha256: String,
    /// Its licence, by SPDX name.
    pub licence: String,
    /// Who made it, and where it is described.
    pub author: String,
    /// How many numbers its vectors have, for embedding models.
    #[serde(default)]
    pub dimensions: Option<usize>,
    package: Package,
}

/// A package of the Python index that holds the model.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Package {
    project: String,
    file: String,
    bytes: u64,
    sha256: String,
    /// The member that is the model.
    #[serde(default)]
    member: Option<String>,
    /// The members that make one.
    #[serde(default)]
    bert: Option<Bert>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Bert {
    folder: String,
    tokens_max: u32,
}

static KNOWN: LazyLock<Vec<Known>> = LazyLock::new(|| {
    #[derive(Deserialize)]
    struct Table {
        model: Vec<Known>,
    }
    toml::from_str::<Table>(include_str!("models.toml")).expect("the table of models is checked by a test").model
});

/// How far getting a model is.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Progress {
    /// Bytes arrive. What an earlier download left is counted in.
    Downloading {
        /// The file.
        file: String,
        /// Bytes so far.
        done: u64,
        /// Bytes in all, where that is known.
        total: Option<u64>,
    },
    /// The file is checked and unpacked.
    Unpacking {
        /// The file.
        file: String,
    },
    /// The model is read into memory.
    Loading {
        /// The file.
        file: PathBuf,
        /// 0 to 100.
        percent: u32,
    },
}

impl Progress {
    /// As JSON, as it is told to the readers of a run: `{phase, file, …}`.
    pub fn to_value(&self) -> Value {
        match self {
            Self::Downloading { file, done, total } => {
                json!({"phase": "downloading", "file": file, "done": done, "total": total})
            }
            Self::Unpacking { file } => json!({"phase": "unpacking", "file": file}),
            Self::Loading { file, percent } => {
                json!({"phase": "loading", "file": file.display().to_string(), "percent": percent})
            }
        }
    }
}

/// Models on this machine, and how they get there.
///
/// A model is named in one of these ways:
///
/// | name | what it is |
/// |---|---|
/// | `smollm2-135m` | one of [`Store::known`], downloaded when it is first needed |
/// | `/models/qwen3-4b.gguf`, `./x.gguf`, `x.gguf` | a file; never written to |
/// | `hf:OWNER/REPO/FILE.gguf` | a file of the Hugging Face hub, or of what `HF_ENDPOINT` names |
/// | `https://…/FILE.gguf` | any address; `#sha256=…` at its end is checked |
///
/// Downloads go to `LOMUSAI_MODELS_DIR`, else to `lomusai/models` in the user's cache (`XDG_CACHE_HOME`, `~/.cache`). What an
/// interrupted one left is gone on with. Processes that want the same model wait for the one that downloads it. A file gets its name
/// only once it is whole and checked.
///
/// # Errors
/// | code | when |
/// |---|---|
/// | `model_unknown` | there is no such name or file, or it would have to be downloaded and must not be |
/// | `download_failed` | the network or the server failed; the next try goes on where this one stopped |
/// | `checksum_mismatch` | what came is not what was asked for; it is deleted |
/// | `disk_full` | there is no room |
/// | `model_file_unreadable` | the folder or a file in it cannot be used |
#[derive(Clone, Debug)]
pub struct Store {
    folder: Option<PathBuf>,
    offline: bool,
}

/// What is to be downloaded.
struct Wanted {
    /// Its name in the folder.
    file: String,
    place: Place,
    sha256: Option<String>,
    bytes: Option<u64>,
}

enum Place {
    Address(String),
    /// A project of the Python index, and the file of it.
    Index(String),
}

impl Store {
    /// A store. `folder`: where downloads are kept, in place of the default. `offline`: nothing is downloaded.
    pub fn new(folder: Option<PathBuf>, offline: bool) -> Self {
        Self { folder, offline }
    }

    /// The models that have names.
    pub fn known() -> &'static [Known] {
        &KNOWN
    }

    /// Their names, for messages.
    pub(super) fn names() -> String {
        KNOWN.iter().map(|known| known.name.as_str()).collect::<Vec<_>>().join(", ")
    }

    /// The folder of downloaded models.
    ///
    /// # Errors
    /// `model_file_unreadable`, where nothing says which folder is the user's.
    pub fn folder(&self) -> Result<PathBuf> {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        self.folder
            .clone()
            .or_else(|| set("LOMUSAI_MODELS_DIR"))
            .or_else(|| set("XDG_CACHE_HOME").map(|cache| cache.join("lomusai/models")))
            .or_else(|| set("HOME").map(|home| home.join(".cache/lomusai/models")))
            .or_else(|| set("LOCALAPPDATA").map(|data| data.join("lomusai/models")))
            .ok_or_else(|| {
                Error::new(
                    codes::MODEL_FILE_UNREADABLE,
                    "there is no folder for models: set LOMUSAI_MODELS_DIR or models_dir",
                )
            })
    }

    /// The file of a model, downloaded if it is not there.
    ///
    /// # Errors
    /// See [`Store`].
    pub async fn fetch(&self, name: &str, progress: Arc<dyn Fn(Progress) + Send + Sync>) -> Result<PathBuf> {
        if let Some(known) = KNOWN.iter().find(|known| known.name == name) {
            return self.fetch_known(known, progress).await;
        }
        if let Some(wanted) = wanted(name)? {
            let target = self.folder()?.join(&wanted.file);
            if target.is_file() {
                return Ok(target);
            }
            self.online(name)?;
            let _lock = Lock::take(&target).await?;
            if !target.is_file() {
                let part = download::get(&wanted, self.folder()?, &progress).await?;
                rename(&part, &target)?;
            }
            return Ok(target);
        }
        let path = PathBuf::from(name);
        if path.is_file() {
            return Ok(path);
        }
        let what = if path.exists() { "is no file" } else { "is neither a known name nor a file" };
        Err(Error::new(
            codes::MODEL_UNKNOWN,
            format!(
                "the local model `{name}` {what}: give the path of a GGUF file, hf:OWNER/REPO/FILE.gguf, or one of {}",
                Self::names()
            ),
        )
        .with("model", name))
    }

    async fn fetch_known(
        &self,
        known: &'static Known,
        progress: Arc<dyn Fn(Progress) + Send + Sync>,
    ) -> Result<PathBuf> {
        let folder = self.folder()?;
        let target = folder.join(&known.file);
        if target.is_file() {
            return Ok(target);
        }
        self.online(&known.name)?;
        let _lock = Lock::take(&target).await?;
        if target.is_file() {
            return Ok(target);
        }
        let package = &known.package;
        let wanted = Wanted {
            file: package.file.clone(),
            place: Place::Index(package.project.clone()),
            sha256: Some(package.sha256.clone()),
            bytes: Some(package.bytes),
        };
        let part = download::get(&wanted, folder, &progress).await?;
        progress(Progress::Unpacking { file: known.file.clone() });
        let (send, receive) = oneshot::channel();
        let done = target.clone();
        // Unpacking takes seconds: not on the engine's threads.
        std::thread::Builder::new()
            .name("lomusai-load".into())
            .spawn(move || drop(send.send(unpack(known, &part, &done))))
            .map_err(|error| Error::new(codes::INTERNAL, format!("no thread to unpack a model: {error}")))?;
        receive.await.map_err(|_| Error::new(codes::INTERNAL, "unpacking the model panicked"))??;
        Ok(target)
    }

    fn online(&self, name: &str) -> Result<()> {
        if !self.offline {
            return Ok(());
        }
        let folder = self.folder()?;
        Err(Error::new(
            codes::MODEL_UNKNOWN,
            format!("the local model `{name}` is not in {}, and `offline` forbids to download it", folder.display()),
        )
        .with("model", name))
    }
}

/// What an address asks for. `None`: the name is no address.
fn wanted(name: &str) -> Result<Option<Wanted>> {
    let (name, sha256) = match name.split_once("#sha256=") {
        Some((name, sum)) => (name, Some(sum.to_ascii_lowercase())),
        None => (name, None),
    };
    let wrong = |why: &str| Error::new(codes::ARGUMENT_INVALID, format!("the model's address {name:?} {why}"));
    if sha256.as_ref().is_some_and(|sum| sum.len() != 64 || !sum.bytes().all(|byte| byte.is_ascii_hexdigit())) {
        return Err(wrong("has a sha256 that is not 64 hexadecimal digits"));
    }
    let address = if let Some(path) = name.strip_prefix("hf:") {
        let steps: Vec<&str> = path.split('/').collect();
        let [owner, repository, file @ ..] = &steps[..] else { return Err(wrong("must be hf:OWNER/REPO/FILE.gguf")) };
        if file.is_empty() || steps.iter().any(|step| step.is_empty() || *step == "..") {
            return Err(wrong("must be hf:OWNER/REPO/FILE.gguf"));
        }
        let hub = std::env::var("HF_ENDPOINT").unwrap_or_else(|_| "https://huggingface.co".into());
        format!("{}/{owner}/{repository}/resolve/main/{}", hub.trim_end_matches('/'), file.join("/"))
    } else if name.starts_with("http://") || name.starts_with("https://") {
        name.to_owned()
    } else {
        return Ok(None);
    };
    let last = address.rsplit('/').next().unwrap_or_default().split('?').next().unwrap_or_default();
    let last: String =
        last.chars().filter(|letter| letter.is_ascii_alphanumeric() || "-_.".contains(*letter)).collect();
    if last.trim_matches('.').is_empty() {
        return Err(wrong("names no file"));
    }
    // Two addresses may end in the same name.
    let file = format!("{}-{last}", &hex(&Sha256::digest(&address))[..8]);
    Ok(Some(Wanted { file, place: Place::Address(address), sha256, bytes: None }))
}

fn unpack(known: &Known, part: &Path, target: &Path) -> Result<()> {
    let half = target.with_extension("unpacking");
    let result = unpack_to(known, part, &half);
    match &result {
        Ok(()) => {
            rename(&half, target)?;
            let _ = fs::remove_file(part);
        }
        Err(_) => drop(fs::remove_file(&half)),
    }
    result
}

fn unpack_to(known: &Known, part: &Path, half: &Path) -> Result<()> {
    let package = &known.package;
    let damaged = |why: String| {
        Error::new(codes::CHECKSUM_MISMATCH, format!("{} cannot be unpacked: {why}. Try again", package.file))
            .with("file", package.file.as_str())
    };
    let archive = File::open(part).map_err(|error| of_io(part, &error))?;
    let mut archive = zip::ZipArchive::new(archive).map_err(|error| damaged(error.to_string()))?;
    let out = File::create(half).map_err(|error| of_io(half, &error))?;
    let mut out = BufWriter::with_capacity(1 << 20, out);
    if let Some(bert) = &package.bert {
        let mut member = |name: &str| {
            let mut bytes = Vec::new();
            let path = format!("{}/{name}", bert.folder);
            let mut file = archive.by_name(&path).map_err(|error| damaged(format!("{path}: {error}")))?;
            file.read_to_end(&mut bytes).map_err(|error| damaged(format!("{path}: {error}")))?;
            Ok::<_, Error>(bytes)
        };
        let (config, vocabulary, weights) =
            (member("config.json")?, member("vocab.txt")?, member("model.safetensors")?);
        let vocabulary = String::from_utf8_lossy(&vocabulary);
        convert::bert(&config, &vocabulary, &weights, bert.tokens_max, &mut out)
            .map_err(|error| of_io(half, &error))?;
    }
    if let Some(member) = &package.member {
        let mut file = archive.by_name(member).map_err(|error| damaged(format!("{member}: {error}")))?;
        let (mut sum, mut bytes) = (Sha256::new(), vec![0; 1 << 20]);
        loop {
            let count = file.read(&mut bytes).map_err(|error| damaged(error.to_string()))?;
            if count == 0 {
                break;
            }
            sum.update(&bytes[..count]);
            out.write_all(&bytes[..count]).map_err(|error| of_io(half, &error))?;
        }
        let sum = hex(&sum.finalize());
        if sum != known.sha256 {
            return Err(damaged(format!("its sha256 is {sum}, and should be {}", known.sha256)));
        }
    }
    let file = out.into_inner().map_err(|error| of_io(half, error.error()))?;
    file.sync_all().map_err(|error| of_io(half, &error))
}

/// Held while a file is made: other processes wait for it.
struct Lock(#[expect(dead_code, reason = "held, not used")] File);

impl Lock {
    async fn take(target: &Path) -> Result<Self> {
        let folder = target.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder).map_err(|error| of_io(folder, &error))?;
        let path = target.with_extension("lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|error| of_io(&path, &error))?;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self(file)),
                Err(fs::TryLockError::WouldBlock) => tokio::time::sleep(Duration::from_millis(100)).await,
                Err(fs::TryLockError::Error(error)) => return Err(of_io(&path, &error)),
            }
        }
    }
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(|error| of_io(to, &error))
}

/// The error of a file in the store.
fn of_io(path: &Path, error: &io::Error) -> Error {
    let name = path.display();
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => Error::new(
            codes::DISK_FULL,
            format!(
                "{name} cannot be written ({error}): make room, or set LOMUSAI_MODELS_DIR or models_dir to another disk"
            ),
        ),
        _ => Error::new(codes::MODEL_FILE_UNREADABLE, format!("{name}: {error}. Check the folder and its permissions")),
    }
    .with("file", name.to_string())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_can_be_read_and_says_everything() {
        assert!(Store::known().iter().any(|known| known.name == "smollm2-135m" && known.bytes == 98_362_432));
        for known in Store::known() {
            let package = &known.package;
            assert_eq!(package.sha256.len(), 64, "{}", known.name);
            assert!(package.member.is_some() && known.sha256.len() == 64 || package.bert.is_some(), "{}", known.name);
            assert!(!known.licence.is_empty() && known.author.contains("https://"), "{}", known.name);
        }
    }

    #[test]
    fn addresses_are_told_from_files() {
        for file in ["x.gguf", "./models/x.gguf", "/models/x.gguf", "qwen3"] {
            assert!(wanted(file).unwrap().is_none(), "{file}");
        }
        let hub = wanted("hf:owner/repo/folder/x.gguf").unwrap().unwrap();
        assert!(
            matches!(&hub.place, Place::Address(address) if address.ends_with("/owner/repo/resolve/main/folder/x.gguf"))
        );
        assert!(hub.file.ends_with("-x.gguf"));
        let sum = "a".repeat(64);
        let other = wanted(&format!("https://example.org/a/x.gguf?download=true#sha256={sum}")).unwrap().unwrap();
        assert_eq!((other.sha256, other.file.ends_with("-x.gguf")), (Some(sum), true));
        for bad in
            ["hf:owner/x.gguf", "hf:owner/../x.gguf", "https://example.org/x.gguf#sha256=12", "https://example.org/"]
        {
            assert!(wanted(bad).is_err_and(|error| error.is(codes::ARGUMENT_INVALID)), "{bad}");
        }
    }
}
