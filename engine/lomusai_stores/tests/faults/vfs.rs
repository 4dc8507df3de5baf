//! A disk that fails, under SQLite: its own file system layer with another between it and the database, which knows what was synced.
//!
//! Only files of folders that a [`Disk`] was made for are touched; all others pass through.

use std::collections::HashMap;
use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, Once};

use rusqlite::ffi;

/// A write reaches the disk in pieces of this size, each whole or not at all.
const SECTOR: usize = 512;

/// What happens at a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It fails, and nothing is written.
    Fails,
    /// Half of it is written, then the disk is full.
    Short,
    /// The disk is full from here on for so many writes.
    Full(u32),
    /// Half of it is written, and the process is no more.
    Torn,
    /// The power is cut: what was not synced is lost.
    PowerCut,
}

/// The disk under the files of one folder.
pub(crate) struct Disk {
    folder: PathBuf,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    files: HashMap<PathBuf, File>,
    /// Writes, truncations and syncs so far.
    touched: u64,
    fault: Option<(u64, Fault)>,
    full: u32,
    gone: bool,
}

/// What would be there after a power cut for sure, and what might be.
#[derive(Default)]
struct File {
    synced: Vec<u8>,
    since: Vec<Change>,
}

enum Change {
    Write(usize, Vec<u8>),
    Truncate(usize),
}

static DISKS: LazyLock<Mutex<HashMap<PathBuf, Arc<Disk>>>> = LazyLock::new(Mutex::default);

impl Disk {
    /// Puts a disk under this folder; what is in it is synced.
    pub(crate) fn under(folder: &Path) -> Arc<Self> {
        register();
        let disk = Arc::new(Self { folder: folder.to_owned(), state: Mutex::default() });
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let synced = std::fs::read(&path).unwrap();
            disk.state().files.insert(path, File { synced, since: Vec::new() });
        }
        DISKS.lock().unwrap().insert(folder.to_owned(), disk.clone());
        disk
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// At touch number `at`, which counts from 1, this happens.
    pub(crate) fn fail(&self, at: u64, fault: Fault) {
        self.state().fault = Some((at, fault));
    }

    /// How often something was written, truncated or synced.
    pub(crate) fn touched(&self) -> u64 {
        self.state().touched
    }

    /// Whether the fault made an end to the process.
    pub(crate) fn is_gone(&self) -> bool {
        self.state().gone
    }

    /// Leaves in the folder what a power cut would: all that was synced, and of the rest what `keep` says, a sector at a time.
    pub(crate) fn lose_power(&self, mut keep: impl FnMut() -> bool) {
        let state = self.state();
        for entry in std::fs::read_dir(&self.folder).unwrap() {
            std::fs::remove_file(entry.unwrap().path()).unwrap();
        }
        for (path, file) in &state.files {
            let mut content = file.synced.clone();
            for change in &file.since {
                match change {
                    Change::Truncate(size) => {
                        if keep() {
                            content.resize(*size, 0);
                        }
                    }
                    Change::Write(offset, bytes) => {
                        for (number, sector) in bytes.chunks(SECTOR).enumerate() {
                            if keep() {
                                put(&mut content, offset + number * SECTOR, sector);
                            }
                        }
                    }
                }
            }
            std::fs::write(path, content).unwrap();
        }
    }

    /// The disk is a healthy one again; its files are left as they are.
    pub(crate) fn take_away(&self) {
        DISKS.lock().unwrap().remove(&self.folder);
    }
}

fn put(content: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if content.len() < offset + bytes.len() {
        content.resize(offset + bytes.len(), 0);
    }
    content[offset..offset + bytes.len()].copy_from_slice(bytes);
}

/// What a write comes to: how much of it is written, and what SQLite is told.
struct Verdict {
    written: usize,
    code: c_int,
}

impl State {
    fn touch(&mut self, size: usize) -> Verdict {
        if self.gone {
            return Verdict { written: 0, code: ffi::SQLITE_IOERR_WRITE };
        }
        self.touched += 1;
        if self.full > 0 {
            self.full -= 1;
            return Verdict { written: 0, code: ffi::SQLITE_FULL };
        }
        let half = size / 2 / SECTOR * SECTOR;
        match self.fault {
            Some((at, fault)) if at == self.touched => match fault {
                Fault::Fails => Verdict { written: 0, code: ffi::SQLITE_IOERR_WRITE },
                Fault::Short => Verdict { written: half, code: ffi::SQLITE_FULL },
                Fault::Full(writes) => {
                    self.full = writes - 1;
                    Verdict { written: 0, code: ffi::SQLITE_FULL }
                }
                Fault::Torn | Fault::PowerCut => {
                    self.gone = true;
                    Verdict { written: half, code: ffi::SQLITE_IOERR_WRITE }
                }
            },
            _ => Verdict { written: size, code: ffi::SQLITE_OK },
        }
    }
}

