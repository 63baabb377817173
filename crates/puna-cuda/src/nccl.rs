//! Sums and copies between the GPUs of several processes by NCCL, in their memory.
//!
//! The library is opened when the first communicator is wanted (libnccl.so.2, of NVIDIA's packages or
//! beside PyTorch), so that puna is built and runs without it.

#![expect(unsafe_code, reason = "a C library is opened and called")]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::{Arc, OnceLock};

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::CudaStream;
use candle_core::{Device, Result, Tensor};
use libloading::Library;

use crate::launch::address;
use crate::tensors::floats;

/// Names under which the library is looked for.
const NAMES: [&str; 2] = ["libnccl.so.2", "libnccl.so"];

/// Bytes that tell the processes of a communicator from those of others.
pub const ID_BYTES: usize = 128;

/// `ncclFloat32` and `ncclSum`.
const FLOAT: c_int = 7;
const SUM: c_int = 0;

#[repr(C)]
#[derive(Clone, Copy)]
struct Id {
    bytes: [c_char; ID_BYTES],
}

type Handle = *mut c_void;
type GetId = unsafe extern "C" fn(*mut Id) -> c_int;
type Init = unsafe extern "C" fn(*mut Handle, c_int, Id, c_int) -> c_int;
type Reduce = unsafe extern "C" fn(
    *const c_void,
    *mut c_void,
    usize,
    c_int,
    c_int,
    c_int,
    Handle,
    *mut c_void,
) -> c_int;
type Broadcast = unsafe extern "C" fn(
    *const c_void,
    *mut c_void,
    usize,
    c_int,
    c_int,
    Handle,
    *mut c_void,
) -> c_int;
type Destroy = unsafe extern "C" fn(Handle) -> c_int;
type ErrorText = unsafe extern "C" fn(c_int) -> *const c_char;

/// The functions of the library.
struct Api {
    get_id: GetId,
    init: Init,
    reduce: Reduce,
    broadcast: Broadcast,
    destroy: Destroy,
    error_text: ErrorText,
    /// Where they are.
    _library: Library,
}

impl Api {
    /// `None` if there is no such library. It stays open: it has threads of its own.
    fn get() -> Result<Option<&'static Self>> {
        static API: OnceLock<std::result::Result<Option<Api>, String>> = OnceLock::new();
        match API.get_or_init(|| Self::open().map_err(|error| error.to_string())) {
            Ok(api) => Ok(api.as_ref()),
            Err(problem) => candle_core::bail!("NCCL cannot be used: {problem}"),
        }
    }

    fn open() -> Result<Option<Self>> {
        // SAFETY: NCCL's initializers ask for nothing.
        let Some(library) = NAMES.iter().find_map(|name| unsafe { Library::new(*name) }.ok())
        else {
            return Ok(None);
        };
        let missing = |error: libloading::Error| candle_core::Error::wrap(error);
        // SAFETY: the types are those of nccl.h, of version 2.
        let api = unsafe {
            Self {
                get_id: *library.get::<GetId>(b"ncclGetUniqueId\0").map_err(missing)?,
                init: *library.get::<Init>(b"ncclCommInitRank\0").map_err(missing)?,
                reduce: *library.get::<Reduce>(b"ncclReduce\0").map_err(missing)?,
                broadcast: *library.get::<Broadcast>(b"ncclBroadcast\0").map_err(missing)?,
                destroy: *library.get::<Destroy>(b"ncclCommDestroy\0").map_err(missing)?,
                error_text: *library.get::<ErrorText>(b"ncclGetErrorString\0").map_err(missing)?,
                _library: library,
            }
        };
        Ok(Some(api))
    }

    fn check(&self, code: c_int) -> Result<()> {
        if code == 0 {
            return Ok(());
        }
        // SAFETY: the text is static, and ends with a zero.
        let text = unsafe { CStr::from_ptr((self.error_text)(code)) };
        candle_core::bail!("NCCL: {}", text.to_string_lossy())
    }
}

/// What tells a new communicator from others, to be given to all of its processes; `None` if there is no
/// NCCL.
///
/// # Errors
/// If NCCL refuses.
pub fn new_id() -> Result<Option<[u8; ID_BYTES]>> {
    let Some(api) = Api::get()? else { return Ok(None) };
    let mut id = Id { bytes: [0; ID_BYTES] };
    // SAFETY: the id has the size that the library writes.
    api.check(unsafe { (api.get_id)(&raw mut id) })?;
    Ok(Some(id.bytes.map(|byte| byte as u8)))
}

