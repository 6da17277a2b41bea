//! Events: the end of work the plugin does in the background.

use std::any::Any;
use std::ffi::c_void;
use std::ptr::NonNull;

use super::api::Api;
use super::error::Result;
use super::sys;

/// The pending end of some work; destroyed when dropped (the work goes on).
pub(super) struct Event {
    api: &'static Api,
    raw: NonNull<sys::Event>,
}

// SAFETY: events may be awaited and destroyed on any thread.
unsafe impl Send for Event {}

impl Event {
    /// Takes over an event; `None` if it is null, which means that there is nothing to wait for.
    ///
    /// # Safety
    /// `raw` is null or an event of `api` that nobody else destroys.
    pub(super) unsafe fn from_raw(api: &'static Api, raw: *mut sys::Event) -> Option<Self> {
        NonNull::new(raw).map(|raw| Self { api, raw })
    }

    /// Whether the work is done, or has failed.
    ///
    /// # Errors
    /// The call fails.
    pub(super) fn is_ready(&self) -> Result<bool> {
        let args = sys::EventIsReady { event: self.raw.as_ptr(), ..Default::default() };
        // SAFETY: the event is alive.
        Ok(unsafe { self.api.call(args) }?.is_ready)
    }

    /// Blocks until the work is done.
    ///
    /// # Errors
    /// The failure of the work itself, under the name of the function that started it.
    pub(super) fn wait(self, started_by: &'static str) -> Result<()> {
        let args = sys::EventAwait { event: self.raw.as_ptr(), ..Default::default() };
        // SAFETY: the event is alive until `self` drops.
        unsafe { self.api.call(args) }.map(drop).map_err(|error| match error {
            super::Error::Call(mut error) => {
                error.function = started_by;
                error.into()
            }
            other => other,
        })
    }

    /// Keeps `value` alive until the work is done, without blocking.
    ///
    /// # Errors
    /// The plugin takes no callback; then the work has been waited for, and `value` is gone as well.
    pub(super) fn keep_alive(self, value: Box<dyn Any + Send>) -> Result<()> {
        let (api, event) = (self.api, self.raw.as_ptr());
        let kept = Box::into_raw(Box::new(KeptAlive { event: self, _value: value }));
        let args = sys::EventOnReady {
            event,
            callback: Some(release_kept_alive),
            user_arg: kept.cast(),
            ..Default::default()
        };
        // SAFETY: the event lives in `kept`, which the callback frees, once.
        let registered = unsafe { api.call(args) };
        if registered.is_err() {
            // SAFETY: no callback was registered, so this is the only owner of `kept`.
            let kept = unsafe { Box::from_raw(kept) };
            let KeptAlive { event, _value } = *kept;
            event.wait("PJRT_Event_OnReady")?;
        }
        registered.map(drop)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: `self` owns the event, and it is not used after this.
        unsafe { self.api.destroy(sys::EventDestroy { event: self.raw.as_ptr(), ..Default::default() }) }
    }
}

struct KeptAlive {
    event: Event,
    _value: Box<dyn Any + Send>,
}

/// Frees what [`Event::keep_alive`] kept; a failed transfer shows when the buffer is used.
unsafe extern "C" fn release_kept_alive(error: *mut sys::Error, kept: *mut c_void) {
    // SAFETY: `kept` is the box that `keep_alive` registered, and the plugin calls back once.
    let kept = unsafe { Box::from_raw(kept.cast::<KeptAlive>()) };
    // SAFETY: the callback owns `error`.
    let _ = unsafe { kept.event.api.check("PJRT_Event_OnReady", error) };
}
