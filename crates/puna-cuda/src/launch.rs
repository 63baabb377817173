//! Loading and launching the kernels: the only place that calls the driver.

#![expect(unsafe_code, reason = "kernels are launched with raw pointers into device memory")]

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::cuda_backend::cudarc::cublas::{result as blas, sys as blas_sys};
use candle_core::cuda_backend::cudarc::driver::{
    CudaFunction, CudaSlice, CudaStream, DevicePtr, result, sys,
};
use candle_core::cuda_backend::{CudaDType, CudaDevice, DeviceId, WrapErr};
use candle_core::{CudaStorage, DType, Device, Result, Storage, Tensor};

use crate::call::{Arguments, Factor, MOST_ARRIVALS, Product};

#[expect(unreachable_pub, reason = "written by the build script's library")]
mod ptx {
    include!(concat!(env!("OUT_DIR"), "/ptx.rs"));
}

const DECODE: [&str; 21] = [
    "project_bf16_1",
    "project_bf16_2",
    "project_bf16_4",
    "project_bf16_8",
    "gate_bf16_1",
    "gate_bf16_2",
    "gate_bf16_4",
    "gate_bf16_8",
    "project_f32_1",
    "project_f32_2",
    "project_f32_4",
    "project_f32_8",
    "gate_f32_1",
    "gate_f32_2",
    "gate_f32_4",
    "gate_f32_8",
    "rotate_bf16",
    "rotate_f32",
    "attend_bf16_bf16",
    "attend_bf16_f32",
    "attend_f32_f32",
];

const PROMPT: [&str; 2] = ["softmax_bf16", "softmax_f32"];

const TRAIN: [&str; 20] = [
    "rms_norm_rows_bf16",
    "rms_norm_rows_f32",
    "add_f32",
    "gated_forward_bf16",
    "gated_forward_f32",
    "rms_norm_back_f32",
    "rms_norm_weight",
    "row_sum",
    "add_parts",
    "look_up",
    "look_up_back",
    "square_sums",
    "adamw",
    "gated_back_bf16",
    "gated_back_f32",
    "turn_bf16",
    "turn_f32",
    "cross_entropy_bf16",
    "cross_entropy_f32",
    "round_f32",
];

const FLASH: [&str; 25] = [
    "flash_sums",
    "flash_16",
    "flash_32",
    "flash_48",
    "flash_64",
    "flash_80",
    "flash_96",
    "flash_112",
    "flash_128",
    "flash_keys_16",
    "flash_keys_32",
    "flash_keys_48",
    "flash_keys_64",
    "flash_keys_80",
    "flash_keys_96",
    "flash_keys_112",
    "flash_keys_128",
    "flash_queries_16",
    "flash_queries_32",
    "flash_queries_48",
    "flash_queries_64",
    "flash_queries_80",
    "flash_queries_96",
    "flash_queries_112",
    "flash_queries_128",
];

/// Left of a block's shared memory for what kernels declare themselves.
const STATIC_SHARED_BYTES: i32 = 2048;

/// The kernels on one GPU.
pub(crate) struct Kernels {
    device: CudaDevice,
    stream: Arc<CudaStream>,
    functions: HashMap<&'static str, CudaFunction>,
    /// Whether a kernel may begin before the one in front of it has ended.
    overlap: bool,
    /// Multiprocessors of the GPU.
    pub(crate) multiprocessors: u32,
    /// Bytes of shared memory that a block may ask for.
    pub(crate) shared_bytes: usize,
    /// Compute capability of the GPU, the number before the point.
    pub(crate) major: i32,
    scratch: Mutex<Option<Scratch>>,
}

/// Memory that kernels of one launch leave for one another. All launches are on one stream, so one is
/// enough.
struct Scratch {
    partial: CudaSlice<f32>,
    /// Zero between launches.
    arrived: CudaSlice<u32>,
}

