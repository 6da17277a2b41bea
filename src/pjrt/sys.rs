//! The C side of PJRT: handles, argument structs and the slots of the function table.
//!
//! Only the functions this crate calls are described. Each argument struct names its slot (the position of its
//! function among the table's function pointers) and its C name; [`super::api::Api::call`] does the rest.
//! Invariant: every struct here is `repr(C)`, begins with a [`Header`], and is valid when all zero.

use std::ffi::{c_char, c_int, c_void};

/// Bytes of the function table before its first function pointer: size, extensions, version (with padding).
pub(super) const FIRST_SLOT: usize = 40;
/// Where the table keeps its major version; the minor version follows.
pub(super) const VERSION_OFFSET: usize = 32;
/// The major version this binding speaks.
pub(super) const MAJOR: c_int = 0;

/// Functions that a plugin's table must hold to run programs: up to `PJRT_Buffer_ToHostBuffer`.
pub(super) const FUNCTIONS_NEEDED: usize = BufferToHost::SLOT + 1;

macro_rules! handles {
    ($($name:ident),* $(,)?) => {$(
        #[doc = concat!("Opaque `PJRT_", stringify!($name), "`.")]
        #[repr(C)]
        pub(super) struct $name { _opaque: [u8; 0] }
    )*};
}

handles!(
    Error,
    Event,
    Client,
    Device,
    DeviceDescription,
    Memory,
    Executable,
    LoadedExecutable,
    Buffer,
    TopologyDescription,
    SerializedExecutable,
);

/// What every argument struct begins with.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Header {
    pub(super) struct_size: usize,
    pub(super) extensions: *mut c_void,
}

/// An argument struct of one function of the table.
///
/// # Safety
/// The type is `repr(C)`, begins with a [`Header`], is valid when all zero, and agrees field by field with the
/// C struct of the function `NAME`, whose pointer is slot `SLOT` of the table.
pub(super) unsafe trait Args: Copy {
    /// Position among the table's function pointers, from 0.
    const SLOT: usize;
    /// The function's C name.
    const NAME: &'static str;
    /// The struct's first field.
    fn header(&mut self) -> &mut Header;
}

macro_rules! args {
    ($($name:ident = $slot:literal $c_name:literal { $($field:ident: $ty:ty),* $(,)? })*) => {$(
        #[doc = concat!("Arguments of `", $c_name, "`.")]
        #[repr(C)]
        #[derive(Clone, Copy)]
        pub(super) struct $name {
            pub(super) header: Header,
            $(pub(super) $field: $ty,)*
        }

        impl Default for $name {
            fn default() -> Self {
                // SAFETY: integers, floats, `bool`, raw pointers and `Option<fn>` only, all valid when zero.
                unsafe { std::mem::zeroed() }
            }
        }

        // SAFETY: `repr(C)`, header first; slot and fields follow the published header of the C API.
        unsafe impl Args for $name {
            const SLOT: usize = $slot;
            const NAME: &'static str = $c_name;
            fn header(&mut self) -> &mut Header {
                &mut self.header
            }
        }
    )*};
}

