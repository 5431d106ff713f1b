//! What a process costs, as the kernel tells it.

use std::{fs, time::Duration};

use nix::unistd::{SysconfVar, sysconf};

/// What a process costs at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    /// Bytes in memory.
    pub(crate) resident: u64,
    /// The most bytes that it had in memory since it started.
    pub(crate) peak: u64,
    /// The CPU time that it has used.
    pub(crate) cpu: Duration,
}

/// Makes the kernel forget the peak of a process: the next one is that from now on.
pub(crate) fn forget_peak(process: u32) {
    fs::write(format!("/proc/{process}/clear_refs"), "5").unwrap();
}

impl Cost {
    /// Reads the peak alone, of a process that may end meanwhile.
    pub(crate) fn peak_of(process: u32) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        Some(line.split_whitespace().next()?.parse::<u64>().ok()? << 10)
    }

    /// Reads what the kernel says of the process.
    pub(crate) fn of(process: u32) -> Self {
        let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
        let bytes = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.split_whitespace().next().unwrap().parse::<u64>().unwrap() << 10
        };
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
        // The second field is a name, which may contain blanks; fields 14 and 15 of proc(5) are the CPU time.
        let ticks: u64 =
            stat.rsplit_once(')').unwrap().1.split_whitespace().skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum();
        let per_second = sysconf(SysconfVar::CLK_TCK).unwrap().unwrap() as u64;
        Self { resident: bytes("VmRSS:"), peak: bytes("VmHWM:"), cpu: Duration::from_millis(ticks * 1000 / per_second) }
    }
}
