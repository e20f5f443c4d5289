//! From a model file to a runner: the device, its kernels, whether the model fits.

use std::sync::Arc;

use ds4_model::{Error, ModelFile, Result};

use crate::device::{Device, DeviceInfo};
use crate::driver::Driver;
use crate::runner::{CudaOptions, CudaRunner};
use crate::shape::Defines;
use crate::{image, scratch, weights};

/// Memory that is left to the driver and to fragmentation.
const RESERVE: u64 = 1 << 30;

/// The first GPU, if there is a driver and a device.
///
/// # Errors
/// [`Error::Device`] when there is a driver that does not work.
pub fn find() -> Result<Option<DeviceInfo>> {
    Ok(Driver::open(0)?.map(|d| d.info))
}

/// Opens a model on the first GPU; `progress` hears how many layers have been uploaded.
///
/// # Errors
/// [`Error::Device`] without a working GPU, [`Error::Memory`] when the model does not fit,
/// [`Error::Unsupported`] for shapes that no kernels exist for.
pub fn open(
    file: &Arc<ModelFile>,
    options: &CudaOptions,
    progress: &mut dyn FnMut(usize),
) -> Result<CudaRunner> {
    let defines = Defines::new(&file.dims, options.numerics)?;
    let Some(mut driver) = Driver::open(0)? else {
        return Err(Error::Device(
            "no NVIDIA driver or no GPU was found; use --backend cpu".to_owned(),
        ));
    };
    check_memory(file, options, driver.free_bytes()?)?;
    driver.load(&image::find(&defines, &driver.info)?)?;
    let device = Arc::new(Device::gpu(driver));
    CudaRunner::on(&device, file, options, progress)
}

/// Opens a model on the emulator, which builds the kernels with the system's C++ compiler.
#[cfg(feature = "emulator")]
pub fn open_emulated(file: &Arc<ModelFile>, options: &CudaOptions) -> Result<CudaRunner> {
    let defines = Defines::new(&file.dims, options.numerics)?;
    let emulator = crate::emulator::Emulator::new(&defines)?;
    let device = Arc::new(Device::emulated(emulator));
    CudaRunner::on(&device, file, options, &mut |_| {})
}

/// Bytes of device memory that a model takes before its first sequence.
pub fn model_bytes(file: &ModelFile, options: &CudaOptions) -> u64 {
    weights::weight_bytes(file) + scratch::step_bytes(&file.dims, options.chunk_max) + RESERVE
}

/// Refuses a model that does not fit, and says what would.
fn check_memory(file: &ModelFile, options: &CudaOptions, free: u64) -> Result<()> {
    let needed = model_bytes(file, options);
    if needed <= free {
        return Ok(());
    }
    let gib = |bytes: u64| format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30));
    Err(Error::Memory(format!(
        "the model takes {} of the GPU's memory ({} of weights), but {} are free; use a GPU with \
         more memory, a file of fewer bits, or --backend cpu",
        gib(needed),
        gib(weights::weight_bytes(file)),
        gib(free)
    )))
}
