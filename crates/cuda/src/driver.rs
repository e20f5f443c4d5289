//! A GPU through NVIDIA's driver, which is found at run time: the same binary starts without one.
//!
//! Contains `unsafe`: every call of the driver. Addresses on the device are numbers here; that they
//! are valid and that launches get the arguments their kernels declare is this crate's invariant,
//! held by `Buf` and by the one function beside each kernel that launches it.

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_void};
use std::ptr::null_mut;
use std::sync::Mutex;

use cudarc::driver::sys;
use ds4_model::{Error, Result};

use crate::args::Args;
use crate::device::{DeviceInfo, Geometry, Timed};

/// A GPU's context, its stream of work and the loaded kernels.
pub(crate) struct Driver {
    /// Facts about it.
    pub info: DeviceInfo,
    ctx: sys::CUcontext,
    stream: sys::CUstream,
    module: sys::CUmodule,
    kernels: Mutex<HashMap<&'static str, Kernel>>,
    /// Whether kernels may start before their predecessors end, and wait inside.
    dependent: bool,
    /// Marks around every launch, while launches are being timed.
    timed: Mutex<Option<Vec<Mark>>>,
}

/// A launch between two events.
struct Mark {
    kernel: &'static str,
    reads: u64,
    before: Event,
    after: Event,
}

#[derive(Clone, Copy)]
struct Kernel {
    function: sys::CUfunction,
    /// Dynamic shared memory it may use so far.
    shared: u32,
}

// SAFETY: a context may be used from any thread that makes it current, which every method does;
// stream and module belong to it. The table of kernels is behind a lock.
unsafe impl Send for Driver {}
// SAFETY: as above; the driver's own functions are thread-safe.
unsafe impl Sync for Driver {}

/// Recorded launches.
pub(crate) struct Graph(sys::CUgraphExec);

// SAFETY: only replayed through a `Driver`, which orders all use.
unsafe impl Send for Graph {}

/// The CUDA version whose driver takes the kernels, as the driver counts: 1000 · major + 10 · minor.
const CUDA_MIN: i32 = 13_000;

fn too_old(version: i32) -> String {
    format!(
        "the NVIDIA driver supports CUDA {}.{}, the kernels need {}.0; install driver 580 or later, or \
         use --backend cpu",
        version / 1000,
        version % 1000 / 10,
        CUDA_MIN / 1000
    )
}

/// The driver's error as ours.
fn check(result: sys::CUresult, what: &str) -> Result<()> {
    if result == sys::CUresult::CUDA_SUCCESS {
        return Ok(());
    }
    let mut text = std::ptr::null();
    // SAFETY: the out-pointer is valid; the text is static.
    let name = unsafe {
        if sys::cuGetErrorString(result, &raw mut text) == sys::CUresult::CUDA_SUCCESS
            && !text.is_null()
        {
            CStr::from_ptr(text).to_string_lossy().into_owned()
        } else {
            format!("{result:?}")
        }
    };
    if result == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY {
        return Err(Error::Memory(format!("the GPU has none left for {what}")));
    }
    Err(Error::Device(format!("CUDA: {what}: {name}")))
}

impl Driver {
    /// Opens device `ordinal` without kernels. `Ok(None)` when there is no driver or no device.
    pub(crate) fn open(ordinal: i32) -> Result<Option<Self>> {
        // SAFETY: only looks for the library.
        if !unsafe { sys::is_culib_present() } {
            return Ok(None);
        }
        // SAFETY: the out-pointers are valid; handles are used only after success.
        unsafe {
            let init = sys::cuInit(0);
            if init == sys::CUresult::CUDA_ERROR_NO_DEVICE {
                return Ok(None);
            }
            check(init, "starting the driver")?;
            let mut version = 0;
            check(sys::cuDriverGetVersion(&raw mut version), "asking the driver")?;
            if version < CUDA_MIN {
                return Err(Error::Unsupported(too_old(version)));
            }
            let mut count = 0;
            check(sys::cuDeviceGetCount(&raw mut count), "counting devices")?;
            if ordinal >= count {
                return Ok(None);
            }
            let mut device = 0;
            check(sys::cuDeviceGet(&raw mut device, ordinal), "opening the device")?;
            let mut ctx = null_mut();
            check(sys::cuDevicePrimaryCtxRetain(&raw mut ctx, device), "opening the device")?;
            check(sys::cuCtxSetCurrent(ctx), "opening the device")?;
            let mut stream = null_mut();
            let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
            check(sys::cuStreamCreate(&raw mut stream, flags), "making a stream")?;
            let info = info(device)?;
            let dependent = info.arch >= 90 && std::env::var_os("DS4_CUDA_NO_PDL").is_none();
            let kernels = Mutex::new(HashMap::new());
            Ok(Some(Self {
                info,
                ctx,
                stream,
                module: null_mut(),
                kernels,
                dependent,
                timed: Mutex::new(None),
            }))
        }
    }

