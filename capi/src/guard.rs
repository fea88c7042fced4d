//! What stands between C and Rust: no panic crosses, errors become a status and a sentence, pointers become references.

use std::any::Any;
use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::VkllmStatus;

thread_local! {
    static LAST: RefCell<CString> = RefCell::default();
}

/// Why a call failed.
pub(crate) struct Failure {
    pub(crate) status: VkllmStatus,
    pub(crate) sentence: String,
}

impl Failure {
    pub(crate) fn input(sentence: impl Into<String>) -> Self {
        Failure { status: VkllmStatus::Input, sentence: sentence.into() }
    }
}

impl From<vkllm::Error> for Failure {
    fn from(error: vkllm::Error) -> Self {
        let device = matches!(error, vkllm::Error::Device(_) | vkllm::Error::NotFinite { .. });
        let status = if device { VkllmStatus::Device } else { VkllmStatus::Input };
        Failure { status, sentence: error.to_string() }
    }
}

impl From<vkllm::chat::ChatError> for Failure {
    fn from(error: vkllm::chat::ChatError) -> Self {
        Failure::input(error.to_string())
    }
}

fn keep(sentence: String) {
    let sentence = CString::new(sentence.replace('\0', " ")).unwrap_or_default();
    LAST.with(|last| *last.borrow_mut() = sentence);
}

/// The sentence of this thread's last failure.
pub(crate) fn last() -> *const c_char {
    LAST.with(|last| last.borrow().as_ptr())
}

fn told(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

/// Runs the body of a function that C calls.
pub(crate) fn guard(body: impl FnOnce() -> Result<(), Failure>) -> VkllmStatus {
    let failure = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => return VkllmStatus::Ok,
        Ok(Err(failure)) => failure,
        Err(panic) => {
            let sentence = format!("a bug in vkllm, please report it: {}", told(&*panic));
            // What a panic carries may panic when it is dropped.
            std::mem::forget(panic);
            Failure { status: VkllmStatus::Bug, sentence }
        }
    };
    keep(failure.sentence);
    failure.status
}

/// A handle to read.
///
/// # Safety
/// As the header says: null, or a handle that was not freed and nobody changes meanwhile.
pub(crate) unsafe fn shared<'a, T>(pointer: *const T, what: &str) -> Result<&'a T, Failure> {
    // SAFETY: the caller's promise.
    unsafe { pointer.as_ref() }.ok_or_else(|| Failure::input(format!("{what} is null")))
}

/// A handle to change, or a place to write to.
///
/// # Safety
/// As [`shared`], and nobody else uses it meanwhile.
pub(crate) unsafe fn unique<'a, T>(pointer: *mut T, what: &str) -> Result<&'a mut T, Failure> {
    // SAFETY: the caller's promise.
    unsafe { pointer.as_mut() }.ok_or_else(|| Failure::input(format!("{what} is null")))
}

/// `count` values to read; null goes with 0 alone.
///
/// # Safety
/// Null, or so many values that nobody changes meanwhile.
pub(crate) unsafe fn slice<'a, T>(pointer: *const T, count: usize, what: &str) -> Result<&'a [T], Failure> {
    match (pointer.is_null(), count) {
        (_, 0) => Ok(&[]),
        (true, _) => Err(Failure::input(format!("{what} is null, but has {count} elements"))),
        // SAFETY: the caller's promise.
        (false, _) => Ok(unsafe { std::slice::from_raw_parts(pointer, count) }),
    }
}

/// Text that ends with 0, or `None` for null.
///
/// # Safety
/// Null, or a text that ends and nobody changes meanwhile.
pub(crate) unsafe fn text<'a>(pointer: *const c_char, what: &str) -> Result<Option<&'a str>, Failure> {
    if pointer.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's promise.
    let bytes = unsafe { CStr::from_ptr(pointer) };
    bytes.to_str().map(Some).map_err(|_| Failure::input(format!("{what} is not UTF-8")))
}

/// As [`text`], where null is an error.
///
/// # Safety
/// As [`text`].
pub(crate) unsafe fn needed<'a>(pointer: *const c_char, what: &str) -> Result<&'a str, Failure> {
    // SAFETY: the caller's promise.
    unsafe { text(pointer, what) }?.ok_or_else(|| Failure::input(format!("{what} is null")))
}

/// Gives a new handle away.
///
/// # Safety
/// `out` is null or a place to write to.
pub(crate) unsafe fn give<T>(out: *mut *mut T, value: T) -> Result<(), Failure> {
    // SAFETY: the caller's promise.
    *unsafe { unique(out, "the place for the handle") }? = Box::into_raw(Box::new(value));
    Ok(())
}

/// Takes a handle back and drops it. A panic on the way is swallowed: nobody could be told.
///
/// # Safety
/// Null, or a handle from [`give`] that is not used again.
pub(crate) unsafe fn free<T>(handle: *mut T) {
    if !handle.is_null() {
        let _ = guard(|| {
            // SAFETY: the caller's promise.
            drop(unsafe { Box::from_raw(handle) });
            Ok(())
        });
    }
}

/// Copies as many values as there is room for and says how many there are.
///
/// # Safety
/// `room` has room for `capacity` values or is null with 0; `count` is a place to write to.
pub(crate) unsafe fn copy<T: Copy>(
    values: &[T],
    room: *mut T,
    capacity: usize,
    count: *mut usize,
) -> Result<(), Failure> {
    // SAFETY: the caller's promise.
    *unsafe { unique(count, "the place for the number of elements") }? = values.len();
    if capacity == 0 {
        return Ok(());
    }
    if values.len() > capacity {
        let sentence = format!("there is room for {capacity} elements, but there are {}", values.len());
        return Err(Failure { status: VkllmStatus::Room, sentence });
    }
    if room.is_null() {
        return Err(Failure::input("the place for the elements is null"));
    }
    // SAFETY: the caller's promise, and the values are no more than there is room for.
    unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), room, values.len()) };
    Ok(())
}
