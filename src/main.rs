//! The `istiod-lite` binary; its commands are in `src/cli/`.

use std::process::ExitCode;

// glibc's allocator keeps what a burst of connections freed; jemalloc gives it back (docs/architecture.md), by threads of
// its own also while nothing happens.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    istiod_lite::main()
}