    /// Loads compiled kernels: a cubin of this device's architecture, or PTX.
    pub(crate) fn load(&mut self, image: &[u8]) -> Result<()> {
        self.current()?;
        // PTX is text and must end with a zero.
        let mut image = image.to_vec();
        image.push(0);
        // SAFETY: the image outlives the call and is terminated.
        unsafe {
            let result = sys::cuModuleLoadData(&raw mut self.module, image.as_ptr().cast());
            check(result, "loading the kernels")
        }
    }

    fn current(&self) -> Result<()> {
        // SAFETY: the context lives as long as `self`.
        check(unsafe { sys::cuCtxSetCurrent(self.ctx) }, "selecting the device")
    }

    pub(crate) fn alloc(&self, bytes: usize) -> Result<u64> {
        self.current()?;
        let mut at = 0;
        // SAFETY: a valid out-pointer.
        let result = unsafe { sys::cuMemAlloc_v2(&raw mut at, bytes) };
        check(result, &format!("{bytes} bytes"))?;
        Ok(at)
    }

    pub(crate) fn free(&self, at: u64) {
        // An error here can only be an earlier one that is still standing.
        if self.current().is_ok() {
            // SAFETY: `at` came from `alloc` and is freed once, by its `Buf`.
            unsafe { sys::cuMemFree_v2(at) };
        }
    }

    pub(crate) fn free_bytes(&self) -> Result<u64> {
        self.current()?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: valid out-pointers.
        check(unsafe { sys::cuMemGetInfo_v2(&raw mut free, &raw mut total) }, "asking for memory")?;
        Ok(free as u64)
    }

    pub(crate) fn write(&self, to: u64, bytes: &[u8]) -> Result<()> {
        self.write_async(to, bytes)?;
        // Pageable memory has been taken over when the call returns.
        Ok(())
    }

    pub(crate) fn write_async(&self, to: u64, bytes: &[u8]) -> Result<()> {
        self.current()?;
        // SAFETY: the destination is a live buffer of at least this size.
        let result = unsafe {
            sys::cuMemcpyHtoDAsync_v2(to, bytes.as_ptr().cast(), bytes.len(), self.stream)
        };
        check(result, "copying to the device")
    }

    pub(crate) fn read(&self, from: u64, bytes: &mut [u8]) -> Result<()> {
        self.read_async(from, bytes)?;
        self.sync()
    }

    /// Starts a copy; the bytes are there after a wait for a later moment and must stay until then.
    pub(crate) fn read_async(&self, from: u64, bytes: &mut [u8]) -> Result<()> {
        self.current()?;
        // SAFETY: the source is a live buffer of at least this size, the bytes stay (see above).
        let result = unsafe {
            sys::cuMemcpyDtoHAsync_v2(bytes.as_mut_ptr().cast(), from, bytes.len(), self.stream)
        };
        check(result, "copying from the device")
    }

    pub(crate) fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<()> {
        self.current()?;
        // SAFETY: both are live buffers of at least this size.
        check(
            unsafe { sys::cuMemcpyDtoDAsync_v2(to, from, bytes, self.stream) },
            "copying on the device",
        )
    }

    pub(crate) fn zero(&self, at: u64, bytes: usize) -> Result<()> {
        self.current()?;
        // SAFETY: a live buffer of at least this size.
        check(unsafe { sys::cuMemsetD8Async(at, 0, bytes, self.stream) }, "clearing memory")
    }

