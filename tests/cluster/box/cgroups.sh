# The box's cgroup in every hierarchy of cgroup v1: daemons in `system`, pods beside it (kubelet's cgroupRoot).

box_cgroup=istiod-lite-box

hierarchies() {
  local found
  for found in /sys/fs/cgroup/*/; do
    case $found in */unified/) ;; *) echo "$found" ;; esac
  done
}

make_cgroups() {
  local hierarchy group
  for hierarchy in $(hierarchies); do
    for group in "$hierarchy$box_cgroup" "$hierarchy$box_cgroup/system"; do
      mkdir -p "$group"
      # Empty CPU and memory sets refuse every process.
      if [ -e "$group/cpuset.cpus" ]; then
        cat "${hierarchy}cpuset.cpus" >"$group/cpuset.cpus"
        cat "${hierarchy}cpuset.mems" >"$group/cpuset.mems"
      fi
    done
  done
}

# Processes that were killed leave their cgroup a moment after they are gone.
remove_cgroups() {
  local attempt
  for attempt in {1..200}; do
    ls -d /sys/fs/cgroup/*/"$box_cgroup" >/dev/null 2>&1 || return 0
    find /sys/fs/cgroup/*/"$box_cgroup" -depth -type d -exec rmdir {} + 2>/dev/null || true
    sleep 0.05
  done
  echo "cgroups of the box remain after attempt $attempt" >&2
}