/// A GPU whose work is all on one stream of its own.
pub(crate) fn open(index: usize) -> Result<Device> {
    let device = Device::new_cuda_with_stream(index)?;
    if let Device::Cuda(cuda) = &device {
        // SAFETY: there is one stream, on which everything happens in order; events that keep
        // several apart would only cost two calls for each tensor.
        unsafe { cuda.disable_event_tracking() };
        let context = cuda.cuda_stream().context().clone();
        let mut keep = u64::MAX;
        // SAFETY: the device is open, and the attribute is a 64-bit number. Memory that tensors gave
        // back stays with the process: asking the system for it again would take longer than a step.
        unsafe {
            let pool = result::device::get_default_mem_pool(context.cu_device()).w()?;
            let release = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
            result::mem_pool::set_attribute(pool, release, (&raw mut keep).cast()).w()?;
        }
    }
    Ok(device)
}

/// The kernels on a tensor's GPU, loaded when they are first asked for; `None` on other devices.
pub(crate) fn kernels(x: &Tensor) -> Result<Option<Arc<Kernels>>> {
    kernels_on(x.device())
}

/// The kernels on a GPU; `None` on other devices.
pub(crate) fn kernels_on(device: &Device) -> Result<Option<Arc<Kernels>>> {
    type OfDevices = Vec<(DeviceId, Arc<Kernels>)>;
    static LOADED: Mutex<OfDevices> = Mutex::new(Vec::new());
    let Device::Cuda(device) = device else { return Ok(None) };
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, kernels)) = loaded.iter().find(|(id, _)| *id == device.id()) {
        return Ok(Some(Arc::clone(kernels)));
    }
    let kernels = Arc::new(Kernels::load(device)?);
    loaded.push((device.id(), Arc::clone(&kernels)));
    Ok(Some(kernels))
}