// --- The layer -----------------------------------------------------------------------------------------------------------

/// An open file. The other layer's own lies behind it, in the memory that SQLite gave.
#[repr(C)]
struct Opened {
    base: ffi::sqlite3_file,
    /// Whose file it is; null for what passes through.
    place: *mut Place,
}

struct Place {
    disk: Arc<Disk>,
    path: PathBuf,
}

/// SQLite's own layer.
struct Below(*mut ffi::sqlite3_vfs);
// SAFETY: SQLite's layers may be used from any thread.
unsafe impl Send for Below {}
// SAFETY: as above.
unsafe impl Sync for Below {}

static BELOW: LazyLock<Below> = LazyLock::new(|| {
    // SAFETY: null asks for the default one, which lives as long as the process.
    Below(unsafe { ffi::sqlite3_vfs_find(std::ptr::null()) })
});

fn register() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: SQLite may be initialised at any time; the layer found is valid and copied as a value.
        let mut layer = unsafe {
            ffi::sqlite3_initialize();
            *BELOW.0
        };
        layer.pNext = std::ptr::null_mut();
        layer.zName = c"failing".as_ptr();
        layer.szOsFile += size_of::<Opened>() as c_int;
        layer.xOpen = Some(open);
        layer.xDelete = Some(delete);
        // SAFETY: leaked, so that it lives as long as SQLite uses it.
        let code = unsafe { ffi::sqlite3_vfs_register(Box::leak(Box::new(layer)), 1) };
        assert_eq!(code, ffi::SQLITE_OK);
    });
}

/// The other layer's part of an open file.
///
/// # Safety
/// `file` was given to [`open`].
unsafe fn below(file: *mut ffi::sqlite3_file) -> *mut ffi::sqlite3_file {
    // SAFETY: SQLite gave room for both, one behind the other; the alignment of the first is that of the second.
    unsafe { file.cast::<Opened>().add(1).cast() }
}

/// # Safety
/// `name` is null or a C string.
unsafe fn path(name: *const c_char) -> Option<PathBuf> {
    if name.is_null() {
        return None;
    }
    // SAFETY: as the caller says.
    let bytes = unsafe { CStr::from_ptr(name) }.to_bytes();
    Some(PathBuf::from(OsStr::from_bytes(bytes)))
}

fn disk_of(path: &Path) -> Option<Arc<Disk>> {
    DISKS.lock().unwrap().get(path.parent()?).cloned()
}

unsafe extern "C" fn open(
    _: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    // SAFETY: the file has the room that the layer asked for, and the names are SQLite's.
    unsafe {
        let opened = file.cast::<Opened>();
        (*opened).base.pMethods = std::ptr::null();
        (*opened).place = std::ptr::null_mut();
        let found = path(name).and_then(|path| Some((disk_of(&path)?, path)));
        if found.as_ref().is_some_and(|(disk, _)| disk.is_gone()) {
            return ffi::SQLITE_IOERR;
        }
        let code = (*BELOW.0).xOpen.expect("it opens")(BELOW.0, name, below(file), flags, out);
        if code != ffi::SQLITE_OK {
            return code;
        }
        if let Some((disk, path)) = found {
            disk.state().files.entry(path.clone()).or_default();
            (*opened).place = Box::into_raw(Box::new(Place { disk, path }));
        }
        (*opened).base.pMethods = &METHODS;
        code
    }
}

unsafe extern "C" fn delete(_: *mut ffi::sqlite3_vfs, name: *const c_char, sync: c_int) -> c_int {
    // SAFETY: the name is SQLite's.
    unsafe {
        if let Some((disk, path)) = path(name).and_then(|path| Some((disk_of(&path)?, path))) {
            if disk.is_gone() {
                return ffi::SQLITE_IOERR_DELETE;
            }
            disk.state().files.remove(&path);
        }
        (*BELOW.0).xDelete.expect("it deletes")(BELOW.0, name, sync)
    }
}