    pub(crate) fn sync(&self) -> Result<()> {
        self.current()?;
        // SAFETY: the stream lives as long as `self`.
        check(unsafe { sys::cuStreamSynchronize(self.stream) }, "waiting for the device")
    }

    /// The kernel, allowed to use this much dynamic shared memory.
    fn kernel(&self, name: &'static str, shared: u32) -> Result<sys::CUfunction> {
        let mut kernels = self.kernels.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let known = kernels.get(name).copied();
        let mut kernel = if let Some(kernel) = known {
            kernel
        } else {
            let c_name = CString::new(name).expect("names have no zeros");
            let mut function = null_mut();
            // SAFETY: the module is loaded, the name terminated.
            let result = unsafe {
                sys::cuModuleGetFunction(&raw mut function, self.module, c_name.as_ptr())
            };
            check(result, &format!("finding the kernel {name}"))?;
            Kernel { function, shared: 48 << 10 }
        };
        if shared > kernel.shared {
            let what = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            let bytes = i32::try_from(shared).expect("less than a megabyte");
            // SAFETY: a function of a loaded module.
            let result = unsafe { sys::cuFuncSetAttribute(kernel.function, what, bytes) };
            check(result, &format!("{shared} bytes of shared memory for {name}"))?;
            kernel.shared = shared;
        }
        kernels.insert(name, kernel);
        Ok(kernel.function)
    }

    pub(crate) fn launch(
        &self,
        name: &'static str,
        geometry: Geometry,
        args: &mut Args,
    ) -> Result<()> {
        self.current()?;
        let function = self.kernel(name, geometry.shared)?;
        let is_timed =
            self.timed.lock().unwrap_or_else(std::sync::PoisonError::into_inner).is_some();
        let before = if is_timed { Some(self.moment()?) } else { None };
        let [x, y, z] = geometry.grid;
        // SAFETY: plain data for which zero is valid.
        let mut attribute: sys::CUlaunchAttribute = unsafe { std::mem::zeroed() };
        attribute.id =
            sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
        attribute.value.programmaticStreamSerializationAllowed = 1;
        let config = sys::CUlaunchConfig {
            gridDimX: x,
            gridDimY: y,
            gridDimZ: z,
            blockDimX: geometry.block,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: geometry.shared,
            hStream: self.stream,
            attrs: &raw mut attribute,
            numAttrs: u32::from(self.dependent && !is_timed),
        };
        // SAFETY: the arguments are those the kernel declares (this crate's invariant); they are
        // copied before the call returns.
        let result = unsafe {
            sys::cuLaunchKernelEx(
                &raw const config,
                function,
                args.pointers(),
                null_mut::<*mut c_void>(),
            )
        };
        check(result, &format!("starting {name}"))?;
        if let Some(before) = before {
            let mut timed = self.timed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if let Some(list) = timed.as_mut() {
                let after = self.moment()?;
                list.push(Mark { kernel: name, reads: geometry.reads, before, after });
            }
        }
        Ok(())
    }

    /// From now on, marks the time around every launch; kernels no longer overlap.
    pub(crate) fn start_timing(&self) {
        *self.timed.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(Vec::new());
    }

    /// The launches since [`Driver::start_timing`], in order.
    pub(crate) fn stop_timing(&self) -> Result<Vec<Timed>> {
        self.sync()?;
        let list = self.timed.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        let list = list.unwrap_or_default();
        let Some(first) = list.first() else { return Ok(Vec::new()) };
        let timed = |m: &Mark| {
            let (start_ms, ms) = (m.before.since(&first.before)?, m.after.since(&m.before)?);
            Ok(Timed { kernel: m.kernel, start_ms, ms, reads: m.reads })
        };
        list.iter().map(timed).collect()
    }

    /// Records what `f` launches.
    pub(crate) fn record(&self, f: impl FnOnce() -> Result<()>) -> Result<Graph> {
        self.current()?;
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream lives; the graph handles are used only after success.
        unsafe {
            check(sys::cuStreamBeginCapture_v2(self.stream, mode), "recording launches")?;
            let made = f();
            let mut graph = null_mut();
            let ended = sys::cuStreamEndCapture(self.stream, &raw mut graph);
            made?;
            check(ended, "recording launches")?;
            let mut exec = null_mut();
            let result = sys::cuGraphInstantiateWithFlags(&raw mut exec, graph, 0);
            sys::cuGraphDestroy(graph);
            check(result, "preparing recorded launches")?;
            Ok(Graph(exec))
        }
    }