/// The GPUs of some processes.
pub struct Communicator {
    api: &'static Api,
    handle: Handle,
    /// The stream of kernels, and the one of sums, which go on beside them.
    compute: Arc<CudaStream>,
    stream: Arc<CudaStream>,
}

// SAFETY: a communicator may be used by any thread, one at a time: puna's ranks are called in one order.
unsafe impl Send for Communicator {}
// SAFETY: as above; NCCL guards its own state.
unsafe impl Sync for Communicator {}

impl Communicator {
    /// Joins the processes that have the same id; returns when all have. `None` if there is no NCCL, or
    /// the device is no GPU.
    ///
    /// # Errors
    /// If NCCL refuses, as it does where two processes share a GPU.
    pub fn join(
        device: &Device,
        id: [u8; ID_BYTES],
        (rank, size): (usize, usize),
    ) -> Result<Option<Self>> {
        let (Device::Cuda(device), Some(api)) = (device, Api::get()?) else { return Ok(None) };
        let compute = device.cuda_stream();
        compute.context().bind_to_thread().w()?;
        let stream = compute.context().new_stream().w()?;
        let mut handle = std::ptr::null_mut();
        let id = Id { bytes: id.map(|byte| byte as c_char) };
        // SAFETY: the context of the device is the thread's.
        api.check(unsafe { (api.init)(&raw mut handle, size as c_int, id, rank as c_int) })?;
        Ok(Some(Self { api, handle, compute, stream }))
    }

    /// Begins to sum a tensor over all processes, behind the kernels launched so far; the sum replaces the
    /// values of process `root`.
    ///
    /// # Errors
    /// If it is no contiguous float32 tensor on the GPU, or NCCL refuses.
    pub fn reduce(&self, x: &Tensor, root: usize) -> Result<()> {
        let at = self.begin(x)?;
        let (from, to) = (at as *const c_void, at as *mut c_void);
        let (len, root) = (x.elem_count(), root as c_int);
        let stream = self.stream.cu_stream().cast();
        // SAFETY: the memory has that many values, and belongs to a parameter, which outlives the sum.
        let code =
            unsafe { (self.api.reduce)(from, to, len, FLOAT, SUM, root, self.handle, stream) };
        self.api.check(code)
    }

    /// Begins to replace a tensor's values everywhere by those of process `root`.
    ///
    /// # Errors
    /// As [`Self::reduce`].
    pub fn broadcast(&self, x: &Tensor, root: usize) -> Result<()> {
        let at = self.begin(x)?;
        let (from, to) = (at as *const c_void, at as *mut c_void);
        let (len, root) = (x.elem_count(), root as c_int);
        let stream = self.stream.cu_stream().cast();
        // SAFETY: as above.
        let code = unsafe { (self.api.broadcast)(from, to, len, FLOAT, root, self.handle, stream) };
        self.api.check(code)
    }

    fn begin(&self, x: &Tensor) -> Result<u64> {
        if !floats(&[x]) {
            candle_core::bail!("only contiguous float32 tensors of a GPU are summed by NCCL")
        }
        self.stream.join(&self.compute).w()?;
        address::<f32>(x)
    }

    /// Kernels launched from now on wait for all that was begun.
    ///
    /// # Errors
    /// If the driver refuses.
    pub fn finish(&self) -> Result<()> {
        self.compute.join(&self.stream).w()
    }
}

impl Drop for Communicator {
    fn drop(&mut self) {
        // Whoever drops it has finished; an error has nobody to go to.
        let _ = self.stream.synchronize();
        // SAFETY: nothing uses the handle any more.
        unsafe { (self.api.destroy)(self.handle) };
    }
}

/// What tells a GPU from all others.
///
/// # Errors
/// If the driver refuses.
pub fn identity(device: &Device) -> Result<Option<[u8; 16]>> {
    let Device::Cuda(device) = device else { return Ok(None) };
    let uuid = device.cuda_stream().context().uuid().w()?;
    Ok(Some(uuid.bytes.map(|byte| byte as u8)))
}

/// Number of GPUs.
#[must_use]
pub fn count() -> usize {
    use candle_core::cuda_backend::cudarc::driver::result;
    let found = result::init().and_then(|()| result::device::get_count());
    found.map_or(0, |count| usize::try_from(count).unwrap_or(0))
}
