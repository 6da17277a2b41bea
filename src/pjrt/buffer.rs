//! Buffers: dense arrays in a device's memory.

use std::ptr::NonNull;

use super::api::{self, filled};
use super::client::Client;
use super::element::ElementType;
use super::error::Result;
use super::event::Event;
use super::sys::{self, Header, Oversized};

/// An array on one device; freed when dropped. Donating it to a program takes it by value.
#[derive(Debug)]
pub struct Buffer {
    client: Client,
    raw: NonNull<sys::Buffer>,
}

// SAFETY: PJRT buffers are thread-safe.
unsafe impl Send for Buffer {}
// SAFETY: PJRT buffers are thread-safe.
unsafe impl Sync for Buffer {}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: `self` owns the buffer; work that still uses its memory holds it inside the plugin.
        unsafe { self.client.api().destroy(sys::BufferDestroy { buffer: self.raw(), ..Default::default() }) }
    }
}

impl Buffer {
    /// Takes over a buffer of `client` that nobody else destroys.
    pub(super) fn from_raw(client: &Client, raw: NonNull<sys::Buffer>) -> Self {
        Self { client: client.clone(), raw }
    }

    pub(super) fn raw(&self) -> *mut sys::Buffer {
        self.raw.as_ptr()
    }

    /// The client the buffer belongs to.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Element type.
    ///
    /// # Errors
    /// The type is not one of [`ElementType`].
    pub fn element_type(&self) -> Result<ElementType> {
        let args = sys::BufferElementType { buffer: self.raw(), ..Default::default() };
        // SAFETY: the buffer is alive.
        let args = unsafe { self.client.api().call(args) }?;
        ElementType::from_code("PJRT_Buffer_ElementType", args.element_type)
    }

    /// Dimensions, outermost first.
    ///
    /// # Errors
    /// The call fails.
    pub fn dims(&self) -> Result<Vec<usize>> {
        let args = sys::BufferDimensions { buffer: self.raw(), ..Default::default() };
        // SAFETY: the buffer is alive.
        let args = unsafe { self.client.api().call(args) }?;
        // SAFETY: the dimensions live as long as the buffer.
        let dims = unsafe { api::slice(args.dims, args.num_dims) };
        Ok(dims.iter().map(|&dim| dim as usize).collect())
    }

    /// Bytes the buffer takes on its device, padding included.
    ///
    /// # Errors
    /// The call fails.
    pub fn device_bytes(&self) -> Result<usize> {
        let args = sys::BufferOnDeviceSize { buffer: self.raw(), ..Default::default() };
        // SAFETY: the buffer is alive.
        Ok(unsafe { self.client.api().call(args) }?.bytes)
    }

    /// Whether the buffer's memory is gone, because it was donated.
    ///
    /// # Errors
    /// The call fails.
    pub fn is_deleted(&self) -> Result<bool> {
        let args = sys::BufferIsDeleted { buffer: self.raw(), ..Default::default() };
        // SAFETY: the buffer is alive.
        Ok(unsafe { self.client.api().call(args) }?.is_deleted)
    }

    /// Where the buffer lies, to tell whether two share memory; a number, not to be dereferenced.
    ///
    /// # Errors
    /// The plugin does not say.
    pub fn device_address(&self) -> Result<usize> {
        let args = sys::BufferUnsafePointer { buffer: self.raw(), ..Default::default() };
        // SAFETY: the buffer is alive.
        Ok(unsafe { self.client.api().call(args) }?.address)
    }

    /// Blocks until the buffer holds its values.
    ///
    /// # Errors
    /// The transfer or program that makes it failed.
    pub fn wait(&self) -> Result<()> {
        self.ready_event()?.map_or(Ok(()), |event| event.wait("PJRT_Buffer_ReadyEvent"))
    }

    /// Whether the buffer holds its values, or what makes it has failed.
    ///
    /// # Errors
    /// The call fails.
    pub fn is_ready(&self) -> Result<bool> {
        self.ready_event()?.map_or(Ok(true), |event| event.is_ready())
    }

    fn ready_event(&self) -> Result<Option<Event>> {
        let args = sys::BufferReadyEvent { buffer: self.raw(), ..Default::default() };
        // SAFETY: the buffer is alive.
        let args = unsafe { self.client.api().call(args) }?;
        // SAFETY: the event is this call's own.
        Ok(unsafe { Event::from_raw(self.client.api(), args.event) })
    }

    /// Copies the array to the host, dense and row-major, whatever its layout on the device.
    ///
    /// # Errors
    /// The buffer was donated, or what makes it failed.
    pub fn to_host(&self) -> Result<Vec<u8>> {
        let dims = self.dims()?;
        let size = dims.iter().product::<usize>() * self.element_type()?.bytes();
        let minor_to_major: Vec<i64> = (0..dims.len() as i64).rev().collect();
        let mut layout = row_major(&minor_to_major);
        let mut bytes = vec![0_u8; size];
        let args = sys::BufferToHost {
            source: self.raw(),
            host_layout: layout.as_ptr(),
            destination: bytes.as_mut_ptr().cast(),
            destination_size: size,
            ..Default::default()
        };
        // SAFETY: layout and its indices live until the call returns; `bytes` is as large as the dense array and
        // is neither read nor freed before the event below is ready.
        let args = unsafe { self.client.api().call(args) }?;
        // SAFETY: the event is this call's own.
        let done = unsafe { Event::from_raw(self.client.api(), args.event) };
        filled::<sys::BufferToHost, _>(args.event)?;
        done.map_or(Ok(()), |event| event.wait("PJRT_Buffer_ToHostBuffer"))?;
        Ok(bytes)
    }
}

/// A dense layout without tiles; borrows `minor_to_major`.
fn row_major(minor_to_major: &[i64]) -> Oversized<sys::MemoryLayout> {
    let tiled = sys::TiledLayout {
        header: Header::sized(size_of::<sys::TiledLayout>()),
        minor_to_major: minor_to_major.as_ptr(),
        minor_to_major_size: minor_to_major.len(),
        tile_dims: std::ptr::null(),
        tile_dim_sizes: std::ptr::null(),
        num_tiles: 0,
    };
    let header = Header::sized(Oversized::<sys::MemoryLayout>::SIZE);
    Oversized::new(sys::MemoryLayout { header, tiled, kind: sys::LAYOUT_TILED })
}