args! {
    ErrorDestroy = 0 "PJRT_Error_Destroy" { error: *mut Error }
    ErrorMessage = 1 "PJRT_Error_Message" { error: *const Error, message: *const c_char, message_size: usize }
    ErrorGetCode = 2 "PJRT_Error_GetCode" { error: *const Error, code: c_int }
    PluginInitialize = 3 "PJRT_Plugin_Initialize" {}
    PluginAttributes = 4 "PJRT_Plugin_Attributes" { attributes: *const NamedValue, num_attributes: usize }
    EventDestroy = 5 "PJRT_Event_Destroy" { event: *mut Event }
    EventIsReady = 6 "PJRT_Event_IsReady" { event: *mut Event, is_ready: bool }
    EventAwait = 8 "PJRT_Event_Await" { event: *mut Event }
    EventOnReady = 9 "PJRT_Event_OnReady" {
        event: *mut Event,
        callback: Option<unsafe extern "C" fn(*mut Error, *mut c_void)>,
        user_arg: *mut c_void,
    }
    ClientCreate = 10 "PJRT_Client_Create" {
        create_options: *const NamedValue,
        num_options: usize,
        kv_get_callback: *const c_void,
        kv_get_user_arg: *mut c_void,
        kv_put_callback: *const c_void,
        kv_put_user_arg: *mut c_void,
        client: *mut Client,
        kv_try_get_callback: *const c_void,
        kv_try_get_user_arg: *mut c_void,
    }
    ClientDestroy = 11 "PJRT_Client_Destroy" { client: *mut Client }
    ClientPlatformName = 12 "PJRT_Client_PlatformName" {
        client: *mut Client,
        platform_name: *const c_char,
        platform_name_size: usize,
    }
    ClientProcessIndex = 13 "PJRT_Client_ProcessIndex" { client: *mut Client, process_index: c_int }
    ClientPlatformVersion = 14 "PJRT_Client_PlatformVersion" {
        client: *mut Client,
        platform_version: *const c_char,
        platform_version_size: usize,
    }
    ClientDevices = 15 "PJRT_Client_Devices" {
        client: *mut Client,
        devices: *const *mut Device,
        num_devices: usize,
    }
    ClientAddressableDevices = 16 "PJRT_Client_AddressableDevices" {
        client: *mut Client,
        devices: *const *mut Device,
        num_devices: usize,
    }
    ClientCompile = 20 "PJRT_Client_Compile" {
        client: *mut Client,
        program: *const Program,
        compile_options: *const c_char,
        compile_options_size: usize,
        executable: *mut LoadedExecutable,
    }
    BufferFromHostBuffer = 22 "PJRT_Client_BufferFromHostBuffer" {
        client: *mut Client,
        data: *const c_void,
        element_type: c_int,
        dims: *const i64,
        num_dims: usize,
        byte_strides: *const i64,
        num_byte_strides: usize,
        host_buffer_semantics: c_int,
        device: *mut Device,
        memory: *mut Memory,
        device_layout: *mut MemoryLayout,
        done_with_host_buffer: *mut Event,
        buffer: *mut Buffer,
    }
    DeviceDescriptionId = 23 "PJRT_DeviceDescription_Id" { description: *mut DeviceDescription, id: c_int }
    DeviceDescriptionProcessIndex = 24 "PJRT_DeviceDescription_ProcessIndex" {
        description: *mut DeviceDescription,
        process_index: c_int,
    }
    DeviceDescriptionAttributes = 25 "PJRT_DeviceDescription_Attributes" {
        description: *mut DeviceDescription,
        num_attributes: usize,
        attributes: *const NamedValue,
    }
    DeviceDescriptionKind = 26 "PJRT_DeviceDescription_Kind" {
        description: *mut DeviceDescription,
        kind: *const c_char,
        kind_size: usize,
    }
    DeviceDescriptionDebugString = 27 "PJRT_DeviceDescription_DebugString" {
        description: *mut DeviceDescription,
        debug_string: *const c_char,
        debug_string_size: usize,
    }
    DeviceGetDescription = 29 "PJRT_Device_GetDescription" {
        device: *mut Device,
        description: *mut DeviceDescription,
    }
    DeviceLocalHardwareId = 31 "PJRT_Device_LocalHardwareId" { device: *mut Device, local_hardware_id: c_int }
    DeviceMemoryStats = 34 "PJRT_Device_MemoryStats" {
        device: *mut Device,
        bytes_in_use: i64,
        peak_bytes_in_use: OptionalBytes,
        num_allocs: OptionalBytes,
        largest_alloc_size: OptionalBytes,
        bytes_limit: OptionalBytes,
    }
    ExecutableDestroy = 40 "PJRT_Executable_Destroy" { executable: *mut Executable }
    ExecutableName = 41 "PJRT_Executable_Name" {
        executable: *mut Executable,
        name: *const c_char,
        name_size: usize,
    }
    ExecutableNumOutputs = 44 "PJRT_Executable_NumOutputs" { executable: *mut Executable, num_outputs: usize }
    ExecutableGetCostAnalysis = 46 "PJRT_Executable_GetCostAnalysis" {
        executable: *mut Executable,
        num_properties: usize,
        properties: *const NamedValue,
    }
    ExecutableOptimizedProgram = 48 "PJRT_Executable_OptimizedProgram" {
        executable: *mut Executable,
        program: *mut Program,
    }
    ExecutableSerialize = 49 "PJRT_Executable_Serialize" {
        executable: *const Executable,
        bytes: *const c_char,
        bytes_size: usize,
        serialized: *mut SerializedExecutable,
        deleter: Option<unsafe extern "C" fn(*mut SerializedExecutable)>,
    }
    LoadedExecutableDestroy = 50 "PJRT_LoadedExecutable_Destroy" { executable: *mut LoadedExecutable }
    LoadedExecutableGetExecutable = 51 "PJRT_LoadedExecutable_GetExecutable" {
        loaded_executable: *mut LoadedExecutable,
        executable: *mut Executable,
    }
    LoadedExecutableAddressableDevices = 52 "PJRT_LoadedExecutable_AddressableDevices" {
        executable: *mut LoadedExecutable,
        devices: *const *mut Device,
        num_devices: usize,
    }
    LoadedExecutableExecute = 55 "PJRT_LoadedExecutable_Execute" {
        executable: *mut LoadedExecutable,
        options: *mut ExecuteOptions,
        argument_lists: *const *const *mut Buffer,
        num_devices: usize,
        num_args: usize,
        output_lists: *const *mut *mut Buffer,
        device_complete_events: *mut *mut Event,
        execute_device: *mut Device,
    }
    ExecutableDeserializeAndLoad = 56 "PJRT_Executable_DeserializeAndLoad" {
        client: *mut Client,
        serialized: *const c_char,
        serialized_size: usize,
        loaded_executable: *mut LoadedExecutable,
        overridden_options: *const c_char,
        overridden_options_size: usize,
    }
    BufferDestroy = 58 "PJRT_Buffer_Destroy" { buffer: *mut Buffer }
    BufferElementType = 59 "PJRT_Buffer_ElementType" { buffer: *mut Buffer, element_type: c_int }
    BufferDimensions = 60 "PJRT_Buffer_Dimensions" { buffer: *mut Buffer, dims: *const i64, num_dims: usize }
    BufferOnDeviceSize = 64 "PJRT_Buffer_OnDeviceSizeInBytes" { buffer: *mut Buffer, bytes: usize }
    BufferIsDeleted = 68 "PJRT_Buffer_IsDeleted" { buffer: *mut Buffer, is_deleted: bool }
    BufferToHost = 70 "PJRT_Buffer_ToHostBuffer" {
        source: *mut Buffer,
        host_layout: *mut MemoryLayout,
        destination: *mut c_void,
        destination_size: usize,
        event: *mut Event,
    }
    BufferReadyEvent = 72 "PJRT_Buffer_ReadyEvent" { buffer: *mut Buffer, event: *mut Event }
    BufferUnsafePointer = 73 "PJRT_Buffer_UnsafePointer" { buffer: *mut Buffer, address: usize }
    TopologyCreate = 82 "PJRT_TopologyDescription_Create" {
        name: *const c_char,
        name_size: usize,
        create_options: *const NamedValue,
        num_options: usize,
        topology: *mut TopologyDescription,
    }
    TopologyDestroy = 83 "PJRT_TopologyDescription_Destroy" { topology: *mut TopologyDescription }
    TopologyPlatformName = 84 "PJRT_TopologyDescription_PlatformName" {
        topology: *const TopologyDescription,
        platform_name: *const c_char,
        platform_name_size: usize,
    }
    TopologyPlatformVersion = 85 "PJRT_TopologyDescription_PlatformVersion" {
        topology: *mut TopologyDescription,
        platform_version: *const c_char,
        platform_version_size: usize,
    }
    TopologyDeviceDescriptions = 86 "PJRT_TopologyDescription_GetDeviceDescriptions" {
        topology: *const TopologyDescription,
        descriptions: *const *mut DeviceDescription,
        num_descriptions: usize,
    }
    TopologyAttributes = 88 "PJRT_TopologyDescription_Attributes" {
        topology: *mut TopologyDescription,
        attributes: *const NamedValue,
        num_attributes: usize,
    }
    TopologyCompile = 89 "PJRT_Compile" {
        topology: *const TopologyDescription,
        program: *const Program,
        compile_options: *const c_char,
        compile_options_size: usize,
        client: *mut Client,
        executable: *mut Executable,
    }
    ExecutableFingerprint = 94 "PJRT_Executable_Fingerprint" {
        executable: *mut Executable,
        fingerprint: *const c_char,
        fingerprint_size: usize,
    }
    ExecutableMemoryStats = 96 "PJRT_Executable_GetCompiledMemoryStats" {
        executable: *mut Executable,
        generated_code: i64,
        arguments: i64,
        outputs: i64,
        aliased: i64,
        temporaries: i64,
        host_generated_code: i64,
        host_arguments: i64,
        host_outputs: i64,
        host_aliased: i64,
        host_temporaries: i64,
        peak: i64,
    }
}

