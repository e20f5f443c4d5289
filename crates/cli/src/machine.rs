//! Facts about this machine: free memory and the processor.

use std::fs;
use std::thread;

use anyhow::{Result, bail};
use serde::Serialize;
use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};

/// What a measurement must be read with.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    /// Name of the processor.
    pub cpu: String,
    /// Logical processors.
    pub n_cpu: usize,
    /// Memory, in bytes.
    pub memory_bytes: u64,
    /// Operating system with its version.
    pub os: String,
    /// Instruction set.
    pub arch: &'static str,
}

impl Machine {
    /// Asks the operating system.
    pub(crate) fn look() -> Self {
        let kinds = RefreshKind::nothing()
            .with_memory(MemoryRefreshKind::nothing().with_ram())
            .with_cpu(CpuRefreshKind::nothing());
        let system = System::new_with_specifics(kinds).ok();
        let brand =
            |system: &System| system.cpus().first().map(|cpu| cpu.brand().trim().to_owned());
        let cpu = system.as_ref().and_then(brand).filter(|brand| !brand.is_empty());
        Self {
            cpu: cpu.unwrap_or_else(|| "unknown processor".to_owned()),
            n_cpu: thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: system.as_ref().map_or(0, System::total_memory),
            os: System::long_os_version().unwrap_or_else(|_| std::env::consts::OS.to_owned()),
            arch: std::env::consts::ARCH,
        }
    }
}

/// Memory that can still be taken without swapping, in bytes; respects a container's limit.
/// File pages of a mapped model count as free: they can be dropped and read again.
pub(crate) fn available_bytes() -> u64 {
    let kinds = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
    // A system that does not tell refuses nothing here; it will refuse the allocation.
    let memory = System::new_with_specifics(kinds).map_or(u64::MAX, |system| {
        // Not its `free_memory`, from which cached pages of files are already taken away.
        let free = |limits: sysinfo::CGroupLimits| limits.total_memory.saturating_sub(limits.rss);
        let container = system.cgroup_limits().map_or(u64::MAX, free);
        system.available_memory().min(container)
    });
    memory.min(address_space_left().unwrap_or(u64::MAX))
}

/// What this process's own limit (`ulimit -v`) leaves of its address space, in bytes; nothing where
/// there is no such limit.
fn address_space_left() -> Option<u64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let limit = number_after(&limits, "Max address space")?;
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let used_kib = number_after(&status, "VmSize:")?;
    Some(limit.saturating_sub(used_kib * 1024))
}

/// The number that follows `key` at the beginning of a line.
fn number_after(text: &str, key: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(key))?;
    rest.split_whitespace().next()?.parse().ok()
}

/// Refuses to go on where less than `wanted` bytes of address space are left for `what`: an
/// allocation that fails would abort the process.
pub(crate) fn check_address_space(wanted: u64, what: &str) -> Result<()> {
    match address_space_left() {
        Some(left) if left < wanted => bail!(
            "out of memory: {what} takes {} of address space, {} are left; raise ulimit -v",
            gib(wanted),
            gib(left)
        ),
        _ => Ok(()),
    }
}

/// Refuses to take `wanted` bytes for `what` where they are not there.
pub(crate) fn check_memory(wanted: u64, what: &str, advice: &str) -> Result<()> {
    let free = available_bytes();
    if wanted > free {
        bail!("out of memory: {what} takes {}, {} are free; {advice}", gib(wanted), gib(free));
    }
    Ok(())
}

/// Bytes for people.
pub(crate) fn gib(bytes: u64) -> String {
    const KIB: f64 = 1024.0;
    let n = bytes as f64;
    if n >= 0.1 * KIB * KIB * KIB {
        format!("{:.2} GiB", n / (KIB * KIB * KIB))
    } else if n >= 0.1 * KIB * KIB {
        format!("{:.2} MiB", n / (KIB * KIB))
    } else {
        format!("{:.1} KiB", n / KIB)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_readable() {
        for (bytes, want) in [
            (0, "0.0 KiB"),
            (10 << 10, "10.0 KiB"),
            (5 << 20, "5.00 MiB"),
            (200 << 20, "0.20 GiB"),
            (86_714_775_900, "80.76 GiB"),
        ] {
            assert_eq!(gib(bytes), want);
        }
    }

    #[test]
    fn limits_are_read_from_the_systems_tables() {
        let limits = "Limit  Soft Limit\nMax address space         1048576   unlimited   bytes\n";
        assert_eq!(number_after(limits, "Max address space"), Some(1_048_576));
        assert_eq!(number_after("Max address space   unlimited", "Max address space"), None);
        assert_eq!(number_after("VmPeak:\t 9 kB\nVmSize:\t 12 kB", "VmSize:"), Some(12));
    }

    #[test]
    fn more_memory_than_there_is_is_refused() {
        assert!(available_bytes() > 1 << 20);
        assert!(check_memory(1 << 20, "x", "y").is_ok());
        let error = check_memory(u64::MAX, "a context", "use a smaller --ctx").unwrap_err();
        assert!(error.to_string().starts_with("out of memory: a context takes 17179869184.00 GiB"));
    }
}
