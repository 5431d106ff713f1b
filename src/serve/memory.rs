//! How much memory this process may take, and how much of that callers may have it hold.

use std::{fs, path::Path};

/// What is assumed where nothing limits us: what `manifests/base` gives a control plane.
const USUAL: usize = 1 << 30;

/// Where the kernel shows control groups.
const CGROUPS: &str = "/sys/fs/cgroup";

/// Returns the limit of our control group in bytes, or 1 GiB if it has none.
pub(crate) fn limit() -> usize {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    limit_below(Path::new(CGROUPS), &groups).unwrap_or(USUAL)
}

/// Returns what of a limit is the callers': three eighths. The mesh itself has most of the rest, and what is not counted, an eighth.
pub(super) fn for_callers(limit: usize) -> usize {
    limit / 8 * 3
}

/// Returns the smallest limit of our groups and those above them. In a container its own group is the root.
fn limit_below(root: &Path, groups: &str) -> Option<usize> {
    let mut limits = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (folder, file) = match controllers {
            "" => (root.to_owned(), "memory.max"),
            _ if controllers.split(',').any(|name| name == "memory") => (root.join("memory"), "memory.limit_in_bytes"),
            _ => continue,
        };
        for group in Path::new(path.trim_start_matches('/')).ancestors() {
            limits.extend(fs::read_to_string(folder.join(group).join(file)).ok().and_then(|text| text.trim().parse::<u64>().ok()));
        }
    }
    // Without a limit version 1 says a number that no machine has.
    let limit = limits.into_iter().filter(|limit| *limit < 1 << 60).min()?;
    usize::try_from(limit).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit_of(files: &[(&str, &str)], groups: &str) -> Option<usize> {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        limit_below(root.path(), groups)
    }

    #[test]
    fn the_smallest_limit_of_our_groups_holds() {
        let pod = [("a/memory.max", "2000\n"), ("a/b/memory.max", "max\n"), ("memory.max", "3000\n")];
        assert_eq!(limit_of(&pod, "0::/a/b\n"), Some(2000));
        assert_eq!(limit_of(&pod, "0::/\n"), Some(3000), "in a container");
        assert_eq!(limit_of(&[("memory.max", "max\n")], "0::/\n"), None);
        let old = [("memory/a/memory.limit_in_bytes", "4000\n"), ("memory/memory.limit_in_bytes", "9223372036854771712\n")];
        assert_eq!(limit_of(&old, "9:name=systemd:/x\n4:cpu,memory:/a\n"), Some(4000));
        assert_eq!(limit_of(&[], "0::/a\n"), None);
        assert_eq!(limit_of(&[], ""), None);
    }
}