/// An `int64_t` with the `bool` behind it that says whether it is set.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct OptionalBytes {
    pub(super) value: i64,
    pub(super) is_set: bool,
}

/// `PJRT_NamedValue`; an array element, so its stated size is exact.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct NamedValue {
    pub(super) header: Header,
    pub(super) name: *const c_char,
    pub(super) name_size: usize,
    pub(super) kind: c_int,
    pub(super) value: NamedValueUnion,
    pub(super) value_size: usize,
}

/// The value of a [`NamedValue`]; its `kind` says which member holds.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) union NamedValueUnion {
    pub(super) string: *const c_char,
    pub(super) int64: i64,
    pub(super) int64_list: *const i64,
    pub(super) float: f32,
    pub(super) boolean: bool,
}

pub(super) const NAMED_STRING: c_int = 0;
pub(super) const NAMED_INT64: c_int = 1;
pub(super) const NAMED_INT64_LIST: c_int = 2;
pub(super) const NAMED_FLOAT: c_int = 3;
pub(super) const NAMED_BOOL: c_int = 4;

/// `PJRT_Program`: code and the name of its format.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Program {
    pub(super) header: Header,
    pub(super) code: *mut c_char,
    pub(super) code_size: usize,
    pub(super) format: *const c_char,
    pub(super) format_size: usize,
}

