//! The doorway: one plugin's function table, and the one function through which every call goes.
//!
//! Invariant: the table is read in place, slot by slot, never past the size it states; argument structs are
//! stated larger than any plugin's own with a zero tail, since plugins refuse smaller ones only.

use std::collections::HashMap;
use std::error::Error as _;
use std::ffi::{c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::{Mutex, OnceLock, PoisonError};

use super::error::{Error, ErrorCode, PjrtError, Result};
use super::sys::{self, Args, Header, Oversized};

/// The entry point every plugin exports.
const ENTRY_POINT: &[u8] = b"GetPjrtApi\0";

type EntryPoint = unsafe extern "C" fn() -> *const u8;
type Function = unsafe extern "C" fn(*mut c_void) -> *mut sys::Error;
type VoidFunction = unsafe extern "C" fn(*mut c_void);

/// One loaded plugin's function table.
#[derive(Debug)]
pub(super) struct Api {
    table: NonNull<u8>,
    table_size: usize,
    version: (c_int, c_int),
    path: PathBuf,
}

// SAFETY: the table is constant static memory of a library that is never unloaded, and PJRT functions are
// documented as callable from any thread.
unsafe impl Send for Api {}
// SAFETY: as above; `Api` has no interior mutability.
unsafe impl Sync for Api {}

impl Api {
    /// Loads and initializes the library at `path`, once per process and file.
    ///
    /// # Errors
    /// The file is no loadable library, no plugin, or of another major version; or its initialization fails.
    pub(super) fn load(path: &Path) -> Result<&'static Self> {
        static LOADED: OnceLock<Mutex<HashMap<PathBuf, &'static Api>>> = OnceLock::new();
        let canonical = path.canonicalize().map_err(|source| load_error(path, source))?;
        let mut loaded = LOADED.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(api) = loaded.get(&canonical) {
            return Ok(api);
        }
        let api: &'static Self = Box::leak(Box::new(Self::open(&canonical)?));
        api.initialize()?;
        loaded.insert(canonical, api);
        Ok(api)
    }

    /// Version of the plugin at `path`, loaded but not initialized.
    ///
    /// # Errors
    /// As for [`Self::load`].
    pub(super) fn probe(path: &Path) -> Result<(i32, i32)> {
        Self::open(path).map(|api| api.version)
    }

    fn open(path: &Path) -> Result<Self> {
        // SAFETY: loading runs the library's initializers; the file is one the user named or the program
        // installed after checking its hash.
        let library = unsafe { libloading::Library::new(path) }.map_err(|error| {
            // What the loader found wrong is in the source alone.
            let reason = error.source().map_or_else(|| error.to_string(), ToString::to_string);
            load_error(path, reason)
        })?;
        // A plugin has threads and static state of its own: it stays until the process ends.
        let library: &'static libloading::Library = Box::leak(Box::new(library));
        // SAFETY: the C API gives this symbol the type `const PJRT_Api* (*)(void)`.
        let entry = unsafe { library.get::<EntryPoint>(ENTRY_POINT) }
            .map_err(|_| load_error(path, "it does not export GetPjrtApi, so it is no PJRT plugin"))?;
        // SAFETY: the entry point takes nothing and returns a static table or null.
        let table = NonNull::new(unsafe { entry() }.cast_mut())
            .ok_or_else(|| load_error(path, "GetPjrtApi returned a null table"))?;
        // SAFETY: whatever its version, a table begins with its size in bytes.
        let table_size = unsafe { table.cast::<usize>().read() };
        if table_size < sys::FIRST_SLOT {
            return Err(load_error(path, format!("its function table states {table_size} bytes")));
        }
        // SAFETY: the table is at least `FIRST_SLOT` bytes, and the version stands before that.
        let version = unsafe {
            let version = table.add(sys::VERSION_OFFSET).cast::<c_int>();
            (version.read(), version.add(1).read())
        };
        if version.0 != sys::MAJOR {
            return Err(Error::Version {
                path: path.to_owned(),
                found_major: version.0,
                found_minor: version.1,
                expected_major: sys::MAJOR,
            });
        }
        let api = Self { table, table_size, version, path: path.to_owned() };
        if api.slots() < sys::FUNCTIONS_NEEDED {
            return Err(Error::TooOld {
                path: path.to_owned(),
                major: version.0,
                minor: version.1,
                functions: api.slots(),
                needed: sys::FUNCTIONS_NEEDED,
            });
        }
        Ok(api)
    }

    fn initialize(&self) -> Result<()> {
        // SAFETY: the function takes no argument beyond the header.
        unsafe { self.call(sys::PluginInitialize::default()) }.map(drop)
    }

    /// Major and minor version of the plugin's C API.
    pub(super) fn version(&self) -> (i32, i32) {
        self.version
    }

    /// The library's file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// How many function pointers the table holds.
    pub(super) fn slots(&self) -> usize {
        (self.table_size - sys::FIRST_SLOT) / size_of::<usize>()
    }

    /// Calls the function of `A` and gives back the arguments with their out-fields filled.
    ///
    /// # Errors
    /// [`Error::MissingFunction`] if the table lacks it; [`Error::Call`] if it fails.
    ///
    /// # Safety
    /// Every pointer in `args` meets what the C API asks of it for the duration of the call (and longer where the
    /// function says so).
    pub(super) unsafe fn call<A: Args>(&self, args: A) -> Result<A> {
        let mut sized = oversized(args);
        // SAFETY: the slot of `A` holds a function of this type, by the contract of `Args`.
        let function: Function = unsafe { std::mem::transmute(self.slot::<A>()?) };
        // SAFETY: the argument struct is as the function expects; its pointers are the caller's promise.
        let error = unsafe { function((&raw mut sized).cast()) };
        // SAFETY: `error` is null or an error this call owns.
        unsafe { self.check(A::NAME, error) }?;
        Ok(sized.inner)
    }

    /// As [`Self::call`] for the functions that return nothing.
    ///
    /// # Safety
    /// As for [`Self::call`], and the function of `A` returns `void`.
    unsafe fn call_void<A: Args>(&self, args: A) -> Option<A> {
        let mut sized = oversized(args);
        // SAFETY: the caller promises that the slot of `A` holds a function of this type.
        let function: VoidFunction = unsafe { std::mem::transmute(self.slot::<A>().ok()?) };
        // SAFETY: the argument struct is as the function expects; its pointers are the caller's promise.
        unsafe { function((&raw mut sized).cast()) };
        Some(sized.inner)
    }

    /// Destroys an object in a `Drop`, where a failure has nowhere to go.
    ///
    /// # Safety
    /// As for [`Self::call`]; the object is not used again.
    pub(super) unsafe fn destroy<A: Args>(&self, args: A) {
        // SAFETY: the caller's promise.
        let _ = unsafe { self.call(args) };
    }

    /// Turns an error object into a value and frees it.
    ///
    /// # Safety
    /// `error` is null or an error of this plugin that nobody else frees.
    pub(super) unsafe fn check(&self, function: &'static str, error: *mut sys::Error) -> Result<()> {
        if error.is_null() {
            return Ok(());
        }
        let message = sys::ErrorMessage { error, ..Default::default() };
        // SAFETY: `error` is alive; this function returns `void`.
        let message = unsafe { self.call_void(message) }
            // SAFETY: the message lives as long as `error`.
            .map(|args| unsafe { string(args.message, args.message_size) })
            .unwrap_or_default();
        let code = self.error_code(error);
        // SAFETY: `error` is alive and not used after this; this function returns `void`.
        unsafe { self.call_void(sys::ErrorDestroy { error, ..Default::default() }) };
        Err(PjrtError { function, code, message }.into())
    }

    fn error_code(&self, error: *const sys::Error) -> ErrorCode {
        // A failure to tell the code must not ask for the code of that failure.
        let mut sized = oversized(sys::ErrorGetCode { error, ..Default::default() });
        let Ok(slot) = self.slot::<sys::ErrorGetCode>() else { return ErrorCode::Unknown };
        // SAFETY: the slot holds a function of this type.
        let function: Function = unsafe { std::mem::transmute(slot) };
        // SAFETY: `error` is alive during the call.
        let failure = unsafe { function((&raw mut sized).cast()) };
        if failure.is_null() { ErrorCode::from_raw(sized.inner.code) } else { ErrorCode::Unknown }
    }

    /// The function pointer of `A`, if the table reaches that far and the plugin fills it.
    fn slot<A: Args>(&self) -> Result<NonNull<c_void>> {
        let offset = sys::FIRST_SLOT + A::SLOT * size_of::<usize>();
        let missing = || Error::MissingFunction {
            function: A::NAME,
            path: self.path.clone(),
            major: self.version.0,
            minor: self.version.1,
        };
        if offset + size_of::<usize>() > self.table_size {
            return Err(missing());
        }
        // SAFETY: the slot lies inside the size the table states.
        let pointer = unsafe { self.table.add(offset).cast::<*mut c_void>().read() };
        NonNull::new(pointer).ok_or_else(missing)
    }
}