    pub(crate) fn replay(&self, graph: &Graph) -> Result<()> {
        self.current()?;
        // SAFETY: both handles live.
        check(unsafe { sys::cuGraphLaunch(graph.0, self.stream) }, "running recorded launches")
    }

    /// Marks the present end of the stream.
    pub(crate) fn moment(&self) -> Result<Event> {
        self.current()?;
        let mut event = null_mut();
        // SAFETY: a valid out-pointer; the handle is used only after success.
        unsafe {
            check(sys::cuEventCreate(&raw mut event, 0), "making an event")?;
            let event = Event(event);
            check(sys::cuEventRecord(event.0, self.stream), "marking the stream")?;
            Ok(event)
        }
    }

    pub(crate) fn pinned(&self, bytes: usize) -> Result<Locked> {
        self.current()?;
        let mut at = null_mut();
        // SAFETY: a valid out-pointer.
        check(unsafe { sys::cuMemAllocHost_v2(&raw mut at, bytes) }, "locked host memory")?;
        // SAFETY: `at` has `bytes` bytes.
        unsafe { std::ptr::write_bytes(at.cast::<u8>(), 0, bytes) };
        Ok(Locked { at: at.cast(), bytes })
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: made once, destroyed once.
        unsafe { sys::cuGraphExecDestroy(self.0) };
    }
}

/// A mark in the stream.
pub(crate) struct Event(sys::CUevent);

// SAFETY: a handle that the driver lets any thread use.
unsafe impl Send for Event {}

impl Event {
    /// Waits until the work before it is done.
    pub(crate) fn wait(&self) -> Result<()> {
        // SAFETY: a live handle.
        check(unsafe { sys::cuEventSynchronize(self.0) }, "waiting for the device")
    }

    /// Milliseconds from an earlier mark to this one; both have been reached.
    pub(crate) fn since(&self, earlier: &Self) -> Result<f32> {
        let mut ms = 0.0;
        // SAFETY: live handles and a valid out-pointer.
        let result = unsafe { sys::cuEventElapsedTime_v2(&raw mut ms, earlier.0, self.0) };
        check(result, "reading a clock").map(|()| ms)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: made once, destroyed once.
        unsafe { sys::cuEventDestroy_v2(self.0) };
    }
}

/// Locked host memory.
pub(crate) struct Locked {
    at: *mut u8,
    bytes: usize,
}

// SAFETY: plain memory with one owner.
unsafe impl Send for Locked {}
// SAFETY: shared references only read.
unsafe impl Sync for Locked {}

impl Locked {
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: allocated and initialised with this size.
        unsafe { std::slice::from_raw_parts(self.at, self.bytes) }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.at, self.bytes) }
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        // SAFETY: from `cuMemAllocHost`, freed once.
        unsafe { sys::cuMemFreeHost(self.at.cast()) };
    }
}

/// Facts about a device.
///
/// # Safety
/// The driver is started and `device` valid.
unsafe fn info(device: sys::CUdevice) -> Result<DeviceInfo> {
    use sys::CUdevice_attribute as A;
    let attribute = |what: A| {
        let mut value = 0;
        // SAFETY: a valid out-pointer.
        let result = unsafe { sys::cuDeviceGetAttribute(&raw mut value, what, device) };
        check(result, "asking the device").map(|()| u32::try_from(value).unwrap_or(0))
    };
    let mut name = [0; 96];
    let mut memory_bytes = 0;
    // SAFETY: both buffers are valid for their sizes.
    unsafe {
        check(sys::cuDeviceGetName(name.as_mut_ptr(), 95, device), "asking the device")?;
        check(sys::cuDeviceTotalMem_v2(&raw mut memory_bytes, device), "asking the device")?;
    }
    // SAFETY: the driver ends the name with a zero; the last byte is one in any case.
    let name = unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned();
    let major = attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    let sms = attribute(A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
    Ok(DeviceInfo { name, arch: major * 10 + minor, sms, memory_bytes: memory_bytes as u64 })
}
