//! From a model file to a runner: the device, its kernels, whether the model fits.

use std::sync::Arc;

use ds4_model::{Error, ModelFile, Result};

use crate::device::{Device, DeviceInfo};
use crate::driver::Driver;
use crate::image;
use crate::placement::Plan;
use crate::runner::{CudaOptions, CudaRunner};
use crate::shape::Defines;

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
    let plan = Plan::new(file, options, driver.free_bytes()?)?;
    driver.load(&image::find(&defines, &driver.info)?)?;
    let device = Arc::new(Device::gpu(driver));
    CudaRunner::on(&device, file, options, plan.n_expert, progress)
}

/// Opens a model on the emulator, which builds the kernels with the system's C++ compiler. Its memory
/// has no limit: `vram_bytes` is the number of experts of a layer that are to lie on it.
#[cfg(feature = "emulator")]
pub fn open_emulated(file: &Arc<ModelFile>, options: &CudaOptions) -> Result<CudaRunner> {
    let defines = Defines::new(&file.dims, options.numerics)?;
    let emulator = crate::emulator::Emulator::new(&defines)?;
    let device = Arc::new(Device::emulated(emulator));
    let n =
        options.vram_bytes.map_or(file.dims.n_expert, |b| usize::try_from(b).unwrap_or(usize::MAX));
    CudaRunner::on(&device, file, options, n.min(file.dims.n_expert), &mut |_| {})
}

/// Bytes of device memory that a whole model takes before its first sequence.
pub fn model_bytes(file: &ModelFile, options: &CudaOptions) -> u64 {
    Plan::new(file, options, u64::MAX).map_or(u64::MAX, |plan| plan.bytes())
}