/// What a method of the other layer's file answers.
macro_rules! ask_below {
    ($file:expr, $method:ident $(, $argument:expr)*) => {{
        let below = below($file);
        (*(*below).pMethods).$method.expect("the layer below has it")(below $(, $argument)*)
    }};
}

/// Methods that pass through.
macro_rules! pass {
    ($($name:ident => $method:ident($($argument:ident: $type:ty),*) -> $gives:ty;)*) => {$(
        unsafe extern "C" fn $name(file: *mut ffi::sqlite3_file $(, $argument: $type)*) -> $gives {
            // SAFETY: SQLite calls the methods of files that are open.
            unsafe { ask_below!(file, $method $(, $argument)*) }
        }
    )*};
}

pass! {
    read => xRead(to: *mut c_void, size: c_int, at: i64) -> c_int;
    file_size => xFileSize(size: *mut i64) -> c_int;
    lock => xLock(level: c_int) -> c_int;
    unlock => xUnlock(level: c_int) -> c_int;
    check_reserved => xCheckReservedLock(out: *mut c_int) -> c_int;
    control => xFileControl(what: c_int, with: *mut c_void) -> c_int;
    sector_size => xSectorSize() -> c_int;
    characteristics => xDeviceCharacteristics() -> c_int;
    shm_map => xShmMap(page: c_int, size: c_int, extend: c_int, out: *mut *mut c_void) -> c_int;
    shm_lock => xShmLock(offset: c_int, n: c_int, flags: c_int) -> c_int;
    shm_barrier => xShmBarrier() -> ();
    shm_unmap => xShmUnmap(delete: c_int) -> c_int;
}

static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    // Without mapped reads, which would go past us.
    iVersion: 2,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved),
    xFileControl: Some(control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(characteristics),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: None,
    xUnfetch: None,
};

/// # Safety
/// `file` was given to [`open`] and is open.
unsafe fn place<'a>(file: *mut ffi::sqlite3_file) -> Option<&'a Place> {
    // SAFETY: as the caller says; the place lives until the file is closed.
    unsafe { (*file.cast::<Opened>()).place.as_ref() }
}

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: an open file, closed once.
    unsafe {
        let opened = file.cast::<Opened>();
        if !(*opened).place.is_null() {
            drop(Box::from_raw((*opened).place));
            (*opened).place = std::ptr::null_mut();
        }
        ask_below!(file, xClose)
    }
}

unsafe extern "C" fn write(file: *mut ffi::sqlite3_file, from: *const c_void, size: c_int, at: i64) -> c_int {
    // SAFETY: an open file, and so many bytes.
    unsafe {
        let Some(place) = place(file) else { return ask_below!(file, xWrite, from, size, at) };
        let mut state = place.disk.state();
        let verdict = state.touch(size as usize);
        if verdict.written > 0 {
            let bytes = std::slice::from_raw_parts(from.cast::<u8>(), verdict.written);
            let known = state.files.entry(place.path.clone()).or_default();
            known.since.push(Change::Write(at as usize, bytes.to_vec()));
            let code = ask_below!(file, xWrite, from, verdict.written as c_int, at);
            if code != ffi::SQLITE_OK {
                return code;
            }
        }
        verdict.code
    }
}

unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, size: i64) -> c_int {
    // SAFETY: an open file.
    unsafe {
        if let Some(place) = place(file) {
            let mut state = place.disk.state();
            let verdict = state.touch(0);
            if verdict.code != ffi::SQLITE_OK {
                return ffi::SQLITE_IOERR_TRUNCATE;
            }
            state.files.entry(place.path.clone()).or_default().since.push(Change::Truncate(size as usize));
        }
        ask_below!(file, xTruncate, size)
    }
}

unsafe extern "C" fn sync(file: *mut ffi::sqlite3_file, flags: c_int) -> c_int {
    // SAFETY: an open file.
    unsafe {
        let Some(place) = place(file) else { return ask_below!(file, xSync, flags) };
        let mut state = place.disk.state();
        if state.touch(0).code != ffi::SQLITE_OK {
            return ffi::SQLITE_IOERR_FSYNC;
        }
        let known = state.files.entry(place.path.clone()).or_default();
        for change in std::mem::take(&mut known.since) {
            match change {
                Change::Write(offset, bytes) => put(&mut known.synced, offset, &bytes),
                Change::Truncate(size) => known.synced.resize(size, 0),
            }
        }
        // The real disk need not be asked: its power stays on.
        ffi::SQLITE_OK
    }
}
