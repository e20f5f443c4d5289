//! How many threads arithmetic should use on this machine.

use std::collections::BTreeSet;
use std::fs::read_to_string;

/// One thread per physical core this process may use: two hyper-threads of a core share the
/// vector units and the caches, and a spinning sibling slows the other one down.
pub(crate) fn default_threads() -> usize {
    let limit = std::thread::available_parallelism().map_or(1, usize::from);
    physical_cores().map_or(limit, |cores| cores.clamp(1, limit))
}

/// Distinct sets of hyper-threads among the processors of this process's affinity mask; `None`
/// where the system does not tell (anything but Linux).
fn physical_cores() -> Option<usize> {
    let status = read_to_string("/proc/self/status").ok()?;
    let list = status.lines().find_map(|l| l.strip_prefix("Cpus_allowed_list:"))?;
    let siblings = |cpu| {
        let dir = format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
        read_to_string(dir).ok()
    };
    let cores: Option<BTreeSet<_>> = cpu_list(list)?.into_iter().map(siblings).collect();
    cores.map(|c| c.len()).filter(|n| *n > 0)
}

/// `0-3,8` as numbers.
fn cpu_list(text: &str) -> Option<Vec<u32>> {
    let mut cpus = Vec::new();
    for part in text.trim().split(',') {
        let (a, b) = part.split_once('-').unwrap_or((part, part));
        let (a, b): (u32, u32) = (a.parse().ok()?, b.parse().ok()?);
        if b.checked_sub(a)? > 1 << 16 {
            return None;
        }
        cpus.extend(a..=b);
    }
    Some(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_processors() {
        assert_eq!(cpu_list(" 0-3,8,10-11\n"), Some(vec![0, 1, 2, 3, 8, 10, 11]));
        assert_eq!(cpu_list("0"), Some(vec![0]));
        assert_eq!(cpu_list(""), None);
        assert_eq!(cpu_list("3-1"), None);
        assert_eq!(cpu_list("0-4294967295"), None);
    }

    #[test]
    fn at_least_one_thread_and_no_more_than_allowed() {
        let n = default_threads();
        let limit = std::thread::available_parallelism().map_or(1, usize::from);
        assert!((1..=limit).contains(&n), "{n} of {limit}");
    }
}
