//! Kernels made now by NVRTC, NVIDIA's run-time compiler, for shapes without images.
//!
//! Contains `unsafe`: NVRTC's calls.

use std::ffi::{CString, c_char};
use std::path::PathBuf;
use std::ptr::null_mut;

use cudarc::nvrtc::sys;
use ds4_model::{Error, Result};

use crate::device::DeviceInfo;
use crate::image::SOURCES;
use crate::shape::Defines;

/// Folders that may hold CUDA's headers, besides those the environment names.
const TOOLKITS: [&str; 3] = ["/usr/local/cuda/include", "/opt/cuda/include", "/usr/include"];

/// Compiles all kernels of a shape for a device.
pub(crate) fn compile(defines: &Defines, device: &DeviceInfo) -> Result<Vec<u8>> {
    // SAFETY: only looks for the library.
    if !unsafe { sys::is_culib_present() } {
        return Err(Error::Unsupported(format!(
            "this build has no kernels for this model's shape on sm_{}, and NVRTC (of the CUDA \
             toolkit) is not installed to make them; install it or use --backend cpu",
            device.arch
        )));
    }
    let headers = headers()?;
    let suffix = if device.arch >= 90 { "a" } else { "" };
    let mut options = vec![
        format!("--gpu-architecture=sm_{}{suffix}", device.arch),
        "--std=c++20".to_owned(),
        format!("-I{}", headers.display()),
        format!("-I{}", headers.join("cccl").display()),
        "--diag-suppress=177".to_owned(),
    ];
    options.extend(defines.flags());
    run(&options)
}

/// The folder with `cuda_fp16.h`.
fn headers() -> Result<PathBuf> {
    let named = ["CUDA_HOME", "CUDA_PATH", "CUDA_ROOT"].into_iter().filter_map(std::env::var_os);
    let named = named.map(|root| PathBuf::from(root).join("include"));
    let all = named.chain(TOOLKITS.into_iter().map(PathBuf::from));
    all.into_iter().find(|folder| folder.join("cuda_fp16.h").exists()).ok_or_else(|| {
        Error::Unsupported(
            "the kernels of this shape must be compiled, but cuda_fp16.h was not found; set \
             CUDA_HOME to the CUDA toolkit or use --backend cpu"
                .to_owned(),
        )
    })
}

fn check(result: sys::nvrtcResult, what: &str) -> Result<()> {
    match result {
        sys::nvrtcResult::NVRTC_SUCCESS => Ok(()),
        other => Err(Error::Device(format!("NVRTC: {what}: {other:?}"))),
    }
}

fn run(options: &[String]) -> Result<Vec<u8>> {
    let text = |s: &str| CString::new(s).expect("sources and options have no zeros");
    let sources: Vec<(CString, CString)> =
        SOURCES.iter().map(|(name, body)| (text(name), text(body))).collect();
    let (main, rest) = sources.split_first().expect("ds4.cu is the first");
    let bodies: Vec<*const c_char> = rest.iter().map(|(_, body)| body.as_ptr()).collect();
    let names: Vec<*const c_char> = rest.iter().map(|(name, _)| name.as_ptr()).collect();
    let options: Vec<CString> = options.iter().map(|o| text(o)).collect();
    let options: Vec<*const c_char> = options.iter().map(|o| o.as_ptr()).collect();
    let count = |n: usize| i32::try_from(n).expect("a few");
    let mut program = null_mut();
    // SAFETY: every pointer is to a terminated string that outlives the calls; sizes are asked for
    // before buffers are filled.
    unsafe {
        let result = sys::nvrtcCreateProgram(
            &raw mut program,
            main.1.as_ptr(),
            main.0.as_ptr(),
            count(rest.len()),
            bodies.as_ptr(),
            names.as_ptr(),
        );
        check(result, "reading the kernels")?;
        let result = sys::nvrtcCompileProgram(program, count(options.len()), options.as_ptr());
        if result != sys::nvrtcResult::NVRTC_SUCCESS {
            let mut size = 0;
            check(sys::nvrtcGetProgramLogSize(program, &raw mut size), "reading its log")?;
            let mut log = vec![0_u8; size];
            check(sys::nvrtcGetProgramLog(program, log.as_mut_ptr().cast()), "reading its log")?;
            let log = String::from_utf8_lossy(&log).into_owned();
            let first: Vec<&str> = log.lines().filter(|l| l.contains("error")).take(5).collect();
            return Err(Error::Device(format!("NVRTC: {result:?}: {}", first.join("; "))));
        }
        let mut size = 0;
        check(sys::nvrtcGetCUBINSize(program, &raw mut size), "asking for the code")?;
        let mut code = vec![0_u8; size];
        check(sys::nvrtcGetCUBIN(program, code.as_mut_ptr().cast()), "taking the code")?;
        sys::nvrtcDestroyProgram(&raw mut program);
        Ok(code)
    }
}