fn oversized<A: Args>(mut args: A) -> Oversized<A> {
    *args.header() = Header::sized(Oversized::<A>::SIZE);
    Oversized::new(args)
}

fn load_error(path: &Path, reason: impl ToString) -> Error {
    Error::Load { path: path.to_owned(), reason: reason.to_string() }
}

/// Copies a string the plugin owns.
///
/// # Safety
/// `pointer` is null or points to `size` readable bytes.
pub(super) unsafe fn string(pointer: *const c_char, size: usize) -> String {
    // SAFETY: the caller's promise.
    String::from_utf8_lossy(unsafe { slice(pointer.cast::<u8>(), size) }).into_owned()
}

/// A plugin's array as a slice; empty if null.
///
/// # Safety
/// `pointer` is null or points to `length` readable values that live for `'a`.
pub(super) unsafe fn slice<'a, T>(pointer: *const T, length: usize) -> &'a [T] {
    if pointer.is_null() || length == 0 {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts(pointer, length) }
}

/// A pointer the plugin must have filled.
pub(super) fn filled<A: Args, T>(pointer: *mut T) -> Result<NonNull<T>> {
    NonNull::new(pointer).ok_or_else(|| Error::Unexpected {
        function: A::NAME,
        found: "a null pointer".into(),
        expected: "an object".into(),
    })
}