impl Kernels {
    fn load(device: &CudaDevice) -> Result<Self> {
        use sys::CUdevice_attribute as Attribute;
        let stream = device.cuda_stream();
        let context = Arc::clone(stream.context());
        let shared = context
            .attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)
            .w()?
            - STATIC_SHARED_BYTES;
        let mut functions = HashMap::new();
        for (source, names) in [
            (ptx::DECODE, &DECODE[..]),
            (ptx::PROMPT, &PROMPT[..]),
            (ptx::TRAIN, &TRAIN[..]),
            (ptx::FLASH, &FLASH[..]),
        ] {
            let module = context.load_module(source.into()).w()?;
            for name in names {
                let function = module.load_function(name).w()?;
                let most =
                    sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
                function.set_attribute(most, shared).w()?;
                functions.insert(*name, function);
            }
        }
        let major =
            context.attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR).w()?;
        let processors =
            context.attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT).w()?;
        Ok(Self {
            device: device.clone(),
            stream,
            functions,
            overlap: cfg!(overlapping_kernels) && major >= 9,
            multiprocessors: processors.unsigned_abs(),
            shared_bytes: shared.unsigned_abs() as usize,
            major,
            scratch: Mutex::new(None),
        })
    }

    /// Launches a kernel.
    pub(crate) fn launch(
        &self,
        name: &str,
        (grid, threads): ([u32; 3], u32),
        shared_bytes: usize,
        arguments: &mut Arguments<'_>,
    ) -> Result<()> {
        let Some(function) = self.functions.get(name) else {
            candle_core::bail!("no kernel {name}")
        };
        self.stream.context().bind_to_thread().w()?;
        let mut value = sys::CUlaunchAttributeValue { pad: [0; 64] };
        value.programmaticStreamSerializationAllowed = 1;
        let id = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
        let mut overlap = sys::CUlaunchAttribute { id, pad: [0; 4], value };
        let config = sys::CUlaunchConfig {
            gridDimX: grid[0],
            gridDimY: grid[1],
            gridDimZ: grid[2],
            blockDimX: threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: shared_bytes as u32,
            hStream: self.stream.cu_stream(),
            attrs: &raw mut overlap,
            numAttrs: u32::from(self.overlap),
        };
        let mut pointers = arguments.pointers();
        // SAFETY: the arguments are those of the kernel, in their order, which the callers in
        // device.rs take care of; their memory belongs to tensors that live until after this call, and
        // is given back on the same stream, behind the kernel.
        unsafe {
            sys::cuLaunchKernelEx(
                &raw const config,
                function.cu_function(),
                pointers.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        }
        .result()
        .w()
    }

    /// A product by cuBLAS, whose matrices are column after column: `Cᵀ = Bᵀ Aᵀ`.
    pub(crate) fn multiply(&self, product: &Product) -> Result<()> {
        use blas_sys::{cublasOperation_t as Operation, cudaDataType as Type};
        let (rows, cols, inner) = product.shape;
        let dtype = if product.is_bf16 { Type::CUDA_R_16BF } else { Type::CUDA_R_32F };
        let (alpha, beta) = (1f32, if product.adds { 1f32 } else { 0.0 });
        let handle = self.device.cublas_handle();
        let operand = |factor: Factor, lines: usize, values: usize| match factor.is_transposed {
            true => (Operation::CUBLAS_OP_T, factor.address as *const c_void, lines as i32),
            false => (Operation::CUBLAS_OP_N, factor.address as *const c_void, values as i32),
        };
        let (a, b) = (operand(product.a, rows, inner), operand(product.b, inner, cols));
        self.stream.context().bind_to_thread().w()?;
        // SAFETY: the three matrices have these sizes, which the callers have checked; their memory
        // belongs to tensors that live until after this call, which is on their stream.
        unsafe {
            blas::gemm_ex(
                *handle.handle(),
                b.0,
                a.0,
                cols as i32,
                rows as i32,
                inner as i32,
                (&raw const alpha).cast(),
                b.1,
                dtype,
                b.2,
                a.1,
                dtype,
                a.2,
                (&raw const beta).cast(),
                product.to as *mut c_void,
                Type::CUDA_R_32F,
                cols as i32,
                blas_sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
                blas_sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
        }
        .map_err(candle_core::Error::wrap)
    }

    /// Bytes of the GPU's memory that are taken, and all of them.
    pub(crate) fn memory(&self) -> Result<(usize, usize)> {
        self.stream.context().bind_to_thread().w()?;
        let (free, total) = result::mem_get_info().w()?;
        Ok((total - free, total))
    }

    /// A tensor that a kernel will write as a whole.
    pub(crate) fn output(&self, dtype: DType, shape: (usize, usize)) -> Result<Tensor> {
        let len = shape.0 * shape.1;
        let storage = match dtype {
            // SAFETY: it is written before anything reads it, as above.
            DType::BF16 => CudaStorage::wrap_cuda_slice(
                unsafe { self.device.alloc::<half::bf16>(len)? },
                self.device.clone(),
            ),
            _ => CudaStorage::wrap_cuda_slice(self.alloc(len)?, self.device.clone()),
        };
        Ok(Tensor::from((Storage::Cuda(storage), shape)))
    }

    /// Memory for values that a kernel will write.
    pub(crate) fn alloc(&self, len: usize) -> Result<CudaSlice<f32>> {
        // SAFETY: what is made of it is written as a whole by the kernel it is made for.
        unsafe { self.device.alloc::<f32>(len) }
    }

    /// Address of a slice.
    pub(crate) fn address<T>(&self, slice: &CudaSlice<T>) -> u64 {
        slice.device_ptr(&self.stream).0
    }

    /// Addresses of memory for `len` values, and of counters that are zero.
    pub(crate) fn scratch(&self, len: usize) -> Result<(u64, u64)> {
        let mut scratch = self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(scratch) = scratch.as_ref().filter(|scratch| scratch.partial.len() >= len) {
            return Ok((self.address(&scratch.partial), self.address(&scratch.arrived)));
        }
        let partial = self.alloc(len.next_power_of_two())?;
        let arrived = self.device.alloc_zeros::<u32>(MOST_ARRIVALS)?;
        let made = scratch.insert(Scratch { partial, arrived });
        Ok((self.address(&made.partial), self.address(&made.arrived)))
    }
}

/// Address of a tensor's first value on a GPU.
pub(crate) fn address<T: CudaDType>(x: &Tensor) -> Result<u64> {
    let (storage, layout) = x.storage_and_layout();
    let Storage::Cuda(storage) = &*storage else { candle_core::bail!("a tensor is not on a GPU") };
    let slice = storage.as_cuda_slice::<T>()?;
    let start = slice.device_ptr(slice.stream()).0;
    Ok(start + (layout.start_offset() * size_of::<T>()) as u64)
}