/// `PJRT_ExecuteOptions`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct ExecuteOptions {
    pub(super) header: Header,
    pub(super) send_callbacks: *mut c_void,
    pub(super) recv_callbacks: *mut c_void,
    pub(super) num_send_ops: usize,
    pub(super) num_recv_ops: usize,
    pub(super) launch_id: c_int,
    pub(super) non_donatable_input_indices: *const i64,
    pub(super) num_non_donatable_input_indices: usize,
}

/// `PJRT_Buffer_MemoryLayout` in its tiled form, whose fields share the union with the shorter strided form.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct MemoryLayout {
    pub(super) header: Header,
    pub(super) tiled: TiledLayout,
    pub(super) kind: c_int,
}

/// `PJRT_Buffer_MemoryLayout_Tiled`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct TiledLayout {
    pub(super) header: Header,
    pub(super) minor_to_major: *const i64,
    pub(super) minor_to_major_size: usize,
    pub(super) tile_dims: *const i64,
    pub(super) tile_dim_sizes: *const usize,
    pub(super) num_tiles: usize,
}

/// `kTiled` of `PJRT_Buffer_MemoryLayout_Type`.
pub(super) const LAYOUT_TILED: c_int = 0;
/// The plugin copies the host bytes before the call returns.
pub(super) const IMMUTABLE_ONLY_DURING_CALL: c_int = 0;
/// The plugin reads the host bytes until `done_with_host_buffer` is ready.
pub(super) const IMMUTABLE_UNTIL_TRANSFER_COMPLETES: c_int = 1;

/// A struct with room behind it, stated as part of its size: plugins refuse a struct smaller than their own and
/// accept a larger one, whose unknown tail must be zero.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Oversized<T> {
    pub(super) inner: T,
    slack: [u64; 32],
}

impl<T> Oversized<T> {
    /// `inner` with a zeroed tail; the caller states [`Self::SIZE`] in its header.
    pub(super) fn new(inner: T) -> Self {
        Self { inner, slack: [0; 32] }
    }

    /// A pointer to `inner` that may also reach the tail.
    pub(super) fn as_ptr(&mut self) -> *mut T {
        (&raw mut *self).cast()
    }

    /// The size to state.
    pub(super) const SIZE: usize = size_of::<Self>();
}

impl Header {
    /// A header that states `struct_size` and carries no extensions.
    pub(super) const fn sized(struct_size: usize) -> Self {
        Self { struct_size, extensions: std::ptr::null_mut() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sizes computed by a C compiler from the header of C API 0.81.
    #[test]
    fn layouts_agree_with_the_c_header() {
        let sizes = [
            (size_of::<ClientCreate>(), 88),
            (size_of::<ClientCompile>(), 56),
            (size_of::<BufferFromHostBuffer>(), 120),
            (size_of::<LoadedExecutableExecute>(), 80),
            (size_of::<ExecutableSerialize>(), 56),
            (size_of::<ExecutableDeserializeAndLoad>(), 64),
            (size_of::<BufferToHost>(), 56),
            (size_of::<TopologyCreate>(), 56),
            (size_of::<TopologyCompile>(), 64),
            (size_of::<ExecutableMemoryStats>(), 112),
            (size_of::<NamedValue>(), 56),
            (size_of::<Program>(), 48),
            (size_of::<MemoryLayout>(), 80),
            (std::mem::offset_of!(ExecuteOptions, non_donatable_input_indices), 56),
            (std::mem::offset_of!(DeviceMemoryStats, bytes_limit), 80),
            (std::mem::offset_of!(ClientCreate, client), 64),
        ];
        for (index, (ours, theirs)) in sizes.into_iter().enumerate() {
            assert_eq!(ours, theirs, "entry {index}");
        }
    }
}
